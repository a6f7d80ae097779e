"""One shard of a recording: a complete HDF5 file that is either whole or absent.

Layout (all arrays flat, episodes of unequal length end to end, nothing padded; N episodes with T_i steps,
F = sum(T_i + 1) frames, S = sum(T_i) steps, K stored simulator states of size Z):

    /states (F, D) float32          quaternions of one sign along an episode
    /actions (S, A) float32         /rewards (S,) float32
    /offsets (N + 1,) int64         episode i has the frames offsets[i]:offsets[i + 1]
    /episode, /seed (N,) int64      number in the whole run; seed of its reset and of its policy's noise
    /split (N,) uint8               0 train, 1 validation, 2 test
    /terminated, /success (N,) bool ended by the environment; success at the last step
    /sim_states (K, Z) float64      full simulator states, at /sim_index (K, 2) int64 = (episode row, step)

Root attributes hold what all shards of a data set share (`Manifest`), the shard's number and a sha256.

Chunks of about 10 kB (64 frames of the hand), shuffled and deflated, each with a Fletcher checksum.
Measured on 300 episodes of the hand (38 numbers, 152 bytes a frame; one core, no chunk cache):

    filter, frames in a chunk   bytes/frame   write MB/s   whole file MB/s   windows of 32 frames/s, random
    none, 64                          152          600              1580                           105,000
    lzf, 64                           118          109               332                            23,000
    gzip 1, 64                        113           71               186                            13,200
    gzip 4, 32 / 64 / 128     112/111/110     52/65/67       165/195/204               17,700/13,600/8,900
    gzip 6, 64                        110           48               195                            13,600

gzip 4 is nearly the smallest, can be read by every HDF5 tool (lzf cannot), and costs about one per cent of
the time of simulating the frame. The low bytes of a float32 do not compress, so more effort gains little.
"""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ebm_traj.atomic import replacing
from ebm_traj.datasets.manifest import FORMAT, FORMAT_VERSION, Manifest
from ebm_traj.errors import InputError

CHUNK_BYTES = 10_000
CHUNK_CACHE_BYTES = 2**20
COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "shuffle": True}


@dataclasses.dataclass(eq=False)
class ShardData:
    """The arrays of a shard; see the head of this module for shapes."""

    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    offsets: NDArray[np.int64]
    episode: NDArray[np.int64]
    seed: NDArray[np.int64]
    split: NDArray[np.uint8]
    terminated: NDArray[np.bool_]
    success: NDArray[np.bool_]
    sim_states: NDArray[np.float64]
    sim_index: NDArray[np.int64]


DTYPES: dict[str, Any] = {
    "states": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "offsets": np.int64,
    "episode": np.int64,
    "seed": np.int64,
    "split": np.uint8,
    "terminated": np.bool_,
    "success": np.bool_,
    "sim_states": np.float64,
    "sim_index": np.int64,
}


def shard_path(folder: Path, number: int) -> Path:
    """Where shard `number` of a data set lies."""
    return folder / f"shard-{number:05d}.h5"


def temporary_files(folder: Path) -> list[Path]:
    """What writers that were killed left in a data set."""
    return sorted(folder.glob(".*.h5.tmp"))


def write_shard(folder: Path, number: int, manifest: Manifest, data: ShardData) -> Path:
    """Write a shard so that it is afterwards either whole or absent, whatever happens.

    Raises InputError for arrays that do not fit together and for NaN or infinite values.
    """
    path = shard_path(folder, number)
    arrays: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(getattr(data, name), dtype=dtype) for name, dtype in DTYPES.items()
    }
    _verify(path.name, manifest, arrays)
    attributes = manifest.attributes() | {"shard": number}
    write_hdf5(path, arrays, attributes)
    return path


def write_hdf5(path: Path, arrays: dict[str, NDArray[Any]], attributes: dict[str, Any]) -> None:
    """Write arrays and attributes, with a sha256 over both, under a temporary name; sync; rename.

    The same arrays and attributes give the same bytes.
    """
    attributes = attributes | {"sha256": digest(arrays, attributes)}
    with replacing(path) as temporary, h5py.File(temporary, "w", libver=("earliest", "v110")) as file:
        for name in sorted(attributes):
            file.attrs[name] = attributes[name]
        for name, array in arrays.items():
            # HDF5 neither chunks nor filters what is empty.
            filters = {"chunks": _chunks(array), "fletcher32": True, **COMPRESSION} if array.size else {}
            file.create_dataset(name, data=array, track_times=False, **filters)


