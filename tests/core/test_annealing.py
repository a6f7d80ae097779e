"""The annealed sampler on densities whose noised energy is known at every level."""

import itertools
import math

import pytest
import torch

from ebm_traj.core.annealing import AnnealConfig, anneal
from ebm_traj.errors import InputError

WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MODES = torch.tensor([-2.0, 2.0], dtype=torch.float64)
WIDTH = 0.3
STDS = torch.tensor([0.5, 1.0, 0.1], dtype=torch.float64)
CHAINS = 10_000


def gaussian_at(level: torch.Tensor):
    """N(0, STDS^2) noised: the variances add."""
    variance = STDS**2 + level[:, None] ** 2
    return lambda x: (x**2 / (2 * variance)).sum(-1)


def mixture_at(level: torch.Tensor):
    variance = (WIDTH**2 + level**2)[:, None]
    return lambda x: -(WEIGHTS.log() - (x - MODES) ** 2 / (2 * variance)).logsumexp(-1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def zeros(rows: int, n: int = 3) -> torch.Tensor:
    return torch.zeros(rows, n, dtype=torch.float64)


def flow_error(config: AnnealConfig) -> float:
    """Root mean square distance from where the exact flow of the Gaussian leads the same noise."""
    chain = anneal(gaussian_at, zeros(200), config, generator=seeded(), record=True)
    assert chain.trace is not None
    low = STDS**2 + config.sigma_min**2
    exact = chain.trace[0] * (low / (STDS**2 + config.sigma_max**2)).sqrt() * STDS**2 / low
    return float(((chain.x - exact) / STDS).square().mean().sqrt())


def test_levels_fall_from_the_highest_to_the_lowest_evenly_in_their_root():
    levels = AnnealConfig(steps=9, sigma_max=8.0, sigma_min=0.01, rho=5.0).levels
    roots = torch.tensor(levels, dtype=torch.float64) ** 0.2
    assert levels[0] == 8.0 and levels[-1] == 0.01
    assert torch.allclose(roots.diff(), roots.diff()[:1], atol=1e-12) and roots.diff()[0] < 0
    assert AnnealConfig(steps=1, sigma_max=3.0).levels == [3.0]


def test_second_order_solvers_beat_euler_at_equal_gradients():
    heun, euler = AnnealConfig(16), AnnealConfig(31, solver="euler")
    multistep = AnnealConfig(31, solver="multistep")
    assert heun.gradients == euler.gradients == multistep.gradients == 31
    assert flow_error(heun) < 0.5 * flow_error(euler)
    assert flow_error(multistep) < 0.2 * flow_error(euler)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("multistep", 2)])
def test_order_of_the_solvers(solver, order):
    # 41 and 81 levels: the same levels, and one between each two
    coarse, fine = (flow_error(AnnealConfig(steps, solver=solver)) for steps in (41, 81))
    assert coarse / fine == pytest.approx(2**order, rel=0.25)


def test_multistep_extrapolates_the_denoised_mean_to_the_middle_of_uneven_steps():
    # all data at one place, D, that moves with log sigma: the step then aims at D of the middle
    def energy_at(level):
        return lambda x: ((x - 3 * level.log()[:, None]) ** 2 / (2 * level[:, None] ** 2)).sum(-1)

    config = AnnealConfig(6, rho=1.5, solver="multistep", denoise=False)
    trace = anneal(energy_at, zeros(2), config, generator=seeded(), record=True).trace
    for i, (sigma, lower) in enumerate(itertools.pairwise(config.levels)):
        aim = (trace[i + 1] - lower / sigma * trace[i]) / (1 - lower / sigma)
        seen = sigma if i == 0 else math.sqrt(sigma * lower)
        assert torch.allclose(aim, torch.full_like(aim, 3 * math.log(seen)))


@pytest.mark.parametrize(
    "config",
    [
        AnnealConfig(30, sigma_max=20.0),
        AnnealConfig(40, sigma_max=20.0, solver="multistep"),
        AnnealConfig(60, sigma_max=20.0, churn=20.0),
        AnnealConfig(20, solver="langevin", langevin_steps=12, langevin_step_size=0.6, metropolis=True),
    ],
    ids=lambda config: f"{config.solver}-{config.churn:g}",
)
def test_gaussian_has_its_means_and_variances(config):
    chain = anneal(gaussian_at, zeros(CHAINS), config, generator=seeded())
    # the denoised mean at sigma_min lacks that level's share of the variance
    expected = STDS**2 * (STDS**2 / (STDS**2 + config.sigma_min**2))
    assert (chain.x.mean(0).abs() < 4 * (expected / CHAINS).sqrt()).all()
    bias = 0.03  # of the solver, and of a start without the data's own variance
    assert ((chain.x.var(0) / expected - 1).abs() < 4 * math.sqrt(2 / CHAINS) + bias).all()


