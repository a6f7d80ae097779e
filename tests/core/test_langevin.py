"""Chains are checked against distributions known in closed form."""

import math

import pytest
import torch

from ebm_traj.core.energy import FunctionEnergy
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.errors import InputError

CHAINS = 20_000


def gaussian(mean: float, std: float) -> FunctionEnergy:
    return FunctionEnergy(lambda x: ((x - mean) ** 2).sum(-1) / (2 * std**2))


def run(energy, start, config, seed=0, **kwargs):
    return langevin(energy, start, config, generator=torch.Generator().manual_seed(seed), **kwargs)


def test_unadjusted_chain_has_the_stationary_variance_of_its_step_size():
    # x' = (1 - h / s^2) x + sqrt(2 h) n has variance s^2 / (1 - h / (2 s^2)), not s^2
    std, h = 0.7, 0.2
    chain = run(gaussian(1.0, std), torch.zeros(CHAINS, 1), LangevinConfig(steps=60, step_size=h))
    expected = std**2 / (1 - h / (2 * std**2))
    assert abs(float(chain.x.mean()) - 1.0) < 5 * math.sqrt(expected / CHAINS)
    assert float(chain.x.var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / CHAINS))


def test_metropolis_correction_removes_the_bias_of_the_step_size():
    std, h = 0.7, 0.3
    config = LangevinConfig(steps=80, step_size=h, metropolis=True)
    chain = run(gaussian(1.0, std), torch.zeros(CHAINS, 1), config)
    assert float(chain.x.var()) == pytest.approx(std**2, rel=5 * math.sqrt(2 / CHAINS))
    assert 0.3 < chain.acceptance < 1


@pytest.mark.parametrize("scaled", [False, True])
def test_metropolis_keeps_a_skewed_distribution_that_it_was_started_from(scaled):
    # Gumbel: E = x + exp(-x); one million small errors in the acceptance ratio would show in its moments
    energy = FunctionEnergy(lambda x: (x + torch.exp(-x)).sum(-1))
    uniform = torch.rand(CHAINS, 1, generator=torch.Generator().manual_seed(1))
    exact = -torch.log(-torch.log(uniform))
    scale = torch.full((CHAINS, 1), 0.5) if scaled else None
    config = LangevinConfig(steps=50, step_size=0.8, metropolis=True)
    chain = run(energy, exact, config, scale=scale)
    assert 0.3 < chain.acceptance < 0.995
    assert abs(float(chain.x.mean()) - 0.5772) < 5 * math.sqrt(math.pi**2 / 6 / CHAINS)
    assert float(chain.x.var()) == pytest.approx(math.pi**2 / 6, rel=0.06)


def test_preconditioned_chain_is_the_plain_chain_in_scaled_coordinates():
    scale = torch.tensor([0.1, 1.0, 7.0])
    start = torch.randn(8, 3)
    config = LangevinConfig(steps=10, step_size=0.1)
    walked = run(gaussian(0.5, 2.0), start * scale, config, scale=scale).x
    in_units = FunctionEnergy(lambda u: gaussian(0.5, 2.0)(u * scale))
    assert torch.allclose(walked, run(in_units, start, config).x * scale, rtol=1e-4, atol=1e-5)


def test_preconditioning_leaves_the_distribution_unchanged():
    scale = torch.tensor([0.3, 1.5])
    config = LangevinConfig(steps=80, step_size=0.3, metropolis=True)
    chain = run(gaussian(0.0, 0.8), torch.randn(CHAINS, 2), config, scale=scale)
    assert torch.allclose(chain.x.std(0), torch.tensor([0.8, 0.8]), rtol=0.05)


def test_without_noise_it_is_gradient_descent():
    chain = run(gaussian(3.0, 1.0), torch.tensor([[7.0]]), LangevinConfig(steps=4, step_size=0.5, noise=0.0))
    assert float(chain.x) == pytest.approx(3 + 4 * 0.5**4)


def test_clip_bounds_each_element_of_the_gradient():
    config = LangevinConfig(steps=1, step_size=1.0, noise=0.0, clip=0.01)
    chain = run(gaussian(0.0, 1.0), torch.tensor([[5.0, -5.0, 0.004]]), config)
    assert torch.allclose(chain.x, torch.tensor([[4.99, -4.99, 0.0]]), atol=1e-6)


