"""Rank histograms of many dimensions: is truth an ordinary member among a context's futures?

Of one branch and the M futures of its context, each gets its mean distance to all the others as pre-rank, and
the branch's rank among the M + 1 is taken, ties broken at random (average-distance pre-rank; Gneiting et al.
2008, Thorarinsdottir, Scheuerer & Heinz 2016). If branch and futures come from one distribution this rank is
exactly uniform, whatever the distribution. Truth that lies too far inside, as among futures that are too
wide, has low ranks; truth outside, as with futures that are too narrow or beside it, has high ranks.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

BINS = 10
RESOLUTION = 0.1  # of the standard deviation of a one-step change
TIE = 1e-10  # relative; beyond the rounding of a sum of distances
SIMULTANEOUS = 95.0  # percent of perfect models that are inside at every bin and step at once


def ranks(futures: ArrayLike, branches: ArrayLike, rng: np.random.Generator) -> Array:
    """Rank of each branch among futures (B, M, P) and itself: branches (B, K, P) -> (B, K) in [0, 1).

    Spread evenly within the 1 / (M + 1) of a rank, so that any M falls into any bins alike. NaN for what is
    not finite. With M = 1 both have the same distance, so that it says nothing.
    """
    x = torch.as_tensor(np.asarray(futures, dtype=np.float64))
    y = torch.as_tensor(np.asarray(branches, dtype=np.float64))
    # without matrix products: equal states have distance 0 to the last bit
    mode = "donot_use_mm_for_euclid_dist"
    cross = torch.cdist(x, y, compute_mode=mode).numpy()  # (B, M, K)
    inner = torch.cdist(x, x, compute_mode=mode).numpy().sum(2)  # (B, M)
    of_branch = cross.sum(1)  # (B, K), M times the mean; so is of_future
    tie = TIE * of_branch
    with np.errstate(invalid="ignore"):
        of_future = inner[:, :, None] + cross - of_branch[:, None]
        below = (of_future < -tie[:, None]).sum(1)
        tied = (np.abs(of_future) <= tie[:, None]).sum(1)
    found = (below + rng.random(below.shape) * (tied + 1)) / (x.shape[1] + 1)
    return np.where(np.isfinite(of_branch + inner.sum(1, keepdims=True)), found, np.nan)


def histogram(values: Array) -> Array:
    """Share of each context's ranks (B, K) in each of the bins of equal width, (B, BINS); NaN with a NaN."""
    edges = np.minimum((np.nan_to_num(values) * BINS).astype(int), BINS - 1)
    shares = (edges[:, :, None] == np.arange(BINS)).mean(1)
    return np.where(np.isfinite(values.sum(1, keepdims=True)), shares, np.nan)


@dataclasses.dataclass
class RankJudge:
    """Judges rank histograms at some steps by the interval in which a perfect model's would lie."""

    reference: Array
    """(B, K, H, P) true branches."""
    steps: list[int]
    """Predicted steps, from 1, at which ranks are taken."""
    seed: int
    blur: Array | float = 0.0
    """(P,) standard deviation of noise put on branches and futures alike, the resolution. Where behaviour may
    be free of noise many branches are the same state to the bit, and without it no density could pass
    however narrow. A perfect model's ranks stay exactly uniform."""

    def histograms(self, futures: Array) -> Array:
        """Shares (steps, B, BINS) of futures (B, M, H, P); noise and ties are the same for every row."""
        found = []
        for step in self.steps:
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
            blurred = [
                states[:, :, step - 1] + self.blur * rng.standard_normal(states[:, :, step - 1].shape)
                for states in (self.reference, futures)
            ]
            found.append(histogram(ranks(blurred[1], blurred[0], rng)))
        return np.stack(found)

    def calibrate(self, perfect: Array, counts: Array) -> None:
        """Set the interval by other branches (B, M, H, P) in a model's place, resampled by counts (R, B).

        Half widths are simultaneous over bins and steps: a perfect model is inside everywhere in 95 of 100
        cases (largest studentised deviation), not in 95 of 100 bins. A bin's error is pooled over steps:
        estimated at each by itself, the noise of the smallest of them would decide.

        Errors come from the contexts, so it takes many: of perfect models 6 in 100 were outside with 32
        contexts of 16 branches, 31 in 100 with 8 of 8.
        """
        shares = self.histograms(perfect)  # (steps, B, BINS)
        deviation = np.tensordot(counts, shares, (1, 1)) / shares.shape[1] - shares.mean(1)
        error = np.maximum(np.sqrt(deviation.var(0).mean(0)), 1e-9)  # (BINS,)
        largest = np.abs(deviation / error).max((1, 2))
        self.half_width = np.percentile(largest, SIMULTANEOUS) * np.broadcast_to(error, deviation.shape[1:])

    def interval(self) -> dict[str, dict[str, list[float]]]:
        """`low` and `high` of every bin at each step."""
        return {
            str(step): {
                "low": np.maximum(1 / BINS - half, 0).tolist(),
                "high": (1 / BINS + half).tolist(),
            }
            for step, half in zip(self.steps, self.half_width, strict=True)
        }

    def row(self, futures: Array) -> dict[str, Any]:
        """Histogram at each step, and in one number how far the worst bin is off.

        `excess` is the largest deviation from flat over the interval's half width: inside up to 1. The
        reliability index is the sum of the deviations (Delle Monache et al. 2006).
        """
        shares = self.histograms(futures).mean(1)  # (steps, BINS)
        deviation = np.abs(shares - 1 / BINS)
        excess = np.where(np.isfinite(shares), deviation / self.half_width, np.inf)
        at = {
            str(step): {
                "histogram": shares[i].tolist(),
                "reliability_index": float(deviation[i].sum()),
                "excess": float(excess[i].max()),
                "inside": bool(excess[i].max() <= 1),
            }
            for i, step in enumerate(self.steps)
        }
        return {"excess": float(excess.max()), "inside": bool(excess.max() <= 1), "at": at}
