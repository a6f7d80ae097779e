"""Langevin dynamics on an energy: unadjusted or Metropolis-corrected, optionally preconditioned."""

import dataclasses
import math

import torch
from torch import Tensor

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
    """Factor of the noise; None gives sqrt(2 * step_size), for which the chain samples exp(-E)."""
    clip: float | None = None
    """Bound on each element of the gradient, before the step size; None for no bound."""
    metropolis: bool = False
    """Accept or reject each step (MALA, Roberts & Tweedie 1996), which removes the bias of the step size.
    Needs the default noise and no clip."""

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

    @property
    def noise_scale(self) -> float:
        """The factor of the noise in force."""
        return math.sqrt(2 * self.step_size) if self.noise is None else self.noise


@dataclasses.dataclass(frozen=True)
class Chain:
    """Where a batch of chains ended, and how the walk went."""

    x: Tensor
    """(B, ...) the last states, detached."""
    acceptance: Tensor
    """0-d, mean share of accepted steps; 1 without Metropolis correction. A tensor, so that nothing waits."""


def langevin(
    energy: EnergyOfX,
    start: Tensor,
    config: LangevinConfig,
    *,
    scale: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Chain:
    """Run a batch of Langevin chains from `start` (B, ...) on an energy of x, see `Energy.bind`.

    `scale` (broadcast to x, may differ by condition but not by x) preconditions the chain: gradient times
    scale^2, noise times scale, as if x / scale were walked with the plain rule. One gradient per step.
    """
    x = start.detach()
    if config.metropolis:
        return _metropolis_adjusted(energy, x, config, scale, generator)
    drift: float | Tensor = config.step_size if scale is None else config.step_size * scale**2
    spread: float | Tensor = config.noise_scale if scale is None else config.noise_scale * scale
    for _ in range(config.steps):
        _, gradient = energy_and_gradient(energy, x)
        if config.clip is not None:
            gradient.clamp_(-config.clip, config.clip)
        x = x - drift * gradient
        if config.noise_scale > 0:
            x += spread * _noise_like(x, generator)
    return Chain(x=x, acceptance=torch.ones(()))


def _metropolis_adjusted(
    energy: EnergyOfX,
    x: Tensor,
    config: LangevinConfig,
    scale: Tensor | None,
    generator: torch.Generator | None,
) -> Chain:
    """MALA: the Langevin step as a proposal, accepted with the Metropolis-Hastings probability."""
    if config.steps == 0:
        return Chain(x=x, acceptance=torch.ones(()))
    eta = config.step_size
    s = torch.ones((), dtype=x.dtype, device=x.device) if scale is None else scale
    value, gradient = energy_and_gradient(energy, x)
    accepted = torch.zeros((), device=x.device)
    for _ in range(config.steps):
        forward_noise = _noise_like(x, generator)
        proposal = x - eta * s**2 * gradient + config.noise_scale * s * forward_noise
        new_value, new_gradient = energy_and_gradient(energy, proposal)
        # the noise that would bring the proposal back to x
        backward_noise = (x - proposal + eta * s**2 * new_gradient) / (config.noise_scale * s)
        log_ratio = value - new_value + 0.5 * (forward_noise**2 - backward_noise**2).flatten(1).sum(1)
        accept = torch.rand(log_ratio.shape, generator=generator, device=x.device).log() < log_ratio
        accepted += accept.float().mean()
        keep = accept.view(-1, *[1] * (x.dim() - 1))
        x = torch.where(keep, proposal, x)
        gradient = torch.where(keep, new_gradient, gradient)
        value = torch.where(accept, new_value, value)
    return Chain(x=x, acceptance=accepted / config.steps)


def _noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.empty_like(x).normal_(generator=generator)
