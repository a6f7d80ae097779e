"""Sampling through noise levels: from pure noise to data along a noise-conditional energy E(x, sigma)."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.core.energy import EnergyOfX, energy_and_gradient
from ebm_traj.core.gradients import BoundEnergy, BoundSum
from ebm_traj.core.langevin import Chain, LangevinConfig, langevin, noise_like, stack_states
from ebm_traj.errors import InputError

EnergyAt = Callable[[Tensor], EnergyOfX]
"""Noise levels sigma (B,), the noise's standard deviation, to the energy of x at those levels."""

Solver = Literal["heun", "euler", "multistep", "langevin"]

MAX_CHURN = math.sqrt(2) - 1  # a level is never raised by more, Karras et al. 2022, algorithm 2


@dataclasses.dataclass(frozen=True)
class AnnealConfig:
    """How to go from noise of `sigma_max` to data.

    exp(-E(x, sigma)) is the density of x = data + sigma * noise, so -dE/dx is its score and
    x - sigma^2 dE/dx the mean of the data that x may come from (Tweedie's formula).
    """

    steps: int = 12
    """Noise levels, `sigma_max` and `sigma_min` among them."""
    sigma_max: float = 5.0
    """Highest level, in units of x; well above the spread of the data around the start."""
    sigma_min: float = 0.02
    """Lowest level; below the finest detail of the data."""
    rho: float = 7.0
    """How much denser the low levels lie: sigma^(1/rho) is evenly spaced (Karras et al. 2022, eq. 5)."""
    solver: Solver = "heun"
    """`heun`: probability-flow ODE, second order, two gradients a level (Karras et al. 2022, algorithm 1);
    `euler`: the same, first order, one gradient (DDIM); `multistep`: second order with one gradient
    (DPM-Solver++ 2M, Lu et al. 2022); `langevin`: Langevin steps at each level (Song & Ermon 2019)."""
    churn: float = 0.0
    """S_churn of Karras et al. 2022, algorithm 2: noise added anew on the way, spread over the levels;
    corrects errors of earlier steps. 0 gives the deterministic flow. Not for `multistep` and `langevin`."""
    churn_min: float = 0.0
    """No churn below this level."""
    churn_max: float = math.inf
    """No churn above this level."""
    churn_noise: float = 1.0
    """Factor of the churned noise; slightly above 1 makes up for networks that denoise too much."""
    langevin_steps: int = 5
    """Langevin steps at each level, for the `langevin` solver."""
    langevin_step_size: float = 0.1
    """Their step size, in units of the level squared."""
    metropolis: bool = False
    """Whether they are Metropolis-corrected."""
    corrector_steps: int = 0
    """MALA steps at `sigma_min` after the solver: they remove its error as far as they mix."""
    corrector_step_size: float = 0.1
    """Their step size, in units of scale^2 (see `anneal`)."""
    denoise: bool = True
    """End at the mean of the data given x at `sigma_min`; otherwise x keeps that level's noise."""
    sharpness: float = 1.0
    """Factor on the energy, an inverse temperature: above 1 samples are more typical and less varied than the
    model's density, which they no longer follow; below 1 the other way round. At a level s the `langevin`
    solver walks on exp(-sharpness E(x, s)); the flow carries the factor on from level to level, so that
    Gaussian data of standard deviation d end with d (d / sqrt(d^2 + s^2))^(sharpness - 1), s being the
    highest level that is sharpened."""
    sharp_below: float = math.inf
    """The factor holds at this level and below it; above, classes and places are still being decided."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"annealing steps: {self.steps}; accepted are 1 and more")
        if not (0 < self.sigma_min <= self.sigma_max and math.isfinite(self.sigma_max)):
            raise InputError(
                f"annealing levels: {self.sigma_min} to {self.sigma_max}; needs 0 < sigma_min <= sigma_max"
            )
        if not self.rho > 0:
            raise InputError(f"annealing rho: {self.rho}; it must be above 0")
        if self.solver not in get_args(Solver):
            raise InputError(f"annealing solver: {self.solver!r}; accepted are {', '.join(get_args(Solver))}")
        for name in ("churn", "churn_min", "churn_max", "churn_noise"):
            if not getattr(self, name) >= 0:
                raise InputError(f"annealing {name}: {getattr(self, name)}; it must be 0 or more")
        if self.churn > 0 and self.solver in ("multistep", "langevin"):
            raise InputError(f"annealing churn: {self.churn}; with solver {self.solver} it must be 0")
        if self.langevin_steps < 1:
            raise InputError(f"annealing langevin_steps: {self.langevin_steps}; accepted are 1 and more")
        if self.corrector_steps < 0:
            raise InputError(f"annealing corrector_steps: {self.corrector_steps}; accepted are 0 and more")
        for name in ("langevin_step_size", "corrector_step_size", "sharpness", "sharp_below"):
            if not getattr(self, name) > 0:
                raise InputError(f"annealing {name}: {getattr(self, name)}; it must be above 0")

    @property
    def levels(self) -> list[float]:
        """The noise levels, falling from `sigma_max` to `sigma_min` (Karras et al. 2022, eq. 5)."""
        if self.steps == 1:
            return [self.sigma_max]
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        inner = [(high + i / (self.steps - 1) * (low - high)) ** self.rho for i in range(1, self.steps - 1)]
        return [self.sigma_max, *inner, self.sigma_min]

    @property
    def gradients(self) -> int:
        """Gradients of the energy that one sample costs."""
        moves = self.steps - 1
        if self.solver == "langevin":
            solver = self.steps * (self.langevin_steps + int(self.metropolis))
        else:
            solver = moves * (2 if self.solver == "heun" else 1)
        corrector = self.corrector_steps + 1 if self.corrector_steps else 0
        return solver + corrector + int(self.denoise)

    def factor(self, sigma: float) -> float:
        """What the energy at this level is multiplied with."""
        return self.sharpness if sigma <= self.sharp_below else 1.0

    @property
    def level_chain(self) -> LangevinConfig:
        """The chain of the `langevin` solver at one level, in units of that level."""
        return LangevinConfig(self.langevin_steps, self.langevin_step_size, metropolis=self.metropolis)

    @property
    def corrector_chain(self) -> LangevinConfig:
        """The chain at the lowest level, in units of scale."""
        return LangevinConfig(self.corrector_steps, self.corrector_step_size, metropolis=True)


def anneal(
    energy_at: EnergyAt,
    start: Tensor,
    config: AnnealConfig,
    *,
    scale: Tensor | None = None,
    generator: torch.Generator | None = None,
    record: bool = False,
) -> Chain:
    """Sample x (B, ...) by following a noise-conditional energy from `sigma_max` down to the data.

    `start` (B, ...) is noised here: the walk begins at start + sigma_max * n, n ~ N(0, 1), so zeros give the
    usual pure noise and a guess of x (a proposal's sample, the last plan) gives a walk around it (SDEdit,
    Meng et al. 2022), for which a lower sigma_max will do. `scale` (broadcast to x, may differ by condition
    but not by x) preconditions the corrector alone; without it the corrector's unit is `sigma_min`, safe but
    slow where the data are wide. `record` keeps the states at each level, noisy ones first, in `Chain.trace`.

    The returned acceptance is the corrector's, else that of a Metropolis-corrected `langevin` solver, else 1.
    """
    sigmas = config.levels
    x = start.detach()
    x = x + sigmas[0] * noise_like(x, generator)
    walk = _by_langevin if config.solver == "langevin" else _by_flow
    x, acceptance, states = walk(energy_at, x, config, generator)
    lowest = sigmas[-1]
    if config.corrector_steps:
        energy = _sharpened(energy_at(_level(x, lowest)), config.factor(lowest))
        unit = x.new_full((), lowest) if scale is None else scale
        corrected = langevin(energy, x, config.corrector_chain, scale=unit, generator=generator)
        x, acceptance = corrected.x, corrected.acceptance
        states.append(x)
    if config.denoise:
        x = x - lowest**2 * _gradient(energy_at, x, lowest, config)
        states.append(x)
    return Chain(
        x=x,
        acceptance=acceptance,
        gradients=config.gradients,
        trace=stack_states(states, x) if record else None,
    )


def _by_flow(
    energy_at: EnergyAt, x: Tensor, config: AnnealConfig, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The probability-flow ODE dx/dsigma = sigma dE/dx, down to `sigma_min`."""
    sigmas = config.levels
    states = [x]
    denoised_before, log_step_before = None, 0.0
    for sigma, lower in itertools.pairwise(sigmas):
        if raised := _raised(sigma, config):
            extra = math.sqrt(raised**2 - sigma**2) * config.churn_noise
            x = x + extra * noise_like(x, generator)
            sigma = raised
        gradient = _gradient(energy_at, x, sigma, config)
        if config.solver == "multistep":
            # D, the denoised x, is extrapolated to the middle of the step in log sigma
            denoised = x - sigma**2 * gradient
            log_step = math.log(sigma / lower)
            aim = denoised
            if denoised_before is not None:
                aim = denoised + log_step / (2 * log_step_before) * (denoised - denoised_before)
            x = lower / sigma * x + (1 - lower / sigma) * aim
            denoised_before, log_step_before = denoised, log_step
        else:
            slope = sigma * gradient
            ahead = x + (lower - sigma) * slope
            if config.solver == "heun":
                slope = 0.5 * (slope + lower * _gradient(energy_at, ahead, lower, config))
                ahead = x + (lower - sigma) * slope
            x = ahead
        states.append(x)
    return x, torch.ones(()), states


