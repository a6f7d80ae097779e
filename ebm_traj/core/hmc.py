"""Hamiltonian Monte Carlo on an energy: leapfrog trajectories, Metropolis-corrected and preconditioned."""

import dataclasses
import math

import torch
from torch import Tensor

from ebm_traj.core.adaptation import DualAveraging
from ebm_traj.core.energy import EnergyOfX, energy_and_gradient
from ebm_traj.core.langevin import (
    Chain,
    LangevinConfig,
    langevin,
    noise_like,
    require_adaptation,
    stack_states,
)
from ebm_traj.errors import InputError


@dataclasses.dataclass(frozen=True)
class HMCConfig:
    """How a chain walks: each transition draws a velocity and follows it by leapfrog (Duane et al. 1987)."""

    steps: int = 5
    """Number of transitions."""
    step_size: float = 0.1
    """Time step of the leapfrog; with leapfrog 1 a transition is a MALA step of size step_size^2 / 2."""
    leapfrog: int = 5
    """Leapfrog steps of a transition; each costs one gradient of the energy."""
    step_jitter: float = 0.1
    """Each chain's step size is drawn in step_size * (1 +- step_jitter) at each transition, which breaks the
    cycles of trajectories that close (Neal 2011, section 4.2)."""
    length_jitter: float = 0.0
    """The number of leapfrog steps varies between leapfrog * (1 +- length_jitter), at least 1, by transition;
    the same for the whole batch and known beforehand (quasi-random, as in Hoffman, Radul & Sountsov 2021)."""
    temperature: float = 1.0
    """Samples exp(-E / temperature)."""
    adapt: int = 0
    """The first so many transitions tune the step size to the target acceptance by dual averaging; it then
    stays, and what follows keeps detailed balance. Fewer than `steps`."""
    target_acceptance: float = 0.8
    """Aim of the adaptation; 0.6 to 0.9 cost about the same (Betancourt, Byrne & Girolami 2014)."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"HMC steps: {self.steps}; accepted are 0 and more")
        if not self.step_size > 0:
            raise InputError(f"HMC step size: {self.step_size}; it must be above 0")
        if self.leapfrog < 1:
            raise InputError(f"HMC leapfrog: {self.leapfrog}; accepted are 1 and more")
        if not 0 <= self.step_jitter < 1:
            raise InputError(f"HMC step jitter: {self.step_jitter}; accepted is 0 to below 1")
        if not 0 <= self.length_jitter <= 1:
            raise InputError(f"HMC length jitter: {self.length_jitter}; accepted is 0 to 1")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"HMC temperature: {self.temperature}; it must be above 0")
        require_adaptation("HMC", self.adapt, self.steps, self.target_acceptance)

    @property
    def lengths(self) -> list[int]:
        """Leapfrog steps of each transition."""
        return [
            max(1, round(self.leapfrog * (1 + self.length_jitter * (2 * van_der_corput(step + 1) - 1))))
            for step in range(self.steps)
        ]

    @property
    def gradients(self) -> int:
        """Gradients of the energy that one chain costs, that of its start included."""
        return 1 + sum(self.lengths) if self.steps else 0


ChainConfig = LangevinConfig | HMCConfig
"""Settings of a chain on one energy."""


def run_chain(
    energy: EnergyOfX,
    start: Tensor,
    config: ChainConfig,
    *,
    scale: Tensor | None = None,
    generator: torch.Generator | None = None,
    record: bool = False,
) -> Chain:
    """`langevin` or `hmc`, by the kind of the settings."""
    if isinstance(config, HMCConfig):
        return hmc(energy, start, config, scale=scale, generator=generator, record=record)
    return langevin(energy, start, config, scale=scale, generator=generator, record=record)


def hmc(
    energy: EnergyOfX,
    start: Tensor,
    config: HMCConfig,
    *,
    scale: Tensor | None = None,
    generator: torch.Generator | None = None,
    record: bool = False,
) -> Chain:
    """Run a batch of Hamiltonian chains from `start` (B, ...) on an energy of x, see `Energy.bind`.

    The velocity is drawn from N(0, temperature) in each dimension, so a stable step size stays stable at any
    temperature. `scale` (broadcast to x, may differ by condition but not by x) is a diagonal mass of
    1 / scale^2, as if x / scale were walked. `record` keeps the state after each transition that follows
    adaptation in `Chain.trace`. A trajectory that diverges (energy not finite) is rejected.
    """
    x = start.detach()
    if config.steps == 0:
        return Chain(x=x, acceptance=torch.ones(()), trace=stack_states([], x) if record else None)
    per_chain = (-1, *[1] * (x.dim() - 1))
    step_size: float | Tensor = config.step_size
    tuner = DualAveraging(config.step_size, config.target_acceptance, x.device) if config.adapt else None
    s = torch.ones((), dtype=x.dtype, device=x.device) if scale is None else scale
    value, gradient = energy_and_gradient(energy, x)
    accepted = torch.zeros((), device=x.device)
    states = []
    for step, length in enumerate(config.lengths):
        velocity = math.sqrt(config.temperature) * noise_like(x, generator)
        h = step_size * s
        if config.step_jitter > 0:
            shift = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype).view(per_chain)
            h = h * (1 + config.step_jitter * (2 * shift - 1))
        proposal, new_velocity, new_value, new_gradient = leapfrog(energy, x, velocity, gradient, h, length)
        kinetic_loss = 0.5 * (velocity**2 - new_velocity**2).flatten(1).sum(1)
        log_ratio = (value - new_value + kinetic_loss) / config.temperature
        accept = torch.rand(log_ratio.shape, generator=generator, device=x.device).log() < log_ratio
        keep = accept.view(per_chain)
        x = torch.where(keep, proposal, x)
        gradient = torch.where(keep, new_gradient, gradient)
        value = torch.where(accept, new_value, value)
        if tuner is not None and step < config.adapt:
            tuner.update(log_ratio)
            step_size = tuner.averaged if step + 1 == config.adapt else tuner.step_size
            continue
        accepted += accept.float().mean()
        if record:
            states.append(x)
    return Chain(
        x=x,
        acceptance=accepted / (config.steps - config.adapt),
        gradients=config.gradients,
        energy=value,
        adapted_step_size=None if tuner is None else tuner.averaged,
        trace=stack_states(states, x) if record else None,
    )


def leapfrog(
    energy: EnergyOfX, x: Tensor, velocity: Tensor, gradient: Tensor, step: Tensor | float, length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, velocity, energy (B,) and gradient after `length` >= 1 leapfrog steps of size `step`.

    `step` is the time step times the preconditioner, broadcast to x; `gradient` is dE/dx at x. Exactly
    reversible: the end with its velocity turned round leads back to the start. The error of the total energy
    is of second order in `step`.
    """
    velocity = velocity - 0.5 * step * gradient
    for i in range(length):
        x = x + step * velocity
        value, gradient = energy_and_gradient(energy, x)
        velocity = velocity - (0.5 if i + 1 == length else 1.0) * step * gradient
    return x, velocity, value, gradient


def van_der_corput(index: int) -> float:
    """The `index`-th number (from 1) of the sequence 1/2, 1/4, 3/4, 1/8, ... that fills (0, 1) evenly."""
    value, fraction = 0.0, 0.5
    while index:
        index, digit = divmod(index, 2)
        value += digit * fraction
        fraction /= 2
    return value
