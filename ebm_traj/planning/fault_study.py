"""Monitors against each other on faulty episodes and their fault-free twins."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ebm_traj.core.checkpoint import without_nan
from ebm_traj.planning.detection import (
    Delays,
    auroc_interval,
    delays,
    highest_after,
    roc_curve,
)
from ebm_traj.planning.monitor import Monitor
from ebm_traj.spec import StateSpec
from ebm_traj.yardstick.intervals import draw_counts

Array = NDArray[np.float64]

BEFORE = 10  # steps before the fault that figures show
NO_EFFECT = 0.1  # of a standard deviation of a one-step change


class Recorded(Protocol):
    """Episodes: states (N, T + 1, D) and actions (N, T, A)."""

    @property
    def states(self) -> NDArray[np.float32]: ...

    @property
    def actions(self) -> NDArray[np.float32]: ...


@dataclasses.dataclass(frozen=True)
class Found:
    """What one monitor made of one fault."""

    auroc: tuple[float, float, float]
    """Within the window after the fault: value, low and high end of the 95 % interval."""
    delays: Delays
    roc: tuple[Array, Array]
    surprise: Array
    """(N, BEFORE + watched) surprise of the whole state around the fault; NaN before an episode's begin."""
    levels: Array
    """(N, BEFORE + watched) levels, in units of the threshold."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One monitor."""

    name: str
    false_alarms: float
    """Share of fault-free test episodes with an alarm."""
    found: dict[str, Found]
    """By fault; `none` is of the fault-free twins."""


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a fault does to the states within the window, against the fault-free twin."""

    position: float
    """Median over episodes of the farthest the object is from its twin, in the spec's units."""
    change: float
    """Median of the largest difference, in standard deviations of a one-step change."""
    nothing: float
    """Share of episodes in which that is below `NO_EFFECT`."""


@dataclasses.dataclass(frozen=True)
class Study:
    """All monitors, all faults."""

    rows: list[Row]
    effects: dict[str, Effect]
    within: int
    watched: int
    false_alarm_rate: float
    episodes: int

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, without the curves."""
        return {
            "within": self.within,
            "watched": self.watched,
            "false_alarm_rate": self.false_alarm_rate,
            "episodes": self.episodes,
            "effects": {name: dataclasses.asdict(effect) for name, effect in self.effects.items()},
            "methods": {
                row.name: {
                    "false_alarms": row.false_alarms,
                    "faults": {
                        name: {
                            "auroc": list(found.auroc),
                            **without_nan(dataclasses.asdict(found.delays)),
                        }
                        for name, found in row.found.items()
                    },
                }
                for row in self.rows
            },
        }


def study(
    monitors: Mapping[str, Monitor],
    free: Recorded,
    faulty: Mapping[str, Recorded],
    at: NDArray[np.int64],
    *,
    within: int,
    watched: int,
    false_alarm_rate: float,
    seed: int = 0,
    report: Callable[[int], None] = lambda steps: None,
) -> Study:
    """Score calibrated monitors on episodes (N) whose fault sets in at steps `at` (N,).

    AUROC is of the highest level in the `within` steps from the fault on, against that of the fault-free
    twins in the same steps. `report` is called with the number of episodes done.
    """
    counts = draw_counts(len(at), seed)
    rows = []
    for name, monitor in monitors.items():
        scores = monitor.scores(free.states, free.actions)
        base = monitor.accumulate(scores)
        report(len(at))
        threshold = monitor.calibration.threshold
        found = {"none": _found(monitor, scores, base, base, at, within, watched, counts)}
        for fault, episodes in faulty.items():
            new = monitor.scores(episodes.states, episodes.actions, at, at + watched)
            joined = np.where(np.arange(scores.shape[1])[:, None] < at[:, None, None], scores, new)
            levels = monitor.accumulate(joined)
            report(len(at))
            found[fault] = _found(monitor, joined, levels, base, at, within, watched, counts)
        rows.append(Row(name, float((base > threshold).any(1).mean()), found))
    first = next(iter(monitors.values()))
    effects = {
        name: effect_of(first.model.spec, free.states, episodes.states, at, within)
        for name, episodes in faulty.items()
    }
    return Study(rows, effects, within, watched, false_alarm_rate, len(at))


def _found(
    monitor: Monitor,
    scores: Array,
    levels: Array,
    base: Array,
    at: NDArray[np.int64],
    within: int,
    watched: int,
    counts: Array,
) -> Found:
    here, there = highest_after(levels, at, within), highest_after(base, at, within)
    around = at[:, None] + np.arange(-BEFORE, watched)
    rows = np.arange(len(at))[:, None]

    def about(values: Array) -> Array:
        """Of (N, T) what is around the faults; NaN before the episode's begin."""
        return np.where(around < 0, np.nan, values[rows, np.maximum(around, 0)])

    threshold = monitor.calibration.threshold
    return Found(
        auroc_interval(here, there, counts),
        delays(levels, at, threshold, within, watched),
        roc_curve(here, there),
        about(monitor.standard(scores)[..., 0]),
        about(levels) / max(threshold, 1e-9),
    )


def effect_of(
    spec: StateSpec,
    free: NDArray[np.float32],
    faulty: NDArray[np.float32],
    at: NDArray[np.int64],
    within: int,
) -> Effect:
    """How far states (N, T + 1, D) are from their twins' in the frames after `within` steps of a fault."""
    assert spec.change_std is not None
    rows, frames = np.arange(len(at))[:, None], at[:, None] + 1 + np.arange(within)
    apart = np.abs(faulty[rows, frames].astype(np.float64) - free[rows, frames])
    places = [i for i in spec.predicted if spec.kinds[i] == "position"]
    farthest = np.linalg.norm(apart[..., places], axis=-1).max(1)
    moving = spec.moving
    change = (apart[..., moving] / spec.change_std[moving]).max((1, 2))
    return Effect(float(np.median(farthest)), float(np.median(change)), float((change < NO_EFFECT).mean()))