@pytest.mark.parametrize(
    "config",
    [
        AnnealConfig(30, sigma_max=40.0),
        AnnealConfig(50, sigma_max=40.0, solver="multistep"),
        AnnealConfig(50, sigma_max=40.0, churn=20.0),
        AnnealConfig(25, solver="langevin", langevin_steps=15, langevin_step_size=0.5, metropolis=True),
    ],
    ids=lambda config: f"{config.solver}-{config.churn:g}",
)
def test_modes_of_a_mixture_have_their_weights(config):
    start = zeros(CHAINS, 1) + (WEIGHTS * MODES).sum()
    x = anneal(mixture_at, start, config, generator=seeded()).x
    right = x > 0
    share = float(right.double().mean())
    assert abs(share - 0.7) < 4 * math.sqrt(0.3 * 0.7 / CHAINS)
    for mode, rows in ((-2.0, x[~right]), (2.0, x[right])):
        assert float(rows.mean()) == pytest.approx(mode, abs=0.03)
        assert float(rows.std()) == pytest.approx(WIDTH, rel=0.05)


def test_corrector_removes_the_error_of_a_coarse_flow():
    def spread(config: AnnealConfig) -> torch.Tensor:
        chain = anneal(gaussian_at, zeros(CHAINS), config, scale=STDS, generator=seeded())
        return chain.x.std(0) / STDS

    coarse = AnnealConfig(4, solver="euler", sigma_min=0.05)
    with_corrector = AnnealConfig(
        4, solver="euler", sigma_min=0.05, corrector_steps=40, corrector_step_size=0.3
    )
    expected = (STDS**2 / (STDS**2 + 0.05**2)).sqrt()
    assert ((spread(coarse) - expected).abs() > 0.1).any()
    assert ((spread(with_corrector) - expected).abs() < 4 / math.sqrt(2 * CHAINS)).all()


def test_without_denoising_the_noise_of_the_lowest_level_stays():
    config = AnnealConfig(30, sigma_max=20.0, sigma_min=0.1, denoise=False)
    x = anneal(gaussian_at, zeros(CHAINS), config, generator=seeded()).x
    assert torch.allclose(x.var(0), STDS**2 + 0.1**2, rtol=0.05)


def test_a_start_near_the_answer_needs_less_noise():
    # a low sigma_max keeps a row in the mode that it was started in, here all in the light one
    x = anneal(mixture_at, zeros(2000, 1) - 2, AnnealConfig(12, sigma_max=0.5), generator=seeded()).x
    assert (x < 0).all() and float(x.mean()) == pytest.approx(-2, abs=0.05)


@pytest.mark.parametrize(
    "config",
    [
        AnnealConfig(7),
        AnnealConfig(7, solver="euler", denoise=False, churn=3.0),
        AnnealConfig(7, solver="multistep", corrector_steps=4),
        AnnealConfig(7, solver="langevin", langevin_steps=3),
        AnnealConfig(7, solver="langevin", langevin_steps=3, metropolis=True),
        AnnealConfig(1),
    ],
    ids=str,
)
def test_gradients_are_counted_at_levels_in_range(config):
    levels = []

    def counted_at(level):
        def energy(x):
            levels.append(float(level[0]))
            return gaussian_at(level)(x)

        return energy

    chain = anneal(counted_at, zeros(4), config, generator=seeded())
    assert len(levels) == config.gradients == chain.gradients
    # churn included: a network knows nothing of levels above the highest
    assert max(levels) <= config.sigma_max and min(levels) >= config.sigma_min
    assert chain.x.shape == (4, 3) and not chain.x.requires_grad


