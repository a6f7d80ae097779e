"""Sets of pictures from any usual form on disk, as unsigned bytes (N, H, W, C).

`open_pictures` reads scikit-learn's digits, procedural sprites, .npz files, idx files, CIFAR batches, and
folders or zips of pictures. Nothing is copied or kept beside the files read, unless a cache is asked for.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.cifar import cifar_archive, find_cifar
from ebm_traj.datasets.idx import has_idx, idx_source
from ebm_traj.datasets.picture_folder import folder_source
from ebm_traj.datasets.picture_source import DIGITS, Part, Pixels, Rows, Source, array_part
from ebm_traj.errors import InputError

PictureSplit = Literal["train", "validation", "test", "all"]

LUMA = np.array([19595, 38470, 7471])  # ITU-R BT.601 in shares of 2^16, as Pillow rounds it
SPLIT_STREAM, VALIDATION_STREAM, LIMIT_STREAM, ORDER_STREAM = (
    71,
    72,
    73,
    74,
)  # keep the draws apart from each other
SPRITES = 20_000
TEST_SHARE = 0.2
"""Of a set that has no split of its own."""


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """Pictures of one split with their classes."""

    name: str
    split: str
    x: Pixels
    """(N, H, W, C) unsigned bytes, C 1 or 3."""
    y: Rows
    """(N,) class, -1 where unknown."""
    class_names: tuple[str, ...]
    index: Rows
    """(N,) place in the official order of the train or test part."""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W), the order of tensors."""
        height, width, channels = self.x.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """0 without labels."""
        return len(self.class_names)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_] | Sequence[int] | slice) -> "PictureSet":
        """The set of some rows, by number or mask."""
        at = rows if isinstance(rows, slice) else np.asarray(rows)
        if not isinstance(at, slice) and not at.size:
            at = at.astype(np.int64)  # an empty list is of floats
        return dataclasses.replace(self, x=self.x[at], y=self.y[at], index=self.index[at])

    def of_classes(self, classes: Iterable[int]) -> "PictureSet":
        """The rows of some classes; class numbers and names stay."""
        wanted = list(classes)
        unknown = [c for c in wanted if not 0 <= c < self.num_classes]
        if unknown:
            raise InputError(f"{self.name}: no classes {unknown}; there are {self.num_classes}")
        return self.take(np.flatnonzero(np.isin(self.y, wanted)))


def open_pictures(
    source: str | Path = "digits",
    split: PictureSplit = "train",
    *,
    size: int | None = None,
    channels: int | None = None,
    validation: float = 0.05,
    seed: int = 0,
    download: bool = False,
    limit: int | None = None,
    cache: Path | None = None,
) -> PictureSet:
    """A set of pictures.

    `source` is "digits" (8x8, in scikit-learn), "sprites" (drawn by the project), "mnist", "fashion" or
    "cifar10" (fetched once with `download`), or the path of an .npz, of a folder of idx files, of CIFAR
    batches (or their archive), or of a folder or .zip of pictures.

    A fixed random share `validation` of the train part, by `seed`, is the validation split and left out of
    train. A set without a split of its own has a fixed random fifth of its rows as test; "all" is all there
    is. `size` cuts to the central square and resizes by Pillow's area filter; `channels` 3 repeats grey, 1
    takes luma. `limit` takes at most so many pictures of the split, drawn at random. `cache`, the name of an
    .npz, is written after and read instead of decoding a folder or zip again. Rows stand in the order of the
    files; those that come class after class, as of a folder with a sub-folder for each, in a fixed random
    one, so that the first rows are a sample of all.

    Raises InputError if there is no such set or split, or a file is broken.
    """
    _check(split, size, channels, validation, limit, seed)
    opened = _find(str(source), size, channels, seed, download, cache)
    pieces = _rows(opened, split, validation, seed)
    if limit is not None and sum(len(rows) for _, rows in pieces) > limit:
        pieces = _limited(pieces, limit, seed)
    read = [_converted(part.read(rows), size, channels) for part, rows in pieces]
    x = read[0] if len(read) == 1 else _joined(read, opened.name)
    y = np.concatenate([part.y[rows] for part, rows in pieces])
    index = np.concatenate([rows if part.index is None else part.index[rows] for part, rows in pieces])
    found = PictureSet(opened.name, split, x, y, opened.class_names, index)
    return found.take(_drawn_order(len(y))) if _class_after_class(y) else found


def _class_after_class(y: Rows) -> bool:
    changes = np.count_nonzero(np.diff(y))
    return 0 < changes == len(np.unique(y)) - 1 < len(y) - 1


def _drawn_order(count: int) -> Rows:
    return np.random.default_rng(np.random.SeedSequence([0, ORDER_STREAM])).permutation(count)


def _check(
    split: str, size: int | None, channels: int | None, validation: float, limit: int | None, seed: int
) -> None:
    if split not in get_args(PictureSplit):
        raise InputError(f"split '{split}'; accepted are {', '.join(get_args(PictureSplit))}")
    if size is not None and not 1 <= size <= 4096:
        raise InputError(f"size {size}; accepted are 1 to 4096 pixels")
    if channels not in (None, 1, 3):
        raise InputError(f"channels {channels}; accepted are 1 and 3")
    if not 0 <= validation < 1:
        raise InputError(f"validation {validation:g}; accepted are shares of 0 to below 1")
    if split == "validation" and validation == 0:
        raise InputError("validation 0: there is no validation split; give a share above 0")
    if seed < 0:
        raise InputError(f"seed {seed}; accepted are 0 and more")
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}; accepted are 1 and more")


