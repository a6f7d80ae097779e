"""The scores of the yardstick, as pure functions of arrays.

Shapes: N rollouts or B contexts, M futures of a context, H steps, D dimensions. Callers pass z-scored
predicted dimensions (`normalise`); everything is computed in float64. A rollout that is not finite makes
the scores it enters infinite or NaN, never wrong.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ebm_traj.spec import SMALLEST_SCALE, StateSpec

Array = NDArray[np.float64]

DISPLACEMENT_STEPS = (1, 5, 25)
ENERGY_SCORE_STEPS = (1, 5, 20, 50, 96)
FIRST_STEPS = 25  # the near future, averaged by itself
OBJECT = "object"  # names of the dimensions of an object's pose begin with it
ROWS_AT_ONCE = 4096  # (context, step) pairs whose distance matrices are in memory together
STEPS_AT_ONCE = 8  # steps whose rollouts are centred together; bounds memory


def normalise(states: ArrayLike, spec: StateSpec) -> Array:
    """Z-scored predicted dimensions (..., P) of raw states (..., D); the spec must hold statistics."""
    assert spec.mean is not None and spec.std is not None
    dims = spec.predicted
    return (np.asarray(states, dtype=np.float64)[..., dims] - spec.mean[dims]) / spec.std[dims]


def _sqrt_psd(matrices: Array) -> Array:
    """Symmetric square roots (..., D, D) of symmetric positive semi-definite matrices."""
    values, vectors = np.linalg.eigh(matrices)
    roots = np.sqrt(np.maximum(values, 0))  # rounding may leave a zero eigenvalue slightly negative
    return (vectors * roots[..., None, :]) @ np.swapaxes(vectors, -1, -2)


def gaussian_frechet_distance(
    mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike
) -> Array:
    """Squared Frechet (2-Wasserstein) distance of Gaussians with means (..., D), covariances (..., D, D).

    |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), Dowson & Landau 1982. Infinite where an input is not
    finite.
    """
    mean_a, mean_b = np.asarray(mean_a, dtype=np.float64), np.asarray(mean_b, dtype=np.float64)
    cov_a, cov_b = np.asarray(cov_a, dtype=np.float64), np.asarray(cov_b, dtype=np.float64)
    finite = np.isfinite(mean_a).all(-1) & np.isfinite(mean_b).all(-1)
    finite &= np.isfinite(cov_a).all((-1, -2)) & np.isfinite(cov_b).all((-1, -2))
    safe_a = np.where(finite[..., None, None], cov_a, 0)
    safe_b = np.where(finite[..., None, None], cov_b, 0)
    root = _sqrt_psd(safe_a)
    cross = root @ safe_b @ root
    # tr sqrt(cross) needs its eigenvalues alone
    eigenvalues = np.linalg.eigvalsh((cross + np.swapaxes(cross, -1, -2)) / 2)
    trace_root = np.sqrt(np.maximum(eigenvalues, 0)).sum(-1)
    traces = np.trace(safe_a, axis1=-2, axis2=-1) + np.trace(safe_b, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        distance = ((mean_a - mean_b) ** 2).sum(-1) + traces - 2 * trace_root
    return np.where(finite, np.maximum(distance, 0), np.inf)


def _moments(samples: NDArray[Any], lag: int = 0, scale: ArrayLike = 1.0) -> tuple[Array, Array]:
    """Mean (H, D) and covariance (H, D, D) over the N rollouts of (N, H, D), a few steps at a time.

    With a `lag`, those of the displacement over so many steps, (N, H - lag, D), divided by `scale` (D,).
    """
    means, covariances = [], []
    with np.errstate(invalid="ignore", over="ignore"):
        for first in range(lag, samples.shape[1], STEPS_AT_ONCE):
            block = np.asarray(samples[:, first : first + STEPS_AT_ONCE], dtype=np.float64)
            if lag:
                block = (block - samples[:, first - lag : first - lag + block.shape[1]]) / scale
            mean = block.mean(0)
            centred = np.ascontiguousarray(np.swapaxes(block - mean, 0, 1))  # (steps, N, D)
            means.append(mean)
            covariances.append(np.swapaxes(centred, 1, 2) @ centred / (len(samples) - 1))
    return np.concatenate(means), np.concatenate(covariances)


def frechet_curve(rollouts: ArrayLike, truth: ArrayLike) -> Array:
    """Frechet distance at each step: rollouts (N, H, D), truth (N', H, D) -> (H,); N, N' >= 2.

    At each step a Gaussian of full covariance is fitted to each side. Its mean over the steps is "FD".
    It compares two clouds of states and asks nothing of a single prediction: truth in another order, or a
    frozen frame, may score well. It is biased upwards for small N, so read it beside the floor.
    """
    return gaussian_frechet_distance(*_moments(np.asarray(rollouts)), *_moments(np.asarray(truth)))


def displacements(trajectories: ArrayLike, k: int) -> Array:
    """s_{t+k} - s_t, (N, T - k, D), of trajectories (N, T, D)."""
    states = np.asarray(trajectories, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return states[:, k:] - states[:, :-k]


def displacement_scales(truth: ArrayLike, spec: StateSpec, steps: tuple[int, ...]) -> dict[int, Array]:
    """The unit (P,) in which the displacement over k steps is measured, for every k that fits.

    One step: the spec's `change_std` (training split), the unit in which models predict. More steps: the
    standard deviation of that displacement over all of `truth` (N, T, P, z-scored), so that every k weighs
    every dimension alike. The unit is truth's, hence the same for every row.
    """
    assert spec.change_std is not None and spec.std is not None
    length = np.shape(truth)[1]
    scales: dict[int, Array] = {}
    for k in steps:
        if k >= length:
            continue
        if k == 1:
            scale = (spec.change_std / spec.std)[spec.predicted]
        else:
            scale = displacements(truth, k).std((0, 1))
        scales[k] = np.where(scale > SMALLEST_SCALE, scale, 1.0)
    return scales


def displacement_frechet(rollouts: ArrayLike, truth: ArrayLike, scales: dict[int, Array]) -> dict[int, float]:
    """FD of the displacement over k steps, mean over t, for each k of `scales`.

    Both (N, T, D) begin with the last context frame, so that the step from the known to the predicted counts:
    a plausible future of another present does not pass.
    """
    sides = [np.asarray(rollouts), np.asarray(truth)]
    return {
        k: float(
            gaussian_frechet_distance(*_moments(sides[0], k, scale), *_moments(sides[1], k, scale)).mean()
        )
        for k, scale in scales.items()
    }


def _distances(a: ArrayLike, b: ArrayLike) -> Iterator[Array]:
    """|a_m - b_k|, (B', H, M, K) for some contexts at a time, of (B, M, H, D) and (B, K, H, D)."""
    left = torch.as_tensor(np.asarray(a, dtype=np.float64)).transpose(1, 2)
    right = torch.as_tensor(np.asarray(b, dtype=np.float64)).transpose(1, 2)
    contexts = max(1, ROWS_AT_ONCE // left.shape[1])
    for x, y in zip(left.split(contexts), right.split(contexts), strict=True):
        # one small distance matrix for each context and step; without matrix products, so that equal
        # futures have distance 0 to the last bit
        mode = "donot_use_mm_for_euclid_dist"
        yield torch.cdist(x.contiguous(), y.contiguous(), compute_mode=mode).numpy()


def spread(futures: ArrayLike) -> Array:
    """Mean Euclidean distance of two different futures of a context: (B, M, H, D) -> (B, H); 0 for M = 1."""
    size = np.shape(futures)[1]
    if size < 2:
        return np.zeros((np.shape(futures)[0], np.shape(futures)[2]))
    sums = [block.sum((2, 3)) for block in _distances(futures, futures)]
    return np.concatenate(sums) / (size * (size - 1))


def energy_score(futures: ArrayLike, branches: ArrayLike) -> Array:
    """Energy score of futures (B, M, H, D) against true branches (B, K, H, D), (B, H); lower is better.

    mean |x_m - y_k| - 1/2 mean |x_m - x_m'| over different m, m' (Gneiting & Raftery 2007). A proper score:
    no futures have a lower expectation than the branches' own distribution. Pairs of a future with itself
    are left out, so that its expectation does not depend on M.
    """
    return distances_to_branches(futures, branches)[0] - spread(futures) / 2


def distances_to_branches(futures: ArrayLike, branches: ArrayLike) -> tuple[Array, Array]:
    """Of futures (B, M, H, D) and branches (B, K, H, D): mean distance (B, H), and minADE (B,).

    minADE is the distance of the nearest of the M futures to a branch, a mean over steps, then over branches.
    It falls with M and rewards one good guess, not a right distribution.
    """
    means, nearest = [], []
    for block in _distances(futures, branches):
        means.append(block.mean((2, 3)))
        nearest.append(block.mean(1).min(1).mean(1))
    return np.concatenate(means), np.concatenate(nearest)


def horizons(values: Array) -> dict[str, Array]:
    """Values (B, H) at the steps that are scored, and their means over steps, each (B,)."""
    length = values.shape[1]
    found = {str(k): values[:, k - 1] for k in ENERGY_SCORE_STEPS if k <= length}
    if length >= FIRST_STEPS:
        found[f"mean_{FIRST_STEPS}"] = values[:, :FIRST_STEPS].mean(1)
    return found | {"mean": values.mean(1)}


def object_dims(spec: StateSpec) -> NDArray[np.intp]:
    """Which of the predicted dimensions (P,) are the pose of an object; none, or some."""
    return np.flatnonzero([spec.names[i].startswith(OBJECT) for i in spec.predicted])


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> float:
    """Mean of one over mean of the other; NaN if the latter is 0 (nothing to compare with)."""
    below = float(np.mean(np.asarray(denominator, dtype=np.float64)))
    return float(np.mean(np.asarray(numerator, dtype=np.float64))) / below if below > 0 else float("nan")


def motion(trajectories: ArrayLike, spec: StateSpec) -> float:
    """Mean |s_{t+1} - s_t| over rollouts, steps and dimensions of z-scored trajectories (N, T, P).

    Every dimension is measured in its own standard deviation of the one-step change (training split), so
    that slow dimensions count as much as fast ones. The first frame is the last of the context.
    """
    assert spec.change_std is not None and spec.std is not None
    scale = (spec.change_std / spec.std)[spec.predicted]
    moving = scale > 0  # a dimension that never changes says nothing of motion
    return float(np.abs(displacements(trajectories, 1)[..., moving] / scale[moving]).mean())


def motion_ratio(rollouts: ArrayLike, truth: ArrayLike, spec: StateSpec) -> float:
    """`motion` of the rollouts over truth's: 1 is right, 0 is frozen; NaN if truth stands still."""
    return ratio(motion(rollouts, spec), motion(truth, spec))
