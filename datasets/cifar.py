"""CIFAR-10 and CIFAR-100 as distributed: python batches and binary batches (Krizhevsky 2009)."""

import io
import pickle
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


def read_batch(path: Path, labels: int = 1) -> tuple[Pixels, NDArray[np.int64]]:
    """Pictures (N, 32, 32, 3) and classes of one batch; `.bin` is the binary form.

    `labels` is the number of label bytes before each picture of the binary form: 2 for CIFAR-100, whose
    second is the class. Raises InputError if the file is truncated or something else.
    """
    if path.suffix == ".bin":
        content = np.fromfile(path, np.uint8)
        if not len(content) or len(content) % (PIXELS + labels):
            raise InputError(
                f"{path}: {len(content)} bytes, no multiple of the {PIXELS + labels} of a picture"
            )
        rows = content.reshape(-1, PIXELS + labels)
        return _pictures(rows[:, labels:]), rows[:, labels - 1].astype(np.int64)
    batch = _unpickle(path)
    key = next((k for k in (b"fine_labels", b"labels") if k in batch), None)
    if key is None or b"data" not in batch:
        found = ", ".join(sorted(str(k) for k in batch))
        raise InputError(f"{path}: no CIFAR batch; its keys are {found}, needed are data and labels")
    data, y = np.asarray(batch[b"data"]), np.asarray(batch[key], np.int64)
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS or len(y) != len(data):
        raise InputError(
            f"{path}: data {data.shape} {data.dtype}, {len(y)} labels; needed is (N, {PIXELS}) uint8"
        )
    return _pictures(data), y


def _pictures(flat: NDArray[np.uint8]) -> Pixels:
    return np.ascontiguousarray(flat.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def _unpickle(path: Path) -> dict[Any, Any]:
    try:
        batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a broken pickle raises nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: truncated or no CIFAR batch ({reason})") from None
    if not isinstance(batch, dict):
        raise InputError(f"{path}: holds a {type(batch).__name__}, no CIFAR batch")
    return {key.encode() if isinstance(key, str) else key: value for key, value in batch.items()}


def find_cifar(folder: Path) -> tuple[Path, str, str] | None:
    """The folder with batches in or under `folder`, which set it is, and the ending of its files."""
    for sub in SUBFOLDERS:
        for name, parts in FILES.items():
            for ending in ("", ".bin"):
                files = [folder / sub / f"{file}{ending}" for part in parts.values() for file in part]
                if any(file.is_file() for file in files):
                    return folder / sub, name, ending
    return None


def cifar_source(found: tuple[Path, str, str]) -> Source:
    """The parts of a folder of batches that `find_cifar` found; some of the batches may be missing."""
    folder, name, ending = found
    parts: dict[str, Part] = {}
    labels = 2 if name == "cifar100" else 1
    for part, files in FILES[name].items():
        paths = [folder / f"{file}{ending}" for file in files]
        batches = [read_batch(path, labels) for path in paths if path.is_file()]
        if batches:
            parts[part] = array_part(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
    return Source(name, CIFAR10 if name == "cifar10" else _names(folder), parts)


def _names(folder: Path) -> tuple[str, ...]:
    """CIFAR-100's class names, from the file beside the batches; numbers without it."""
    if (folder / "fine_label_names.txt").is_file():
        return tuple((folder / "fine_label_names.txt").read_text().split())
    if (folder / "meta").is_file():
        names = _unpickle(folder / "meta").get(b"fine_label_names", [])
        if len(names) == 100:
            return tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names)
    return tuple(map(str, range(100)))
