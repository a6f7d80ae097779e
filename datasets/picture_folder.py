"""Pictures in a folder or a .zip: class folders with or without train and test, or pictures alone.

This is the form of ImageNet (train/<class>/*.JPEG, val/<class>/*.JPEG), of LSUN and of CelebA (one flat
folder). File names are sorted, so that rows do not depend on the file system.
"""

import dataclasses
import functools
import io
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from ebm_traj.datasets.picture_source import Part, Pixels, Rows, Source
from ebm_traj.errors import InputError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".gif", ".tif", ".tiff")
Mode = Callable[[], str]
"""Gives Pillow's name of grey or colour."""

TRAIN, TEST, VALIDATION = ("train", "training"), ("test", "testing"), ("validation", "val", "valid")


@dataclasses.dataclass(frozen=True)
class Files:
    """The pictures of a folder or zip: their names under its root, and how to open one."""

    root: Path
    names: list[str]
    open: Callable[[str], bytes]


def folder_source(path: Path, size: int | None = None, channels: int | None = None) -> Source:
    """The parts of a folder or zip of pictures.

    With `size`, each picture is cut to its central square and resized while it is read, so that pictures may
    differ in size. Raises InputError if there are none, or they differ in size and none is given.
    """
    files = list_files(path)
    if not files.names:
        raise InputError(f"{path}: no pictures; accepted are {', '.join(ENDINGS)}")
    names = _without_common_root(files.names)
    tops = {name[0].lower() for name in names if len(name) > 1}
    has = {key: bool(tops & set(words)) for key, words in _SPLITS.items()}
    split = has["train"] or has["test"]
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(_part_of(name[0].lower(), has) if split else "all", []).append(row)
    groups.pop("", None)
    depth = 1 if split else 0
    labels = [name[depth] if len(name) > depth + 1 else None for name in names]
    kept = [labels[row] for rows in groups.values() for row in rows]
    classes = tuple(sorted({label for label in kept if label is not None}))
    number = {label: i for i, label in enumerate(classes)} | {None: -1}
    parts, mode = {}, _mode(files, channels)
    for part, rows in groups.items():
        chosen = [files.names[row] for row in rows]
        y = np.array([number[labels[row]] for row in rows], np.int64)
        parts[part] = Part(y, _reader(files, chosen, size, mode))
    return Source(path.name.removesuffix(".zip"), classes, parts)


_SPLITS = {"train": TRAIN, "test": TEST, "validation": VALIDATION}


def _part_of(top: str, has: dict[str, bool]) -> str:
    """Which part a top folder is; a `val` without a `test` beside it is the test part, as in ImageNet."""
    for part, words in _SPLITS.items():
        if top in words:
            return "test" if part == "validation" and not has["test"] else part
    return ""


def _without_common_root(names: list[str]) -> list[tuple[str, ...]]:
    """Parts of each name, without a folder that all share and that is no split (as archives have)."""
    parts = [PurePosixPath(name).parts for name in names]
    words = {word for split in _SPLITS.values() for word in split}
    while (
        len({p[0] for p in parts}) == 1
        and all(len(p) > 2 for p in parts)
        and parts[0][0].lower() not in words
    ):
        parts = [p[1:] for p in parts]
    return parts


def list_files(path: Path) -> Files:
    """Names of all pictures in a folder or zip, sorted."""
    if path.is_dir():
        found = []
        for folder, folders, files in os.walk(path, followlinks=True):
            folders.sort()
            relative = Path(folder).relative_to(path)
            found += [(relative / name).as_posix() for name in files if _is_picture(name)]
        return Files(path, sorted(found), lambda name: (path / name).read_bytes())
    try:
        archive = zipfile.ZipFile(path)
        names = sorted(name for name in archive.namelist() if _is_picture(name))
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: no zip file, or truncated ({error})") from None
    lock = threading.Lock()

    def read(name: str) -> bytes:
        with lock:
            try:
                return archive.read(name)
            except (zipfile.BadZipFile, OSError, EOFError) as error:
                raise InputError(f"{path}: {name} cannot be read ({error})") from None

    return Files(path, names, read)


def _is_picture(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.lower().endswith(ENDINGS) and not last.startswith(".") and not name.startswith("__MACOSX")


def _reader(files: Files, names: list[str], size: int | None, mode: Mode) -> Callable[[Rows], Pixels]:
    def read(rows: Rows) -> Pixels:
        kind = mode() if len(rows) else "RGB"
        x: Pixels | None = None
        for place, row in enumerate(rows):
            picture = _decode(files, names[int(row)], kind, size)
            if x is None:
                x = np.empty((len(rows), *picture.shape), np.uint8)
            if picture.shape != x.shape[1:]:
                found = " and ".join(f"{s[1]}x{s[0]}" for s in (x.shape[1:], picture.shape))
                raise InputError(
                    f"{files.root}: pictures of different sizes ({found}, {names[int(row)]}); give a size"
                )
            x[place] = picture
        return np.empty((0, 1, 1, 3), np.uint8) if x is None else x

    return read


def _mode(files: Files, channels: int | None) -> Mode:
    """Grey or colour, as asked for, else as the first picture of all is; looked at when first needed."""

    @functools.cache
    def mode() -> str:
        if channels is not None:
            return "L" if channels == 1 else "RGB"
        with _open(files, files.names[0]) as picture:
            return "L" if picture.mode in ("1", "L", "LA") else "RGB"

    return mode


def _open(files: Files, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(files.open(name)))
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{files.root}: {name} is no picture ({str(error).splitlines()[0]})") from None


def _decode(files: Files, name: str, mode: str, size: int | None) -> Pixels:
    from ebm_traj.datasets.pictures import square  # it reads folders through this file

    with _open(files, name) as picture:
        if picture.mode[0] in "IF":
            raise InputError(f"{files.root}: {name} is of mode {picture.mode}; accepted are 8 bits a channel")
        try:
            converted = picture if picture.mode == mode else picture.convert(mode)
            pixels = np.asarray(converted)
        except (OSError, SyntaxError) as error:
            raise InputError(f"{files.root}: {name} is truncated or broken ({error})") from None
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels if size is None else square(pixels[None], size)[0]