def test_flow_is_deterministic_given_its_noise_and_churn_is_not():
    def two(config: AnnealConfig) -> tuple[torch.Tensor, torch.Tensor]:
        generator = seeded()
        first = anneal(gaussian_at, zeros(4), config, generator=generator, record=True)
        again = anneal(gaussian_at, zeros(4), config, generator=seeded(), record=True)
        assert torch.equal(first.x, again.x) and torch.equal(first.trace, again.trace)
        return first.x, generator.get_state()

    flow, after_flow = two(AnnealConfig())
    churned, after_churn = two(AnnealConfig(churn=6.0))
    assert not torch.allclose(flow, churned) and not torch.equal(after_flow, after_churn)
    outside = AnnealConfig(churn=6.0, churn_min=10.0)  # no level lies there
    assert torch.equal(anneal(gaussian_at, zeros(4), outside, generator=seeded()).x, flow)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps: 0"),
        ({"sigma_min": 0.0}, "levels: 0.0 to 5.0"),
        ({"sigma_max": 0.01}, "levels: 0.02 to 0.01"),
        ({"rho": 0.0}, "rho: 0.0"),
        ({"solver": "rk4"}, "solver: 'rk4'"),
        ({"churn": -1.0}, "churn: -1.0"),
        ({"churn": 1.0, "solver": "multistep"}, "solver multistep"),
        ({"langevin_steps": 0}, "langevin_steps: 0"),
        ({"corrector_steps": -1}, "corrector_steps: -1"),
        ({"corrector_step_size": 0.0}, "corrector_step_size: 0.0"),
        ({"sharpness": 0.0}, "sharpness: 0.0"),
        ({"sharp_below": 0.0}, "sharp_below: 0.0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        AnnealConfig(**settings)


@pytest.mark.parametrize("solver", ["heun", "multistep"])
@pytest.mark.parametrize("below", [math.inf, 1.5])
@pytest.mark.parametrize("sharpness", [1.3, 0.8])
def test_flow_of_a_sharpened_gaussian_has_the_spread_in_closed_form(solver, below, sharpness):
    config = AnnealConfig(
        160, sigma_max=20.0, solver=solver, denoise=False, sharpness=sharpness, sharp_below=below
    )
    chain = anneal(gaussian_at, zeros(200), config, generator=seeded(), record=True)
    # dx/ds = k s x / (d^2 + s^2), so x goes with (d^2 + s^2)^(k / 2)
    turn = next(sigma for sigma in config.levels if sigma <= below)
    above = (STDS**2 + turn**2) / (STDS**2 + config.sigma_max**2)
    shrunk = (STDS**2 + config.sigma_min**2) / (STDS**2 + turn**2)
    exact = chain.trace[0] * above**0.5 * shrunk ** (sharpness / 2)
    assert (chain.x / exact - 1).abs().max() < (0.02 if below == math.inf else 0.04)
    plain = anneal(gaussian_at, zeros(200), AnnealConfig(160, 20.0, solver=solver), generator=seeded())
    narrower = chain.x.std(0) < plain.x.std(0)
    assert (narrower if sharpness > 1 else ~narrower).all()


def test_langevin_of_a_sharpened_gaussian_has_its_variance_over_the_factor():
    config = AnnealConfig(
        20, solver="langevin", langevin_steps=12, langevin_step_size=0.4, metropolis=True, denoise=False,
        sharpness=2.0, sharp_below=3.0,
    )  # fmt: skip
    x = anneal(gaussian_at, zeros(CHAINS), config, generator=seeded()).x
    expected = (STDS**2 + config.sigma_min**2) / 2
    assert ((x.var(0) / expected - 1).abs() < 0.08).all()


def test_corrector_is_sharpened_with_the_lowest_level():
    config = AnnealConfig(
        8, sigma_min=0.1, denoise=False, corrector_steps=40, corrector_step_size=0.3, sharpness=3.0
    )
    x = anneal(gaussian_at, zeros(CHAINS), config, scale=STDS / 2, generator=seeded()).x
    assert ((x.var(0) / ((STDS**2 + 0.01) / 3) - 1).abs() < 0.1).all()


def test_sharpness_above_all_levels_or_of_one_changes_nothing():
    plain = anneal(gaussian_at, zeros(8), AnnealConfig(), generator=seeded()).x
    for config in (AnnealConfig(sharp_below=1.0), AnnealConfig(sharpness=5.0, sharp_below=0.01)):
        assert torch.equal(anneal(gaussian_at, zeros(8), config, generator=seeded()).x, plain)
    assert AnnealConfig(sharpness=2.0, sharp_below=1.0).factor(1.0) == 2.0
    assert AnnealConfig(sharpness=2.0, sharp_below=1.0).factor(1.01) == 1.0
