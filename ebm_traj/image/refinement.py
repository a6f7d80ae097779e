"""Refinement of a picture by steps down an energy before it is classified, as a function of the picture.

Du & Mordatch 2019 classify after some Langevin steps on the energy; with a noise-conditional energy the same
is diffusion purification (Nie et al. 2022, 2205.07460): blur with noise, then walk back. Every step is
differentiable by the picture, so that an attack can go through all of them; noise is drawn from a generator,
so that it can be averaged over.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.core.energy import EnergyOfX
from ebm_traj.errors import InputError

EnergyAt = Callable[[Tensor | None], EnergyOfX]
"""Noise levels sigma (B,), None for an energy without levels, to the energy of x there."""

Walk = Literal["ancestral", "langevin"]


@dataclasses.dataclass(frozen=True)
class RefinementConfig:
    """How a picture is walked towards low energy; sigma is in units of pixels in [-1, 1]."""

    steps: int = 8
    """Steps, each one gradient of the energy; 0 for none."""
    walk: Walk = "ancestral"
    """`ancestral`: levels fall from `level` to `lowest`, each step takes away some noise and puts less back
    (Ho et al. 2020; Song et al. 2021, the reverse of x + sigma n), the last one all. `langevin`: steps at
    `level`, or on an energy without levels."""
    level: float = 0.5
    """Noise added to the picture before the first step, where the walk begins; of a model with levels."""
    lowest: float = 0.05
    """Level before the last `ancestral` step."""
    step_size: float = 0.1
    """Of a `langevin` step, in units of level^2 for a model with levels."""
    noise: float | None = None
    """Factor of a `langevin` step's noise, relative to that of exact Langevin, sqrt(2 step_size); None: 1."""
    clip: float | None = None
    """Bound on each element of the gradient in a `langevin` step."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"refinement steps: {self.steps}; accepted are 0 and more")
        if self.walk not in get_args(Walk):
            raise InputError(f"refinement walk: '{self.walk}'; accepted are {', '.join(get_args(Walk))}")
        if not 0 < self.lowest <= self.level:
            raise InputError(
                f"refinement levels: {self.level} to {self.lowest}; accepted is 0 < lowest <= level"
            )
        if not self.step_size > 0:
            raise InputError(f"refinement step size: {self.step_size}; it must be above 0")
        if self.noise is not None and not self.noise >= 0:
            raise InputError(f"refinement noise: {self.noise}; it must be 0 or more")

    @property
    def levels(self) -> list[float]:
        """Levels of the `ancestral` steps, evenly spaced in the logarithm; a 0 ends them."""
        if self.steps < 2:
            return [self.level, 0.0][: self.steps + 1]
        ratio = self.lowest / self.level
        return [self.level * ratio ** (i / (self.steps - 1)) for i in range(self.steps)] + [0.0]


def refine(
    energy_at: EnergyAt,
    x: Tensor,
    config: RefinementConfig,
    generator: torch.Generator | None = None,
    *,
    levels: bool = True,
) -> Tensor:
    """Pictures (B, ...) after the steps, with a graph to x if x asks for gradients.

    Not clamped to [-1, 1]: that would hide the gradient of many pixels from an attack. `levels` says whether
    the energy is noise-conditional. Raises InputError if `ancestral` steps are asked of one that is not.
    """
    if not config.steps:
        return x
    if config.walk == "ancestral" and not levels:
        raise InputError("refinement walk 'ancestral': the energy has no noise levels; accepted is langevin")
    graph = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        x = x if graph else x.detach()
        if levels:
            x = x + config.level * _noise(x, generator)
        if config.walk == "ancestral":
            for level, lower in itertools.pairwise(config.levels):
                x = x - (level**2 - lower**2) * _slope(energy_at, x, level, graph)
                if lower:
                    x = x + lower * math.sqrt(1 - (lower / level) ** 2) * _noise(x, generator)
        else:
            sigma = config.level if levels else None
            unit = config.level if levels else 1.0
            factor = math.sqrt(2 * config.step_size) * (1 if config.noise is None else config.noise)
            for _ in range(config.steps):
                slope = _slope(energy_at, x, sigma, graph)
                slope = slope if config.clip is None else slope.clamp(-config.clip, config.clip)
                x = x - config.step_size * unit**2 * slope
                if factor:
                    x = x + factor * unit * _noise(x, generator)
            if sigma is not None:  # the mean of the pictures that x may come from
                x = x - sigma**2 * _slope(energy_at, x, sigma, graph)
        return x if graph else x.detach()


def _slope(energy_at: EnergyAt, x: Tensor, sigma: float | None, graph: bool) -> Tensor:
    point = x if x.requires_grad else x.detach().requires_grad_(True)
    level = None if sigma is None else x.new_full((len(x),), sigma)
    (slope,) = torch.autograd.grad(energy_at(level)(point).sum(), point, create_graph=graph)
    return slope if graph else slope.detach()


def _noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device).normal_(generator=generator)
