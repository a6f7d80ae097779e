"""Rotations as a network can use them: quaternions (..., 4) in w, x, y, z, without a sign to choose."""

import functools
import itertools

import torch
from torch import Tensor

Terms = tuple[tuple[tuple[int, int, int], ...], ...]
MATRIX = 9
TURN = MATRIX + 3
DIRECTION = 4
QUARTIC = 15
LONGEST_TURN = 2.0  # of `turn_between`: by half a revolution
NEAR = 0.1  # radians at which the direction of a turn is seven tenths of its full length
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
PRODUCT_TERMS = (  # of p q
    ((1, W, W), (-1, X, X), (-1, Y, Y), (-1, Z, Z)),
    ((1, W, X), (1, X, W), (1, Y, Z), (-1, Z, Y)),
    ((1, W, Y), (-1, X, Z), (1, Y, W), (1, Z, X)),
    ((1, W, Z), (1, X, Y), (-1, Y, X), (1, Z, W)),
)
QUARTICS = tuple(itertools.combinations_with_replacement(range(3), 4))
QUARTIC_MEANS = tuple(  # over all rotations: 3/5 for i i i i, 1/5 for i i k k
    ((0.6 if i == k else 0.2) if (i, k) == (j, m) else 0.0) for i, j, k, m in QUARTICS
)
QUARTIC_SCALE = 3.0


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
def constant(terms: Terms | tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
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


def direction_features(features: Tensor) -> Tensor:
    """Of `turn_features` (..., 12): the axis (..., 3), shorter where little is left, and the angle."""
    vector = features[..., MATRIX:]
    angle = vector.norm(dim=-1, keepdim=True)
    return torch.cat([vector / (angle.square() + NEAR**2).sqrt(), angle], dim=-1)


def turn_between(start: Tensor, end: Tensor) -> Tensor:
    """The turn (..., 3) from `start` to `end` (..., 4): its axis times twice the sine of half its angle.

    In the axes of the world. A small turn's length is its angle in radians.
    """
    return 2 * between(start, end)[..., 1:]


def turned(start: Tensor, turn: Tensor, limit: Tensor | float = LONGEST_TURN) -> Tensor:
    """`start` (..., 4) after a turn (..., 3) of `turn_between`, which is shortened to the length `limit`."""
    length = turn.norm(dim=-1, keepdim=True).clamp_min(SMALLEST_SINE)
    half = 0.5 * turn * (limit / length).clamp_max(1)
    w = (1 - half.square().sum(-1, keepdim=True)).clamp_min(SMALLEST_SINE**2).sqrt()
    return bilinear(torch.cat([w, half], dim=-1), start, PRODUCT_TERMS)


def quartic_features(matrices: Tensor) -> Tensor:
    """Fifteen smooth numbers (..., 15) of rotation matrices (..., 9) that a cube's own rotations leave alone.

    They are the components of sum_k a_k (x) a_k (x) a_k (x) a_k over an object's axes a_k, centred and
    scaled: of a turn about a fixed axis, sine and cosine of four times the angle. A cube turned by a right
    angle meets the fingers as before, and what a network learns of it there it knows here; of other objects
    they are features like any other.
    """
    axes = matrices.unflatten(-1, (3, 3)).mT  # row: axis of the object, column: axis of the world
    products = (axes[..., :, None] * axes[..., None, :]).flatten(-2)  # (..., 3, 9)
    halves = products.reshape(-1, 9) @ quartic_halves(matrices.dtype, matrices.device)
    first, second = halves.view(*products.shape[:-1], 2 * QUARTIC).split(QUARTIC, dim=-1)
    sums = (first * second).sum(-2)
    return QUARTIC_SCALE * (sums - constant(QUARTIC_MEANS, matrices.dtype, matrices.device))


@functools.cache
@torch.inference_mode(False)
def quartic_halves(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(9, 30): picks the products of two that make the fifteen of four; first halves, then second."""
    picked = [3 * q[i] + q[i + 1] for i in (0, 2) for q in QUARTICS]
    return torch.eye(9, dtype=dtype, device=device)[:, picked].contiguous()
