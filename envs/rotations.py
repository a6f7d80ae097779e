"""Quaternions (w, x, y, z), always in the last axis and in any batch shape.

Sums are written out by component and in a fixed order: a batch then gives the same bits as its rows do one
by one, which the equality of the single and the vector environment rests on.
"""

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

TINY = 1e-12


def dot(a: Array, b: Array) -> Array:
    """Inner product over the last axis, of size three or four."""
    product = a * b
    total = product[..., 0] + product[..., 1] + product[..., 2]
    return total + product[..., 3] if product.shape[-1] == 4 else total


def multiply(a: Array, b: Array) -> Array:
    """The rotation `b` followed by `a` (Hamilton product)."""
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by + ay * bw + az * bx - ax * bz,
            aw * bz + az * bw + ax * by - ay * bx,
        ],
        axis=-1,
    )


def unit(vector: Array) -> Array:
    """One vector (n,) scaled to length one."""
    return vector / np.linalg.norm(vector)


def about_axis(angle: float, axis: ArrayLike) -> Array:
    """Quaternion (4,) of a turn by `angle` (radians) about `axis` (3,), of any length but zero."""
    direction = unit(np.asarray(axis, dtype=np.float64))
    return unit(np.concatenate([[np.cos(angle / 2.0)], np.sin(angle / 2.0) * direction]))


def from_euler(x: ArrayLike, y: ArrayLike, z: ArrayLike) -> Array:
    """Turns about x, then the turned y, then the turned z axis (radians), as one quaternion."""
    halves = [np.asarray(angle, dtype=np.float64) / 2 for angle in (x, y, z)]
    (cx, cy, cz), (sx, sy, sz) = [np.cos(h) for h in halves], [np.sin(h) for h in halves]
    cc, cs, sc, ss = cz * cx, cz * sx, sz * cx, sz * sx
    return np.stack([cy * cc - sy * ss, cy * cs + sy * sc, sy * cc - cy * ss, cy * sc + sy * cs], axis=-1)


def to_euler(quaternion: Array) -> tuple[Array, Array, Array]:
    """The three angles of `from_euler`; x is zero where y is at a right angle (gimbal lock)."""
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    scale = 2.0 / dot(quaternion, quaternion)
    m00, m01 = 1.0 - scale * (y * y + z * z), scale * (x * y - w * z)
    m10, m11 = scale * (x * y + w * z), 1.0 - scale * (x * x + z * z)
    m02, m12, m22 = scale * (x * z + w * y), scale * (y * z - w * x), 1.0 - scale * (x * x + y * y)
    cosine = np.sqrt(m22 * m22 + m12 * m12)
    regular = cosine > 4 * np.finfo(np.float64).eps
    return (
        np.where(regular, -np.arctan2(m12, m22), 0.0),
        np.arctan2(m02, cosine),
        np.where(regular, -np.arctan2(m01, m00), np.arctan2(m10, m11)),
    )


def to_matrix(quaternion: Array) -> Array:
    """Rotation matrices (..., 3, 3) of unit quaternions (..., 4)."""
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def to_rotation_vector(quaternion: Array) -> Array:
    """Axis times angle (..., 3), the angle from 0 to pi, of unit quaternions (..., 4)."""
    q = np.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    vector = q[..., 1:]
    length = np.sqrt(dot(vector, vector))[..., None]  # the sine of half the angle
    angle = 2 * np.arctan2(length, q[..., :1])
    return vector * np.where(length > TINY, angle / np.maximum(length, TINY), 2.0)


def _axis_aligned() -> Array:
    """(24, 4): every rotation that maps the axes of a cube onto themselves.

    The order is gymnasium-robotics', because resets draw a row number.
    """
    up, down = (0, 1, -1, 2), (2, -1, 1, 0)
    groups = (((0, 0), up), ((0, 1), up), ((0, -1), up), ((2, 0), down), ((1, 0), up), ((-1, 0), down))
    turns = [(*xy, z) for xy, order in groups for xy, z in itertools.product([xy], order)]
    return from_euler(*(np.array(turns, dtype=np.float64) * (np.pi / 2)).T)


AXIS_ALIGNED = _axis_aligned()
