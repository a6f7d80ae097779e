"""Chains that stop by themselves, and the diagnostics against closed forms."""

import math

import pytest
import torch

from ebm_traj.core.convergence import run_until_converged
from ebm_traj.core.diagnostics import (
    diagnose,
    effective_sample_size,
    split_r_hat,
    squared_jump_distance,
)
from ebm_traj.core.hmc import HMCConfig, hmc
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.errors import InputError

ROWS = 400
STDS = torch.tensor([0.4, 1.0, 0.7, 0.5], dtype=torch.float64)
MALA = LangevinConfig(step_size=0.08, metropolis=True)
HMC = HMCConfig(step_size=0.35, leapfrog=4)


def energy(x: torch.Tensor) -> torch.Tensor:
    return ((x / STDS) ** 2).sum(-1) / 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def at_target(seed: int = 7) -> torch.Tensor:
    return STDS * normal(ROWS, 4, seed=seed)


@pytest.mark.parametrize("config", [MALA, HMC], ids=["mala", "hmc"])
def test_stops_early_from_the_target_and_later_from_afar(config):
    def steps(start: torch.Tensor) -> int:
        chains = [run_until_converged(energy, start, config, generator=seeded(s)) for s in range(5)]
        assert all(chain.converged for chain in chains)
        # rows that are called converged have the target's variance
        variance = torch.cat([chain.x for chain in chains]).var(0)
        assert torch.allclose(variance, STDS**2, rtol=0.2)
        return sum(chain.steps for chain in chains)

    assert steps(at_target()) < steps(at_target() + 30.0) < 5 * 1000


def test_a_slow_chain_is_not_taken_for_a_converged_one():
    # so slow that its energy hardly falls; the distance from the start still tells
    def steps(step_size: float) -> int:
        config = LangevinConfig(step_size=step_size, metropolis=True)
        return run_until_converged(energy, at_target(), config, generator=seeded()).steps

    assert steps(0.005) > 3 * steps(0.1)
    crawling = LangevinConfig(step_size=1e-5, metropolis=True)
    chain = run_until_converged(energy, at_target() + 2, crawling, max_steps=105, generator=seeded())
    assert not chain.converged and chain.steps == 100
    assert all(distance > 2 for _, distance in chain.drifts)


def test_what_a_condition_adds_to_a_row_does_not_matter():
    constants = 1e4 * normal(ROWS, seed=3)
    plain, shifted = (
        run_until_converged(one, at_target() + 3, HMC, generator=seeded())
        for one in (energy, lambda x: energy(x) + constants)
    )
    assert plain.steps == shifted.steps and torch.allclose(plain.x, shifted.x)


@pytest.mark.parametrize(
    "config",
    [LangevinConfig(steps=9, step_size=0.01, metropolis=True, adapt=8), HMCConfig(steps=9, adapt=8), HMC],
    ids=["mala", "hmc", "hmc-fixed"],
)
def test_cost_is_counted_and_adaptation_comes_first(config):
    calls = []

    def counted(x):
        calls.append(1)
        return energy(x)

    chain = run_until_converged(counted, at_target(), config, check_every=5, generator=seeded())
    assert chain.gradients == len(calls)
    assert chain.converged and (chain.steps - config.adapt) % 5 == 0
    assert len(chain.drifts) == (chain.steps - config.adapt) // 5 - 1 >= 2
    assert (chain.adapted_step_size is None) == (config.adapt == 0)
    assert torch.allclose(chain.energy, energy(chain.x))


def test_unadjusted_chains_stop_too_and_diverged_ones_never_do():
    chain = run_until_converged(energy, at_target() + 5, LangevinConfig(step_size=0.05), generator=seeded())
    assert chain.converged
    wild = LangevinConfig(step_size=1e3)
    assert not run_until_converged(energy, at_target(), wild, generator=seeded()).converged


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (1, {}, "rows of the batch: 1"),
        (2, {"check_every": 0}, "check_every: 0"),
        (2, {"tolerance": 0.0}, "tolerance: 0.0"),
        (2, {"max_steps": 19}, "max_steps: 19; needs 20"),
    ],
)
def test_bad_settings_are_named(rows, settings, message):
    with pytest.raises(InputError, match=message):
        run_until_converged(energy, at_target()[:rows], MALA, **settings)


