"""A procedural set in the manner of dSprites (Matthey et al. 2017): one white shape on black.

Factors of a picture: shape, scale, rotation, x and y, each drawn on its own.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.datasets.picture_source import Pixels
from ebm_traj.errors import InputError

SHAPES = ("square", "ellipse", "heart")
FACTORS = ("shape", "scale", "rotation", "x", "y")
SCALES = (0.5, 1.0)
"""Size of the shape; 1 is two fifths of the picture across, about."""
PLACES = (0.25, 0.75)
"""Of the centre, as a share of the side, from the left and from the top."""
RADIUS = 0.2  # of a shape of scale 1, as a share of the side of the picture
REACH = 1.3  # times it, no point of a shape lies farther from its centre
SAMPLES = 4  # a side, of a pixel, for anti-aliasing
CHUNK = 256

Array = NDArray[np.float64]
Floats = NDArray[np.float32]


def sprites(
    count: int,
    seed: int,
    size: int = 32,
    shapes: Sequence[str] = SHAPES,
    scales: tuple[float, float] = SCALES,
    rotations: tuple[float, float] = (0.0, 2 * math.pi),
    places: tuple[float, float] = PLACES,
) -> tuple[Pixels, Array, tuple[str, ...]]:
    """Pictures (N, size, size, 1), factors (N, 5) drawn uniformly from their ranges, and their names.

    The first factor is the number of the shape in `SHAPES`, rotation is in radians, x and y are shares of the
    side. Raises InputError on an unknown shape or an empty range.
    """
    factors = draw_factors(count, seed, shapes, scales, rotations, places)
    return draw_sprites(factors, size), factors, FACTORS


def draw_factors(
    count: int,
    seed: int,
    shapes: Sequence[str] = SHAPES,
    scales: tuple[float, float] = SCALES,
    rotations: tuple[float, float] = (0.0, 2 * math.pi),
    places: tuple[float, float] = PLACES,
) -> Array:
    """Factors (N, 5) of `sprites`, without the pictures."""
    if count < 1:
        raise InputError(f"sprites: {count} pictures; accepted are 1 and more")
    unknown = [shape for shape in shapes if shape not in SHAPES]
    if unknown or not shapes:
        raise InputError(f"sprites: shapes {', '.join(shapes)}; accepted are {', '.join(SHAPES)}")
    for name, (low, high) in (("scales", scales), ("rotations", rotations), ("places", places)):
        if not low <= high:
            raise InputError(f"sprites: {name} from {low:g} to {high:g}")
    rng = np.random.default_rng(seed)
    codes = np.array([SHAPES.index(shape) for shape in shapes])
    columns = [codes[rng.integers(len(codes), size=count)], rng.uniform(*scales, count)]
    columns += [rng.uniform(*rotations, count), rng.uniform(*places, count), rng.uniform(*places, count)]
    return np.stack(columns, 1).astype(np.float64)


def draw_sprites(factors: ArrayLike, size: int = 32) -> Pixels:
    """Pictures (N, size, size, 1) of given factors (N, 5)."""
    values = np.asarray(factors, np.float64)
    if values.ndim != 2 or values.shape[1] != len(FACTORS) or not np.isfinite(values).all():
        raise InputError(f"sprites: factors {values.shape}; needed is (N, 5): {', '.join(FACTORS)}")
    if size < 8:
        raise InputError(f"sprites: size {size}; accepted are 8 pixels and more")
    if not np.isin(values[:, 0], range(len(SHAPES))).all() or (values[:, 1] <= 0).any():
        raise InputError(f"sprites: shapes are 0 to {len(SHAPES) - 1} and scales above 0")
    out = np.zeros((len(values), size, size, 1), np.uint8)
    order = np.argsort(values[:, 1], kind="stable")  # like sizes together: one patch serves a chunk
    for start in range(0, len(values), CHUNK):
        rows = order[start : start + CHUNK]
        _draw(out, rows, values[rows], size)
    return out


def _draw(out: Pixels, rows: NDArray[np.intp], values: Array, size: int) -> None:
    """Draw some sprites into `out`, looking only at the patch of pixels around each."""
    side = min(size, math.ceil(2 * REACH * RADIUS * values[:, 1].max() * size) + 2)
    corner = np.floor(values[:, 3:5] * size - side / 2).astype(np.int64).clip(0, size - side)
    offsets = ((np.arange(side * SAMPLES) + 0.5) / SAMPLES).astype(np.float32)
    inside = np.empty((len(rows), side * SAMPLES, side * SAMPLES), bool)
    for code, test in enumerate((_square, _ellipse, _heart)):
        some = np.flatnonzero(values[:, 0] == code)
        if not len(some):
            continue
        unit = (RADIUS * size * values[some, 1]).astype(np.float32)[:, None, None]
        turn = values[some, 2].astype(np.float32)[:, None, None]
        centre = (values[some, 3:5] * size - corner[some]).astype(np.float32)[:, :, None, None]
        right, down = offsets[None, None, :] - centre[:, 0], offsets[None, :, None] - centre[:, 1]
        cos, sin = np.cos(turn) / unit, np.sin(turn) / unit
        inside[some] = test(cos * right + sin * down, cos * down - sin * right)
    grey = np.rint(255 * inside.reshape(len(rows), side, SAMPLES, side, SAMPLES).mean((2, 4)))
    across = np.arange(side)
    at = (corner[:, 1, None, None] + across[:, None], corner[:, 0, None, None] + across)
    out[rows[:, None, None], at[0], at[1], 0] = grey


def _square(u: Floats, v: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.maximum(np.abs(u), np.abs(v)) <= 0.9)


def _ellipse(u: Floats, v: Floats) -> NDArray[np.bool_]:
    return np.asarray((u / 1.25) ** 2 + (v / 0.7) ** 2 <= 1)


def _heart(u: Floats, v: Floats) -> NDArray[np.bool_]:
    """The sextic (x^2 + y^2 - 1)^3 = x^2 y^3, point down."""
    a, b = 1.1 * u, -1.1 * v + 0.1
    return np.asarray((a**2 + b**2 - 1) ** 3 - a**2 * b**3 <= 0)
