"""The idx files of MNIST and its relatives, gzipped or not (LeCun, Cortes & Burges)."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.picture_source import Part, Source, array_part, class_names
from ebm_traj.errors import InputError

UNSIGNED_BYTE = 8  # the third byte of the magic number; the fourth is the number of dimensions
PARTS = {"train": ("train",), "test": ("t10k", "test")}


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an idx file of unsigned bytes.

    Raises InputError if the file is truncated, too long, or something else.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read, truncated or no gzip file ({error})") from None
    if len(content) < 4 or content[:2] != b"\0\0":
        raise InputError(f"{path}: no idx file; its magic number is {content[:4].hex()}, not 0000....")
    kind, dims = content[2], content[3]
    if kind != UNSIGNED_BYTE:
        raise InputError(f"{path}: idx values of type {kind:#04x}; accepted are unsigned bytes (0x08)")
    if len(content) < 4 + 4 * dims:
        raise InputError(f"{path}: the idx header is truncated")
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
    found, needed = len(content) - 4 - 4 * dims, int(np.prod(shape))
    if found != needed:
        raise InputError(f"{path}: {found} bytes of values where its header {shape} says {needed}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


def has_idx(folder: Path) -> bool:
    """Whether a folder holds pictures in idx files."""
    return any(_find(folder, part, "images") for part in PARTS)


def idx_source(folder: Path) -> Source:
    """The parts of a folder of idx files, with or without labels.

    Raises InputError if a file is broken, or labels do not fit the pictures.
    """
    parts: dict[str, Part] = {}
    for part in PARTS:
        images, labels = _find(folder, part, "images"), _find(folder, part, "labels")
        if images is None:
            continue
        x, y = read_idx(images), read_idx(labels) if labels else None
        if x.ndim != 3:
            raise InputError(f"{images}: idx shape {x.shape}; needed are pictures (N, H, W)")
        if y is not None and y.shape != x.shape[:1]:
            raise InputError(f"{labels}: labels {y.shape} for {len(x)} pictures")
        parts[part] = array_part(x, y)
    return Source(folder.name, class_names(str(folder), parts), parts)


def _find(folder: Path, part: str, what: str) -> Path | None:
    for word in PARTS[part]:
        found = sorted(folder.glob(f"*{word}-{what}*ubyte*"))
        if len(found) > 1:  # the same file gzipped and not, or two sets in one folder
            plain = [path for path in found if path.suffix != ".gz"]
            stems = {path.name.removesuffix(".gz") for path in found}
            if len(stems) > 1:
                raise InputError(f"{folder}: {len(stems)} sets of {part} {what} ({', '.join(sorted(stems))})")
            found = plain
        if found:
            return found[0]
    return None