def _by_langevin(
    energy_at: EnergyAt, x: Tensor, config: AnnealConfig, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Langevin steps at each level, their size in proportion to its square (Song & Ermon 2019, alg. 1)."""
    states = [x]
    acceptance = []
    for sigma in config.levels:
        level = _sharpened(energy_at(_level(x, sigma)), config.factor(sigma))
        chain = langevin(level, x, config.level_chain, scale=x.new_full((), sigma), generator=generator)
        x = chain.x
        acceptance.append(chain.acceptance)
        states.append(x)
    return x, torch.stack(acceptance).mean(), states


def _raised(sigma: float, config: AnnealConfig) -> float | None:
    """The level that churn raises sigma to, never above `sigma_max`; None for no churn."""
    if config.churn == 0 or not config.churn_min <= sigma <= config.churn_max:
        return None
    raised = min(sigma * (1 + min(config.churn / config.steps, MAX_CHURN)), config.sigma_max)
    return raised if raised > sigma else None


def _level(x: Tensor, sigma: float) -> Tensor:
    return x.new_full((len(x),), sigma)


def _gradient(energy_at: EnergyAt, x: Tensor, sigma: float, config: AnnealConfig) -> Tensor:
    gradient = energy_and_gradient(energy_at(_level(x, sigma)), x)[1]
    factor = config.factor(sigma)
    return gradient if factor == 1 else factor * gradient


def _sharpened(energy: EnergyOfX, factor: float) -> EnergyOfX:
    if factor == 1:
        return energy
    if isinstance(energy, BoundEnergy):
        return BoundSum([energy], [factor])
    return lambda x: factor * energy(x)
