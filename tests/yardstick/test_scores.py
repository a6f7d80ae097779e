"""Scores against closed forms, and against futures that are wrong in one known way."""

import numpy as np
import pytest

from ebm_traj.spec import StateSpec
from ebm_traj.yardstick import scores
from ebm_traj.yardstick.baselines import Persistence, shuffle_branches


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def random_gaussian(rng: np.random.Generator, size: int):
    factor = rng.normal(size=(size, size))
    return rng.normal(size=size), factor @ factor.T


def test_frechet_distance_of_commuting_gaussians_has_its_closed_form(rng):
    # with the same eigenvectors: |m - n|^2 + sum (sqrt a_i - sqrt b_i)^2
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    a, b = rng.uniform(0.1, 3, 6), rng.uniform(0.1, 3, 6)
    m, n = rng.normal(size=6), rng.normal(size=6)
    found = scores.gaussian_frechet_distance(m, rotation * a @ rotation.T, n, rotation * b @ rotation.T)
    expected = ((m - n) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert found == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_any_gaussians_in_two_dimensions(rng):
    # tr sqrt(M) = sqrt(tr M + 2 sqrt det M) for 2 x 2 matrices
    (m, a), (n, b) = random_gaussian(rng, 2), random_gaussian(rng, 2)
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = ((m - n) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root
    assert scores.gaussian_frechet_distance(m, a, n, b) == pytest.approx(expected, rel=1e-9)
    assert scores.gaussian_frechet_distance(n, b, m, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_curve_is_zero_against_itself_even_with_fewer_rollouts_than_dimensions(rng):
    rollouts = rng.normal(size=(5, 3, 12))
    np.testing.assert_allclose(scores.frechet_curve(rollouts, rollouts), 0, atol=1e-6)


def test_frechet_curve_takes_each_step_by_itself(rng):
    truth = rng.normal(size=(4000, 3, 2))
    moved = truth + np.array([0.0, 1.0, 2.0])[:, None]
    np.testing.assert_allclose(scores.frechet_curve(moved, truth), [0, 2, 8], atol=1e-6)


def test_frechet_curve_of_a_rollout_that_blew_up_is_infinite_at_that_step_only(rng):
    rollouts = rng.normal(size=(50, 3, 2))
    rollouts[7, 1, 0] = np.nan
    curve = scores.frechet_curve(rollouts, rng.normal(size=(50, 3, 2)))
    assert np.isinf(curve[1])
    assert np.isfinite(curve[[0, 2]]).all()


def test_spread_is_the_mean_distance_of_different_futures():
    futures = np.zeros((1, 3, 1, 2))
    futures[0, :, 0, 0] = [0, 3, 4]
    assert scores.spread(futures)[0, 0] == pytest.approx((3 + 4 + 1) / 3)
    assert scores.spread(futures[:, :1])[0, 0] == 0
    assert scores.spread(np.full((2, 4, 3, 5), 1 / 3)).max() == 0  # exactly


def test_energy_score_is_smallest_for_the_right_distribution(rng):
    truth = rng.normal(size=(64, 16, 1, 3))
    best = scores.energy_score(rng.normal(size=(64, 16, 1, 3)), truth).mean()
    for wrong in (0.0, 0.5, 2.0):  # collapsed, too narrow, too wide
        assert scores.energy_score(wrong * rng.normal(size=(64, 16, 1, 3)), truth).mean() > 1.02 * best
    assert scores.energy_score(1 + rng.normal(size=(64, 16, 1, 3)), truth).mean() > 1.1 * best


def test_energy_score_does_not_depend_on_the_number_of_futures(rng):
    truth = rng.normal(size=(2000, 8, 1, 2))
    few, many = (scores.energy_score(rng.normal(size=(2000, m, 1, 2)), truth).mean() for m in (2, 32))
    assert few == pytest.approx(many, rel=0.02)


def spec() -> StateSpec:
    plain = StateSpec(("a", "b", "g"), ("position", "angle", "given"), (0, 1, 2), 3)
    return plain.with_statistics([1, 2, 0], [2, 4, 1], [0.5, 0.1, 1])


def test_normalise_keeps_predicted_dimensions_only():
    np.testing.assert_allclose(scores.normalise([[3, 2, 99]], spec()), [[1, 0]])


def test_motion_counts_every_dimension_in_its_own_change():
    raw = np.array([[[0, 0, 0], [0.5, 0.1, 7], [1.0, 0.2, 9]]])
    assert scores.motion(scores.normalise(raw, spec()), spec()) == pytest.approx(1)


def test_motion_ratio_of_frozen_is_zero_and_against_frozen_unknown(rng):
    moving, frozen = rng.normal(size=(5, 4, 2)), np.zeros((5, 4, 2))
    assert scores.motion_ratio(frozen, moving, spec()) == 0
    assert scores.motion_ratio(2 * moving, moving, spec()) == pytest.approx(2)
    assert np.isnan(scores.motion_ratio(moving, frozen, spec()))


def test_displacement_leaves_out_steps_beyond_the_horizon(rng):
    truth = rng.normal(size=(9, 6, 2))
    assert list(scores.displacement_scales(truth, spec(), (1, 5, 25))) == [1, 5]


def test_displacement_distance_is_in_units_of_the_training_change(rng):
    truth = np.cumsum(rng.normal(size=(3000, 3, 2)) * [0.25, 0.025], axis=1)  # one change_std a step
    scales = scores.displacement_scales(truth, spec(), (1,))
    found = scores.displacement_frechet(np.zeros_like(truth), truth, scales)
    assert found[1] == pytest.approx(2, rel=0.05)  # trace of the unit covariance


def test_shuffled_branches_are_never_of_their_own_context():
    branches = np.broadcast_to(np.arange(5.0)[:, None, None, None], (5, 12, 2, 3))
    shuffled = shuffle_branches(branches)
    assert shuffled.shape == branches.shape
    assert (shuffled != branches).all()
    assert len(np.unique(shuffled[0])) == 4


def test_persistence_repeats_the_last_frame():
    import torch

    context = torch.arange(12.0).view(2, 2, 3)
    futures = Persistence(spec()).sample(context, 4, 5)
    assert futures.shape == (2, 5, 4, 3)
    assert (futures == context[:, -1, None, None]).all()
