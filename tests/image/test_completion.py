"""Completions of Gaussian pictures against the exact conditional density, and figures worked out by hand."""

import pytest
import torch

from ebm_traj.errors import InputError
from ebm_traj.image.completion import (
    Completions,
    Reference,
    complete,
    copied,
    kinds,
    known_part,
    most_diverse,
    score,
    summary,
)
from ebm_traj.image.posterior import PosteriorConfig


@pytest.mark.parametrize(
    ("mask", "hidden"),
    [("left", 15), ("right", 15), ("upper", 14), ("lower", 14), ("centre", 15)],
)
def test_masks_hide_what_they_say(mask, hidden):
    known = known_part(mask, 5, 7)
    assert int((~known).sum()) == hidden
    corner = {"left": (0, 0), "right": (0, 6), "upper": (0, 0), "lower": (4, 0), "centre": (2, 3)}[mask]
    assert not known[corner]


def test_completions_of_one_picture_have_the_exact_mean_and_covariance(smooth_pictures):
    model = smooth_pictures((1, 4, 6))
    known = known_part("right", 4, 6)
    x = torch.linspace(-0.5, 0.5, 24).double().view(1, 1, 4, 6)
    found = complete(model, x, known, 1500, PosteriorConfig("moments", repeats=10), batch=500, seed=3)
    flat = found.drawn[0].flatten(1)
    matrix = torch.eye(24).double()[known.flatten()]
    mean, covariance = model.given(matrix, x.flatten()[known.flatten()], 0.0)
    hidden = ~known.flatten()
    spread = covariance.diagonal()[hidden].sqrt().max()
    assert (flat.mean(0) - mean)[hidden].abs().max() < 0.1 * spread
    assert (torch.cov(flat.T) - covariance).norm() < 0.12 * covariance.norm()
    # what is seen is the truth, and what the sampler itself left there is near
    assert torch.equal(flat[:, ~hidden], x.flatten()[~hidden].expand(1500, -1))
    assert 0 < found.misfit.max() < 0.02


def test_a_known_class_keeps_completions_in_it(class_pictures):
    # both classes are alike on the left; the right half is bright or dark
    means = torch.zeros(2, 1, 4, 4)
    means[0, ..., 2:], means[1, ..., 2:] = 0.8, -0.8
    model = class_pictures(means)
    x, known = torch.zeros(2, 1, 4, 4), known_part("right", 4, 4)
    config = PosteriorConfig("replace", levels=16, repeats=4)
    free = complete(model, x, known, 200, config, seed=0).drawn[..., 2:].mean((2, 3, 4)) > 0
    assert 0.3 < free.double().mean() < 0.7  # without a class both ways to go on are found
    given = complete(model, x, known, 50, config, labels=torch.tensor([0, 1]), seed=0)
    bright = given.drawn[..., 2:].mean((2, 3, 4)) > 0
    assert bright[0].all() and not bright[1].any()


def test_copies_are_the_nearest_in_what_is_seen():
    train = torch.tensor([[0.0, 5.0], [1.0, 6.0], [9.0, 7.0]]).view(3, 1, 1, 2)
    known = torch.tensor([[True, False]])
    found = copied(torch.tensor([0.9, -1.0]).view(1, 1, 1, 2), known, train, 2)
    assert found.drawn[0].flatten(1).tolist() == [[pytest.approx(0.9), 6.0], [pytest.approx(0.9), 5.0]]
    assert found.misfit[0].tolist() == [pytest.approx(0.1, abs=1e-5), pytest.approx(0.9)]


def test_kinds_differ_from_each_other_in_class_or_shape():
    known = torch.tensor([[True, False]])
    hidden = torch.tensor([[0.0, 0.1, 0.5, 0.55], [0.0, 0.0, 0.0, 0.0]])
    drawn = torch.stack([torch.ones(2, 4), hidden], -1).view(2, 4, 1, 1, 2)
    read = torch.tensor([[1, 1, 1, 1], [1, 2, 1, 3]])
    assert kinds(drawn, read, known, 0.3).tolist() == [2, 3]
    assert kinds(drawn, read, known, 0.01).tolist() == [4, 3]


def test_figures_by_hand():
    known = torch.tensor([[True, False]])
    truth = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    drawn = torch.tensor([[0.0, 1.0], [0.0, 0.0]]).view(1, 2, 1, 1, 2)
    found = Completions(truth, known, drawn, torch.zeros(1, 2), 5)
    probabilities = torch.tensor([[[0.05, 0.95], [0.6, 0.4]]])
    figures = {k: float(v[0]) for k, v in score(found, probabilities, torch.tensor([1]), 0.5).items()}
    assert figures["classes"] == 2 and figures["kinds"] == 2
    assert figures["confident"] == 0.5 and figures["read_right"] == 0.5 and figures["true_class"] == 1
    assert figures["spread"] == pytest.approx(2.0) and figures["far"] == 1
    # distances to the truth 0 and 1, of the pair 1: 1/2 - 1/2 * 1
    assert figures["energy_score"] == pytest.approx(0.0)
    assert figures["seam"] == pytest.approx(0.5)
    means = summary(score(found, probabilities, torch.tensor([1]), 0.5))
    assert means["classes_2"] == 1 and means["classes_3"] == 0
    unsure = torch.full((1, 2, 2), 0.5)
    assert float(score(found, unsure, torch.tensor([1]), 0.5)["classes"]) == 0


def test_the_energy_score_is_lowest_for_draws_of_the_truth_s_own_density():
    generator = torch.Generator().manual_seed(0)
    known = torch.tensor([[True, False]])

    def scored(shift, scale):
        truth = torch.randn(400, 1, 1, 2, generator=generator)
        drawn = shift + scale * torch.randn(400, 32, 1, 1, 2, generator=generator)
        found = Completions(truth, known, drawn, torch.zeros(400, 32), 0)
        even = torch.full((400, 32, 2), 0.5)
        return float(score(found, even, torch.zeros(400).long(), 1.0)["energy_score"].mean())

    right = scored(0, 1)
    assert right < min(scored(1, 1), scored(0, 0.3), scored(0, 3)) - 0.03


def test_what_is_ambiguous_and_what_is_far_apart_comes_from_training_pictures():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    train = 0.1 * torch.randn(400, 1, 1, 2, generator=generator)
    train[:, 0, 0, 1] += labels  # the right pixel tells the classes apart, the left one does not
    left, right = torch.tensor([[True, False]]), torch.tensor([[False, True]])
    reference = Reference.of(train, labels, left)
    x = torch.zeros(1, 1, 1, 2)
    assert bool(reference.ambiguous(x, left)) and not bool(reference.ambiguous(x, right))
    # the difference of two normals of 0.1: median of |0.1414 n|
    assert reference.apart == pytest.approx(0.6745 * 0.1414, rel=0.1)


def test_the_most_diverse_come_first():
    scores = {"classes": torch.tensor([1, 3, 3, 2]), "kinds": torch.tensor([9, 2, 5, 9])}
    assert list(most_diverse(scores, 3)) == [2, 1, 3]


def test_bad_masks_are_refused(smooth_pictures):
    model = smooth_pictures()
    x = torch.zeros(1, 1, 4, 4).double()
    with pytest.raises(InputError, match="mask: 'all'"):
        known_part("all", 4, 4)
    with pytest.raises(InputError, match="hide a pixel"):
        complete(model, x, torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="must go with"):
        complete(model, x, known_part("left", 5, 4))
    with pytest.raises(InputError, match="completions: 0"):
        complete(model, x, known_part("left", 4, 4), 0)
