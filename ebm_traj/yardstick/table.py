"""What a comparison found: rows of scores, as JSON and as a table for the terminal and the page."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_traj.atomic import replacing
from ebm_traj.spec import StateSpec


@dataclasses.dataclass
class Row:
    """One row of the table."""

    name: str
    kind: str
    """`simulator`, `persistence`, `shuffled`, or the kind of a model (`ebm`, `fc`, ...)."""
    scores: dict[str, Any]
    """Numbers, or dicts from a horizon to a number; None where a score does not apply."""
    curves: dict[str, list[float]]
    """Scores over predicted steps: `fd`, `spread` and, with branches, `energy_score` (ratio)."""
    card: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the model says of its own training."""
    conditioning: str = "states"
    fan: NDArray[np.float32] | None = None
    """(F, H, D) futures of the context that is drawn."""

    @property
    def budget(self) -> dict[str, Any]:
        """Iterations, seconds of training and parameters; None where nothing was trained."""
        return {key: self.card.get(key) for key in ("iterations", "train_seconds", "parameters")}


@dataclasses.dataclass
class Drawn:
    """The one context that the figures show."""

    context: NDArray[np.float32]
    """(C, D) frames already seen."""
    truth: NDArray[np.float32]
    """(H, D) what the simulator did next."""
    branches: NDArray[np.float32] | None
    """(K, H, D) what else it may do, if it could be re-run."""
    reason: str
    """Why this context, in words; the choice never looks at a model."""


@dataclasses.dataclass
class Comparison:
    """All rows, from the same contexts, the same number of rollouts, the same seed."""

    rows: list[Row]
    floor: dict[str, Any]
    """Scores of truth against other truth: `fd`, `fd_displacement`, `curve`."""
    n: int
    """Rollouts on each side of every Frechet distance."""
    steps: int
    """Predicted steps."""
    settings: dict[str, Any]
    """Everything else that decided the numbers."""
    spec: StateSpec
    env_id: str
    env_kwargs: dict[str, Any]
    drawn: Drawn

    @property
    def has_branches(self) -> bool:
        """Whether the simulator was re-run, so that there is a simulator row."""
        return any(row.kind == "simulator" for row in self.rows)

    @property
    def models(self) -> list[Row]:
        """The rows of trained models."""
        return [row for row in self.rows if row.kind not in ("simulator", "persistence", "shuffled")]

    @property
    def energy_row(self) -> Row:
        """The row in the foreground: the first energy model, or the first model."""
        return next((row for row in self.models if row.kind == "ebm"), self.models[0])

    @property
    def baseline_row(self) -> Row:
        """The row it is shown against: the first FC, or another model, or persistence."""
        others = [row for row in self.models if row is not self.energy_row]
        fc = [row for row in others if row.kind == "fc"]
        return (fc or others or [row for row in self.rows if row.kind == "persistence"])[0]

    @property
    def budgets_differ(self) -> bool:
        """Whether two models were trained for another number of iterations or seconds (more than 10 %)."""
        for key in ("iterations", "train_seconds"):
            values = [row.budget[key] for row in self.models]
            if None in values or max(values, default=0) > 1.1 * min(values, default=0):
                return len(values) > 1
        return False

    def to_json(self) -> dict[str, Any]:
        """The content of scores.json: finite numbers, or None."""
        rows = {
            row.name: {
                **row.scores,
                "curves": row.curves,
                "kind": row.kind,
                "conditioning": row.conditioning,
                "budget": row.budget,
            }
            for row in self.rows
        }
        return finite(
            {"rows": rows, "floor": self.floor, "n": self.n, "steps": self.steps, "settings": self.settings}
        )


def finite(value: Any) -> Any:
    """The same nest of dicts and lists with every number finite, or None in its place."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file that is seen whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_scores(comparison: Comparison, path: Path) -> None:
    """Write scores.json."""
    write_atomically(path, json.dumps(comparison.to_json(), indent=1, allow_nan=False) + "\n")


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


def _whole(value: Any) -> str:
    return f"{value:,.0f}"


def _from_one(value: Any) -> float:
    return abs(math.log(value)) if value > 0 else math.inf


def columns(comparison: Comparison) -> list[Column]:
    """The columns of scores that this comparison can fill."""
    floor = comparison.floor

    def score(name: str, key: str | None = None) -> Callable[[Row], Any]:
        def get(row: Row) -> Any:
            value = row.scores.get(name)
            return value.get(key) if key is not None and isinstance(value, dict) else value

        return get

    found = [Column("FD", f"low; floor {number(floor['fd'])}", score("fd"), number, float)]
    for k, value in floor["fd_displacement"].items():
        note = f"low; floor {number(value)}"
        found.append(Column(f"FD of Δ{k}", note, score("fd_displacement", k), number, float))
    if comparison.has_branches:
        for key, label in (("1", "ES at step 1"), ("mean", "ES mean")):
            found.append(Column(label, "1.00 is perfect", score("energy_score", key), _three, _from_one))
        found.append(Column("Diversity", "1.00 is right", score("diversity"), number, _from_one))
    else:
        found.append(Column("Spread", "0 is collapse", score("spread"), number))
    found.append(Column("Motion", "1.00 is right", score("motion"), number, _from_one))
    return found


def cost_columns(comparison: Comparison) -> list[Column]:
    """The columns of speed and of the budget of training."""
    steps = comparison.settings["speed_steps"]
    return [
        Column("Futures/s", f"of {steps} steps", lambda row: row.scores["futures_per_s"], _whole),
        Column("Plan, ms", f"64 futures of {steps} steps", lambda row: row.scores["plan_ms"], number),
        Column("Motion", "with the same sampler", lambda row: row.scores["motion"], number),
        Column("Iterations", "of training", lambda row: row.budget["iterations"], _whole),
        Column("Trained", "wall time", lambda row: row.budget["train_seconds"], seconds),
        Column("Parameters", "of the networks", lambda row: row.budget["parameters"], _whole),
    ]


def cells(rows: list[Row], heads: list[Column]) -> list[list[str]]:
    """Rows as text: one cell a column, `–` where nothing applies."""

    def text(column: Column, row: Row) -> str:
        value = column.value(row)
        return "–" if value is None else column.text(value)

    return [[text(column, row) for column in heads] for row in rows]


def text_table(comparison: Comparison) -> str:
    """Scores, and below them speed and budgets, for a terminal; numbers aligned to the right."""
    scores = _aligned(comparison.rows, columns(comparison))
    return scores + "\n\n" + _aligned(comparison.models, cost_columns(comparison))


def _aligned(rows: list[Row], heads: list[Column]) -> str:
    lines = [["", *(head.label for head in heads)], ["", *(head.note for head in heads)]]
    lines += [[row.name, *texts] for row, texts in zip(rows, cells(rows, heads), strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (zip(line, widths, strict=True) for line in lines)
    )
