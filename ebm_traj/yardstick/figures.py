"""The curves and fans of the comparison page; each can be drawn in any theme, wide or narrow."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ebm_traj.spec import StateSpec
from ebm_traj.theme import Theme
from ebm_traj.yardstick.table import Comparison, Row
from ebm_traj.yardstick.theme import colours

PANELS = 8
FAN_LINES = 64
BAND = (5, 95)  # percentiles of the branches
MOST_OF_FLAT = 4.0  # height of a rank histogram in flat ones; a collapsed model's goes to the number of bins


def _line(ax: Axes, comparison: Comparison, row: Row, values: list[float], theme: Theme) -> None:
    front = row in (comparison.energy_row, comparison.baseline_row)
    dashes = {"persistence": (0, (4, 2)), "shuffled": (0, (1, 1.6))}.get(row.kind, "-")
    steps = np.arange(1, len(values) + 1)
    ax.plot(
        *(steps, np.where(np.isfinite(values), values, np.nan)),
        color=colours(comparison, theme)[row.name],
        linestyle=dashes,
        linewidth=2.4 if front else 1.6,
        label=row.name,
        zorder=4 if front else 3,
    )


def _legend(figure: Figure, ax: Axes, narrow: bool, extra: list[Any] | None = None) -> None:
    handles, labels = ax.get_legend_handles_labels()
    handles, labels = handles + (extra or []), labels + [h.get_label() for h in extra or []]
    figure.legend(
        *(handles, labels),
        loc="outside upper left",
        ncols=2 if narrow else min(len(labels), 6),
        handlelength=2.2,
        columnspacing=1.6,
    )


def _log_axis(axis: Any, few: bool = False) -> None:
    low, high = sorted(axis.get_view_interval())
    if high < 1.5 * low:  # nearly linear, and too few round numbers on a logarithmic one
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
        return
    subs = (1.0, 2.0, 5.0) if high > (8 if few else 20) * low else (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def fd_over_time(comparison: Comparison, theme: Theme, narrow: bool) -> Figure:
    """Frechet distance at each predicted step, logarithmic, with the floor."""
    figure = Figure(figsize=(4.3, 4.1) if narrow else (9.2, 3.7), layout="constrained")
    ax = figure.subplots()
    for row in comparison.rows:
        if "fd" in row.curves and row.kind != "shuffled":  # shuffled truth is the floor
            _line(ax, comparison, row, row.curves["fd"], theme)
    steps = np.arange(1, comparison.steps + 1)
    ax.plot(
        steps, comparison.floor["curve"], color=theme.ink, linewidth=1.4, linestyle=(0, (5, 2)), label="floor"
    )
    ax.set_yscale("log")
    ax.set(xlabel="predicted step", ylabel="Fréchet distance", xlim=(1, max(comparison.steps, 2)))
    _log_axis(ax.yaxis)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _legend(figure, ax, narrow)
    return figure


def _band(ax: Axes, comparison: Comparison, row: Row, key: str, theme: Theme) -> None:
    """The 95 % interval of a curve, behind it."""
    if key in row.bands:
        low, high = (np.array(row.bands[key][end], dtype=np.float64) for end in ("low", "high"))
        steps = np.arange(1, len(low) + 1)
        ax.fill_between(
            steps, low, high, color=colours(comparison, theme)[row.name], alpha=0.2, linewidth=0, zorder=2
        )


def prediction(comparison: Comparison, theme: Theme, narrow: bool) -> Figure:
    """Energy score, also of the object's pose, and diversity at each predicted step, with intervals."""
    panels = [("energy_score", "Energy score / simulator's"), ("diversity", "Diversity / simulator's")]
    if comparison.has_object:
        panels.insert(1, ("energy_score_object", "The same, object's pose"))
    count = len(panels)
    figure = Figure(figsize=(4.3, 3.2 * count) if narrow else (9.2, 3.7), layout="constrained")
    axes = figure.subplots(count, 1) if narrow else figure.subplots(1, count)
    for ax, (key, title) in zip(axes, panels, strict=True):
        for row in comparison.rows:
            if row.kind != "simulator":
                _line(ax, comparison, row, row.curves[key], theme)
                _band(ax, comparison, row, key, theme)
        ax.axhline(1, color=theme.ink, linewidth=1.4, linestyle=(0, (5, 2)))
        ax.set(xlabel="predicted step", title=title)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.margins(x=0)
    for ax, (key, _) in zip(axes[:-1], panels, strict=False):
        ax.set_yscale("log")
        values = np.concatenate([row.curves[key] for row in comparison.models])
        finite = values[np.isfinite(values)]
        if len(finite):  # rows that learn nothing may leave the picture, which they would flatten
            ax.set_ylim(top=min(ax.get_ylim()[1], 1.25 * finite.max()))
        _log_axis(ax.yaxis)
    # shuffled truth is far too diverse at first and would flatten all else
    axes[-1].set_ylim(-0.05, min(axes[-1].get_ylim()[1], 2.0))
    _legend(figure, axes[0], narrow)
    return figure


