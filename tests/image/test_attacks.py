"""Attacks against what is known in closed form: linear classifiers, balls, and a defence with noise."""

import dataclasses

import pytest
import torch

from ebm_traj.errors import InputError
from ebm_traj.image.attacks import PGDConfig, accuracy, margin, pgd, project
from ebm_traj.image.refinement import RefinementConfig, refine

SHAPE = (1, 4, 4)


def linear(seed=0, classes=2):
    """Logits W x + b in float64."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 16, generator=g, dtype=torch.float64)
    bias = torch.randn(classes, generator=g, dtype=torch.float64)
    return weight, lambda x, generator: x.flatten(1) @ weight.T + bias


def pictures(count=6, seed=1, width=0.3):
    g = torch.Generator().manual_seed(seed)
    return width * torch.randn(count, *SHAPE, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["margin", "cross-entropy", "both"])
def test_pgd_finds_the_closed_form_optimum_of_a_linear_classifier(norm, loss):
    weight, logits = linear()
    x, radius = pictures(), 0.07
    y = logits(x, None).argmax(1)
    generator = torch.Generator().manual_seed(0)
    config = PGDConfig(norm=norm, steps=60, loss=loss, step_size=0.5)
    found = pgd(logits, x, y, radius, config, generator, low=-99, high=99)
    apart = weight[0] - weight[1]  # the margin grows by radius * its dual norm; radii are in [0, 1], twice
    gain = 2 * radius * (apart.abs().sum() if norm == "linf" else apart.norm())
    torch.testing.assert_close(found.margin, margin(logits(x, None), y) + gain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.margin, margin(logits(found.x, None), y))
    length = (found.x - x).flatten(1)
    length = length.abs().amax(1) if norm == "linf" else length.norm(dim=1)
    assert (length <= 2 * radius + 1e-12).all()


def test_gradients_of_lower_precision_are_judged_in_full():
    weight = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))

    def logits(x, generator):
        return torch.nn.functional.linear(x.flatten(1), weight)

    x = pictures().float()
    y = logits(x, None).argmax(1)
    config, generator = PGDConfig(steps=40, bfloat16=True), torch.Generator().manual_seed(0)
    found = pgd(logits, x, y, 0.07, config, generator, low=-99, high=99)
    best = margin(logits(x, None), y) + 0.14 * (weight[0] - weight[1]).abs().sum()
    torch.testing.assert_close(found.margin, margin(logits(found.x, None), y))
    torch.testing.assert_close(found.margin, best, rtol=0.02, atol=0)


def test_pgd_under_bounds_reaches_the_closed_form_of_clipped_pixels():
    weight, logits = linear(3)
    x = pictures(width=0.9).clamp(-1, 1)
    y = logits(x, None).argmax(1)
    found = pgd(logits, x, y, 0.4, PGDConfig(steps=40), torch.Generator().manual_seed(0))
    away = (weight[1 - y] - weight[y]).view(-1, *SHAPE)
    best = (x + 0.8 * away.sign()).clamp(-1, 1)  # each pixel by itself
    torch.testing.assert_close(found.x, best)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_is_nearest_inside_and_leaves_inner_points(norm):
    x = pictures(width=3.0)
    centre = pictures(seed=5).clamp(-1, 1)
    once = project(x, centre, 0.5, norm, -99, 99)
    torch.testing.assert_close(project(once, centre, 0.5, norm, -99, 99), once)
    inner = centre + 0.001
    torch.testing.assert_close(project(inner, centre, 0.5, norm, -99, 99), inner)
    g = torch.Generator().manual_seed(2)
    for _ in range(20):  # no point of the ball is nearer
        other = project(centre + torch.randn(x.shape, generator=g, dtype=x.dtype), centre, 0.5, norm, -99, 99)
        assert ((x - other).flatten(1).norm(dim=1) >= (x - once).flatten(1).norm(dim=1) - 1e-9).all()
    bounded = project(x, centre, 0.5, norm)
    assert bounded.abs().max() <= 1
    length = (bounded - centre).flatten(1)
    assert ((length.abs().amax(1) if norm == "linf" else length.norm(dim=1)) <= 0.5 + 1e-12).all()


def test_radius_zero_changes_nothing_and_margins_mean_misread():
    _, logits = linear(4, classes=5)
    x = pictures(20)
    y = torch.arange(20) % 5
    found = pgd(logits, x, y, 0.0, PGDConfig(), torch.Generator())
    assert torch.equal(found.x, x)
    assert torch.equal(found.misread, (logits(x, None).argmax(1) != y).double())
    assert torch.equal(found.margin > 0, found.misread > 0)
    assert torch.equal(accuracy(logits, x, y, None), (found.margin < 0).float())


def hidden_gradient(x, generator):
    """A classifier whose gradient by x is nothing at the picture itself: only a start elsewhere helps."""
    score = (x.flatten(1).sum(1) - 1).clamp_min(0)
    return torch.stack([1 - score, score], 1)


def test_a_start_is_gone_on_from_and_never_lost():
    x = torch.zeros(3, *SHAPE, dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.int64)
    config = PGDConfig(steps=3, restarts=0)
    blind = pgd(hidden_gradient, x, y, 0.2, config, torch.Generator())
    assert (blind.margin < 0).all()
    led = pgd(hidden_gradient, x, y, 0.2, config, torch.Generator(), starts=[x + 0.1])
    assert (led.margin > 0).all()


def purifying(walk):
    """A classifier behind refinement: data of standard deviation 0.05 around +-1 along one direction."""
    direction = torch.ones(16, dtype=torch.float64) / 4

    def energy_at(sigma):
        variance = 0.05**2 + sigma[0] ** 2

        def energy(x):
            along = x.flatten(1) @ direction
            across = x.flatten(1).square().sum(1) - along**2
            wells = torch.stack([(along - 1) ** 2, (along + 1) ** 2])
            return -(-wells / (2 * variance)).logsumexp(0) + across / (2 * variance)

        return energy

    refinement = RefinementConfig(steps=4, walk=walk, level=0.6, lowest=0.2)

    def bare(x, generator):
        # a classifier that also looks across, where refinement takes everything away
        h = x.flatten(1)
        score = 2 * (h @ direction) + 4 * torch.tanh(3 * (h[:, 0] - h[:, 1]))
        return torch.stack([score, -score], 1)

    def whole(x, generator):
        return bare(refine(energy_at, x, refinement, generator), generator)

    return bare, whole


@pytest.mark.parametrize("walk", ["ancestral", "langevin"])
def test_the_adaptive_attack_is_not_weaker_than_the_one_around_the_refinement(walk):
    bare, whole = purifying(walk)
    g = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    sign = 1.0 - 2 * y.double()
    x = sign[:, None].expand(-1, 16) / 4 + 0.05 * torch.randn(60, 16, generator=g, dtype=torch.float64)
    x = x.view(-1, *SHAPE)
    config = PGDConfig(norm="l2", steps=10, restarts=1)
    around = pgd(bare, x, y, 0.45, config, g)
    through = dataclasses.replace(config, eot=8, momentum=0.75, recheck=64)
    adaptive = pgd(whole, x, y, 0.45, through, g, starts=[around.x])

    def share(points):
        return accuracy(whole, points, y, torch.Generator().manual_seed(9), 40).mean()

    plain = accuracy(bare, around.x, y, None).mean()
    assert share(x) > 0.85  # the defence works on clean pictures
    assert plain < 0.2 < share(around.x)  # and seems to help where the attack does not see it
    assert share(adaptive.x) <= share(around.x) + 0.02  # 2,400 answers each
    if walk == "langevin":
        assert share(adaptive.x) < share(around.x) - 0.03  # which here it does not


def test_the_gradient_of_refinement_is_that_of_finite_differences():
    _, whole = purifying("ancestral")
    x = pictures(2)

    def value(point):
        return whole(point, torch.Generator().manual_seed(3)).sum()

    assert torch.autograd.gradcheck(value, x.requires_grad_(True), atol=1e-6)


def test_refinement_walks_to_the_data_and_is_the_same_for_the_same_seed():
    def energy_at(sigma):
        variance = 0.04 + sigma**2
        return lambda x: (x - 0.5).square().flatten(1).sum(1) / (2 * variance[0])

    x = -torch.ones(200, *SHAPE, dtype=torch.float64)
    config = RefinementConfig(steps=30, level=3.0, lowest=0.02)
    first = refine(energy_at, x, config, torch.Generator().manual_seed(1))
    assert torch.equal(first, refine(energy_at, x, config, torch.Generator().manual_seed(1)))
    assert not first.requires_grad
    # far from x, as noise of 3 hides a picture; data are N(0.5, 0.2^2)
    assert abs(float(first.mean()) - 0.5) < 0.05
    assert 0.15 < float(first.std()) < 0.22
    assert refine(energy_at, x, RefinementConfig(steps=0), None) is x


def test_an_energy_without_levels_is_refined_by_langevin_steps_alone():
    def energy_at(sigma):
        assert sigma is None
        return lambda x: 0.5 * x.square().flatten(1).sum(1)

    x = torch.ones(4, *SHAPE, dtype=torch.float64)
    config = RefinementConfig(steps=3, walk="langevin", step_size=0.1, noise=0.0)
    torch.testing.assert_close(refine(energy_at, x, config, levels=False), 0.9**3 * x)
    with pytest.raises(InputError, match="no noise levels"):
        refine(energy_at, x, RefinementConfig(), levels=False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"norm": "l1"}, "attack norm: 'l1'; accepted are linf, l2"),
        ({"loss": "x"}, "attack loss"),
        ({"steps": 0}, "attack steps: 0"),
        ({"restarts": -1}, "attack restarts: -1"),
        ({"step_size": 0.0}, "attack step size"),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(InputError, match=said):
        PGDConfig(**settings)
    with pytest.raises(InputError, match="attack radius: -1"):
        pgd(
            hidden_gradient, torch.zeros(1, *SHAPE), torch.zeros(1).long(), -1, PGDConfig(), torch.Generator()
        )
