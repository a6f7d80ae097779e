"""Sampling-based optimisers find the minimum of a known cost, each plan by itself."""

import numpy as np
import pytest

from ebm_traj.envs.optimizers import MPPI, CrossEntropy, Optimizer, PredictiveSampling

TARGET = np.array([0.4, -0.3, 0.1])
MAKERS = {
    "predictive sampling": lambda: PredictiveSampling((0.05, 0.2)),
    "mppi": lambda: MPPI((0.05, 0.2), temperature=0.01),
    "cem": lambda: CrossEntropy((0.02, 0.5), elites=6),
}


def optimise(optimizer: Optimizer, targets: np.ndarray, rounds: int = 40, samples: int = 48) -> np.ndarray:
    """Knots (N, 2, 3) after minimising the squared distance of every knot to `targets` (N, 3)."""
    plans = len(targets)
    knots = np.zeros((plans, 2, 3))
    optimizer.reset(*knots.shape)
    streams = [np.random.default_rng(row) for row in range(plans)]
    for _ in range(rounds):
        candidates = np.repeat(knots[:, None], samples, axis=1)
        draws = np.stack([rng.standard_normal((samples - 1, 2, 3)) for rng in streams])
        candidates[:, 1:] += optimizer.spread(samples) * draws
        costs = ((candidates - targets[:, None, None]) ** 2).sum((-1, -2))
        knots = optimizer.update(candidates, costs)
    return knots


@pytest.mark.parametrize("name", MAKERS)
def test_the_minimum_is_found(name: str):
    knots = optimise(MAKERS[name](), np.stack([TARGET, -TARGET]))
    np.testing.assert_allclose(knots[0], np.broadcast_to(TARGET, (2, 3)), atol=0.06)
    np.testing.assert_allclose(knots[1], np.broadcast_to(-TARGET, (2, 3)), atol=0.06)


@pytest.mark.parametrize("name", MAKERS)
def test_a_plan_does_not_depend_on_the_others(name: str):
    together = optimise(MAKERS[name](), np.stack([TARGET, -TARGET]), rounds=3)
    alone = optimise(MAKERS[name](), TARGET[None], rounds=3)
    np.testing.assert_array_equal(together[0], alone[0])


def test_predictive_sampling_keeps_the_best_and_never_gets_worse():
    candidates = np.arange(6.0).reshape(1, 3, 2, 1)
    assert PredictiveSampling((1.0,)).update(candidates, np.array([[3.0, 1.0, 2.0]])).ravel().tolist() == [
        2,
        3,
    ]


def test_mppi_is_the_mean_weighted_by_the_boltzmann_factor():
    candidates = np.array([0.0, 1.0]).reshape(1, 2, 1, 1)
    knots = MPPI((1.0,), temperature=0.5).update(candidates, np.array([[1.0, 1.0 + 0.5 * np.log(3)]]))
    np.testing.assert_allclose(knots, 0.25)
    far = MPPI((1.0,), temperature=1e-6).update(candidates, np.array([[900.0, 1000.0]]))
    np.testing.assert_allclose(far, 0.0)


def test_the_noise_of_candidates_takes_turns():
    spread = PredictiveSampling((0.1, 0.3)).spread(6)
    assert spread.ravel().tolist() == [0.1, 0.3, 0.1, 0.3, 0.1]


def test_the_spread_of_cross_entropy_follows_its_elites_within_bounds():
    optimizer = CrossEntropy((0.1, 0.5), elites=2)
    optimizer.reset(1, 1, 2)
    assert np.all(optimizer.spread(4) == 0.5)
    candidates = np.array([[0.0, 0.0], [0.4, 9.0], [9.0, 9.0]]).reshape(1, 3, 1, 2)
    optimizer.update(candidates, np.array([[0.0, 1.0, 2.0]]))
    np.testing.assert_allclose(optimizer.spread(4).ravel(), [0.2, 0.5])
    optimizer.update(np.zeros((1, 3, 1, 2)), np.zeros((1, 3)))
    np.testing.assert_allclose(optimizer.spread(4).ravel(), [0.1, 0.1])
