"""The training pictures nearest to samples, in pixels and in features: is anything memorised?"""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.errors import InputError
from ebm_traj.image.classifier import Classifier
from ebm_traj.image.pictures import to_tensor

CHUNK = 4096  # training pictures at a time
NEAR = 0.01  # a sample nearer to training than this share of held-out pictures is suspicious


def nearest_rows(queries: Tensor, rows: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Euclidean distances (n,) of queries (n, d) to the nearest of rows (N, d), and their numbers (n,)."""
    if queries.ndim != 2 or rows.ndim != 2 or queries.shape[1] != rows.shape[1] or not len(rows):
        raise InputError(
            f"neighbours: {tuple(queries.shape)} in {tuple(rows.shape)}; needed are (n, d), (N, d)"
        )
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    number = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(rows), chunk):
        some = rows[start : start + chunk]
        # exact differences only for the chosen row: products are fast but lose digits of small distances
        squares = some.square().sum(1) - 2 * queries @ some.T
        at = squares.argmin(1)
        found = (queries - some[at]).double().square().sum(1).sqrt()
        better = found < best
        best[better], number[better] = found[better], at[better] + start
    return best, number


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The nearest training pictures of samples; rows are those of the training set."""

    pixel_distance: Tensor
    """(n,) root mean square difference of pixels, as a share of the range from black to white."""
    pixel_row: Tensor
    feature_distance: Tensor
    """(n,) Euclidean distance of the classifier's features."""
    feature_row: Tensor


@dataclasses.dataclass(frozen=True)
class Library:
    """Training pictures to search, their features read once."""

    train: PictureSet
    classifier: Classifier
    features: Tensor
    """(N, d)."""

    @classmethod
    def of(cls, train: PictureSet, classifier: Classifier) -> "Library":
        """InputError if the classifier reads pictures of another shape."""
        starts = range(0, len(train), CHUNK)
        read = [classifier.read(to_tensor(train.x[i : i + CHUNK]))[0].float() for i in starts]
        return cls(train, classifier, torch.cat(read))

    def nearest(self, samples: Tensor) -> Neighbours:
        """The nearest training pictures of samples (n, C, H, W) in [-1, 1]."""
        shape = tuple(samples.shape[1:])
        if shape != self.train.shape:
            raise InputError(f"neighbours: samples {shape}, training pictures {self.train.shape}")
        pixels = samples.cpu().float().flatten(1)
        distance = torch.full((len(samples),), torch.inf, dtype=torch.float64)
        row = torch.zeros(len(samples), dtype=torch.int64)
        for start in range(0, len(self.train), CHUNK):
            some = to_tensor(self.train.x[start : start + CHUNK]).flatten(1)
            found, number = nearest_rows(pixels, some)
            better = found < distance
            distance[better], row[better] = found[better], number[better] + start
        whole = 2 * pixels.shape[1] ** 0.5  # every pixel from -1 to 1
        return Neighbours(
            *(distance / whole, row), *nearest_rows(self.classifier.read(samples)[0].float(), self.features)
        )


def find_neighbours(samples: Tensor, train: PictureSet, classifier: Classifier) -> Neighbours:
    """Nearest training pictures of samples (n, C, H, W) in [-1, 1]."""
    return Library.of(train, classifier).nearest(samples)


def memorising(samples: Neighbours, held_out: Neighbours) -> dict[str, float]:
    """Distances to the training set, of samples against those of held-out truth.

    `copies_*` is the share of samples nearer to training than the nearest 1 % of held-out pictures: about
    0.01 where nothing is memorised, more where samples are copies (or too plain, all of them near).
    """
    found: dict[str, float] = {}
    for what in ("pixel", "feature"):
        mine: NDArray[np.float64] = getattr(samples, f"{what}_distance").numpy()
        theirs: NDArray[np.float64] = getattr(held_out, f"{what}_distance").numpy()
        found[f"{what}_distance"] = float(np.median(mine))
        found[f"{what}_distance_truth"] = float(np.median(theirs))
        found[f"copies_{what}"] = float((mine < np.quantile(theirs, NEAR)).mean())
    return found