@pytest.mark.parametrize(("metropolis", "expected"), [(False, 7), (True, 8)])
def test_one_gradient_a_step(metropolis, expected):
    calls = []

    def counted(x):
        calls.append(1)
        return (x**2).sum(-1)

    run(FunctionEnergy(counted), torch.zeros(2, 1), LangevinConfig(steps=7, metropolis=metropolis))
    assert len(calls) == expected  # the corrected chain also needs the energy of its start


@pytest.mark.parametrize("metropolis", [False, True])
def test_temperature_scales_the_variance(metropolis):
    std, temperature = 0.7, 0.3
    config = LangevinConfig(60, 0.1, metropolis=metropolis, temperature=temperature)
    start = torch.zeros(CHAINS, 1, dtype=torch.float64)
    chain = run(gaussian(1.0, std), start, config)
    expected = temperature * std**2
    if not metropolis:
        expected /= 1 - config.step_size / (2 * std**2)
    assert abs(float(chain.x.mean()) - 1.0) < 4 * math.sqrt(expected / CHAINS)
    assert float(chain.x.var()) == pytest.approx(expected, rel=4 * math.sqrt(2 / CHAINS))


@pytest.mark.parametrize("first_guess", [1e-4, 0.1, 10.0])
def test_dual_averaging_reaches_the_target_acceptance(first_guess):
    precision = torch.linspace(1, 9, 20, dtype=torch.float64)
    energy = FunctionEnergy(lambda x: 0.5 * (precision * x**2).sum(-1))
    start = torch.randn(500, 20, generator=torch.Generator().manual_seed(4)).double() / precision.sqrt()
    chain = run(energy, start, LangevinConfig(110, first_guess, metropolis=True, adapt=90))
    assert float(chain.acceptance) == pytest.approx(0.574, abs=0.06)
    found = LangevinConfig(20, float(chain.adapted_step_size), metropolis=True)
    again = run(energy, chain.x, found, seed=1)
    assert float(again.acceptance) == pytest.approx(float(chain.acceptance), abs=0.03)
    assert again.adapted_step_size is None


def test_distribution_is_right_after_adaptation():
    std = 0.7
    config = LangevinConfig(60, 1e-3, metropolis=True, adapt=30, target_acceptance=0.7)
    chain = run(gaussian(1.0, std), torch.zeros(CHAINS, 1), config)
    assert abs(float(chain.x.mean()) - 1.0) < 4 * std / math.sqrt(CHAINS)
    assert float(chain.x.var()) == pytest.approx(std**2, rel=4 * math.sqrt(2 / CHAINS))


def test_trace_energy_and_gradients_come_back():
    energy = gaussian(0.0, 1.0)
    for settings in ({}, {"metropolis": True}, {"metropolis": True, "adapt": 2}):
        config = LangevinConfig(steps=5, **settings)
        chain = run(energy, torch.ones(4, 2), config, record=True)
        assert chain.gradients == config.gradients == 5 + bool(settings)
        assert chain.trace.shape == (5 - config.adapt, 4, 2) and torch.equal(chain.trace[-1], chain.x)
        assert torch.equal(chain.x, run(energy, torch.ones(4, 2), config).x)
        assert chain.energy is None if not settings else torch.allclose(chain.energy, energy(chain.x))
    for metropolis in (False, True):
        still = run(energy, torch.ones(4, 2), LangevinConfig(0, metropolis=metropolis), record=True)
        assert still.gradients == 0 and still.trace.shape == (0, 4, 2)


def test_same_seed_same_chain():
    a, b, c = (run(gaussian(0, 1), torch.zeros(5, 2), LangevinConfig(), seed=s).x for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps: -1"),
        ({"step_size": 0.0}, "step size: 0.0"),
        ({"noise": -1.0}, "noise: -1.0"),
        ({"clip": 0.0}, "clip: 0.0"),
        ({"metropolis": True, "noise": 0.1}, "metropolis"),
        ({"temperature": 0.0}, "temperature: 0.0"),
        ({"temperature": 0.5, "noise": 0.1}, "temperature: 0.5"),
        ({"adapt": 2}, "adapt: 2"),
        ({"adapt": 20, "metropolis": True}, "adapt: 20"),
        ({"adapt": -1, "metropolis": True}, "adapt: -1"),
        ({"target_acceptance": 0.0}, "acceptance: 0.0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        LangevinConfig(**settings)
