"""Pictures for semi-supervised learning: a few with labels, all without, and a validation part."""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.core.seeding import derive_seed
from ebm_traj.datasets.pictures import PictureSet, open_pictures
from ebm_traj.errors import InputError

SPLIT_SEED = 0  # of the validation part: the same pictures for all seeds of a study


@dataclasses.dataclass
class SplitPictures:
    """Pictures as rows of pixels in [0, 1], with all their labels."""

    train: Tensor
    """(N, pixels)."""
    train_labels: NDArray[np.int64]
    """(N,) of which a cell sees those it chooses by `balanced_rows`."""
    validation: Tensor
    validation_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int


def rows_of(pictures: PictureSet) -> Tensor:
    """(N, pixels) float32 in [0, 1]."""
    return torch.from_numpy(pictures.x.reshape(len(pictures.x), -1)).float() / 255


def open_split(source: str, validation: float, *, download: bool = False) -> SplitPictures:
    """The parts of a data set; `validation` is the share of its training part that is held out.

    Raises InputError if the share is out of range or a part has pictures without a class.
    """
    if not 0 < validation < 1:
        raise InputError(f"validation: {validation}; accepted are shares between 0 and 1")
    parts = {
        split: open_pictures(source, split, validation=validation, seed=SPLIT_SEED, download=download)
        for split in ("train", "validation", "test")
    }
    for split, part in parts.items():
        if not len(part) or (part.y < 0).any():
            raise InputError(f"data {source}: the {split} part has no pictures or some without a class")
    train, held, test = parts["train"], parts["validation"], parts["test"]
    return SplitPictures(
        rows_of(train),
        train.y,
        rows_of(held),
        torch.from_numpy(held.y),
        rows_of(test),
        torch.from_numpy(test.y),
        train.num_classes,
    )


def balanced_rows(labels: NDArray[np.int64], count: int, classes: int, seed: int) -> NDArray[np.int64]:
    """(count,) rows, equally many of every class, drawn by (seed, count).

    Raises InputError if the classes do not divide `count` or one has too few rows.
    """
    if count < classes or count % classes:
        raise InputError(f"labels: {count}; needed is a multiple of the {classes} classes")
    each = count // classes
    rng = np.random.default_rng(derive_seed("balanced labels", seed, count))
    chosen = []
    for one in range(classes):
        rows = np.flatnonzero(labels == one)
        if len(rows) < each:
            raise InputError(f"labels: {count} need {each} pictures of class {one}, found are {len(rows)}")
        chosen.append(rng.choice(rows, each, replace=False))
    return np.sort(np.concatenate(chosen))
