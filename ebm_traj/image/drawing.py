"""Pictures as they are printed: ink on paper, in rows and columns, with a few words beside them."""

import dataclasses
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.image.pictures import to_uint8
from ebm_traj.theme import LIGHT, Theme, save, style

Bytes = NDArray[np.uint8]

DOTS = 160  # per inch, as `theme.save` writes PNGs
SIDE, GAP = 0.56, 0.05
"""Inches of a small picture and of the space after it."""


def rgb(colour: str) -> NDArray[np.float64]:
    """#rrggbb to (3,) in 0 to 1."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def as_bytes(colour: str) -> Bytes:
    """#rrggbb to (3,) bytes."""
    return np.round(255 * rgb(colour)).astype(np.uint8)


def inked(x: Tensor, tinted: NDArray[np.bool_] | None = None, theme: Theme = LIGHT) -> Bytes:
    """Pictures (N, C, H, W) in [-1, 1] as they are printed, (N, H, W, 3).

    Pictures of one channel, bright on black, become ink on paper; where `tinted` (N or 1, H, W) they are in
    the model's colour on a tinted ground. Pictures in colour stay as they are.
    """
    pixels = to_uint8(x)
    if pixels.shape[-1] == 3:
        return pixels
    strength = pixels / 255.0
    page, ink = rgb(theme.page), rgb(theme.ink)
    printed = page + strength * (ink - page)
    if tinted is not None:
        colour = rgb(theme.energy)
        ground = page + 0.10 * (colour - page)
        there = np.broadcast_to(tinted[..., None], printed.shape)
        printed = np.where(there, ground + strength * (colour - ground), printed)
    return np.round(255 * printed).astype(np.uint8)


def tiles(pictures: Bytes, columns: int, gap: int = 2, theme: Theme = LIGHT) -> Bytes:
    """Printed pictures (N, H, W, 3) row by row as one, with the page's colour between them."""
    number, high, wide, _ = pictures.shape
    columns = min(columns, number)
    rows = -(-number // columns)
    out = np.tile(as_bytes(theme.page), (rows * (high + gap) - gap, columns * (wide + gap) - gap, 1))
    for i, picture in enumerate(pictures):
        top, left = i // columns * (high + gap), i % columns * (wide + gap)
        out[top : top + high, left : left + wide] = picture
    return out


def show(axes: Axes, pixels: Bytes, title: str = "") -> None:
    """One picture in a panel without axes, its pixels crisp."""
    axes.imshow(pixels, interpolation="nearest", aspect="equal")
    axes.set_axis_off()
    if title:
        axes.set_title(title)


@dataclasses.dataclass
class Board:
    """A page of small pictures and words, placed in inches from the upper left corner."""

    theme: Theme = LIGHT
    _pictures: list[tuple[float, float, Bytes, float]] = dataclasses.field(default_factory=list)
    _words: list[tuple[float, float, str, dict[str, Any]]] = dataclasses.field(default_factory=list)

    def picture(self, left: float, top: float, pixels: Bytes, side: float = SIDE) -> None:
        """Place a printed picture (H, W, 3), `side` inches high, in a thin frame."""
        self._pictures.append((left, top, pixels, side))

    def words(self, left: float, top: float, text: str, **options: Any) -> None:
        """Place words; options are those of matplotlib's text."""
        self._words.append((left, top, text, options))

    def png(self, width: float, height: float) -> bytes:
        """The page as a PNG of so many inches."""
        from matplotlib.figure import Figure

        page = np.tile(as_bytes(self.theme.page), (round(height * DOTS), round(width * DOTS), 1))
        for left, top, pixels, side in self._pictures:
            high = round(side * DOTS)
            wide = round(side * DOTS * pixels.shape[1] / pixels.shape[0])
            rows = np.arange(high) * pixels.shape[0] // high
            columns = np.arange(wide) * pixels.shape[1] // wide
            drawn = pixels[rows[:, None], columns]
            drawn[[0, -1]] = drawn[:, [0, -1]] = as_bytes(self.theme.grid)
            y, x = round(top * DOTS), round(left * DOTS)
            page[y : y + high, x : x + wide] = drawn[: page.shape[0] - y, : page.shape[1] - x]
        with style(self.theme):
            figure = Figure(figsize=(page.shape[1] / DOTS, page.shape[0] / DOTS))
            axes = figure.add_axes((0, 0, 1, 1))
            axes.imshow(page, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            for left, top, text, options in self._words:
                chosen: dict[str, Any] = {"fontsize": 8, "color": self.theme.ink, "va": "center"} | options
                figure.text(left / width, 1 - top / height, text, **chosen)
            return save(figure, "png")
