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

With compact storage (`ebm_traj.datasets.compact`; P dimensions of the state are predicted, G given):

    /states (F, P) int16 or int32   value = offset + scale * integer (attributes); the P dimensions in order
    /given (R, G) float32           from frame /given_rows (R,) int64 on, one row at least in each episode
    /actions (S, A) int8            value = offset + scale * integer (attributes)

uncompressed and contiguous, so that a window is two reads at computed places of the file, each array with a
crc32 over it as attribute. The other arrays are as above.

Exact storage has chunks of about 10 kB (64 frames of the hand), shuffled and deflated, each with a checksum.
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
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets import compact
from ebm_traj.datasets.hdf5 import digest, find_array, open_hdf5, read_array, read_note, reason, write_hdf5
from ebm_traj.datasets.manifest import FORMAT, READABLE_VERSIONS, Manifest
from ebm_traj.errors import InputError


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
MANIFEST_DIGEST = "manifest_sha256"  # tells shards of one data set without reading all their attributes
COMPACT_ARRAYS = ("states", "actions", "given", "given_rows")


def shard_path(folder: Path, number: int) -> Path:
    """Where shard `number` of a data set lies."""
    return folder / f"shard-{number:05d}.h5"


def shard_number(path: Path) -> int:
    """Number of the shard at a path of `shard_path` or `temporary_files`; -1 for another name."""
    found = re.fullmatch(r"\.?shard-(\d+)\.h5((\.[0-9a-f]+)?\.tmp)?", path.name)
    return int(found[1]) if found else -1


def temporary_files(folder: Path) -> list[Path]:
    """What writers that were killed left in a data set."""
    return sorted({*folder.glob(".*.h5.tmp"), *folder.glob(".*.h5.*.tmp")})


def write_shard(folder: Path, number: int, manifest: Manifest, data: ShardData) -> Path:
    """Write a shard so that it is afterwards either whole or absent, whatever happens.

    With compact storage states are rounded here (`Manifest.round_states`); actions must have been rounded
    before they were done (`Manifest.round_actions`).

    Raises InputError for arrays that do not fit together, for NaN or infinite values, and for what compact
    storage cannot hold.
    """
    path = shard_path(folder, number)
    arrays: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(getattr(data, name), dtype=dtype) for name, dtype in DTYPES.items()
    }
    _verify(path.name, manifest, arrays)
    attributes = manifest.attributes()
    attributes |= {MANIFEST_DIGEST: digest({}, attributes), "shard": number}
    plain: dict[str, dict[str, Any]] = {}
    if manifest.storage == "compact":
        arrays, plain = compact.encode(path.name, manifest.spec, manifest.action_grid, arrays)
    write_hdf5(path, arrays, attributes, plain)
    return path


def read_manifest(file: h5py.File, path: Path) -> Manifest:
    """The manifest of an open shard; InputError if the file is not one."""
    attributes = dict(file.attrs)
    if attributes.get("format") != FORMAT:
        raise InputError(f"{path}: an HDF5 file, but not a shard of a recording (format = '{FORMAT}')")
    if attributes.get("format_version") not in READABLE_VERSIONS:
        raise InputError(
            f"{path}: format version {attributes.get('format_version')}; "
            f"read here are versions {', '.join(map(str, READABLE_VERSIONS))}"
        )
    try:
        return Manifest.from_attributes(attributes)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: broken attributes ({reason(error)})") from error


def read_frames(file: h5py.File, manifest: Manifest) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """States (F, D) and actions (S, A) of an open shard; InputError if they are damaged."""
    if manifest.storage == "exact":
        return read_array(file, "states"), read_array(file, "actions")
    return _decoded(file, manifest, {name: read_array(file, name) for name in COMPACT_ARRAYS})


def verify_shard(path: Path) -> Manifest:
    """Read a shard whole, check sha256 and contents, and give its manifest; InputError if it fails."""
    with open_hdf5(path) as file:
        manifest = read_manifest(file, path)
        names = {**DTYPES, **dict.fromkeys(COMPACT_ARRAYS if manifest.storage == "compact" else ())}
        arrays = {name: read_array(file, name) for name in names}
        notes = {name: dict(file[name].attrs) for name in names}
        attributes = dict(file.attrs)
        stored = attributes.pop("sha256", None)
        if digest(arrays, attributes, notes) != stored:
            raise InputError(f"{path}: the sha256 of its contents is not the one written in it")
        if manifest.storage == "compact":
            arrays["states"], arrays["actions"] = _decoded(file, manifest, arrays)
    _verify(str(path), manifest, arrays)
    return manifest


def _decoded(
    file: h5py.File, manifest: Manifest, arrays: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    states = find_array(file, "states")
    scale, offset = (read_note(states, key, len(manifest.spec.predicted)) for key in ("scale", "offset"))
    return compact.decode(file.filename, manifest.spec, manifest.action_grid, arrays, scale, offset)


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
