"""CIFAR-10 and CIFAR-100 as distributed: python batches and binary batches (Krizhevsky 2009)."""

import gzip
import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.picture_source import CIFAR10, Part, Pixels, Source, array_part
from ebm_traj.errors import InputError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
SUBFOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")
FILES = {
    "cifar10": {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    "cifar100": {"train": ["train"], "test": ["test"]},
}
TEXT, META = EXTRAS = ("fine_label_names.txt", "meta")
ENDINGS = ("", ".bin")


def _all(name: str) -> list[str]:
    """All batches of a set."""
    return [file for files in FILES[name].values() for file in files]


NAMES = (*(file + ending for name in FILES for ending in ENDINGS for file in _all(name)), *EXTRAS)
ALLOWED = {  # all that an array in a batch needs; anything else in a pickle could run code
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    """Reads numbers, strings, lists, dictionaries and arrays, and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        if name == "_reconstruct":
            module = np.ndarray.__reduce__(np.zeros(0))[0].__module__
        return super().find_class(module, name)


def parse_batch(where: str, content: bytes, labels: int = 1) -> tuple[Pixels, NDArray[np.int64]]:
    """Pictures (N, 32, 32, 3) and classes of the content of one batch; a name in .bin is the binary form.

    `labels` is the number of label bytes before each picture of the binary form: 2 for CIFAR-100, whose
    second is the class. Raises InputError if the content is truncated or something else.
    """
    if where.endswith(".bin"):
        values = np.frombuffer(content, np.uint8)
        if not len(values) or len(values) % (PIXELS + labels):
            raise InputError(
                f"{where}: {len(values)} bytes, no multiple of the {PIXELS + labels} of a picture"
            )
        rows = values.reshape(-1, PIXELS + labels)
        return _pictures(rows[:, labels:]), rows[:, labels - 1].astype(np.int64)
    batch = _unpickle(where, content)
    key = next((k for k in (b"fine_labels", b"labels") if k in batch), None)
    if key is None or b"data" not in batch:
        found = ", ".join(sorted(str(k) for k in batch))
        raise InputError(f"{where}: no CIFAR batch; its keys are {found}, needed are data and labels")
    data, y = np.asarray(batch[b"data"]), np.asarray(batch[key], np.int64)
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS or len(y) != len(data):
        found = f"{data.shape} {data.dtype}, {len(y)} labels"
        raise InputError(f"{where}: data {found}; needed are (N, {PIXELS}) uint8 and N labels")
    return _pictures(data), y


def _pictures(flat: NDArray[np.uint8]) -> Pixels:
    return np.ascontiguousarray(flat.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def _unpickle(where: str, content: bytes) -> dict[Any, Any]:
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a broken pickle raises nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{where}: truncated or no CIFAR batch ({reason})") from None
    if not isinstance(batch, dict):
        raise InputError(f"{where}: holds a {type(batch).__name__}, no CIFAR batch")
    return {key.encode() if isinstance(key, str) else key: value for key, value in batch.items()}


def find_cifar(folder: Path) -> Source | None:
    """The parts of a folder with batches in or right under it; None if there are none.

    Some of the batches may be missing, then the parts are smaller.
    """
    for sub in SUBFOLDERS:
        names = [name for name in NAMES if (folder / sub / name).is_file()]
        if names and not set(names) <= set(EXTRAS):
            return _source(str(folder / sub), {name: (folder / sub / name).read_bytes() for name in names})
    return None


def cifar_archive(path: Path) -> Source:
    """The parts of cifar-10-python.tar.gz and its like, read without unpacking them to the disk.

    Raises InputError if the archive is truncated or holds no batches.
    """
    try:
        whole = path.read_bytes()
        if whole[:2] == b"\x1f\x8b":
            whole = gzip.decompress(whole)  # all of it: tarfile alone overlooks a missing end
        with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
            held = {Path(info.name).name: info for info in archive.getmembers() if info.isfile()}
            content = {}
            for name in NAMES:
                if name in held and (file := archive.extractfile(held[name])) is not None:
                    content[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: no archive, or truncated ({error})") from None
    if set(content) <= set(EXTRAS):
        raise InputError(f"{path}: holds no CIFAR batches ({', '.join(sorted(held)[:5]) or 'no files'})")
    return _source(str(path), content)


def _source(where: str, content: dict[str, bytes]) -> Source:
    name, ending = next((n, e) for n in FILES for e in ENDINGS for f in _all(n) if f + e in content)
    parts: dict[str, Part] = {}
    labels = 2 if name == "cifar100" else 1
    for part, files in FILES[name].items():
        batches = [
            parse_batch(f"{where}/{file}{ending}", content[file + ending], labels)
            for file in files
            if file + ending in content
        ]
        if batches:
            parts[part] = array_part(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
    return Source(name, CIFAR10 if name == "cifar10" else _class_names(where, content), parts)


def _class_names(where: str, content: dict[str, bytes]) -> tuple[str, ...]:
    """CIFAR-100's class names, from the file beside the batches; numbers without it."""
    if TEXT in content:
        names: list[Any] = content[TEXT].decode().split()
    else:
        names = (
            _unpickle(f"{where}/{META}", content[META]).get(b"fine_label_names", [])
            if META in content
            else []
        )
    if len(names) != 100:
        return tuple(map(str, range(100)))
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