def _find(
    source: str, size: int | None, channels: int | None, seed: int, download: bool, cache: Path | None
) -> Source:
    from ebm_traj.datasets.picture_download import FETCHED, fetch

    if source == "digits":
        return _digits()
    if source == "sprites":
        return _sprites(size, seed)
    path = fetch(source, download) if source in FETCHED else Path(source).expanduser()
    if path.is_dir():
        if has_idx(path):
            return idx_source(path)
        return find_cifar(path) or _cached_folder(path, size, channels, cache)
    if not path.is_file():
        raise InputError(
            f"data {source}: no such file; accepted are paths and digits, sprites, {', '.join(FETCHED)}"
        )
    if path.suffix == ".npz":
        from ebm_traj.datasets.picture_npz import npz_source

        return npz_source(path, size)
    if path.suffix == ".zip":
        return _cached_folder(path, size, channels, cache)
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return cifar_archive(path)
    raise InputError(f"data {source}: accepted are .npz, .zip and CIFAR's .tar.gz; idx files by their folder")


def _digits() -> Source:
    """Optical recognition of handwritten digits (Alpaydin & Kaynak 1998), 1,797 pictures of 8x8."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Source("digits", DIGITS, {"all": array_part(x, digits.target)})


def _sprites(size: int | None, seed: int) -> Source:
    from ebm_traj.datasets.sprites import SHAPES, draw_factors, draw_sprites

    factors = draw_factors(SPRITES, seed)
    part = Part(factors[:, 0].astype(np.int64), lambda rows: draw_sprites(factors[rows], size or 32))
    return Source("sprites", SHAPES, {"all": part})


def _cached_folder(path: Path, size: int | None, channels: int | None, cache: Path | None) -> Source:
    if cache is None:
        return folder_source(path, size, channels)
    from ebm_traj.datasets.picture_npz import cached

    return cached(folder_source(path, size, channels), cache, f"{path.resolve()} {size} {channels}")


Pieces = list[tuple[Part, Rows]]


def _rows(opened: Source, split: str, validation: float, seed: int) -> Pieces:
    """Which rows of which parts a split is."""
    parts = opened.parts
    whole = {name: np.arange(len(part)) for name, part in parts.items()}
    if split == "all":
        return [(part, whole[name]) for name, part in parts.items()]
    if "all" in parts:
        test = _drawn(len(parts["all"]), TEST_SHARE, SPLIT_STREAM, 0)
        name, rows = "all", (test if split == "test" else np.setdiff1d(whole["all"], test))
    elif split == "validation" and "validation" in parts:
        return [(parts["validation"], whole["validation"])]
    else:
        name = "test" if split == "test" else "train"
        if name not in parts:
            raise InputError(f"{opened.name}: no {name} part; there are {', '.join(parts)} and all")
        rows = whole[name]
    if split != "test" and "validation" not in parts:
        held = _drawn(len(rows), validation, VALIDATION_STREAM, seed)
        rows = rows[held] if split == "validation" else np.delete(rows, held)
    if not len(rows):
        raise InputError(f"{opened.name}: the {split} split is empty")
    return [(parts[name], rows)]


def _drawn(count: int, share: float, stream: int, seed: int) -> Rows:
    """A random share of so many rows, sorted."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, stream]))
    return np.sort(rng.permutation(count)[: round(share * count)])


def _limited(pieces: Pieces, limit: int, seed: int) -> Pieces:
    sizes = [len(rows) for _, rows in pieces]
    rng = np.random.default_rng(np.random.SeedSequence([seed, LIMIT_STREAM]))
    kept = np.sort(rng.permutation(sum(sizes))[:limit])
    starts = np.cumsum([0, *sizes])
    chosen = [
        (part, rows[kept[(kept >= start) & (kept < start + len(rows))] - start])
        for (part, rows), start in zip(pieces, starts, strict=False)
    ]
    return [(part, rows) for part, rows in chosen if len(rows)]


def _joined(read: list[Pixels], name: str) -> Pixels:
    shapes = {x.shape[1:] for x in read}
    if len(shapes) > 1:
        raise InputError(f"{name}: its parts have pictures of different shapes {sorted(shapes)}; give a size")
    return np.concatenate(read)


def _converted(x: Pixels, size: int | None, channels: int | None) -> Pixels:
    x = x if channels is None else with_channels(x, channels)
    return x if size is None or x.shape[1:3] == (size, size) else square(x, size)


def with_channels(x: Pixels, channels: int) -> Pixels:
    """Pictures (N, H, W, C) with 1 channel (luma, ITU-R BT.601) or 3 (grey repeated)."""
    if channels not in (1, 3):
        raise InputError(f"channels {channels}; accepted are 1 and 3")
    if x.shape[-1] == channels:
        return x
    if channels == 3:
        return np.repeat(x, 3, axis=-1)
    chunks = [(chunk @ LUMA + 0x8000) >> 16 for chunk in np.array_split(x, max(1, len(x) // 1024))]
    return np.concatenate(chunks).astype(np.uint8)[..., None]


def square(x: Pixels, size: int) -> Pixels:
    """The central squares of pictures (N, H, W, C), resized by Pillow's box filter (each pixel a mean)."""
    from PIL import Image

    height, width = x.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    x = x[:, top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(x)
    out = np.empty((len(x), size, size, x.shape[-1]), np.uint8)
    for row, picture in enumerate(x):
        image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        out[row] = np.asarray(image.resize((size, size), Image.Resampling.BOX)).reshape(size, size, -1)
    return out