def rank_histograms(comparison: Comparison, theme: Theme, narrow: bool) -> Figure:
    """How often truth has each rank among a model's futures at each horizon, and where a perfect model is.

    Shares are over those of a flat histogram; far too high ones leave the picture.
    """
    interval = comparison.floor["ranks"]
    count = len(interval)
    columns = 2 if narrow else count
    lines = -(-count // columns)
    size = (4.3, 1.9 * lines + 0.9) if narrow else (9.2, 3.0)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, (step, ends) in zip(axes, interval.items(), strict=False):
        bins = len(ends["low"])
        edges = np.linspace(0, 1, bins + 1)
        low, high = (bins * np.array([*ends[end], ends[end][-1]]) for end in ("low", "high"))
        ax.fill_between(edges, low, high, step="post", color=theme.muted, alpha=0.3, linewidth=0)
        ax.plot([], [], color=theme.muted, alpha=0.3, linewidth=7, label="perfect, 95 %")
        ax.axhline(1, color=theme.ink, linewidth=1.2, linestyle=(0, (5, 2)))
        for row in comparison.models:
            shares = bins * np.array(row.scores["ranks"]["at"][step]["histogram"], dtype=np.float64)
            front = row in (comparison.energy_row, comparison.baseline_row)
            ax.plot(
                *(edges, [*shares, shares[-1]]),
                drawstyle="steps-post",
                color=colours(comparison, theme)[row.name],
                linewidth=2.2 if front else 1.4,
                label=row.name,
                zorder=4 if front else 3,
            )
        ax.set_title(f"step {step}")
        ax.set_xticks([0, 0.5, 1], ["", "", ""])
        ax.margins(x=0)
    for ax in axes[count:]:
        ax.set_visible(False)
    figure.supxlabel("truth inside the futures  ←  rank  →  outside", color=theme.muted, fontsize=9.5)
    axes[0].set_ylim(0, max(min(axes[0].get_ylim()[1], MOST_OF_FLAT), 2.0))
    _legend(figure, axes[0], narrow)
    return figure


def movement(comparison: Comparison, theme: Theme, narrow: bool) -> Figure:
    """Frechet distance of the displacement for each k, motion ratio, diversity: a dot for each row."""
    rows = [row for row in comparison.rows if row.scores["motion"] is not None]
    floor = comparison.floor["fd_displacement"]
    panels: list[tuple[str, list[float], float, bool]] = [
        (f"FD of Δ{k}", [r.scores["fd_displacement"][k] for r in rows], best, True)
        for k, best in floor.items()
    ]
    panels.append(("Motion", [row.scores["motion"] for row in rows], 1.0, False))
    if comparison.has_branches:
        panels.append(("Diversity", [row.scores["diversity"] for row in rows], 1.0, False))
    high = 0.62 + 0.27 * len(rows)
    if narrow:
        figure = Figure(figsize=(4.3, high * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    else:
        figure = Figure(figsize=(9.2, high + 0.25), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    palette = colours(comparison, theme)
    places = np.arange(len(rows))[::-1]
    for ax, (title, values, right, log) in zip(axes, panels, strict=True):
        ax.axvline(right, color=theme.ink, linewidth=1.4, linestyle=(0, (5, 2)))
        for place, row, value in zip(places, rows, values, strict=True):
            if value is not None and np.isfinite(value) and (value > 0 or not log):
                ax.plot([right, value], [place] * 2, color=palette[row.name], linewidth=2, alpha=0.55)
                ax.plot([value], [place], "o", color=palette[row.name], markersize=7)
        if log:
            ax.set_xscale("log")
            ax.margins(x=0.12)
            _log_axis(ax.xaxis, few=True)
            if not narrow and ax.get_xlim()[1] < 8 * ax.get_xlim()[0]:
                ax.xaxis.get_major_locator().set_params(subs=(1.0, 2.0, 3.0, 5.0))
        else:
            ax.set_xlim(left=min(0, ax.get_xlim()[0]))
        ax.set_title(title, fontsize=9)
        ax.set_yticks(places, [row.name for row in rows], color=theme.ink)
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.grid(axis="y", visible=False)
    return figure


Reading = Callable[[NDArray[Any]], NDArray[Any]]


def _panels(spec: StateSpec, truth: NDArray[np.float32]) -> list[tuple[str, Reading]]:
    """What the fans show: the dimensions of `truth` (T, D) that move most, then the pose of the objects.

    Each is a title and a function of states (..., D); the first frame of truth is the present.
    """
    now = truth[0].astype(np.float64)

    def distance(dims: list[int]) -> Reading:
        return lambda states: 1e3 * np.linalg.norm(states[..., dims] - now[dims], axis=-1)

    def turn(dims: NDArray[np.intp]) -> Reading:
        return lambda states: np.degrees(rotation(states[..., dims], now[dims]))

    def single(i: int) -> Reading:
        unit = 180 / np.pi if spec.kinds[i] == "angle" else 1.0
        return lambda states: unit * states[..., i]

    posed: list[tuple[str, Reading]] = []
    taken: set[int] = set()
    for dims in spec.quaternions:
        name = spec.names[dims[0]].removesuffix("_qw")
        place = [int(i) for i in spec.predicted if spec.names[i] in {f"{name}_{axis}" for axis in "xyz"}]
        taken |= {int(i) for i in dims} | set(place)
        if place:
            posed.append((f"{name} moved, mm", distance(place)))  # MuJoCo's models are in metres
        posed.append((f"{name} turned, °", turn(dims)))
    assert spec.std is not None
    reach = np.ptp(truth, axis=0) / spec.std
    most = sorted((int(i) for i in spec.predicted if int(i) not in taken), key=lambda i: -reach[i])
    titles = [spec.names[i] + (", °" if spec.kinds[i] == "angle" else "") for i in most]
    free = max(PANELS - len(posed), 0)
    return [(title, single(i)) for title, i in zip(titles, most, strict=True)][:free] + posed[:PANELS]


def rotation(q: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Angle in radians between the rotations of quaternions (..., 4), of any length and sign."""
    length = np.linalg.norm(q, axis=-1) * np.linalg.norm(other, axis=-1)
    return 2 * np.arccos(np.clip(np.abs((q * other).sum(-1)) / np.maximum(length, 1e-12), 0, 1))


def fans(comparison: Comparison, theme: Theme, narrow: bool) -> Figure:
    """Many futures of the energy model over the baseline's prediction and the truth."""
    drawn, front, back = comparison.drawn, comparison.energy_row, comparison.baseline_row
    assert front.fan is not None and back.fan is not None
    past = len(drawn.context)
    panels = _panels(comparison.spec, np.concatenate([drawn.context[-1:], drawn.truth]))
    columns = 2 if narrow else 4
    lines = -(-len(panels) // columns)
    size = (4.4, 1.75 * lines + 0.75) if narrow else (10.4, 2.15 * lines + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, squeeze=False).ravel()
    after = np.arange(len(drawn.truth) + 1)

    def path(read: Callable[[NDArray[Any]], NDArray[Any]], future: NDArray[Any]) -> NDArray[Any]:
        """Values (..., 1 + H) from the present on."""
        start = np.broadcast_to(drawn.context[-1], (*future.shape[:-2], 1, future.shape[-1]))
        return read(np.concatenate([start, future], axis=-2).astype(np.float64))

    for ax, (title, read) in zip(axes, panels, strict=False):
        if drawn.branches is not None:
            low, high = np.percentile(path(read, drawn.branches), BAND, axis=0)
            ax.fill_between(after, low, high, color=theme.muted, alpha=0.22, linewidth=0)
            for edge in (low, high):  # above the futures, which hide the band
                ax.plot(after, edge, color=theme.ink, linewidth=1.1, linestyle=(0, (1, 1.3)), zorder=5)
            ax.plot([], [], color=theme.ink, linewidth=1.1, linestyle=(0, (1, 1.3)), label="simulator, 90 %")
        many = path(read, front.fan[:FAN_LINES])
        ax.plot(after, many.T, color=theme.energy, linewidth=0.7, alpha=0.33)
        ax.plot([], [], color=theme.energy, linewidth=1.4, label=f"{front.name}, {len(many)} futures")
        ax.plot(
            after, path(read, back.fan[0]), color=theme.baseline, linewidth=2.2, label=back.name, zorder=6
        )
        ax.plot(after, path(read, drawn.truth), color=theme.ink, linewidth=1.7, label="truth", zorder=7)
        if past > 1:
            ax.plot(
                np.arange(1 - past, 1), read(drawn.context.astype(np.float64)), color=theme.ink, linewidth=1.7
            )
        ax.axvline(0, color=theme.muted, linewidth=0.8)
        ax.set_title(title)
        ax.xaxis.set_major_locator(MaxNLocator(4 if narrow else 5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.margins(x=0)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure.supxlabel("steps from the present", color=theme.muted, fontsize=9.5)
    _legend(figure, axes[0], narrow)
    return figure
