"""The study of paths in the plane: which way they go under sums, mixtures and negations of energies."""

import dataclasses

import torch
from torch import Tensor

from ebm_traj.core.energy import Energy, FunctionEnergy, mixture
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.image.plane_composition import PathConfig, Paths, passes, without
from ebm_traj.image.playground import of_x
from ebm_traj.image.toy import Gaussians

ABOVE, BELOW = (0.0, 2.5), (0.0, -2.5)
"""A and B: places on the ring, half way around on either side."""
NEAR = 0.6
"""A path that comes within this of a place passes it."""


@dataclasses.dataclass(frozen=True)
class PathRow:
    """Paths under one energy."""

    name: str
    points: Tensor
    """(B, T, 2)."""
    above: float
    """Share that passes A."""
    below: float
    """Share that passes B."""
    neither: float
    """Share that passes neither."""
    ring_energy: float
    """Mean energy of the ring over points and paths: how well paths stay on it."""
    acceptance: float


def spot(place: tuple[float, float], scale: float = 0.35) -> Gaussians:
    """A round Gaussian at a place."""
    return Gaussians(torch.tensor([place]), scale)


def path_energies(ring: Energy, paths: Paths, weight: float = 0.3) -> dict[str, Energy]:
    """Energies of paths from left to right: on the ring, and under wishes added to it."""
    stay = paths.prior() + paths.along(ring, weight)
    through_a, through_b = (paths.through(spot(place), 4.0) for place in (ABOVE, BELOW))
    avoid_b = paths.along(without(NOTHING, spot(BELOW, 0.6), 1e3))
    return {
        "on the ring": stay,
        "on the ring, through A": stay + through_a,
        "on the ring, through A or B": stay + mixture([through_a, through_b]),
        "on the ring, not near B": stay + avoid_b,
        "through A, no ring": paths.prior() + through_a,
    }


NOTHING: Energy = FunctionEnergy(lambda x: torch.zeros(len(x), dtype=x.dtype, device=x.device))
"""The energy that is 0 everywhere."""


def path_study(ring: Energy, count: int = 64, seed: int = 0) -> list[PathRow]:
    """Sample paths under each energy and count which way they go."""
    paths = Paths(PathConfig())
    above, below = torch.tensor(ABOVE), torch.tensor(BELOW)
    rows = []
    for name, energy in path_energies(ring, paths).items():
        chain = paths.sample(energy, count, seeded_generator("cpu", seed, "paths"))
        points = paths.points(chain.x)
        with torch.no_grad():
            on_ring = float(of_x(ring)(points.flatten(0, 1)).mean())
        a, b = passes(points, above, NEAR), passes(points, below, NEAR)
        row = PathRow(
            name,
            points,
            above=float(a.float().mean()),
            below=float(b.float().mean()),
            neither=float((~(a | b)).float().mean()),
            ring_energy=on_ring,
            acceptance=float(chain.acceptance),
        )
        rows.append(row)
    return rows


def path_table(rows: list[PathRow]) -> str:
    """The rows in Markdown."""
    lines = [["paths", "pass A", "pass B", "pass neither", "mean energy of the ring"], ["---"] * 5]
    for row in rows:
        shares = [f"{100 * share:.0f} %" for share in (row.above, row.below, row.neither)]
        lines.append([row.name, *shares, f"{row.ring_energy:.2f}"])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
