"""The columns of the comparison: which numbers are shown and how they are written; the table as text."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from ebm_traj.yardstick.scores import FIRST_STEPS
from ebm_traj.yardstick.table import Comparison, Row


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the table: where its number stands, how it is written, what is right."""

    label: str
    note: str
    """Shown under the label: which value is right."""
    value: Callable[[Row], Any]
    text: Callable[[Any], str]
    best: Callable[[Any], float] | None = None
    """Smaller is better, after this function; None if the column has no best."""
    interval: Callable[[Row], Any] | None = None
    """[low, high], 95 %, of the number; None if the column has none."""


def number(value: Any) -> str:
    """Three significant digits, no exponent for ordinary sizes."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return f"{value:,.{decimals}f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3f}"
    return f"{value:.1e}"


def seconds(value: Any) -> str:
    """A duration: `48 s`, `5 min`, `1.5 h`."""
    if value < 100:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


def _three(value: Any) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not finite"


def _signed(value: Any) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else "not finite"


def _percent(value: Any) -> str:
    return f"{100 * value:.2f}" if value < 0.1 else f"{100 * value:.1f}"


def _inside(value: Any) -> str:
    """An excess over an interval, `0.72 in` or `4.31 out`."""
    verdict = "in" if value <= 1 else "out"
    return f"{number(value)} {verdict}" if math.isfinite(value) else "not finite"


def _whole(value: Any) -> str:
    return f"{value:,.0f}"


def _from_one(value: Any) -> float:
    return abs(math.log(value)) if value > 0 else math.inf


PERFECT, RIGHT = "1.00 is perfect", "1.00 is right"
FIRST = f"mean_{FIRST_STEPS}"


def _read(name: str, key: str | None = None, where: str = "scores") -> Callable[[Row], Any]:
    """What a row has under a name, and a key of it; None if it has not."""

    def read(row: Row) -> Any:
        value = getattr(row, where).get(name)
        return value.get(key) if key is not None and isinstance(value, dict) else value

    return read


def _ratio(label: str, note: str, name: str, key: str | None = None) -> Column:
    """A ratio of which 1 is right, with its interval."""
    interval = _read(name, key, "intervals")
    return Column(label, note, _read(name, key), _three, _from_one, interval)


def columns(comparison: Comparison) -> list[Column]:
    """The columns that matter most, those that this comparison can fill."""
    floor = comparison.floor
    found = [Column("FD", f"low; floor {number(floor['fd'])}", _read("fd"), number, float)]
    if comparison.has_branches:
        for key, label in _horizons(comparison, ("1", FIRST, "mean")):
            found.append(_ratio(f"ES {label}", PERFECT, "energy_score", key))
        if comparison.has_object:
            found.append(_ratio("Pose ES mean", PERFECT, "energy_score_object", "mean"))
        found.append(_ratio("Diversity", RIGHT, "diversity"))
    else:
        found.append(Column("Spread", "0 is collapse", _read("spread"), number))
    found.append(Column("Motion", RIGHT, _read("motion"), number, _from_one))
    if comparison.has_branches:
        found.append(Column("Ranks", "flat up to 1", _read("ranks", "excess"), _inside, float))
    if floor["validity"] is not None:
        found.append(_share("Invalid, %", "invalid", floor))
    return found


def more_columns(comparison: Comparison) -> dict[str, list[Column]]:
    """The other columns, in groups by title."""
    floor = comparison.floor
    rollouts = []
    for k, value in floor["fd_displacement"].items():
        note = f"low; floor {number(value)}"
        rollouts.append(Column(f"FD of Δ{k}", note, _read("fd_displacement", k), number, float))
    if comparison.has_branches:
        rollouts.append(_ratio("minADE", "no goal; low", "min_ade"))
    if floor["validity"] is not None:
        for name, label in (
            ("joint_limits", "Joint limits, %"),
            ("quaternion", "Quaternion, %"),
            ("penetration", "Penetration, %"),
        ):
            rollouts.append(_share(label, name, floor))
    found = {"Rollouts": rollouts}
    if comparison.has_branches:
        found["Energy score by step"] = _by_step(comparison, "energy_score", ("1", FIRST, "mean"))
        if comparison.has_object:
            found["Energy score of the object's pose"] = _by_step(
                comparison, "energy_score_object", ("mean",)
            )
        at = [key for key in comparison.rows[0].scores["diversity_at"] if key != "mean"]
        found["Diversity by step"] = [
            _ratio(label, RIGHT, "diversity_at", key) for key, label in _horizons(comparison, at)
        ]
    return found


def _by_step(comparison: Comparison, name: str, shown: Sequence[str]) -> list[Column]:
    """An energy score at the horizons that are not in the main table, and how far it is from the front."""
    keys = [key for key in comparison.rows[0].scores[name] if key not in shown]
    found = [_ratio(label, PERFECT, name, key) for key, label in _horizons(comparison, keys)]
    for key, label in _horizons(comparison, ("1", FIRST, "mean")):
        value, interval = _difference(name, key)
        note = f"less {comparison.energy_row.name}'s"
        found.append(Column(f"Δ {label}", note, value, _signed, None, interval))
    return found


def _difference(name: str, key: str) -> tuple[Callable[[Row], Any], Callable[[Row], Any]]:
    read = _read(name, key, "differences")

    def part(which: slice) -> Callable[[Row], Any]:
        return lambda row: None if read(row) is None else read(row)[which]

    return (lambda row: None if read(row) is None else read(row)[0]), part(slice(1, 3))


def _horizons(comparison: Comparison, keys: Sequence[str]) -> list[tuple[str, str]]:
    """Keys of an energy score that this comparison has, and what they are called."""
    known = comparison.rows[0].scores["energy_score"]
    names = {FIRST: f"mean of {FIRST_STEPS}", "mean": "mean"}
    return [(key, names.get(key, f"step {key}")) for key in keys if key in known]


def _share(label: str, name: str, floor: dict[str, Any]) -> Column:
    note = f"low; truth {_percent(floor['validity'][name])}"
    return Column(label, note, _read("validity", name), _percent, float)


def cost_columns(comparison: Comparison) -> list[Column]:
    """The columns of speed and of the budget of training."""
    steps = comparison.settings["speed_steps"]
    found = [
        Column("Futures/s", f"of {steps} steps", _read("futures_per_s"), _whole),
        Column("Plan, ms", f"64 futures of {steps} steps", _read("plan_ms"), number),
        Column("Motion", "with the same sampler", _read("motion"), number),
        Column("Iterations", "of training", _read("iterations", where="budget"), _whole),
        Column("Trained", "wall time", _read("train_seconds", where="budget"), seconds),
        Column("Iterations/s", "in training", _read("steps_per_s", where="budget"), number),
        Column("Memory, MB", "peak of training", _read("peak_memory_mb", where="budget"), _whole),
        Column("Parameters", "of the networks", _read("parameters", where="budget"), _whole),
    ]
    known = ("Iterations/s", "Memory, MB")  # shown if a model says them
    return [
        column
        for column in found
        if column.label not in known or any(column.value(row) is not None for row in comparison.models)
    ]


def cells(rows: list[Row], heads: list[Column]) -> list[list[str]]:
    """Rows as text: one cell a column, `–` where nothing applies, half an interval after `±`."""

    def text(column: Column, row: Row) -> str:
        value = column.value(row)
        if value is None:
            return "–"
        ends = None if column.interval is None else column.interval(row)
        return column.text(value) + ("" if ends is None else margin(*ends))

    return [[text(column, row) for column in heads] for row in rows]


def margin(low: float, high: float) -> str:
    """Half the width of an interval, ` ±.004`; nothing if it is none or not known."""
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return ""
    return " ±" + (f"{half:.1f}" if half >= 10 else f"{half:.3f}".removeprefix("0"))


def text_table(comparison: Comparison) -> str:
    """Scores, below them what else was measured, speed and budgets, for a terminal."""
    blocks = [_aligned(comparison.rows, columns(comparison))]
    for title, heads in more_columns(comparison).items():
        blocks.append(_aligned(filled(comparison.rows, heads), heads, title))
    blocks.append(_aligned(comparison.models, cost_columns(comparison), "Speed and training"))
    return "\n\n".join(blocks)


def filled(rows: list[Row], heads: list[Column]) -> list[Row]:
    """Rows that have anything in these columns."""
    return [row for row in rows if any(column.value(row) is not None for column in heads)]


def _aligned(rows: list[Row], heads: list[Column], title: str = "") -> str:
    """A table with numbers aligned to the right."""
    lines = [[title, *(head.label for head in heads)], ["", *(head.note for head in heads)]]
    lines += [[row.name, *texts] for row, texts in zip(rows, cells(rows, heads), strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (zip(line, widths, strict=True) for line in lines)
    )
