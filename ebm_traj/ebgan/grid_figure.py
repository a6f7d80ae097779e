"""The picture of a grid study: histograms of I' by family, samples of the best run and of a median one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

from ebm_traj.ebgan.grid_run import unpacked
from ebm_traj.theme import LIGHT, Theme, save, style

if TYPE_CHECKING:
    from ebm_traj.ebgan.grid_report import FamilyResult

BINS = 24
SHOWN = 10  # samples of a run, in two rows


def picture(results: "Sequence[FamilyResult]", reference: dict[str, float], theme: Theme = LIGHT) -> bytes:
    """PNG: a row for each family, all on one axis of I'; the dotted line is what test pictures score."""
    from matplotlib.figure import Figure

    colours = {
        "ebgan-pt": theme.energy,
        "ebgan": theme.others[0],
        "gan": theme.baseline,
        "gan-adam": theme.others[2],
    }
    top = max([*(s for r in results for s in r.scores), reference.get("reversed_score", 0.0), 1e-3])
    bins = np.linspace(0, 1.02 * top, BINS + 1)
    with style(theme), matplotlib.rc_context({"font.size": 8.5}):
        figure = Figure(figsize=(8.6, 1.45 * len(results) + 0.6), layout="constrained")
        axes = figure.subplots(len(results), 3, squeeze=False, width_ratios=[2.2, 1, 1])
        for (panel, best, usual), result in zip(axes, results, strict=True):
            heights = np.histogram(result.scores, bins)[0] / max(1, len(result.runs))
            panel.stairs(100 * heights, bins, fill=True, color=colours[result.family])
            panel.set(xlim=(0, bins[-1]), ylabel="% of runs")
            failed = 100 * result.failed.value
            panel.set_title(f"{result.family}: {len(result.runs)} runs, {failed:.0f} % failed")
            if "reversed_score" in reference:
                panel.axvline(reference["reversed_score"], color=theme.ink, linewidth=0.9, linestyle=":")
            order = sorted(result.runs, key=lambda run: run["reversed_score"])
            for side, run in ((best, order[-1]), (usual, order[len(order) // 2])) if order else ():
                _samples(side, run)
                name = "best" if side is best else "median"
                side.set_title(f"{name}, I' {run['reversed_score']:.2f}", fontsize=8)
            for side in (best, usual):
                side.set_axis_off()
        highest = max(panel.get_ylim()[1] for panel in axes[:, 0])
        for panel in axes[:, 0]:
            panel.set_ylim(0, highest)
        axes[-1, 0].set_xlabel("I' (dotted: test pictures)")
        return save(figure, "png")


def _samples(panel: Any, run: dict[str, Any]) -> None:
    if not run.get("pixels"):
        panel.text(0.5, 0.5, "not finite", ha="center", va="center", transform=panel.transAxes)
        return
    from ebm_traj.image.grids import grid

    pixels = unpacked(run["pixels"])[:SHOWN]
    panel.imshow(grid(pixels, -(-len(pixels) // 2)), interpolation="nearest")
