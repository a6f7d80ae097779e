"""Sampling-based optimisers of control knots: predictive sampling, MPPI and the cross-entropy method.

Each proposes candidates around a nominal plan and turns their costs into the next nominal. All work on N
plans at once, knots (N, K, A); the candidates of a plan are (N, M, K, A), the first of them the nominal.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Optimizer(Protocol):
    """What a planner asks of an optimiser."""

    def reset(self, plans: int, knots: int, size: int) -> None:
        """Begin with N = `plans` plans of K = `knots` knots of `size` numbers."""

    def spread(self, samples: int) -> Array:
        """Standard deviations of all candidates but the first; broadcasts to (N, M-1, K, A)."""

    def update(self, candidates: Array, costs: Array) -> Array:
        """The next nominal (N, K, A) from candidates (N, M, K, A) and their costs (N, M)."""


class PredictiveSampling:
    """Keep the best candidate (Howell et al. 2022, arXiv 2212.00541).

    Args:
        noise: standard deviations; candidates take them in turn, so that coarse and fine changes compete.
    """

    def __init__(self, noise: Sequence[float]):
        self.noise = np.asarray(noise, dtype=np.float64)

    def reset(self, plans: int, knots: int, size: int) -> None:
        """Nothing to remember."""

    def spread(self, samples: int) -> Array:
        """(M-1, 1, 1)."""
        return self.noise[np.arange(samples - 1) % len(self.noise), None, None]

    def update(self, candidates: Array, costs: Array) -> Array:
        """The candidate of least cost."""
        return candidates[np.arange(len(candidates)), costs.argmin(axis=1)]


class MPPI(PredictiveSampling):
    """Average the candidates, weighted by exp(-cost / temperature) (Williams et al. 2017, arXiv 1509.01149).

    Args:
        noise: as in `PredictiveSampling`.
        temperature: in units of the cost; towards 0 it becomes predictive sampling.
    """

    def __init__(self, noise: Sequence[float], temperature: float):
        super().__init__(noise)
        self.temperature = temperature

    def update(self, candidates: Array, costs: Array) -> Array:
        """The weighted mean."""
        weight = np.exp(-(costs - costs.min(axis=1, keepdims=True)) / self.temperature)
        weight /= weight.sum(axis=1, keepdims=True)
        return np.einsum("nm,nmka->nka", weight, candidates)


class CrossEntropy:
    """The cross-entropy method: mean and spread of the elites (Rubinstein 1999), kept between updates.

    Args:
        noise: lowest and highest standard deviation; the first plan is drawn with the highest.
        elites: candidates of least cost that the mean is taken over.
    """

    def __init__(self, noise: Sequence[float], elites: int):
        self.low, self.high = min(noise), max(noise)
        self.elites = elites

    def reset(self, plans: int, knots: int, size: int) -> None:
        """Start from the highest spread."""
        self._spread = np.full((plans, knots, size), self.high)

    def spread(self, samples: int) -> Array:
        """(N, 1, K, A)."""
        return self._spread[:, None]

    def update(self, candidates: Array, costs: Array) -> Array:
        """The mean of the elites."""
        best = np.argsort(costs, axis=1, kind="stable")[:, : self.elites]
        chosen = np.take_along_axis(candidates, best[..., None, None], axis=1)
        self._spread = np.clip(chosen.std(axis=1), self.low, self.high)
        return chosen.mean(axis=1)
