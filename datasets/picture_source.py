"""What a reader of picture files gives: labels at once, pixels only for the rows that are asked for."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]

DIGITS = tuple("0123456789")
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclasses.dataclass(frozen=True)
class Part:
    """One split of a set on disk."""

    y: Rows
    """(N,) class, -1 where unknown."""
    read: Callable[[Rows], Pixels]
    """Rows (n,) to pixels (n, H, W, C)."""
    index: Rows | None = None
    """(N,) place in the official order; None: the rows themselves."""

    def __len__(self) -> int:
        return len(self.y)


@dataclasses.dataclass(frozen=True)
class Source:
    """A set on disk: `train` and `test`, perhaps `validation`, or `all` where it has no split of its own."""

    name: str
    class_names: tuple[str, ...]
    parts: Mapping[str, Part]


def array_part(x: Pixels, y: NDArray[np.integer] | None = None, index: Rows | None = None) -> Part:
    """Pictures (N, H, W) or (N, H, W, C) that are in memory already."""
    pixels = x[..., None] if x.ndim == 3 else x
    labels = np.full(len(x), -1) if y is None else np.asarray(y)
    return Part(labels.astype(np.int64), lambda rows: pixels[rows], index)


def class_names(name: str, labels: Mapping[str, Part]) -> tuple[str, ...]:
    """Names of the classes of a set known by its name, else their numbers; empty without labels."""
    low = name.lower()
    number = 1 + max((int(part.y.max(initial=-1)) for part in labels.values()), default=-1)
    known = FASHION if "fashion" in low else CIFAR10 if "cifar10" in low.replace("-", "") else DIGITS
    if number == len(known) and "cifar100" not in low.replace("-", ""):
        return known
    return tuple(map(str, range(number)))
