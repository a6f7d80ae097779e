"""Pictures of the playground: landscapes with chains on them, composed densities, paths."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ebm_traj.core.energy import EnergyOfX
from ebm_traj.image.plane_paths import ABOVE, BELOW, PathRow
from ebm_traj.image.playground import Grid
from ebm_traj.theme import Theme

DEPTH = 8.0  # nats below the peak of the density that a landscape shows
TILE = 2.3  # inches


def landscape(axis: Any, energy: EnergyOfX, extent: float, title: str, cells: int = 120) -> None:
    """The energy as a relief, low where it is dark blue, from its lowest value to `DEPTH` above."""
    grid = Grid(extent, cells)
    values = grid.values(energy).view(cells, cells)
    values = (values - values.min()).clamp(max=DEPTH)
    box = (-extent, extent, -extent, extent)
    axis.imshow(values.numpy(), origin="lower", extent=box, cmap="Blues_r", vmin=0, vmax=DEPTH * 1.1)
    axis.contour(values.numpy(), levels=6, extent=box, colors="white", linewidths=0.4, alpha=0.7)
    _plain(axis, extent, title)


def points(axis: Any, x: Tensor, extent: float, title: str, colour: str) -> None:
    """Samples (N, 2)."""
    axis.plot(x[:, 0].numpy(), x[:, 1].numpy(), ".", color=colour, markersize=1.4, alpha=0.7)
    _plain(axis, extent, title)


def walks(axis: Any, trace: Tensor, colours: Sequence[str]) -> None:
    """Chains (T, n, 2) drawn on a landscape; a dot where each ends."""
    for number, colour in zip(range(trace.shape[1]), colours, strict=False):
        path = trace[:, number].numpy()
        axis.plot(path[:, 0], path[:, 1], "-", color=colour, linewidth=0.9)
        axis.plot(*path[-1], "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.6)


def _plain(axis: Any, extent: float, title: str) -> None:
    axis.set(xlim=(-extent, extent), ylim=(-extent, extent), xticks=[], yticks=[], aspect="equal")
    axis.set_title(title, fontsize=8.5)
    axis.grid(False)


def sheet(lines: int, columns: int, title_lines: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure of square tiles under titles of so many lines."""
    figure = Figure(figsize=(TILE * columns + 0.1, (TILE + 0.3 * title_lines) * lines), layout="constrained")
    return figure, figure.subplots(lines, columns, squeeze=False)


def draw_paths(axes: Sequence[Any], rows: Sequence[PathRow], ring: EnergyOfX, theme: Theme) -> None:
    """Paths of each row over the ring's landscape, with A and B."""
    for axis, row in zip(axes, rows, strict=True):
        landscape(axis, ring, 3.6, f"{row.name}\nA {100 * row.above:.0f} %, B {100 * row.below:.0f} %")
        ends = torch.tensor([[[-2.5, 0.0]], [[2.5, 0.0]]])
        for path in row.points[:24]:
            whole = torch.cat([ends[0], path, ends[1]]).numpy()
            axis.plot(whole[:, 0], whole[:, 1], "-", color=theme.baseline, linewidth=0.6, alpha=0.8)
        for name, place in (("A", ABOVE), ("B", BELOW)):
            axis.annotate(
                name, place, color=theme.ink, fontsize=9, fontweight="bold", ha="center", va="center"
            )
