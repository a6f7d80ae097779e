"""Sprites for composition: which factors there are, which combinations are held out, when one is read right.

Shapes are those of `ebm_traj.datasets.sprites`; sizes are three, places and rotations continuous. Two kinds
of combinations are never shown in training:
- *triples*: cells of shape x size x third of the picture across with (shape + size + third) divisible by 3.
  Every pair of these factors is seen, in two of three cells.
- a *pair*: hearts of the largest size, wherever they are.
"""

import dataclasses
import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.datasets.sprites import draw_sprites
from ebm_traj.errors import InputError

SIZES = (0.8, 1.1, 1.4)
"""Scales of the sprites; 1 is two fifths of the picture across."""
PLACES = (0.36, 0.64)
"""Of the centre, as shares of the side: nothing is cut off."""
SYMMETRY = (4, 2, 1)
"""By so many equal turns square, ellipse and heart come to look the same."""
SIZE_TOLERANCE = 0.25
"""Of the size in 0..1: the nearest of the three sizes is the right one."""
PLACE_TOLERANCE = 1.5 / 32
"""Of the place, as a share of the side, in each coordinate: three quarters of a pixel of 16."""
TURN_TOLERANCE = math.radians(15)
"""Of the rotation, modulo the shape's own symmetry."""

Kind = Literal["seen", "triple", "pair", "any"]
Array = NDArray[np.float64]


def third(x: ArrayLike) -> NDArray[np.int64]:
    """Which third of the range, 0 to 2, places in 0..1 lie in."""
    return np.clip((3 * np.asarray(x)).astype(np.int64), 0, 2)


def kind_of(factors: Array) -> NDArray[np.str_]:
    """(N,) `seen`, `triple` or `pair` for factors (N, 5)."""
    shape, size = factors[:, 0].astype(int), np.rint(2 * factors[:, 1]).astype(int)
    pair = (shape == 2) & (size == 2)
    triple = (shape + size + third(factors[:, 3])) % 3 == 0
    return np.where(pair, "pair", np.where(triple, "triple", "seen"))


def draw_factors(count: int, rng: np.random.Generator, kind: Kind = "any") -> Array:
    """Factors (N, 5) uniform over the combinations of one kind: shape 0..2, size 0, .5 or 1, rotation in
    radians, x and y in 0..1. Raises InputError on an unknown kind or a count below 1."""
    if kind not in get_args(Kind):
        raise InputError(f"combinations: '{kind}'; accepted are {', '.join(get_args(Kind))}")
    if count < 1:
        raise InputError(f"sprites: {count}; accepted are 1 and more")
    found: list[Array] = []
    while sum(map(len, found)) < count:
        shape, size = rng.integers(3, size=(2, 4 * count))
        turn, places = rng.uniform(0, 2 * math.pi, 4 * count), rng.uniform(0, 1, (4 * count, 2))
        some = np.column_stack([shape, size / 2, turn, places])
        found.append(some if kind == "any" else some[kind_of(some) == kind])
    return np.concatenate(found)[:count]


def draw_pictures(factors: Array, pixels: int = 16) -> NDArray[np.float32]:
    """Pictures (N, 1, pixels, pixels) in [-1, 1] of factors (N, 5) as `draw_factors` gives them."""
    raw = factors.copy()
    raw[:, 1] = SIZES[0] + (SIZES[-1] - SIZES[0]) * factors[:, 1]
    raw[:, 3:] = PLACES[0] + (PLACES[1] - PLACES[0]) * factors[:, 3:]
    drawn = draw_sprites(raw, pixels)
    return (drawn.transpose(0, 3, 1, 2).astype(np.float32) / 127.5) - 1


@dataclasses.dataclass(frozen=True)
class Right:
    """Which factors of each picture were read as asked, each (N,) bool."""

    shape: NDArray[np.bool_]
    size: NDArray[np.bool_]
    position: NDArray[np.bool_]
    rotation: NDArray[np.bool_]

    @property
    def all(self) -> NDArray[np.bool_]:
        """(N,) all four."""
        return self.shape & self.size & self.position & self.rotation

    def shares(self) -> dict[str, float]:
        """Of each factor, and of all together."""
        names = ("shape", "size", "position", "rotation", "all")
        return {name: float(getattr(self, name).mean()) for name in names}


def read_right(read: Array, asked: Array) -> Right:
    """Compare factors read (N, 5) with those asked for (N, 5), by the tolerances above."""
    shape = read[:, 0] == asked[:, 0]
    span = PLACES[1] - PLACES[0]
    off = np.abs(read[:, 3:] - asked[:, 3:]).max(1) * span
    period = 2 * math.pi / np.array(SYMMETRY)[asked[:, 0].astype(int)]
    turned = np.abs((read[:, 2] - asked[:, 2] + period / 2) % period - period / 2)
    return Right(
        shape,
        np.abs(read[:, 1] - asked[:, 1]) < SIZE_TOLERANCE,
        off <= PLACE_TOLERANCE,
        turned <= TURN_TOLERANCE,
    )
