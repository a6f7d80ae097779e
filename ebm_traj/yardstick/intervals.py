"""95 % confidence intervals of ratios by bootstrap over contexts.

Percentile method (Efron & Tibshirani 1993). Contexts are the independent unit: futures and branches of one
context share its present. Every row is resampled alike, so that two rows can be compared context by context.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 1000
TAILS = (2.5, 97.5)  # percentiles
STREAM = 7  # keeps these draws apart from those of the models


def draw_counts(contexts: int, seed: int, resamples: int = RESAMPLES) -> Array:
    """How often each of B contexts is in each resample, (R, B); every row of counts sums to B."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, STREAM]))
    return rng.multinomial(contexts, np.full(contexts, 1 / contexts), resamples).astype(np.float64)


def resampled_ratio(numerator: Array, denominator: Array, counts: Array) -> Array:
    """Sum of one over sum of the other, resampled together: (B, ...), (B, ...), (R, B) -> (R, ...).

    NaN where the denominator is 0 or anything is not finite.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.tensordot(counts, numerator, 1) / np.tensordot(counts, denominator, 1)
    return np.where(np.isfinite(found), found, np.nan)


def interval(resampled: Array) -> Array:
    """The low and the high end, (2, ...), of resampled values (R, ...); NaN if one of them is NaN."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.percentile(resampled, TAILS, axis=0))


def ratio_interval(numerator: Array, denominator: Array, counts: Array) -> list[float]:
    """[low, high] of the ratio of sums over contexts (B,)."""
    return [float(end) for end in interval(resampled_ratio(numerator, denominator, counts))]


def ratio_difference(one: Array, other: Array, denominator: Array, counts: Array) -> list[float]:
    """[value, low, high] of `one`'s ratio less `other`'s, paired: the same contexts (B,) in each resample.

    An interval that leaves out 0 says that one of the two is ahead by more than chance.
    """
    return [
        float((one.sum() - other.sum()) / denominator.sum()) if denominator.sum() > 0 else float("nan"),
        *ratio_interval(one - other, denominator, counts),
    ]
