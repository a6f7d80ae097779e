"""Composition in the plane: "and", "or" and "not" of energies, of single points and of whole paths.

"And" is the sum of two energies, "or" the mixture, "not" takes an energy off (Hinton 2002; Du, Li & Mordatch
2020, 2004.06030). In the plane the composed density of exact energies is known on a grid, so that what sums
of learnt ones do is measured. The same energies, summed over the points of a path, say which paths are
likely: to stay on the ring, to pass through A or B, to keep out of C.
"""

import dataclasses
import math

import torch
from torch import Tensor

from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy, FunctionEnergy, mixture
from ebm_traj.core.hmc import HMCConfig, hmc
from ebm_traj.core.langevin import Chain
from ebm_traj.errors import InputError
from ebm_traj.image.playground import Grid, of_x
from ebm_traj.image.toy import Gaussians

TEMPERATURES = (50.0, 20.0, 8.0, 3.0)
WALK = HMCConfig(steps=50, step_size=0.05, leapfrog=8, adapt=25)
"""Transitions at each temperature."""


def normalised(energy: Energy, grid: Grid) -> Energy:
    """The energy plus its log Z over the grid: only normalised energies mix in equal parts."""
    log_z = grid.log_z(of_x(energy))
    return FunctionEnergy(lambda x: of_x(energy)(x) + log_z)


def both(one: Energy, other: Energy) -> Energy:
    """p_1 p_2 up to a factor: the sum of the energies."""
    return one + other


def either(one: Energy, other: Energy) -> Energy:
    """p_1 + p_2 of normalised energies: their mixture."""
    return mixture([one, other])


def without(one: Energy, other: Energy, strength: float = 100.0) -> Energy:
    """p_1 / (1 + strength p_2), up to a factor: E_1 + log(1 + strength exp(-E_2)).

    Where p_2 is large this is E_1 - E_2, the negation; where it is small it is E_1. The plain difference
    goes on pushing however far away p_2 is, and need not be normalisable.
    """
    if not strength > 0:
        raise InputError(f"strength of a negation: {strength}; it must be above 0")
    log_strength = math.log(strength)
    return one + FunctionEnergy(lambda x: torch.nn.functional.softplus(log_strength - of_x(other)(x)))


def bar(height: float = 0.0, scale: float = 0.35) -> Gaussians:
    """A horizontal row of Gaussians across the plane."""
    along = torch.linspace(-3.0, 3.0, 25)
    return Gaussians(torch.stack([along, torch.full_like(along, height)], 1), scale)


@dataclasses.dataclass(frozen=True)
class PathConfig:
    """Paths between two fixed points, as sums of sines on a straight line."""

    start: tuple[float, float] = (-2.5, 0.0)
    """Where they begin."""
    end: tuple[float, float] = (2.5, 0.0)
    """Where they end."""
    points: int = 32
    """Points of a path whose energies are summed, the ends not among them."""
    modes: int = 8
    """Sines in each coordinate."""
    spread: float = 1.2
    """Standard deviation of the first mode; that of the k-th is k times smaller, as in a Brownian bridge."""

    def __post_init__(self) -> None:
        for name in ("points", "modes"):
            if getattr(self, name) < 1:
                raise InputError(f"path {name}: {getattr(self, name)}; accepted are 1 and more")
        if not self.spread > 0:
            raise InputError(f"path spread: {self.spread}; it must be above 0")


class Paths:
    """Coordinates z (B, modes, 2) of paths; their prior energy is |z|^2 / 2, and both ends are always met.

    These are the Karhunen-Loeve coordinates of a Brownian bridge: chains on them know no stiff direction.
    """

    def __init__(self, config: PathConfig) -> None:
        self.config = config
        time = torch.arange(1, config.points + 1) / (config.points + 1)
        modes = torch.arange(1, config.modes + 1)
        self.basis = (math.pi * modes * time[:, None]).sin() * (config.spread / modes)
        ends = torch.tensor([config.start, config.end])
        self.line = ends[0] + time[:, None] * (ends[1] - ends[0])

    def points(self, z: Tensor) -> Tensor:
        """(B, points, 2) of coordinates z (B, modes, 2)."""
        return self.line + torch.einsum("tm,bmd->btd", self.basis, z)

    def prior(self) -> Energy:
        """|z|^2 / 2: smooth paths near the straight line."""
        return FunctionEnergy(lambda z: 0.5 * z.square().flatten(1).sum(1))

    def along(self, energy: Energy, weight: float = 1.0) -> Energy:
        """weight x the sum of an energy of the plane over all points: every point is to be likely."""
        return _OfPaths(self, energy, weight, "all")

    def through(self, energy: Energy, weight: float = 1.0) -> Energy:
        """weight x the mixture over the points: some point is to be likely, whichever it is."""
        return _OfPaths(self, energy, weight, "some")

    def sample(
        self, energy: Energy, count: int, generator: torch.Generator | None = None, walk: HMCConfig = WALK
    ) -> Chain:
        """Chains of coordinates (count, modes, 2): from the prior, down through `TEMPERATURES` to 1, so that
        they find the ways around before these are closed. The chain returned is the last one, its trace too.
        """
        bound = energy.bind(UNCONDITIONAL)
        x = torch.empty(count, self.config.modes, 2).normal_(generator=generator)
        for temperature in TEMPERATURES:
            x = hmc(bound, x, dataclasses.replace(walk, temperature=temperature), generator=generator).x
        return hmc(bound, x, walk, generator=generator)


class _OfPaths(Energy):
    def __init__(self, paths: Paths, energy: Energy, weight: float, quantifier: str) -> None:
        super().__init__()
        self.paths, self.energy, self.weight, self.quantifier = paths, energy, weight, quantifier

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        points = self.paths.points(x)
        each = of_x(self.energy)(points.flatten(0, 1)).view(points.shape[:2])
        return self.weight * (each.sum(1) if self.quantifier == "all" else -(-each).logsumexp(1))


def passes(points: Tensor, place: Tensor, within: float) -> Tensor:
    """(B,) whether paths (B, points, 2) come within a distance of a place (2,)."""
    return (points - place).norm(dim=-1).min(1).values < within
