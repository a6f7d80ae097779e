"""How well levels of a monitor tell faulty episodes from fault-free ones: ROC, delay, false alarms."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.errors import InputError
from ebm_traj.yardstick.intervals import interval

Array = NDArray[np.float64]


def levels_of(values: ArrayLike) -> Array:
    """Levels as an array; they may be infinite. Raises InputError for NaN, which is neither high nor low."""
    found = np.asarray(values, np.float64)
    if np.isnan(found).any():
        raise InputError(
            f"detection: {np.isnan(found).sum()} of {found.size} levels are NaN; accepted are numbers"
        )
    return found


def wins(faulty: ArrayLike, free: ArrayLike) -> Array:
    """(N, M): 1 where a faulty episode is above a fault-free one, 1/2 where they are equal.

    Here and below levels may be infinite, and InputError is raised for NaN.
    """
    above, below = levels_of(faulty)[:, None], levels_of(free)[None]
    return (above > below) + 0.5 * (above == below)


def auroc(faulty: ArrayLike, free: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a faulty episode is above a fault-free one."""
    return float(wins(faulty, free).mean())


def auroc_interval(faulty: ArrayLike, free: ArrayLike, counts: Array) -> tuple[float, float, float]:
    """AUROC of twins (N,), (N,), its 95 % bootstrap limits; `counts` (R, N) of `draw_counts` over pairs."""
    table = wins(faulty, free)
    resampled = np.einsum("rn,nm,rm->r", counts, table, counts) / table.size
    low, high = interval(resampled)
    return float(table.mean()), float(low), float(high)


def roc_curve(faulty: ArrayLike, free: ArrayLike) -> tuple[Array, Array]:
    """False and true alarm rates (n,), (n,) for all thresholds, from (0, 0) to (1, 1)."""
    faulty, free = levels_of(faulty), levels_of(free)
    edges = np.unique(np.concatenate([faulty, free]))[::-1]
    false = [(free >= edge).mean() for edge in edges]
    true = [(faulty >= edge).mean() for edge in edges]
    return np.array([0.0, *false]), np.array([0.0, *true])


def highest_after(levels: Array, at: ArrayLike, within: int) -> Array:
    """(N,) the highest of levels (N, T) in the `within` steps from step `at` (N,) on."""
    places = np.asarray(at)
    if np.any(places + within > levels.shape[1]):
        raise InputError(
            f"detection: {within} steps from step {places.max()} on; episodes have {levels.shape[1]}"
        )
    return levels[np.arange(len(levels))[:, None], places[:, None] + np.arange(within)].max(1)


@dataclasses.dataclass(frozen=True)
class Delays:
    """When alarms came."""

    early: float
    """Share of episodes with an alarm before the fault; the rest is of the others."""
    detected: float
    """Share with an alarm within the steps asked for."""
    in_time: float
    """Share with one within the whole time that was watched."""
    median: float
    """Steps from the fault to the alarm, 1 for the first; infinite unless more than half had one."""


def delays(levels: Array, at: ArrayLike, threshold: float, within: int, watched: int) -> Delays:
    """Alarms of levels (N, T) above a threshold, after faults at steps `at` (N,)."""
    places = np.asarray(at)
    alarm = levels_of(levels) > threshold
    before = np.array([alarm[n, :t].any() for n, t in enumerate(places)])
    first = np.full(len(levels), np.inf)
    for n, t in enumerate(places):
        found = np.flatnonzero(alarm[n, t : t + watched])
        if len(found):
            first[n] = found[0] + 1
    known = first[~before]
    if not len(known):
        return Delays(1.0, float("nan"), float("nan"), float("nan"))
    return Delays(
        float(before.mean()),
        float((known <= within).mean()),
        float(np.isfinite(known).mean()),
        float(np.median(known)),
    )
