"""The page of a sampling study: figures of every setting, and curves against the gradients they cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

from ebm_traj.image.sampling_study import Point
from ebm_traj.tables import markdown
from ebm_traj.theme import LIGHT, Theme, save, style

PANELS = {
    "classifier_fd": "Frechet distance, classifier features",
    "precision": "precision",
    "recall": "recall",
    "confident": "read with confidence > 0.9",
}
LEGEND = (
    "Samples against the gradients of the energy that each of them costs, scored in the features of a "
    "classifier trained on the same data; the floor is truth against other truth. heun, euler and multistep "
    "follow the flow through noise levels; the chains walk at each of some levels, plain or with Metropolis "
    "tests and a step that adapts."
)


def table(points: Sequence[Point], floor: Mapping[str, Any]) -> str:
    """All settings in Markdown."""
    rows = [
        [point.line, str(point.gradients), *(_number(point.figures.get(key)) for key in PANELS)]
        for point in points
    ]
    rows.append(["floor", "", *(_number(floor.get(key)) for key in PANELS)])
    return markdown(["sampler", "gradients", *PANELS.values()], rows)


def mixing_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Jumps of adapted chains at some levels."""
    lines = [
        [row["line"], f"{row['level']:g}", f"{row['jump']:.4f}", f"{row['acceptance']:.2f}"] for row in rows
    ]
    return markdown(
        ["chain", "level", "squared jump a gradient, in level² and dimension", "acceptance"], lines
    )


def picture(points: Sequence[Point], floor: Mapping[str, Any], theme: Theme = LIGHT) -> bytes:
    """PNG: four figures against gradients, a line for each sampler."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    lines = list(dict.fromkeys(point.line for point in points))
    flows = [line for line in lines if line[0].islower()]
    palette = dict(zip(flows, [theme.energy, theme.others[4], theme.others[0], *theme.others], strict=False))
    chains = [line for line in lines if line not in flows]
    palette |= dict(zip(chains, [theme.muted, theme.baseline, theme.others[1]], strict=False))
    with style(theme), matplotlib.rc_context({"font.size": 8.5}):
        figure = Figure(figsize=(8.6, 5.6), layout="constrained")
        axes = figure.subplots(2, 2).flatten()
        for panel, (key, title) in zip(axes, PANELS.items(), strict=True):
            for line in lines:
                chosen = sorted(
                    (p.gradients, p.figures[key]) for p in points if p.line == line and key in p.figures
                )
                if chosen:
                    dashed = "--" if line in chains else "-"
                    panel.plot(
                        *zip(*chosen, strict=True),
                        dashed,
                        marker="o",
                        markersize=3.2,
                        color=palette[line],
                        label=line,
                    )
            if key in floor:
                panel.axhline(floor[key], color=theme.ink, linewidth=0.9, linestyle=":", label="floor")
            panel.set_xscale("log", base=2)
            if key == "classifier_fd":
                panel.set_yscale("log")
            else:
                panel.set_ylim(0, 1.02)
            panel.xaxis.set_major_formatter(ScalarFormatter())
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.set_title(title)
        for panel in axes[2:]:
            panel.set_xlabel("gradients of the energy, each sample")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        return save(figure, "png")


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3g}"
