"""The scores of the yardstick, as pure functions of arrays.

Shapes: N rollouts or B contexts, M futures of a context, H steps, D dimensions. Callers pass z-scored
predicted dimensions (`normalise`); everything is computed in float64. A rollout that is not finite makes
the scores it enters infinite or NaN, never wrong.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ebm_traj.spec import SMALLEST_SCALE, StateSpec

Array = NDArray[np.float64]

DISPLACEMENT_STEPS = (1, 5, 25)
ENERGY_SCORE_STEPS = (1, 5, 20, 50, 96)
ROWS_AT_ONCE = 4096  # (context, step) pairs whose distance matrices are in memory together


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


def _moments(samples: Array) -> tuple[Array, Array]:
    """Mean (H, D) and covariance (H, D, D) over the N rollouts of (N, H, D)."""
    with np.errstate(invalid="ignore", over="ignore"):
        mean = samples.mean(0)
        centred = np.swapaxes(samples - mean, 0, 1)  # (H, N, D)
        return mean, np.swapaxes(centred, 1, 2) @ centred / (len(samples) - 1)


def frechet_curve(rollouts: ArrayLike, truth: ArrayLike) -> Array:
    """Frechet distance at each step: rollouts (N, H, D), truth (N', H, D) -> (H,); N, N' >= 2.

    At each step a Gaussian of full covariance is fitted to each side. Its mean over the steps is "FD".
    It compares two clouds of states and asks nothing of a single prediction: truth in another order, or a
    frozen frame, may score well. It is biased upwards for small N, so read it beside the floor.
    """
    return gaussian_frechet_distance(
        *_moments(np.asarray(rollouts, dtype=np.float64)), *_moments(np.asarray(truth, dtype=np.float64))
    )


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
    return {
        k: float(frechet_curve(displacements(rollouts, k) / s, displacements(truth, k) / s).mean())
        for k, s in scales.items()
    }


def _sum_of_distances(a: ArrayLike, b: ArrayLike) -> Array:
    """Sum over all m, k of |a_m - b_k| for (B, M, H, D) and (B, K, H, D) -> (B, H)."""
    # (B * H, M, D): one small distance matrix for each context and step
    left = torch.as_tensor(np.asarray(a, dtype=np.float64)).transpose(1, 2)
    right = torch.as_tensor(np.asarray(b, dtype=np.float64)).transpose(1, 2)
    blocks = zip(left.flatten(0, 1).split(ROWS_AT_ONCE), right.flatten(0, 1).split(ROWS_AT_ONCE), strict=True)
    # without matrix products: equal futures have distance 0 to the last bit
    mode = "donot_use_mm_for_euclid_dist"
    sums = [torch.cdist(x, y, compute_mode=mode).sum((1, 2)) for x, y in blocks]
    return torch.cat(sums).view(left.shape[:2]).numpy()


def spread(futures: ArrayLike) -> Array:
    """Mean Euclidean distance of two different futures of a context: (B, M, H, D) -> (B, H); 0 for M = 1."""
    size = np.shape(futures)[1]
    if size < 2:
        return np.zeros((np.shape(futures)[0], np.shape(futures)[2]))
    return _sum_of_distances(futures, futures) / (size * (size - 1))


def energy_score(futures: ArrayLike, branches: ArrayLike) -> Array:
    """Energy score of futures (B, M, H, D) against true branches (B, K, H, D), (B, H); lower is better.

    mean |x_m - y_k| - 1/2 mean |x_m - x_m'| over different m, m' (Gneiting & Raftery 2007). A proper score:
    no futures have a lower expectation than the branches' own distribution. Pairs of a future with itself
    are left out, so that its expectation does not depend on M.
    """
    pairs = np.shape(futures)[1] * np.shape(branches)[1]
    return _sum_of_distances(futures, branches) / pairs - spread(futures) / 2


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
