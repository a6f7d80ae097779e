"""The training curves of a run as one picture, from its `metrics.csv`."""

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ebm_traj.atomic import replacing
from ebm_traj.core.logs import read_metrics
from ebm_traj.core.trainer import SCORE, VALIDATION
from ebm_traj.curves import COLUMNS, CURVES_FILE, LOG_FROM
from ebm_traj.errors import InputError
from ebm_traj.theme import LIGHT, Theme, save, style

METRICS_FILE = "metrics.csv"
PANEL = (3.5, 2.35)  # inches
HEAD = 0.3
SMOOTHING = 40  # a bold line is the mean over about so many parts of the run


@dataclasses.dataclass(frozen=True)
class Panel:
    """Figures that are drawn together."""

    title: str
    names: dict[str, str]
    """Names in the log, without the part of a combined objective before them, and what they are called."""
    zero: bool = False
    """Whether a line is drawn at 0."""
    limits: tuple[float, float] | None = None
    settled: bool = False
    """Whether the first tenth of the run, where all is bad, may leave the picture."""


PANELS = (
    Panel("Held-out energy score (lower is better)", {SCORE: "all steps"}, settled=True),
    Panel("The same, first predicted step", {SCORE + "_1": "first step"}, settled=True),
    Panel("Loss", {"loss": "loss"}),
    Panel(
        "Errors",
        {
            "squared_error": "squared error",
            "denoising_error": "denoising, RMS",
            "velocity_error": "velocity",
            "ranking_information": "ranking information",
        },
    ),
    Panel(
        "Negative log-likelihood",
        {"negative_log_likelihood": "model", "proposal_loss": "proposal"},
    ),
    Panel("Energies of data and samples", {"energy_data": "data", "energy_samples": "samples"}),
    Panel("Gap: energy of data minus samples", {"energy_gap": "gap"}, zero=True),
    Panel(
        "Energies of recorded windows",
        {VALIDATION + "energy_held_out": "held out", VALIDATION + "energy_train": "training"},
    ),
    Panel("Gradient norm, before clipping", {"gradient_norm": "gradient norm"}),
    Panel(
        "Sampler: how far a chain moves, RMS",
        {"displacement": "in training", VALIDATION + "displacement": "held out"},
    ),
    Panel(
        "Sampler: share of steps accepted",
        {"acceptance": "in training", VALIDATION + "acceptance": "held out"},
        limits=(0, 1.03),
    ),
    Panel("Sampler: step size", {"step_size": "step size"}),
    Panel("Spread of data and samples", {"spread_data": "data", "spread_samples": "samples"}),
    Panel("Age of replayed chains, iterations", {"buffer_age_mean": "mean", "buffer_age_max": "oldest"}),
    Panel("Motion of held-out futures, 1 is right", {VALIDATION + "motion": "sampled / recorded"}),
    Panel("Learning rate", {"learning_rate": "learning rate"}),
)


@dataclasses.dataclass
class Line:
    """One figure over the run."""

    label: str
    iterations: NDArray[np.float64]
    values: NDArray[np.float64]


def draw_curves(folder: str | Path) -> Path:
    """Draw `metrics.csv` of a run's folder into `curves.png` beside it; the path of the picture.

    Losses, energies, sampler, buffer and held-out scores, as far as the run has logged them; figures of the
    parts of a combined objective (`contrastive/energy_data`) are found by their own names. Thin lines are the
    figures of single steps, bold ones their running mean. The iteration of the lowest held-out energy score
    is marked. Raises InputError if the folder holds no log.
    """
    folder = Path(folder)
    rows = read_metrics(folder / METRICS_FILE)
    found = [(panel, lines) for panel in PANELS if (lines := _lines(panel, rows))]
    if not found:
        raise InputError(f"{folder / METRICS_FILE}: no figures of a training run")
    with style(LIGHT):
        picture = save(_figure(folder.resolve().name, found, rows, LIGHT), "png")
    path = folder / CURVES_FILE
    with replacing(path) as temporary:
        temporary.write_bytes(picture)
    return path


def lowest(rows: list[dict[str, float]]) -> tuple[int, float] | None:
    """Iteration and value of the lowest held-out energy score; None if nothing finite was logged."""
    scored = [row for row in rows if np.isfinite(row.get(SCORE, np.nan))]
    if not scored:
        return None
    best = min(scored, key=lambda row: row[SCORE])  # the first of equals, as the trainer keeps it
    return int(best["iteration"]), best[SCORE]


