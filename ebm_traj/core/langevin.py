"""Langevin dynamics on an energy: unadjusted or Metropolis-corrected, optionally preconditioned."""

import dataclasses
import math

import torch
from torch import Tensor

from ebm_traj.core.adaptation import DualAveraging
from ebm_traj.core.energy import EnergyOfX, energy_and_gradient
from ebm_traj.errors import InputError


@dataclasses.dataclass(frozen=True)
class LangevinConfig:
    """How a chain walks: x' = x - step_size * dE/dx + noise * n, with n ~ N(0, 1)."""

    steps: int = 20
    """Number of steps; each costs one gradient of the energy."""
    step_size: float = 0.1
    """Factor of the gradient."""
    noise: float | None = None
    """Factor of the noise; None gives sqrt(2 * step_size * temperature), to sample exp(-E / temperature)."""
    clip: float | None = None
    """Bound on each element of the gradient, before the step size; None for no bound."""
    metropolis: bool = False
    """Accept or reject each step (MALA, Roberts & Tweedie 1996), which removes the bias of the step size.
    Needs the default noise and no clip."""
    temperature: float = 1.0
    """Samples exp(-E / temperature); needs the default noise if it is not 1."""
    adapt: int = 0
    """The first so many steps tune the step size to the target acceptance by dual averaging; it then stays,
    and what follows keeps detailed balance. Needs metropolis and fewer than `steps`."""
    target_acceptance: float = 0.574
    """Aim of the adaptation; the best for MALA in many dimensions (Roberts & Rosenthal 1998)."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"Langevin steps: {self.steps}; accepted are 0 and more")
        if not self.step_size > 0:
            raise InputError(f"Langevin step size: {self.step_size}; it must be above 0")
        if self.noise is not None and not self.noise >= 0:
            raise InputError(f"Langevin noise: {self.noise}; it must be 0 or more")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"Langevin clip: {self.clip}; it must be above 0, or None")
        if self.metropolis and (self.noise is not None or self.clip is not None):
            raise InputError(
                "Langevin metropolis: needs noise None and clip None, else the proposal is unknown"
            )
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"Langevin temperature: {self.temperature}; it must be above 0")
        if self.noise is not None and self.temperature != 1:
            raise InputError(f"Langevin temperature: {self.temperature}; with noise given it must be 1")
        if self.adapt and not self.metropolis:
            raise InputError(f"Langevin adapt: {self.adapt}; without metropolis it must be 0")
        require_adaptation("Langevin", self.adapt, self.steps, self.target_acceptance)

    @property
    def noise_scale(self) -> float:
        """The factor of the noise in force."""
        return math.sqrt(2 * self.step_size * self.temperature) if self.noise is None else self.noise

    @property
    def gradients(self) -> int:
        """Gradients of the energy that one chain costs; the corrected chain also needs that of its start."""
        return self.steps + 1 if self.metropolis and self.steps else self.steps


@dataclasses.dataclass(frozen=True)
class Chain:
    """Where a batch of chains ended, and how the walk went."""

    x: Tensor
    """(B, ...) the last states, detached."""
    acceptance: Tensor
    """0-d, mean share of accepted steps, of those after adaptation; 1 without Metropolis correction. A
    tensor, so that nothing waits."""
    gradients: int = 0
    """Gradients of the energy that each chain of the batch cost."""
    energy: Tensor | None = None
    """(B,) energies of the last states (not divided by the temperature), where the walk knows them."""
    adapted_step_size: Tensor | None = None
    """0-d, the step size that adaptation ended with; None if it was not adapted."""
    trace: Tensor | None = None
    """(T, B, ...) the state after each step that follows adaptation, if asked for; see `core.diagnostics`."""


def langevin(
    energy: EnergyOfX,
    start: Tensor,
    config: LangevinConfig,
    *,
    scale: Tensor | None = None,
    generator: torch.Generator | None = None,
    record: bool = False,
) -> Chain:
    """Run a batch of Langevin chains from `start` (B, ...) on an energy of x, see `Energy.bind`.

    `scale` (broadcast to x, may differ by condition but not by x) preconditions the chain: gradient times
    scale^2, noise times scale, as if x / scale were walked with the plain rule. One gradient per step.
    `record` keeps all states in `Chain.trace`.
    """
    x = start.detach()
    if config.metropolis:
        return _metropolis_adjusted(energy, x, config, scale, generator, record)
    drift: float | Tensor = config.step_size if scale is None else config.step_size * scale**2
    spread: float | Tensor = config.noise_scale if scale is None else config.noise_scale * scale
    states = []
    for _ in range(config.steps):
        _, gradient = energy_and_gradient(energy, x)
        if config.clip is not None:
            gradient.clamp_(-config.clip, config.clip)
        x = x - drift * gradient
        if config.noise_scale > 0:
            x += spread * noise_like(x, generator)
        if record:
            states.append(x)
    return Chain(
        x=x,
        acceptance=torch.ones(()),
        gradients=config.gradients,
        trace=stack_states(states, x) if record else None,
    )


def _metropolis_adjusted(
    energy: EnergyOfX,
    x: Tensor,
    config: LangevinConfig,
    scale: Tensor | None,
    generator: torch.Generator | None,
    record: bool,
) -> Chain:
    """MALA: the Langevin step as a proposal, accepted with the Metropolis-Hastings probability."""
    if config.steps == 0:
        return Chain(x=x, acceptance=torch.ones(()), trace=stack_states([], x) if record else None)
    eta: float | Tensor = config.step_size
    spread: float | Tensor = config.noise_scale
    tuner = DualAveraging(config.step_size, config.target_acceptance, x.device) if config.adapt else None
    s = torch.ones((), dtype=x.dtype, device=x.device) if scale is None else scale
    value, gradient = energy_and_gradient(energy, x)
    accepted = torch.zeros((), device=x.device)
    states = []
    for step in range(config.steps):
        forward_noise = noise_like(x, generator)
        proposal = x - eta * s**2 * gradient + spread * s * forward_noise
        new_value, new_gradient = energy_and_gradient(energy, proposal)
        # the noise that would bring the proposal back to x
        backward_noise = (x - proposal + eta * s**2 * new_gradient) / (spread * s)
        log_ratio = (value - new_value) / config.temperature
        log_ratio = log_ratio + 0.5 * (forward_noise**2 - backward_noise**2).flatten(1).sum(1)
        accept = torch.rand(log_ratio.shape, generator=generator, device=x.device).log() < log_ratio
        keep = accept.view(-1, *[1] * (x.dim() - 1))
        x = torch.where(keep, proposal, x)
        gradient = torch.where(keep, new_gradient, gradient)
        value = torch.where(accept, new_value, value)
        if tuner is not None and step < config.adapt:
            tuner.update(log_ratio)
            eta = tuner.averaged if step + 1 == config.adapt else tuner.step_size
            spread = (2 * config.temperature * eta).sqrt()
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


def require_adaptation(sampler: str, adapt: int, steps: int, target: float) -> None:
    """InputError unless adaptation leaves transitions to run with what it found."""
    if adapt < 0 or (adapt and adapt >= steps):
        raise InputError(f"{sampler} adapt: {adapt}; accepted are 0 to below the number of steps, {steps}")
    if not 0 < target < 1:
        raise InputError(f"{sampler} target acceptance: {target}; accepted is between 0 and 1")


def stack_states(states: list[Tensor], x: Tensor) -> Tensor:
    """(T, B, ...) of the states, shaped like x (B, ...); T may be 0."""
    return torch.stack(states) if states else x.new_empty((0, *x.shape))


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of x's shape."""
    return torch.empty_like(x).normal_(generator=generator)