def autoregression(correlation: float, length: int, chains: int) -> torch.Tensor:
    """(T, B, 1): x' = a x + sqrt(1 - a^2) n, stationary with variance 1."""
    noise = normal(length, chains, 1)
    states = [noise[0]]
    for step in noise[1:]:
        states.append(correlation * states[-1] + math.sqrt(1 - correlation**2) * step)
    return torch.stack(states)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, -0.3])
def test_effective_sample_size_of_an_autoregression(correlation):
    length, chains = 4000, 10
    found = float(effective_sample_size(autoregression(correlation, length, chains)))
    expected = length * chains * (1 - correlation) / (1 + correlation)
    assert found == pytest.approx(expected, rel=0.1)


def test_effective_sample_size_sees_chains_that_stay_apart():
    trace = normal(500, 4, 2)
    trace[:, :, 1] += torch.arange(4) * 3.0
    free, apart = effective_sample_size(trace).tolist()
    assert free > 1000 and apart < 20


def test_r_hat_is_near_1_for_independent_draws_and_above_for_stuck_chains():
    independent = normal(200, 8, 3)
    assert (split_r_hat(independent) < 1.02).all() and (split_r_hat(independent, ranks=False) < 1.02).all()
    stuck = independent + 2.0 * normal(8, 1, seed=1)
    assert (split_r_hat(stuck) > 1.1).all() and (split_r_hat(stuck, ranks=False) > 1.1).all()
    drifting = independent + torch.linspace(0, 3, 200, dtype=torch.float64)[:, None, None]
    assert (split_r_hat(drifting) > 1.1).all()


def test_ranked_r_hat_sees_unlike_spread_and_stands_heavy_tails():
    unlike = normal(500, 4, 1) * torch.tensor([1.0, 1.0, 5.0, 5.0])[:, None]
    assert split_r_hat(unlike, ranks=False) < 1.05 and split_r_hat(unlike) > 1.1
    uniform = torch.rand(500, 4, 1, generator=seeded(2), dtype=torch.float64)
    assert split_r_hat(torch.tan(math.pi * (uniform - 0.5))) < 1.02


def test_chains_at_rest():
    together = torch.ones(20, 3, 2)
    assert split_r_hat(together).tolist() == [1, 1] and effective_sample_size(together).tolist() == [1, 1]
    apart = together * torch.arange(3.0)[:, None]
    assert split_r_hat(apart).isinf().all()
    assert squared_jump_distance(apart) == 0


def test_squared_jump_distance():
    trace = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]], [[3.0, 4.0]]])
    assert squared_jump_distance(trace) == 12.5
    assert squared_jump_distance(trace, torch.tensor([3.0, 4.0])) == 1
    # independent draws jump by twice the variance
    assert float(squared_jump_distance(normal(2000, 5, 3))) == pytest.approx(6, rel=0.05)


def test_diagnosis_of_real_chains():
    start = at_target()[:20]
    config = HMCConfig(200, 0.35, 4)
    good = diagnose(hmc(energy, start, config, scale=STDS, generator=seeded(), record=True))
    slow = diagnose(
        langevin(energy, start, LangevinConfig(200, 1e-3, metropolis=True), generator=seeded(), record=True)
    )
    assert good["r_hat"] < 1.02 < 1.1 < slow["r_hat"]
    assert good["squared_jump"] > slow["squared_jump"]
    assert good["effective_samples_per_gradient"] > 4 * slow["effective_samples_per_gradient"]
    assert 0 < good["effective_samples_per_gradient"] < 1
    with pytest.raises(InputError, match="record=True"):
        diagnose(langevin(energy, start, MALA))
    with pytest.raises(InputError, match="T at least 4"):
        split_r_hat(torch.zeros(3, 5, 2))