def _lines(panel: Panel, rows: list[dict[str, float]]) -> list[Line]:
    columns = dict.fromkeys(name for row in rows for name in row)
    chosen = [
        (name, label, column)
        for name, label in panel.names.items()
        for column in columns
        if column == name or (VALIDATION not in column and column.partition("/")[2] == name)
    ]
    lines = []
    for name, label, column in chosen:
        pairs = [(row["iteration"], row[column]) for row in rows if column in row]
        iterations, values = np.array(pairs, dtype=np.float64).T
        part = column.removesuffix(name).rstrip("/")
        several = sum(other == name for other, _, _ in chosen) > 1
        if several:  # parts of a combined objective that log the same figure
            label = part or "sum"
        if np.isfinite(values).any():
            lines.append(Line(label, iterations, values))
    return lines


def _figure(
    name: str, found: list[tuple[Panel, list[Line]]], rows: list[dict[str, float]], theme: Theme
) -> Figure:
    count = -(-len(found) // COLUMNS)
    width = min(COLUMNS, len(found))
    figure = Figure(figsize=(PANEL[0] * width, PANEL[1] * count + HEAD), layout="constrained")
    axes = list(figure.subplots(count, width, squeeze=False).flat)
    last = rows[-1]["iteration"]
    best = lowest(rows)
    head = f"{name}, {last:,.0f} iterations"
    if best is not None:
        head += f"; lowest held-out energy score at {best[0]:,} (dotted)"
    figure.suptitle(head, x=0.01, ha="left", fontsize=10.5, color=theme.ink)
    for ax, (panel, lines) in zip(axes, found, strict=False):
        _draw(ax, panel, lines, theme)
        ax.set_xlim(0, max(last, 1))
        if best is not None:
            ax.axvline(best[0], color=theme.muted, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        if best is not None and SCORE in panel.names:
            _mark(ax, *best, last, theme)
    for ax in axes[len(found) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(found) - width) : len(found)]:
        ax.set_xlabel("iteration")
    return figure


def _draw(ax: Axes, panel: Panel, lines: list[Line], theme: Theme) -> None:
    colours = (theme.energy, theme.baseline, *theme.others)
    for line, colour in zip(lines, colours, strict=False):
        values = np.where(np.isfinite(line.values), line.values, np.nan)
        few = len(values) < 2 * SMOOTHING
        marker = "o" if len(values) < 2 else None
        ax.plot(
            *(line.iterations, values),
            color=colour,
            linewidth=1.8 if few else 0.8,
            alpha=1 if few else 0.35,
            marker=marker,
            label=line.label if few else None,
        )
        if not few:
            ax.plot(line.iterations, _smoothed(values), color=colour, linewidth=2, label=line.label)
    ax.set_title(panel.title)
    if panel.zero:
        ax.axhline(0, color=theme.ink, linewidth=1.2, linestyle=(0, (5, 2)), zorder=2)
    if panel.limits:
        ax.set_ylim(*panel.limits)
    else:
        begin = 0.1 * max(line.iterations[-1] for line in lines) if panel.settled else 0
        _scale(ax, np.concatenate([line.values[line.iterations >= begin] for line in lines]), panel)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(_thousands))
    if len(panel.names) > 1 or len(lines) > 1:
        ax.legend(loc="best", fontsize=8, handlelength=1.4, borderpad=0.2, labelspacing=0.3)


def _scale(ax: Axes, values: NDArray[np.float64], panel: Panel) -> None:
    """Logarithmic if positive values span much; else so that a few wild ones do not flatten the rest."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    if np.ptp(values) <= 1e-6 * abs(values).max():  # constant: rounding would be all there is to see
        size = abs(values[0]) or 1.0
        ax.set_ylim(values[0] - 0.2 * size, values[0] + 0.2 * size)
        return
    if values.min() > 0 and values.max() > LOG_FROM * values.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(numticks=6))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        return
    low, high = np.quantile(values, [0.01, 0.99])
    if panel.zero:
        low, high = min(low, 0), max(high, 0)
    room = 0.15 * (high - low)
    wild = values.min() < low - 2 * room or values.max() > high + 2 * room
    if room > 0 and (wild or panel.settled):
        ax.set_ylim(low - room, high + room)


def _mark(ax: Axes, iteration: int, score: float, last: float, theme: Theme) -> None:
    """The lowest held-out score and its iteration, above it where a falling curve leaves room."""
    ax.plot([iteration], [score], "o", color=theme.ink, markersize=6, zorder=6)
    right = iteration > last / 2
    ax.annotate(
        f"{score:.4g} at {iteration:,}",
        *((iteration, 1.0), (-6 if right else 6, -4)),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top",
        color=theme.ink,
        fontsize=8.5,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean over what is finite, narrower at the ends."""
    half = max(1, len(values) // (2 * SMOOTHING))
    finite = np.isfinite(values)
    sums = np.concatenate([[0], np.cumsum(np.where(finite, values, 0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    with np.errstate(invalid="ignore"):
        return (sums[high] - sums[low]) / (counts[high] - counts[low])


def _thousands(value: float, position: int | None = None) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
