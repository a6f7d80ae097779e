"""Denoising score matching of an energy over all noise levels; training needs no sampler."""

import dataclasses
from collections.abc import Hashable

import torch
from torch import Tensor

from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy, EnergyOfX
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.errors import InputError

LEVEL = "level"
"""Name of the noise level sigma (B,) in a condition."""


@dataclasses.dataclass(frozen=True)
class DenoisingConfig:
    """Noise levels and how often each is trained; sigma is in units of the coordinates x."""

    batch_size: int = 512
    """Rows in a step."""
    sigma_min: float = 0.02
    """Lowest noise level; the energy there is taken for that of the data."""
    sigma_max: float = 5.0
    """Highest noise level; there the data must be lost in noise."""
    log_sigma_mean: float = -0.6
    """Levels are drawn log-normally, with this mean of log sigma,"""
    log_sigma_std: float = 1.2
    """and this standard deviation, and held between the lowest and the highest."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch size: {self.batch_size}; accepted are 1 and more")
        if not 0 < self.sigma_min < self.sigma_max:
            raise InputError(
                f"noise levels: {self.sigma_min} to {self.sigma_max}; accepted is 0 < sigma_min < sigma_max"
            )
        if not self.log_sigma_std > 0:
            raise InputError(f"log sigma std: {self.log_sigma_std}; it must be above 0")

    def draw(self, rows: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """Noise levels (rows,)."""
        normal = torch.empty(rows, device=device).normal_(generator=generator)
        sigma = (self.log_sigma_mean + self.log_sigma_std * normal).exp()
        return sigma.clamp(self.sigma_min, self.sigma_max)


class DenoisingScoreMatching(Objective):
    """Fits -dE(x, sigma | c)/dx to the score of the data blurred with noise of sigma.

    loss = mean (1 + s^2) / s^2 |x - s^2 dE/dx(x, s) - y|^2 / n with x = y + s * noise (Vincent 2011; Song &
    Ermon 2019), weighted so that every level counts alike for data of unit scale (Karras et al. 2022, eq. 8).
    The energy reads s from `condition["level"]`; its gradient is that of a scalar, so it stays an energy.
    """

    def __init__(self, energy: Energy, config: DenoisingConfig) -> None:
        super().__init__()
        self.energy = energy
        self.config = config
        self.new_rows = self.batch_size = config.batch_size

    @property
    def gradients(self) -> int:
        """One of the energy by x and one of that by the parameters."""
        return 2

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        y = batch.x
        sigma = self.config.draw(len(y), y.device, generator)
        wide = sigma.view(-1, *[1] * (y.dim() - 1))
        noisy = y + wide * torch.empty_like(y).normal_(generator=generator)
        denoised = denoise(self.energy, noisy, {**batch.condition, LEVEL: sigma}, create_graph=True)
        error = (denoised - y).square().flatten(1).mean(1)
        loss = (error * (1 + sigma**2) / sigma**2).mean()
        return loss, {"denoising_loss": loss.detach(), "denoising_error": error.detach().mean().sqrt()}

    def replay_key(self) -> Hashable | None:
        return ()


class AtLevel(Energy):
    """A noise-conditional energy held at one noise level: an ordinary energy, for chains and comparisons."""

    def __init__(self, energy: Energy, sigma: float) -> None:
        super().__init__()
        self.energy = energy
        self.sigma = sigma

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.energy(x, self._with_level(condition, len(x), x.device))

    def bind(self, condition: Condition) -> EnergyOfX:
        if not condition:
            return lambda x: self(x, condition)
        named = next(iter(condition.values()))
        return self.energy.bind(self._with_level(condition, len(named), named.device))

    def _with_level(self, condition: Condition, rows: int, device: torch.device) -> Condition:
        return {**condition, LEVEL: torch.full((rows,), self.sigma, device=device)}


def denoise(energy: Energy, noisy: Tensor, condition: Condition, *, create_graph: bool = False) -> Tensor:
    """E[y | x, c] by Tweedie's formula, x - sigma^2 dE/dx, with sigma from `condition["level"]`."""
    with torch.enable_grad():
        x = noisy.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(energy(x, condition).sum(), x, create_graph=create_graph)
    sigma = condition[LEVEL].view(-1, *[1] * (noisy.dim() - 1))
    return noisy - sigma**2 * gradient
