"""Distances between two sets of feature vectors, float64: Frechet, kernel, precision and recall, coverage.

They are of any features: those of a small classifier of the project (say so) or of the Inception network.
"""

import dataclasses

import torch
from torch import Tensor

from ebm_traj.errors import InputError

CHUNK = 2000  # rows of a matrix of distances at a time
NEIGHBOURS = 3  # of precision and recall, as published
COVERAGE_NEIGHBOURS = 5  # of density and coverage, as published


def _pair(a: Tensor, b: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise InputError(f"features {tuple(a.shape)} and {tuple(b.shape)}; needed are (N, d) and (M, d)")
    if min(len(a), len(b)) < least:
        raise InputError(f"features of {len(a)} and {len(b)} pictures; needed are {least} and more of each")
    a, b = a.double(), b.double()
    if not (a.isfinite().all() and b.isfinite().all()):
        raise InputError("features: not all are finite; the samples have diverged")
    return a, b


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance (squared) of the Gaussians with the moments of a (N, d) and b (M, d).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Heusel et al. 2017), C with N - 1. With the triangular
    factors R of the centred sets, C = R'R and the trace of the root is the sum of the singular values of
    R_a R_b', exact for singular C too (fewer pictures than features, features that are never active).
    """
    a, b = _pair(a, b)
    means = [x.mean(0) for x in (a, b)]
    roots = [
        torch.linalg.qr((x - mean) / (len(x) - 1) ** 0.5, mode="r").R
        for x, mean in zip((a, b), means, strict=True)
    ]
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    spread = roots[0].square().sum() + roots[1].square().sum() - 2 * cross
    return max(0.0, float((means[0] - means[1]).square().sum() + spread))


def kernel_distance(
    a: Tensor, b: Tensor, *, subsets: int = 50, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID (Binkowski et al. 2018): squared MMD with kernel (x.y / d + 1)^3, mean and standard error.

    The unbiased estimate, so that it may be negative, over `subsets` random subsets of `size` pictures.
    """
    a, b = _pair(a, b)
    size = min(size, len(a), len(b))
    generator = torch.Generator().manual_seed(seed)
    dim, found = a.shape[1], []
    for _ in range(subsets):
        x = a[torch.randperm(len(a), generator=generator)[:size]]
        y = b[torch.randperm(len(b), generator=generator)[:size]]
        xx, yy, xy = ((left @ right.T / dim + 1) ** 3 for left, right in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        found.append(within - 2 * xy.mean())
    values = torch.stack(found)
    error = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return float(values.mean()), error


def nearest_distances(x: Tensor, k: int) -> Tensor:
    """(N,) distance of each row of x (N, d) to its k-th nearest other row."""
    if not 1 <= k < len(x):
        raise InputError(f"neighbours: the {k}-th of {len(x)} pictures; needed are more pictures")
    return torch.cat([torch.cdist(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(CHUNK)])


@dataclasses.dataclass(frozen=True)
class Manifolds:
    """How two sets cover each other, by balls around pictures that reach to the k-th nearest of their set."""

    precision: float
    """Share of samples inside a ball of the real set (Kynkaanniemi et al. 2019)."""
    recall: float
    """Share of real pictures inside a ball of the samples."""
    density: float
    """Mean number of real balls that a sample is in, over k (Naeem et al. 2020); 1 for the truth."""
    coverage: float
    """Share of real balls with a sample inside."""


def manifolds(
    real: Tensor, samples: Tensor, k: int = NEIGHBOURS, coverage_k: int = COVERAGE_NEIGHBOURS
) -> Manifolds:
    """Precision and recall with k neighbours, density and coverage with `coverage_k`."""
    real, samples = _pair(real, samples, max(k, coverage_k) + 1)
    real_radii, sample_radii = nearest_distances(real, k), nearest_distances(samples, k)
    wide_radii = nearest_distances(real, coverage_k)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    precise, inside = 0, 0
    for start in range(0, len(samples), CHUNK):
        distances = torch.cdist(samples[start : start + CHUNK], real)  # (n, M)
        precise += int((distances <= real_radii).any(1).sum())
        within = distances <= wide_radii
        inside += int(within.sum())
        covered |= within.any(0)
        recalled |= (distances <= sample_radii[start : start + CHUNK, None]).any(0)
    return Manifolds(
        precise / len(samples),
        float(recalled.double().mean()),
        inside / (coverage_k * len(samples)),
        float(covered.double().mean()),
    )


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp E_x KL(p(y|x) || p(y)) (Salimans et al. 2016) of all rows (N, K), and its deviation over splits."""
    p = probabilities.double()
    if p.ndim != 2 or len(p) < 2:
        raise InputError(f"probabilities {tuple(p.shape)}; needed are (N, classes) of 2 and more pictures")
    parts = p.chunk(min(splits, len(p) // 2)) if len(p) >= 4 else (p,)
    values = torch.tensor([_inception_score(part) for part in parts])
    return _inception_score(p), float(values.std()) if len(values) > 1 else float("nan")


def _inception_score(p: Tensor) -> float:
    kl = torch.special.xlogy(p, p).sum(1) - torch.special.xlogy(p, p.mean(0)).sum(1)
    return float(kl.mean().exp())
