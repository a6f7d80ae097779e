"""What a comparison found: rows of scores, and their file of JSON."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_traj.atomic import write_atomically
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
    """Scores over predicted steps: `fd`, `spread` and, with branches, ratios such as `energy_score`."""
    bands: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)
    """`low` and `high` ends of the 95 % intervals of curves that have them."""
    intervals: dict[str, Any] = dataclasses.field(default_factory=dict)
    """[low, high], 95 %, of scores that have them, in the same nest as `scores`."""
    differences: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)
    """[value, low, high] of a score less that of the energy row, paired over contexts, by horizon."""
    contexts: dict[str, dict[str, NDArray[np.float64]]] = dataclasses.field(default_factory=dict)
    """What the ratios are of, for each context (B,); not written anywhere."""
    card: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the model says of its own training."""
    conditioning: str = "states"
    fan: NDArray[np.float32] | None = None
    """(F, H, D) futures of the context that is drawn."""

    @property
    def budget(self) -> dict[str, Any]:
        """What training took; None where nothing was trained or the model does not say."""
        keys = ("iterations", "train_seconds", "parameters", "peak_memory_mb")
        found = {key: self.card.get(key) for key in keys}
        steps, seconds = found["iterations"], found["train_seconds"]
        return found | {"steps_per_s": steps / seconds if steps and seconds else None}


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
    """Scores of truth against other truth: `fd`, `fd_displacement`, `validity`, `curve`; and `ranks`, the
    interval of a perfect model's histogram."""
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
    def has_object(self) -> bool:
        """Whether an object's pose is scored by itself."""
        return any(row.scores["energy_score_object"] is not None for row in self.rows)

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
                "intervals": row.intervals,
                "differences": row.differences,
                "curves": row.curves,
                "bands": row.bands,
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


def write_scores(comparison: Comparison, path: Path) -> None:
    """Write scores.json."""
    write_atomically(path, json.dumps(comparison.to_json(), indent=1, allow_nan=False) + "\n")
