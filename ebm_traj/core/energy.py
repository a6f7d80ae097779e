"""Energies and their algebra: sum, weight, mixture, and energies a user writes as a function."""

from collections.abc import Callable, Mapping
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn

from ebm_traj.core.backends import backend
from ebm_traj.core.gradients import BoundEnergy, BoundSum

Condition = Mapping[str, Tensor]
"""What an energy is conditioned on: named tensors with the batch in front; empty if unconditional."""

UNCONDITIONAL: Condition = {}

EnergyOfX = Callable[[Tensor], Tensor]
"""An energy with its condition filled in: x (B, ...) to (B,)."""


class Energy(nn.Module):
    """A scalar function E(x | condition); low where x is likely, p(x | condition) ~ exp(-E).

    Subclasses define `forward(x (B, ...), condition) -> (B,)`. Energies compose: `a + b` is the product of
    the two densities, `2.0 * a` sharpens one, `mixture([a, b])` adds the densities.
    """

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not define forward(x, condition)")

    @property
    def needs_autograd(self) -> bool:
        """Whether chains take its gradient by autograd; False where it is written out for all of them."""
        return True

    @property
    def learned(self) -> "Energy":
        """The part with parameters to learn: what a contrastive loss compares and keeps small."""
        return self

    def bind(self, condition: Condition) -> EnergyOfX:
        """E(. | condition) as a function of x alone; a chain calls it many times.

        Subclasses may do here, once, the work that depends on the condition only.
        """
        return lambda x: self(x, condition)

    def __add__(self, other: "Energy") -> "SumEnergy":
        return SumEnergy([self, other])

    def __mul__(self, weight: float) -> "WeightedEnergy":
        return WeightedEnergy(self, weight)

    __rmul__ = __mul__


class SumEnergy(Energy):
    """E(x) = sum_i E_i(x): the product of experts, "and" (Hinton 2002; Du, Li, Mordatch 2020)."""

    def __init__(self, parts: list[Energy]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return torch.stack([part(x, condition) for part in self.parts]).sum(0)

    def bind(self, condition: Condition) -> EnergyOfX:
        bound = _bind_all(self.parts, condition)
        if all(isinstance(part, BoundEnergy) for part in bound):
            return BoundSum(cast(list[BoundEnergy], bound), [1.0] * len(bound))
        return lambda x: torch.stack([bound_energy(x) for bound_energy in bound]).sum(0)


class WeightedEnergy(Energy):
    """E(x) = weight * E_1(x); the weight is an inverse temperature."""

    def __init__(self, part: Energy, weight: float) -> None:
        super().__init__()
        self.part = part
        self.weight = float(weight)

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.weight * self.part(x, condition)

    def bind(self, condition: Condition) -> EnergyOfX:
        bound = self.part.bind(condition)
        if isinstance(bound, BoundEnergy):
            return BoundSum([bound], [self.weight])
        return lambda x: self.weight * bound(x)


class MixtureEnergy(Energy):
    """E(x) = -log sum_i exp(-E_i(x)): the sum of the (unnormalised) densities, "or"."""

    def __init__(self, parts: list[Energy]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return -torch.stack([-part(x, condition) for part in self.parts]).logsumexp(0)

    def bind(self, condition: Condition) -> EnergyOfX:
        bound = _bind_all(self.parts, condition)
        return lambda x: -torch.stack([-bound_energy(x) for bound_energy in bound]).logsumexp(0)


class FunctionEnergy(Energy):
    """An energy from a plain function of x: a goal, an obstacle, a wish for smoothness."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.function(x)


def mixture(parts: list[Energy]) -> MixtureEnergy:
    """The mixture of the given energies, see `MixtureEnergy`."""
    return MixtureEnergy(parts)


def is_written_out(energy: EnergyOfX) -> TypeGuard[BoundEnergy]:
    """Whether the energy's own gradient is to be used: it has one, and autograd was not asked for."""
    return isinstance(energy, BoundEnergy) and backend() != "autograd"


def _bind_all(parts: nn.ModuleList, condition: Condition) -> list[EnergyOfX]:
    return [cast(Energy, part).bind(condition) for part in parts]


def energy_and_gradient(energy: EnergyOfX, x: Tensor) -> tuple[Tensor, Tensor]:
    """E(x) (B,) and dE/dx (B, ...), both detached; no gradient reaches the parameters.

    By the energy's own written-out gradient where it has one, see `core.backends`, else by autograd.
    """
    if is_written_out(energy):
        with torch.no_grad():
            values, gradient = energy.value_and_gradient(x.detach())
            return values.clone(), gradient.clone()  # of buffers that the next call writes to
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        values = energy(x)
        (gradient,) = torch.autograd.grad(values.sum(), x)
    return values.detach(), gradient
