"""HDF5 files that are whole or absent, the same for the same contents, and that show any damage."""

import hashlib
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ebm_traj.atomic import replacing
from ebm_traj.errors import InputError

CHUNK_BYTES = 10_000
CHUNK_CACHE_BYTES = 2**18  # of each array that windows are read from; many files may be open
COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
CHECKSUM = "crc32"

Arrays = Mapping[str, NDArray[Any]]
Notes = Mapping[str, Mapping[str, Any]]


def write_hdf5(path: Path, arrays: Arrays, attributes: Mapping[str, Any], plain: Notes | None = None) -> None:
    """Write arrays and attributes, with a sha256 over both, under a temporary name; sync; rename.

    Arrays named in `plain` lie in the file as in memory, so that any part can be read at its place; they get
    the attributes given there and a crc32. The others are compressed, with a checksum in each chunk.
    The same arrays and attributes give the same bytes.
    """
    notes = {
        name: {**note, CHECKSUM: zlib.crc32(np.ascontiguousarray(arrays[name]).view(np.uint8))}
        for name, note in (plain or {}).items()
        if arrays[name].size
    }
    written = {**attributes, "sha256": digest(arrays, attributes, notes)}
    with replacing(path) as temporary, h5py.File(temporary, "w", libver=("earliest", "v110")) as file:
        for name in sorted(written):
            file.attrs[name] = written[name]
        for name, array in arrays.items():
            filters: dict[str, Any] = {}
            if array.size and name not in notes:  # HDF5 neither chunks nor filters what is empty
                filters = {"chunks": _chunks(array), "fletcher32": True, **COMPRESSION}
            dataset = file.create_dataset(name, data=array, track_times=False, **filters)
            for key, value in notes.get(name, {}).items():
                dataset.attrs[key] = value


def open_hdf5(path: Path) -> h5py.File:
    """An open file; InputError with one line if it is missing, truncated or not HDF5."""
    try:
        return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None
    except OSError as error:
        raise InputError(f"{path}: not a whole HDF5 file ({reason(error)})") from error


def read_array(file: h5py.File, name: str) -> NDArray[Any]:
    """An array; InputError with one line if it is missing or damaged."""
    return read_rows(find_array(file, name))


def find_array(file: h5py.File, name: str) -> h5py.Dataset:
    """An array as a handle to read rows from; InputError if it is missing."""
    try:
        return file[name]
    except (KeyError, OSError):
        raise InputError(f"{file.filename}: array '{name}' is missing") from None


def read_rows(array: h5py.Dataset, rows: slice | None = None) -> NDArray[Any]:
    """Some rows of an array, or all; InputError if they are damaged.

    Of a plain array only the whole can be checked.
    """
    try:
        found = array[rows if rows is not None else ...]
        whole = rows is None and array.chunks is None and found.size > 0
        if whole and zlib.crc32(found.view(np.uint8)) != array.attrs[CHECKSUM]:
            raise OSError("its crc32 is another")
    except (OSError, KeyError) as error:
        name = array.name.lstrip("/")
        raise InputError(f"{array.file.filename}: array '{name}' is damaged ({reason(error)})") from error
    return found


def read_note(array: h5py.Dataset, key: str, size: int) -> NDArray[np.float64]:
    """An attribute (size,) of an array; InputError if it is missing or something else."""
    value = np.asarray(array.attrs.get(key, ()), dtype=np.float64)
    if value.shape != (size,):
        name = array.name.lstrip("/")
        raise InputError(f"{array.file.filename}: attribute '{key}' of '{name}' does not hold {size} numbers")
    return value


def digest(arrays: Arrays, attributes: Mapping[str, Any], notes: Notes | None = None) -> str:
    """sha256 over names, types, shapes and values of arrays and attributes."""
    sha = hashlib.sha256()
    of_arrays = {f"{name}.{key}": note[key] for name, note in (notes or {}).items() for key in note}
    for name, value in sorted({**attributes, **of_arrays}.items(), key=lambda item: item[0]):
        plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        sha.update(f"{name}={plain!r};".encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"{name}:{array.dtype.str}{array.shape};".encode())
        sha.update(np.ascontiguousarray(array).data if array.size else b"")
    return sha.hexdigest()


def reason(error: BaseException) -> str:
    """What an error says, short and on one line."""
    return " ".join(str(error).split())[:160]


def _chunks(array: NDArray[Any]) -> tuple[int, ...]:
    row_bytes = array.nbytes // len(array)
    rows = 2 ** round(max(0.0, math.log2(CHUNK_BYTES / row_bytes)))
    return (min(rows, len(array)), *array.shape[1:])
