"""Many pictures as one."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.atomic import write_atomically
from ebm_traj.errors import InputError
from ebm_traj.image.pictures import to_uint8

GROUND = 255  # white between the pictures


def grid(x: Tensor | NDArray[np.uint8], columns: int, gap: int = 2) -> NDArray[np.uint8]:
    """Pictures, floats (N, C, H, W) in [-1, 1] or bytes (N, H, W, C), row by row as one (height, width, 3).

    The last row may be short; `gap` pixels of white lie between pictures.
    """
    pixels = to_uint8(x) if isinstance(x, Tensor) else x
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not len(pixels):
        raise InputError(f"grid: pictures {pixels.shape}; needed are one or more of 1 or 3 channels")
    if columns < 1:
        raise InputError(f"grid: {columns} columns; accepted are 1 and more")
    number, height, width, _ = pixels.shape
    columns = min(columns, number)
    rows = -(-number // columns)
    out = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), GROUND, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        out[top : top + height, left : left + width] = picture  # one channel spreads over three
    return out


def write_grid(
    path: Path, x: Tensor | NDArray[np.uint8], columns: int, *, scale: int = 1, gap: int = 2
) -> Path:
    """Write `grid` as a PNG, each pixel `scale` wide, whole or not at all; gives the path back."""
    from PIL import Image

    if scale < 1:
        raise InputError(f"grid: scale {scale}; accepted are 1 and more")
    pixels = grid(x, columns, gap).repeat(scale, 0).repeat(scale, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    write_atomically(path, buffer.getvalue())
    return path
