"""Rotations as a network can use them: quaternions (..., 4) in w, x, y, z, without a sign to choose."""

import functools

import torch
from torch import Tensor

Terms = tuple[tuple[tuple[int, int, int], ...], ...]
MATRIX = 9
TURN = MATRIX + 3
SMALLEST_SINE = 1e-7
IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)


# Products of two quaternions are linear in the 16 products of their numbers: one matrix product in place of
# some thirty small operations, which were most of what the features of a frame cost.
W, X, Y, Z = range(4)
MATRIX_TERMS = (  # of R - 1, row by row: (factor, i, j) stands for factor * q_i q_j
    ((-2, Y, Y), (-2, Z, Z)), ((2, X, Y), (-2, W, Z)), ((2, X, Z), (2, W, Y)),
    ((2, X, Y), (2, W, Z)), ((-2, X, X), (-2, Z, Z)), ((2, Y, Z), (-2, W, X)),
    ((2, X, Z), (-2, W, Y)), ((2, Y, Z), (2, W, X)), ((-2, X, X), (-2, Y, Y)),
)  # fmt: skip
BETWEEN_TERMS = (  # of end * conjugate(start): factor * end_i start_j
    ((1, W, W), (1, X, X), (1, Y, Y), (1, Z, Z)),
    ((1, X, W), (-1, W, X), (-1, Y, Z), (1, Z, Y)),
    ((1, Y, W), (-1, W, Y), (-1, Z, X), (1, X, Z)),
    ((1, Z, W), (-1, W, Z), (-1, X, Y), (1, Y, X)),
)


def matrix(q: Tensor) -> Tensor:
    """Rotation matrices (..., 9), row by row, of unit quaternions (..., 4); the same for q and -q."""
    return bilinear(q, q, MATRIX_TERMS) + constant(IDENTITY, q.dtype, q.device)


def between(start: Tensor, end: Tensor) -> Tensor:
    """The rotation (..., 4) that turns `start` to `end`, both (..., 4): end * conjugate(start), w >= 0."""
    turn = bilinear(end, start, BETWEEN_TERMS)
    return torch.where(turn[..., :1] < 0, -turn, turn)


def bilinear(p: Tensor, q: Tensor, terms: Terms) -> Tensor:
    """(..., k): the k sums of factor * p_i q_j that `terms` lists."""
    products = (p[..., :, None] * q[..., None, :]).flatten(-2)
    return products @ constant(terms, p.dtype, p.device)


@functools.cache
@torch.inference_mode(False)  # a caller's mode must not stick to what is kept
def constant(terms: Terms | tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(16, k) of terms, or (k,) of plain numbers, made once for each type and device."""
    if not isinstance(terms[0], tuple):
        return torch.tensor(terms, dtype=dtype, device=device)
    table = torch.zeros(16, len(terms), dtype=dtype)
    for column, sums in enumerate(terms):
        for factor, i, j in sums:
            table[4 * i + j, column] = factor
    return table.to(device)


def rotation_vector(q: Tensor) -> Tensor:
    """Axis times angle (..., 3), radians in [0, pi], of unit quaternions (..., 4)."""
    q = torch.where(q[..., :1] < 0, -q, q)
    sine = q[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, q[..., :1])
    return q[..., 1:] * (angle / sine.clamp_min(SMALLEST_SINE))


def turn_features(start: Tensor, end: Tensor) -> Tensor:
    """The rotation from start to end (..., 12), as a matrix and as axis times angle."""
    turn = between(start, end)
    return torch.cat([matrix(turn), rotation_vector(turn)], dim=-1)
