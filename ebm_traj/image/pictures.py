"""Between pictures on disk, unsigned bytes (N, H, W, C), and tensors, floats (N, C, H, W) in [-1, 1]."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.core.objectives import Batch
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.errors import InputError

Augment = Callable[[Tensor, torch.Generator], Tensor]

LABEL = "label"
"""The name of the class in a condition."""


def to_tensor(x: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Bytes (N, H, W, C) to floats (N, C, H, W) in [-1, 1]."""
    if x.dtype != np.uint8 or x.ndim != 4:
        raise InputError(f"pictures {x.shape} {x.dtype}; needed are unsigned bytes (N, H, W, C)")
    return _floats(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(device))


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """Floats (N, C, H, W) in [-1, 1] to the nearest bytes (N, H, W, C); what lies beyond is cut off."""
    if x.ndim != 4:
        raise InputError(f"pictures {tuple(x.shape)}; needed are floats (N, C, H, W)")
    bytes_ = (x.detach().float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(bytes_.cpu().numpy().transpose(0, 2, 3, 1))


def _floats(x: Tensor) -> Tensor:
    return x.float().div_(127.5).sub_(1)


def batches(
    pictures: PictureSet,
    rows: int,
    device: torch.device | str = "cpu",
    *,
    augment: Augment | None = None,
    dequantise: bool = False,
) -> Callable[[int, torch.Generator], Batch]:
    """A function (iteration, generator) to `rows` pictures drawn with replacement.

    The set lies on the device as bytes. The condition holds the classes as `label` where the set has them.
    `augment(x, generator)` changes pictures in [-1, 1]; `dequantise` adds uniform noise of one grey level
    (pixels (v + u) / 128 - 1, Uria et al. 2013).
    """
    if not len(pictures):
        raise InputError(f"{pictures.name}: no pictures in the {pictures.split} split")
    held = torch.from_numpy(np.ascontiguousarray(pictures.x.transpose(0, 3, 1, 2))).to(device)
    labels = torch.from_numpy(pictures.y).to(device) if pictures.num_classes else None

    def draw(iteration: int, generator: torch.Generator) -> Batch:
        pick = torch.randint(len(held), (rows,), generator=generator, device=held.device)
        if dequantise:
            noise = torch.rand((rows, *held.shape[1:]), generator=generator, device=held.device)
            x = (held[pick] + noise).div_(128).sub_(1)
        else:
            x = _floats(held[pick])
        if augment is not None:
            x = augment(x, generator)
        return Batch(x, {} if labels is None else {LABEL: labels[pick]})

    return draw


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture (N, C, H, W) mirrored left to right with probability 1/2."""
    chosen = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


def shift(pixels: int) -> Augment:
    """Each picture moved by up to so many pixels in x and y; edges are repeated."""

    def moved(x: Tensor, generator: torch.Generator) -> Tensor:
        rows, _, height, width = x.shape
        by = torch.randint(-pixels, pixels + 1, (2, rows, 1), generator=generator, device=x.device)
        down = (torch.arange(height, device=x.device) + by[0]).clamp(0, height - 1)
        right = (torch.arange(width, device=x.device) + by[1]).clamp(0, width - 1)
        at = torch.arange(rows, device=x.device)[:, None, None]
        return x.permute(0, 2, 3, 1)[at, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)

    return moved


def chain(*steps: Augment) -> Augment:
    """Several augmentations, one after another."""

    def all_of(x: Tensor, generator: torch.Generator) -> Tensor:
        for step in steps:
            x = step(x, generator)
        return x

    return all_of