def open_hdf5(path: Path) -> h5py.File:
    """An open file; InputError with one line if it is missing, truncated or not HDF5."""
    try:
        return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: not a whole HDF5 file ({_reason(error)})") from error


def read_manifest(file: h5py.File, path: Path) -> Manifest:
    """The manifest of an open shard; InputError if the file is not one."""
    attributes = dict(file.attrs)
    if attributes.get("format") != FORMAT:
        raise InputError(f"{path}: an HDF5 file, but not a shard of a recording (format = '{FORMAT}')")
    if attributes["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {attributes['format_version']}; read here is version {FORMAT_VERSION}"
        )
    try:
        return Manifest.from_attributes(attributes)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: broken attributes ({_reason(error)})") from error


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
    """Some rows of an array, or all; InputError if they are damaged."""
    try:
        return array[rows if rows is not None else ...]
    except OSError as error:
        name = array.name.lstrip("/")
        raise InputError(f"{array.file.filename}: array '{name}' is damaged ({_reason(error)})") from error


def verify_shard(path: Path) -> Manifest:
    """Read a shard whole, check sha256 and contents, and give its manifest; InputError if it fails."""
    with open_hdf5(path) as file:
        manifest = read_manifest(file, path)
        arrays = {name: read_array(file, name) for name in DTYPES}
        attributes = dict(file.attrs)
    stored = attributes.pop("sha256", None)
    if digest(arrays, attributes) != stored:
        raise InputError(f"{path}: the sha256 of its contents is not the one written in it")
    _verify(str(path), manifest, arrays)
    return manifest


def digest(arrays: dict[str, NDArray[Any]], attributes: dict[str, Any]) -> str:
    """sha256 over names, types, shapes and values of arrays and attributes."""
    sha = hashlib.sha256()
    for name in sorted(attributes):
        value = attributes[name]
        plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        sha.update(f"{name}={plain!r};".encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"{name}:{array.dtype.str}{array.shape};".encode())
        sha.update(np.ascontiguousarray(array).data if array.size else b"")
    return sha.hexdigest()


def _verify(where: str, manifest: Manifest, arrays: dict[str, NDArray[Any]]) -> None:
    """Raise InputError if arrays do not fit the manifest or each other, or hold what is not finite."""
    offsets = arrays["offsets"]
    episodes = len(offsets) - 1
    if episodes < 1 or offsets[0] != 0 or np.any(np.diff(offsets) < 2):
        raise InputError(f"{where}: offsets must start at 0 and give each episode at least one step")
    frames, steps = int(offsets[-1]), int(offsets[-1]) - episodes
    shapes: dict[str, tuple[int, ...]] = {
        "states": (frames, manifest.spec.size),
        "actions": (steps, len(manifest.action_low)),
        "rewards": (steps,),
        "sim_index": (len(arrays["sim_states"]), 2),
        **dict.fromkeys(("episode", "seed", "split", "terminated", "success"), (episodes,)),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise InputError(f"{where}: {name} has shape {arrays[name].shape}; needed is {shape}")
    for name in ("states", "actions", "rewards", "sim_states"):
        require_finite(where, name, arrays[name], offsets, arrays["episode"])


def require_finite(
    where: str, name: str, array: NDArray[Any], offsets: NDArray[np.int64], episode: NDArray[np.int64]
) -> None:
    """Raise InputError naming the first episode in which an array of a shard is NaN or infinite."""
    finite = np.isfinite(array)
    if finite.all():
        return
    row = int(np.nonzero(~finite)[0][0])
    if name == "sim_states":
        raise InputError(f"{where}: {name} row {row} is not finite; recordings hold finite numbers only")
    starts = offsets if name == "states" else offsets - np.arange(len(offsets))
    i = np.searchsorted(starts, row, side="right") - 1
    raise InputError(
        f"{where}: {name} of episode {episode[i]} at step {row - starts[i]} are not finite "
        "(NaN or infinity); recordings hold finite numbers only"
    )


def _chunks(array: NDArray[Any]) -> tuple[int, ...]:
    row_bytes = array.nbytes // len(array)
    rows = 2 ** round(max(0.0, math.log2(CHUNK_BYTES / row_bytes)))
    return (min(rows, len(array)), *array.shape[1:])


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
