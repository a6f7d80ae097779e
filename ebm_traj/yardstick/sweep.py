"""Adaptive computation: every score of one energy model against the gradients its sampler takes."""

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ebm_traj.core.annealing import AnnealConfig, Solver
from ebm_traj.core.convergence import UntilConverged
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.datasets.branches import Branches
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import Split
from ebm_traj.errors import InputError
from ebm_traj.theme import LIGHT, Theme, save, style
from ebm_traj.trajectory.ebm import Sampler, TrajectoryEBM
from ebm_traj.yardstick.columns import PERFECT, RIGHT, Column, cells, columns, cost_columns, number
from ebm_traj.yardstick.compare import compare
from ebm_traj.yardstick.table import Comparison, Row, finite

CHAIN, CONVERGED = "langevin", "until converged"
STEPS = (3, 4, 6, 8, 12, 24)  # noise levels
CHAIN_STEPS = (0, 2, 4, 8, 16, 32)
SOLVERS: tuple[Solver, ...] = ("heun", "multistep")
TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
ADAPT = 20  # steps
FAR = 4.0  # values so many times the best one's distance from perfect leave the picture, see `_limits`


@dataclasses.dataclass(frozen=True)
class Setting:
    """One sampler of the model."""

    name: str
    """Of its row: `heun 6`."""
    line: str
    """The line of the picture it is on: its solver, or `until converged`."""
    steps: int | None
    """Noise levels, or steps of the chain; None until converged."""
    model: TrajectoryEBM
    """A copy of the model with this sampler; it shares the weights."""

    @property
    def gradients_per_frame(self) -> float:
        """Gradients of the energy for one predicted frame; until converged, their mean so far."""
        return self.model.gradients_per_window / self.model.window_frames

    @property
    def stopped(self) -> float | None:
        """Share of windows whose chains stopped by themselves, not at their limit; None for fixed steps."""
        spent = self.model.spent
        return spent.stopped / max(spent.windows, 1) if self.steps is None else None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep found: one row of `comparison` for each setting."""

    comparison: Comparison
    settings: list[Setting]
    split: Split

    @property
    def columns(self) -> list[Column]:
        """What is shown of each setting: the main columns and the time of a plan."""
        return [*columns(self.comparison), _plan(self.comparison)]

    @property
    def rows(self) -> list[tuple[Setting, Row]]:
        """Settings with their rows."""
        rows = {row.name: row for row in self.comparison.rows}
        return [(setting, rows[setting.name]) for setting in self.settings]

    def perfect(self, column: Column) -> float | None:
        """The value of a column that a perfect model has; None if there is none."""
        if column.note in (PERFECT, RIGHT):
            return 1.0
        floor = self.comparison.floor
        invalid = (floor["validity"] or {}).get("invalid")
        return {"FD": floor["fd"], "Ranks": 1.0, "Invalid, %": invalid}.get(column.label)

    def to_json(self) -> dict[str, Any]:
        """The content of sweep.json: that of scores.json, and what each setting is."""
        samplers = {
            setting.name: {
                "solver": setting.line,
                "steps": setting.steps,
                "gradients_per_frame": setting.gradients_per_frame,
                "stopped_by_itself": setting.stopped,
                "sampler": dataclasses.asdict(setting.model.sampler),
            }
            for setting in self.settings
        }
        return finite({"samplers": samplers, "split": self.split}) | self.comparison.to_json()


def settings_of(
    model: TrajectoryEBM,
    steps: Sequence[int] | None = None,
    solvers: Sequence[Solver] | None = None,
    *,
    corrector_steps: int = 0,
    converged: UntilConverged | None = None,
) -> list[Setting]:
    """The samplers to score: each solver with each number of steps, the rest as the model has it.

    `steps` are noise levels; for an energy without them, steps of its Langevin chain, the one solver it has.
    `corrector_steps` follow at the lowest level. `converged`, if given, is one more. Raises InputError for
    what the model cannot be sampled with, and for the same setting twice.
    """
    base = model.config.annealing if model.config.has_levels else model.config.contrastive.langevin
    samplers: list[tuple[str, int | None, Sampler]] = []
    if isinstance(base, AnnealConfig):
        for solver in SOLVERS if solvers is None else solvers:
            churn = 0.0 if solver in ("multistep", "langevin") else base.churn
            for count in STEPS if steps is None else steps:
                changed = dataclasses.replace(
                    *(base,), steps=count, solver=solver, churn=churn, corrector_steps=corrector_steps
                )
                samplers.append((solver, count, changed))
    else:
        if solvers is not None or corrector_steps:
            raise InputError("solvers, corrector steps: this energy has no noise levels; leave them out")
        for count in CHAIN_STEPS if steps is None else steps:
            samplers.append((CHAIN, count, dataclasses.replace(base, steps=count)))
    names = [f"{line} {count}" for line, count, _ in samplers]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"steps: '{name}' is asked for twice")
    if converged is not None:
        samplers.append((CONVERGED, None, converged))
        names.append(CONVERGED)
    if not samplers:
        raise InputError("steps: none; accepted are one and more")
    return [
        Setting(name, line, count, _with(model, sampler))
        for name, (line, count, sampler) in zip(names, samplers, strict=True)
    ]


def chain_of(model: TrajectoryEBM) -> LangevinConfig:
    """The Metropolis-corrected chain with which a model is sampled until converged.

    Its own one; at the lowest noise level the corrector's with an adapted step size: the data are many times
    wider than the level, so that the corrector's own step took 200 steps without forgetting its start.
    """
    if model.config.has_levels:
        chain = model.config.annealing.corrector_chain
        return dataclasses.replace(chain, steps=ADAPT + 1, adapt=ADAPT)
    chain = model.config.contrastive.langevin
    # noise and clip of the literature's chain have no known target to converge to
    return dataclasses.replace(chain, noise=None, clip=None, metropolis=True)


def _with(model: TrajectoryEBM, sampler: Sampler) -> TrajectoryEBM:
    twin = copy.copy(model)
    twin.sampler = sampler
    return twin


def sweep(
    recording: Recording,
    settings: Sequence[Setting],
    *,
    branches: Branches | None = None,
    split: Split = "validation",
    **options: Any,
) -> Sweep:
    """Score every setting on episodes of a split; `options` are those of `compare`. Raises what it raises."""
    models = {setting.name: setting.model for setting in settings}
    comparison = compare(recording, models, branches=branches, split=split, **options)
    return Sweep(comparison, list(settings), split)


def text_table(found: Sweep) -> str:
    """A row for each setting under the simulator's, gradients a frame first."""
    heads = [Column("Gradients", "a frame", lambda row: None, number), *found.columns]
    lines = [["", *(head.label for head in heads)], ["", *(head.note for head in heads)]]
    for row in found.comparison.rows:
        if row.kind == "simulator":
            lines.append([row.name, "–", *cells([row], heads[1:])[0]])
    for setting, row in found.rows:
        lines.append([row.name, number(setting.gradients_per_frame), *cells([row], heads[1:])[0]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (zip(line, widths, strict=True) for line in lines)
    )


def picture(found: Sweep, title: str) -> bytes:
    """PNG: one panel for each column over gradients a frame, a line for each solver, 95 % intervals.

    The dashed line is what a perfect model has. Values far off it leave the picture through an arrow.
    """
    heads = found.columns
    across = min(5 if len(heads) > 8 else 4, len(heads))
    down = -(-len(heads) // across)
    with style(LIGHT):
        figure = Figure(figsize=(2.75 * across, 2.3 * down + 0.7), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
        for ax, head in zip(axes, heads, strict=False):
            _panel(ax, found, head, LIGHT)
        for ax in axes[len(heads) :]:
            ax.set_visible(False)
        for ax in axes[len(heads) - across : len(heads)]:  # the lowest of each column
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("gradients a frame")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            *(handles, labels),
            loc="outside upper left",
            ncols=len(labels),
            title=title,
            title_fontproperties={"weight": "bold", "size": 11},
            alignment="left",
        )
        return save(figure, "png")


def _panel(ax: Axes, found: Sweep, head: Column, theme: Theme) -> None:
    lines = list(dict.fromkeys(setting.line for setting in found.settings))
    perfect = found.perfect(head)
    values = [head.value(row) for _, row in found.rows]
    known = [float(value) for value in values if _known(value)]
    of_time = "ms" in head.label and min(known, default=0) > 0
    low, high = (0.7 * min(known), 1.4 * max(known)) if of_time else _limits(known, perfect)
    for line, colour in zip(lines, (theme.energy, theme.baseline, *theme.others), strict=False):
        rows = [(setting, row) for setting, row in found.rows if setting.line == line]
        rows = sorted(rows, key=lambda pair: pair[0].gradients_per_frame)
        x = [setting.gradients_per_frame for setting, _ in rows]
        y = [float(value) if _known(value := head.value(row)) else math.nan for _, row in rows]
        alone = line == CONVERGED
        colour = theme.ink if alone else colour
        outside = 0
        ax.plot(
            *(x, y),
            color=colour,
            marker="D" if alone else "o",
            markersize=6.5 if alone else 4,
            markerfacecolor="none" if alone else colour,
            markeredgewidth=1.6 if alone else 1,
            linestyle="none" if alone else "-",
            linewidth=1.8,
            label=line,
            zorder=5 if alone else 4,
        )
        for at, value, (_, row) in zip(x, y, rows, strict=True):
            ends = None if head.interval is None else head.interval(row)
            if ends is not None:
                ax.plot([at, at], ends, color=colour, alpha=0.35, linewidth=2.2)
            if not low <= value <= high:
                edge, mark = (0.97, "^") if value > high else (0.03, "v")
                across = ax.get_xaxis_transform()  # x in data, y in shares of the panel
                ax.plot([at], [edge], mark, color=colour, markersize=5, transform=across, clip_on=False)
                ax.annotate(
                    *(head.text(value), (at, edge)),
                    xycoords=across,
                    # on the left, where no line comes in; one under the other
                    xytext=(-5, (-3 - 10 * outside) if value > high else (-3 + 10 * outside)),
                    ha="right",
                    textcoords="offset points",
                    fontsize=7.5,
                    color=colour,
                )
                outside += 1
    if perfect is not None:
        ax.axhline(perfect, color=theme.ink, linewidth=1.3, linestyle=(0, (5, 2)), zorder=3)
    ax.set_ylim(low, high)
    _gradient_axis(ax, [setting.gradients_per_frame for setting in found.settings])
    shown = 100 if "%" in head.label else 1
    if of_time:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{shown * value:g}"))
    ax.set_title(head.label)
    ax.set_title(head.note, loc="right", fontsize=8, fontweight="normal", color=theme.muted)


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _limits(values: list[float], perfect: float | None) -> tuple[float, float]:
    """Ends of the value axis: those of the better half of the values at least, never far beyond them."""
    aim = min(values, default=0.0) if perfect is None else perfect
    away = sorted(abs(value - aim) for value in values) or [1.0]
    reach = max(away[len(away) // 2] * FAR, 0.02 * abs(aim), 1e-9)
    kept = [aim, *(value for value in values if abs(value - aim) <= reach)]
    margin = 0.12 * (max(kept) - min(kept)) or 0.1 * abs(aim) or 0.1
    return min(kept) - margin, max(kept) + margin


def _gradient_axis(ax: Axes, gradients: list[float]) -> None:
    """Logarithmic, down to 0."""
    most, least = max(gradients), min(gradients)
    ax.set_xscale("symlog", base=2, linthresh=2, linscale=0.7)
    ax.set_xlim(-0.25 if least < 1 else 0.55 * least, 1.3 * max(most, 2))
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if tick <= 1.3 * most]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _plan(comparison: Comparison) -> Column:
    """The time of a plan, from the columns of cost."""
    return next(column for column in cost_columns(comparison) if column.label == "Plan, ms")
