"""Rotations as a network can use them: quaternions (..., 4) in w, x, y, z, without a sign to choose."""

import torch
from torch import Tensor

MATRIX = 9
TURN = MATRIX + 3
SMALLEST_SINE = 1e-7


def matrix(q: Tensor) -> Tensor:
    """Rotation matrices (..., 9), row by row, of unit quaternions (..., 4); the same for q and -q."""
    w, x, y, z = q.unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, dim=-1)


def between(start: Tensor, end: Tensor) -> Tensor:
    """The rotation (..., 4) that turns `start` to `end`, both (..., 4): end * conjugate(start), w >= 0."""
    aw, ax, ay, az = end.unbind(-1)
    bw, bx, by, bz = start.unbind(-1)
    turn = torch.stack(
        [
            aw * bw + ax * bx + ay * by + az * bz,
            ax * bw - aw * bx - ay * bz + az * by,
            ay * bw - aw * by - az * bx + ax * bz,
            az * bw - aw * bz - ax * by + ay * bx,
        ],
        dim=-1,
    )
    return torch.where(turn[..., :1] < 0, -turn, turn)


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
