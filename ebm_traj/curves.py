"""Panels of lines from the log of a run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ebm_traj.atomic import write_atomically
from ebm_traj.theme import LIGHT, Theme, save, style

CURVES_FILE = "curves.png"
COLUMNS = 3
PANEL = (3.6, 2.5)  # inches
LOG_FROM = 20.0  # largest over smallest value above which a scale of positive values is logarithmic
FEW = 60  # values of a line that are marked one by one


@dataclasses.dataclass(frozen=True)
class Panel:
    """Figures that are drawn together: their names in the log and what they are called."""

    title: str
    names: dict[str, str]
    limits: tuple[float, float] | None = None


def draw_panels(
    path: Path,
    rows: Sequence[dict[str, float]],
    panels: Sequence[Panel],
    *,
    along: str = "iteration",
    called: str | None = None,
    theme: Theme = LIGHT,
) -> Path | None:
    """Draw those panels that the rows have figures for, over the figure `along`; None if there are none.

    Args:
        path: of the picture, PNG.
        rows: of `core.logs.read_metrics`.
        panels: what is drawn.
        along: the figure on the horizontal axis, which all rows have.
        called: its label; default: its name.
        theme: colours.
    """
    panels = [panel for panel in panels if any(name in row for row in rows for name in panel.names)]
    if not panels:
        return None
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    colours = (theme.energy, theme.baseline, *theme.others)
    with style(theme):
        figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).flatten()
        for axis, panel in zip(axes, panels, strict=False):
            drawn = []
            for (name, label), colour in zip(panel.names.items(), colours, strict=False):
                points = [(row[along], row[name]) for row in rows if name in row]
                if points:
                    at, values = np.array(points).T
                    mark = "o" if len(values) <= FEW else None
                    axis.plot(at, values, color=colour, linewidth=1.4, label=label, marker=mark, markersize=3)
                    drawn.append(values)
            axis.set_title(panel.title)
            axis.set_xlabel(called or along)
            axis.xaxis.set_major_locator(MaxNLocator(4))
            low, high = min(v.min() for v in drawn), max(v.max() for v in drawn)
            if panel.limits is not None:
                axis.set_ylim(*panel.limits)
            elif low > 0 and high / low > LOG_FROM:
                axis.set_yscale("log")
            if len(drawn) > 1:
                axis.legend(fontsize=8)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        write_atomically(path, save(figure, "png"))
    return path
