"""Pictures in .npz files: x_train, y_train, x_test, y_test, or x with labels; and caches of decoded ones."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebm_traj.atomic import replacing
from ebm_traj.datasets.picture_source import Part, Pixels, Source, array_part, class_names
from ebm_traj.errors import InputError

Labels = NDArray[np.generic]

SPLITS = ("train", "test")
LABELS = ("y", "labels", "fine")  # the first that is there
ACCEPTED = "x_train[, y_train] and x_test[, y_test], or x[, y], or x32, x64 ..."


def npz_source(path: Path, size: int | None = None) -> Source:
    """The parts of an .npz of unsigned bytes (N, H, W) or (N, H, W, C).

    Where it holds several sizes (x32, x64), the one equal to `size` is taken, else the largest.
    Raises InputError if the file is truncated, has other keys or pickled objects, or arrays do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return _source(path, file, size)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: truncated, or no .npz of plain arrays ({error})") from None


def _source(path: Path, file: np.lib.npyio.NpzFile, size: int | None) -> Source:
    keys = set(file.files)
    labels = {part: file[f"y_{part}"] for part in SPLITS if {f"x_{part}", f"y_{part}"} <= keys}
    pictures = {part: file[f"x_{part}"] for part in SPLITS if f"x_{part}" in keys}
    if not pictures:
        pictures = {"all": file[_x_key(path, keys, size)]}
        named = next((key for key in LABELS if key in keys), None)
        labels = {} if named is None else {"all": file[named]}
    codes, names = _coded(labels)
    parts = {}
    for part, x in pictures.items():
        index = file[f"{part}_index"].astype(np.int64) if f"{part}_index" in keys else None
        parts[part] = _part(path, x, codes.get(part), index)
    if "class_names" in keys:
        names = tuple(map(str, file["class_names"]))
    return Source(path.stem, names or class_names(path.stem, parts), parts)


def _x_key(path: Path, keys: set[str], size: int | None) -> str:
    if "x" in keys:
        return "x"
    sized = sorted(int(key[1:]) for key in keys if key[:1] == "x" and key[1:].isdigit())
    if not sized:
        raise InputError(f"{path}: its keys are {', '.join(sorted(keys))}; accepted are {ACCEPTED}")
    return f"x{size if size in sized else sized[-1]}"


def _coded(labels: dict[str, Labels]) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    """Labels as numbers, the same for the same string in all parts, and the strings."""
    if not labels or any(y.dtype.kind != "U" for y in labels.values()):
        return labels, None
    names = np.unique(np.concatenate([y.reshape(-1) for y in labels.values()]))
    return {part: np.searchsorted(names, y) for part, y in labels.items()}, tuple(map(str, names))


def _part(path: Path, x: Pixels, y: Labels | None, index: NDArray[np.int64] | None) -> Part:
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] not in (1, 3)):
        raise InputError(f"{path}: pictures {x.shape} {x.dtype}; accepted are (N, H, W[, 1 or 3]) uint8")
    for values, what in ((y, "labels"), (index, "places")):
        if values is not None and values.reshape(-1).shape != (len(x),):
            raise InputError(f"{path}: {what} {values.shape} for {len(x)} pictures")
    if y is None:
        return array_part(x, None, index)
    if y.dtype.kind not in "iu":
        raise InputError(f"{path}: labels of type {y.dtype}; accepted are whole numbers and strings")
    return array_part(x, y.reshape(-1).astype(np.int64), index)


def cached(source: Source, cache: Path, key: str) -> Source:
    """`source` with its pixels from the .npz `cache`, which is written first if it is not there.

    Raises InputError if the cache is of other pictures (`key` tells them apart).
    """
    if not cache.is_file():
        arrays: dict[str, NDArray[np.generic]] = {"key": np.array(key)}
        for name, part in source.parts.items():
            arrays[f"x_{name}"] = part.read(np.arange(len(part)))
            arrays[f"y_{name}"] = part.y
        cache.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cache) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    try:
        with np.load(cache, allow_pickle=False) as stored:
            if "key" not in stored.files or str(stored["key"]) != key:
                raise InputError(f"cache {cache}: is of other pictures than {key}; name another file")
            same = all(np.array_equal(stored[f"y_{name}"], part.y) for name, part in source.parts.items())
            if not same:
                raise InputError(f"cache {cache}: {key} has changed since; remove the file")
            parts = {name: array_part(stored[f"x_{name}"], part.y) for name, part in source.parts.items()}
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, KeyError) as error:
        raise InputError(f"cache {cache}: truncated or something else ({error})") from None
    return Source(source.name, source.class_names, parts)
