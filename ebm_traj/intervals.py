"""95 % intervals of shares, of differences between them, and of anything resampled."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebm_traj.errors import InputError

Array = NDArray[np.float64]
Z_95 = 1.959964
"""97.5 % point of the normal distribution."""
RESAMPLES = 2000
TAILS = (2.5, 97.5)


class Interval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(count: float, of: int) -> Interval:
    """A share and its Wilson interval (1927), which is sound near 0 and 1, too; NaN of none.

    `count` may be a fraction where each of the `of` cases is itself a mean.
    """
    if of == 0:
        return Interval(math.nan, math.nan, math.nan)
    share = count / of
    centre = (share + Z_95**2 / (2 * of)) / (1 + Z_95**2 / of)
    half = Z_95 / (1 + Z_95**2 / of) * math.sqrt(share * (1 - share) / of + Z_95**2 / (4 * of**2))
    return Interval(
        share, max(0.0, centre - half) if count else 0.0, min(1.0, centre + half) if count < of else 1.0
    )


def difference(one: Interval, other: Interval) -> Interval:
    """One share less an independent other, from their Wilson intervals (Newcombe 1998, method 10)."""
    low = math.hypot(one.value - one.low, other.high - other.value)
    high = math.hypot(one.high - one.value, other.value - other.low)
    found = one.value - other.value
    return Interval(found, found - low, found + high)


def bootstrap(
    statistic: Callable[..., float], *samples: Sequence[float], seed: int = 0, paired: bool = False
) -> Interval:
    """`statistic(*samples)` with its percentile interval (Efron & Tibshirani 1993).

    Independent samples are resampled apart, `paired` ones of one length alike. NaN where one is empty.
    Raises InputError for paired ones of different lengths.
    """
    arrays = [np.asarray(sample, float) for sample in samples]
    lengths = [len(array) for array in arrays]
    if paired and len(set(lengths)) > 1:
        raise InputError(f"bootstrap: paired samples of {lengths} values; accepted are samples of one length")
    if any(not len(array) for array in arrays):
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        if paired:
            rows = rng.integers(len(arrays[0]), size=len(arrays[0]))
            drawn = [array[rows] for array in arrays]
        else:
            drawn = [array[rng.integers(len(array), size=len(array))] for array in arrays]
        found.append(statistic(*drawn))
    low, high = np.percentile(found, TAILS)
    return Interval(float(statistic(*arrays)), float(low), float(high))


def mean_with_t(values: Sequence[float]) -> Interval:
    """The mean of a few values with Student's interval; NaN bounds of one value."""
    from scipy.stats import t  # comes with scikit-learn

    array = np.asarray(values, float)
    if len(array) < 2:
        return Interval(float(array.mean()) if len(array) else math.nan, math.nan, math.nan)
    half = float(t.ppf(0.975, len(array) - 1)) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Interval(float(array.mean()), float(array.mean()) - half, float(array.mean()) + half)
