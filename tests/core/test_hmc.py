"""Hamiltonian chains against distributions known in closed form, and the integrator against its theory."""

import math

import pytest
import torch

from ebm_traj.core.energy import FunctionEnergy, energy_and_gradient
from ebm_traj.core.hmc import HMCConfig, hmc, leapfrog, run_chain, van_der_corput
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.errors import InputError

CHAINS = 8000
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.7, 0.0], [0.7, 0.8, -0.2], [0.0, -0.2, 0.3]], dtype=torch.float64)


def gaussian(x: torch.Tensor) -> torch.Tensor:
    centred = x - MEAN
    return 0.5 * (centred @ torch.linalg.inv(COVARIANCE) * centred).sum(-1)


def quartic(x: torch.Tensor) -> torch.Tensor:
    return (x**4 / 4 + x.roll(1, -1) * x / 2 + x**2).sum(-1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(energy, start, config, seed=0, **kwargs):
    return hmc(energy, start, config, generator=seeded(seed), **kwargs)


def require_moments(x: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    """Means and covariances of independent Gaussian rows, each within 4 standard errors."""
    variance = covariance.diagonal()
    assert ((x.mean(0) - mean).abs() < 4 * (variance / len(x)).sqrt()).all()
    error = ((covariance**2 + variance.outer(variance)) / len(x)).sqrt()
    assert ((x.T.cov() - covariance).abs() < 4 * error).all()


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("scaled", [False, True])
def test_gaussian_has_its_mean_and_covariance_times_the_temperature(temperature, scaled):
    config = HMCConfig(steps=25, step_size=0.35, leapfrog=4, temperature=temperature, length_jitter=0.5)
    scale = torch.tensor([1.3, 0.9, 0.7], dtype=torch.float64) if scaled else None
    chain = run(gaussian, torch.zeros(CHAINS, 3, dtype=torch.float64), config, scale=scale)
    assert 0.6 < chain.acceptance < 0.999  # some are rejected, so that the correction is at work
    require_moments(chain.x, MEAN, temperature * COVARIANCE)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_skewed_distribution_is_kept(scaled):
    # Gumbel: E = x + exp(-x); errors in the acceptance ratio would show in its moments
    uniform = torch.rand(CHAINS, 1, generator=seeded(1), dtype=torch.float64)
    exact = -torch.log(-torch.log(uniform))
    scale = torch.full((CHAINS, 1), 0.5, dtype=torch.float64) if scaled else None
    config = HMCConfig(steps=20, step_size=1.2 if not scaled else 2.4, leapfrog=3)
    chain = run(lambda x: (x + torch.exp(-x)).sum(-1), exact, config, scale=scale)
    assert 0.3 < chain.acceptance < 0.98
    variance = math.pi**2 / 6
    assert abs(float(chain.x.mean()) - 0.5772157) < 4 * math.sqrt(variance / CHAINS)
    # a Gumbel's excess kurtosis is 12/5, so the error of its variance is var * sqrt((2 + 2.4) / N)
    assert float(chain.x.var()) == pytest.approx(variance, rel=4 * math.sqrt(4.4 / CHAINS))


def test_leapfrog_is_reversible():
    x = torch.randn(7, 5, generator=seeded(), dtype=torch.float64)
    velocity = torch.randn(7, 5, generator=seeded(1), dtype=torch.float64)
    step = 0.1 * torch.linspace(0.5, 1.5, 5, dtype=torch.float64)
    _, gradient = energy_and_gradient(quartic, x)
    there, turned, value, end_gradient = leapfrog(quartic, x, velocity, gradient, step, 20)
    assert not torch.allclose(there, x, atol=0.1)
    assert torch.equal(value, quartic(there))
    back, returned, _, _ = leapfrog(quartic, there, -turned, end_gradient, step, 20)
    assert torch.allclose(back, x, atol=1e-12) and torch.allclose(-returned, velocity, atol=1e-12)


def test_energy_error_of_leapfrog_is_of_second_order():
    x = torch.randn(200, 4, generator=seeded(), dtype=torch.float64)
    velocity = torch.randn(200, 4, generator=seeded(1), dtype=torch.float64)
    value, gradient = energy_and_gradient(quartic, x)

    def error(length: int) -> float:
        _, v, end, _ = leapfrog(quartic, x, velocity, gradient, 0.8 / length, length)
        return float((end - value + 0.5 * (v**2 - velocity**2).sum(-1)).abs().mean())

    assert error(16) / error(32) == pytest.approx(4, rel=0.05)
    assert error(32) / error(64) == pytest.approx(4, rel=0.05)


def test_one_leapfrog_step_is_a_mala_step():
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    start = torch.randn(50, 3, generator=seeded(3), dtype=torch.float64)
    walked = run(gaussian, start, HMCConfig(8, 0.4, leapfrog=1, step_jitter=0, temperature=0.6), scale=scale)
    config = LangevinConfig(8, 0.4**2 / 2, metropolis=True, temperature=0.6)
    mala = langevin(gaussian, start, config, scale=scale, generator=seeded())
    assert 0 < walked.acceptance < 1 and walked.acceptance == mala.acceptance
    assert torch.allclose(walked.x, mala.x, atol=1e-10)
    assert torch.equal(mala.x, run_chain(gaussian, start, config, scale=scale, generator=seeded()).x)


@pytest.mark.parametrize("first_guess", [0.003, 0.1, 3.0])
def test_dual_averaging_reaches_the_target_acceptance(first_guess):
    def energy(x):
        return 0.5 * (x**2 * torch.linspace(1, 9, 20, dtype=x.dtype)).sum(-1)

    config = HMCConfig(80, first_guess, leapfrog=5, adapt=60, target_acceptance=0.7)
    start = torch.randn(300, 20, generator=seeded(4), dtype=torch.float64)
    chain = run(energy, start, config)
    assert float(chain.acceptance) == pytest.approx(0.7, abs=0.06)
    # what came back is the step size that was in force
    again = run(energy, chain.x, HMCConfig(20, float(chain.adapted_step_size), leapfrog=5), seed=1)
    assert float(again.acceptance) == pytest.approx(float(chain.acceptance), abs=0.03)
    assert again.adapted_step_size is None


def test_distribution_is_right_after_adaptation():
    config = HMCConfig(30, 0.01, leapfrog=4, adapt=15)
    chain = run(gaussian, torch.zeros(CHAINS, 3, dtype=torch.float64), config)
    require_moments(chain.x, MEAN, COVARIANCE)


def test_a_trajectory_that_diverges_is_rejected():
    start = torch.randn(20, 3, generator=seeded(), dtype=torch.float64)
    chain = run(lambda x: quartic(x), start, HMCConfig(3, 1e3, leapfrog=30))
    assert torch.equal(chain.x, start) and chain.acceptance == 0
    # and adaptation recovers from it
    chain = run(quartic, start, HMCConfig(60, 1e3, leapfrog=5, adapt=50))
    assert 0.5 < chain.acceptance < 1


def test_gradients_are_counted_and_the_last_energy_is_known():
    calls = []

    def counted(x):
        calls.append(1)
        return quartic(x)

    for config in (HMCConfig(6, 0.2, leapfrog=4, length_jitter=0.7), HMCConfig(9, leapfrog=3, adapt=2)):
        calls.clear()
        chain = run(counted, torch.ones(4, 3), config, record=True)
        assert len(calls) == config.gradients == chain.gradients
        assert torch.allclose(chain.energy, quartic(chain.x))
        assert len(chain.trace) == config.steps - config.adapt and torch.equal(chain.trace[-1], chain.x)


def test_lengths_fill_their_range_evenly():
    assert [van_der_corput(i) for i in range(1, 6)] == [0.5, 0.25, 0.75, 0.125, 0.625]
    lengths = HMCConfig(64, leapfrog=10, length_jitter=0.5).lengths
    assert set(lengths) == set(range(5, 16)) and sum(lengths) / 64 == pytest.approx(10, abs=0.2)
    assert HMCConfig(3, leapfrog=7).lengths == [7, 7, 7]
    assert min(HMCConfig(200, leapfrog=2, length_jitter=1.0).lengths) == 1


def test_jitter_lets_chains_through_a_trajectory_that_closes():
    # half a period of a harmonic oscillator brings each chain to minus where it was, and |x| never changes
    start = torch.full((4000, 1), 1.5, dtype=torch.float64)
    energy = FunctionEnergy(lambda x: 0.5 * (x**2).sum(-1))
    stuck, free = (
        run(energy, start, HMCConfig(12, math.pi / 20, leapfrog=20, step_jitter=jitter)).x.abs()
        for jitter in (0.0, 0.5)
    )
    assert float(stuck.std()) < 0.2
    assert float((free**2).mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / 4000))


def test_no_transition_leaves_the_start():
    start = torch.ones(3, 2)
    chain = run(quartic, start, HMCConfig(steps=0), record=True)
    assert torch.equal(chain.x, start) and chain.gradients == 0 and chain.trace.shape == (0, 3, 2)


def test_same_seed_same_chain():
    a, b, c = (run(quartic, torch.zeros(5, 2), HMCConfig(adapt=2), seed=s).x for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps: -1"),
        ({"step_size": 0.0}, "step size: 0.0"),
        ({"leapfrog": 0}, "leapfrog: 0"),
        ({"step_jitter": 1.0}, "step jitter: 1.0"),
        ({"length_jitter": -0.1}, "length jitter: -0.1"),
        ({"temperature": 0.0}, "temperature: 0.0"),
        ({"adapt": 5, "steps": 5}, "adapt: 5"),
        ({"target_acceptance": 1.0}, "acceptance: 1.0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        HMCConfig(**settings)
