"""Random windows of compact shards: two reads at computed places for each, nothing else of the file.

Positioned reads, not memory maps: they take as long (1.5 us a read), do not count as memory of the process,
and a file that became shorter is an error rather than the end of the process. The system is told all places
of a block before the first is read, so that a disk has many requests to work on.
"""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.compact import columns, decode_states
from ebm_traj.datasets.hdf5 import find_array, read_array, read_note
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.errors import InputError

BLOCK = 128  # windows decoded together: they stay in the cache of a core


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Where the arrays of a compact shard lie in its file, and the small ones among them."""

    states_at: int
    """Byte of the file at which the states begin."""
    dtype: np.dtype
    """Of the stored states."""
    offset: NDArray[np.float64]
    """(P,) of the stored states."""
    scale: NDArray[np.float64]
    """(P,) of the stored states."""
    actions_at: int
    """Byte of the file at which the actions begin."""
    given: NDArray[np.float32]
    """(R, G) values of the given dimensions."""
    given_rows: NDArray[np.int64]
    """(R,) frames of the shard from which they hold."""


def find_layout(file: h5py.File, manifest: Manifest, frames: int, episodes: int) -> Layout:
    """The layout of an open shard of so many frames and episodes; InputError if it is broken."""
    states, actions = find_array(file, "states"), find_array(file, "actions")
    size = len(manifest.spec.predicted)
    found = Layout(
        states_at=states.id.get_offset() or 0,
        dtype=states.dtype,
        offset=read_note(states, "offset", size),
        scale=read_note(states, "scale", size),
        actions_at=actions.id.get_offset() or 0,
        given=read_array(file, "given"),
        given_rows=read_array(file, "given_rows"),
    )
    fits = states.shape == (frames, size)
    fits &= actions.shape == (frames - episodes, len(manifest.action_low))
    fits &= found.given.shape == (len(found.given_rows), len(manifest.spec.given)) and len(found.given) > 0
    if not fits or states.chunks or actions.chunks or states.dtype not in (np.int16, np.int32):
        raise InputError(f"{file.filename}: not laid out as compact storage is")
    return found


def most_open_files() -> int:
    """Half of the files that the process may have open, and not absurdly many; enough for a block."""
    try:
        import resource
    except ModuleNotFoundError:  # not a POSIX system
        return BLOCK
    return max(BLOCK, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, 4096))


class _Places(NamedTuple):
    """Where windows lie; each (n,)."""

    shards: NDArray[np.int64]
    states_at: NDArray[np.int64]
    """Byte of the shard's file at which the first state begins."""
    actions_at: NDArray[np.int64]
    """Byte at which the first action begins."""
    counts: NDArray[np.int64]
    """Frames that have an action: all or all but the last."""

    def of(self, rows: NDArray[np.intp]) -> "_Places":
        """The places of some of the windows."""
        return _Places(*(array[rows] for array in self))


class CompactWindows:
    """Reads windows of the shards of one data set. Not for several threads at once."""

    def __init__(
        self, manifest: Manifest, paths: list[Path], layouts: list[Layout], shard_frames: NDArray[np.int64]
    ):
        """`shard_frames` (shards + 1,) are the rows of the whole recording at which shards begin."""
        self._files: dict[int, int] = {}
        self._most_files = most_open_files()
        self.spec, self.grid, self.paths = manifest.spec, manifest.action_grid, paths
        self.states_at = np.array([layout.states_at for layout in layouts])
        self.actions_at = np.array([layout.actions_at for layout in layouts])
        self.wide = np.array([layout.dtype.itemsize == 4 for layout in layouts])
        self.offset = np.stack([layout.offset for layout in layouts])
        self.scale = layouts[0].scale
        for path, layout in zip(paths, layouts, strict=True):
            if not np.array_equal(layout.scale, self.scale):
                raise InputError(f"{path}: its grid differs from that of {paths[0].name}")
        self.begins = shard_frames[:-1]
        self.given = np.concatenate([layout.given for layout in layouts])
        self.given_rows = np.concatenate(
            [layout.given_rows + begin for layout, begin in zip(layouts, self.begins, strict=True)]
        )

    def read(
        self,
        begins: NDArray[np.int64],
        shards: NDArray[np.int64],
        episodes_before: NDArray[np.int64],
        counts: NDArray[np.int64],
        length: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """States (n, length, D) and actions (n, length, A) of windows, NaN where a frame has no action.

        `begins` (n,) are rows of the whole recording, `shards` (n,) the shards they lie in,
        `episodes_before` (n,) the episodes of that shard before them, `counts` (n,) how many of their frames
        have an action.

        Raises InputError, naming the file, for one that is gone or became shorter. What the bytes say is
        not checked: that takes the whole of an array, see `Recording.read_shard`.
        """
        if not hasattr(os, "preadv"):
            folder = self.paths[0].parent
            raise InputError(f"{folder}: single windows of compact storage are read on Linux and macOS only")
        states = np.empty((len(begins), length, self.spec.size), dtype=np.float32)
        actions = np.empty((len(begins), length, self.grid.low.size), dtype=np.float32)
        local = begins - self.begins[shards]
        wide = self.wide[shards]
        places = _Places(
            shards,
            self.states_at[shards] + local * len(self.spec.predicted) * np.where(wide, 4, 2),
            self.actions_at[shards] + (local - episodes_before) * self.grid.low.size,
            counts,
        )
        order = np.lexsort((local, shards))  # neighbours in a file one after the other
        for rows, dtype in (
            (order[~wide[order]], np.dtype(np.int16)),
            (order[wide[order]], np.dtype(np.int32)),
        ):
            for i in range(0, len(rows), BLOCK):
                here = rows[i : i + BLOCK]
                states[here], actions[here] = self._read_block(places.of(here), length, dtype)
        first = np.searchsorted(self.given_rows, begins, side="right") - 1
        last = np.searchsorted(self.given_rows, begins + length - 1, side="right") - 1
        given = np.repeat(self.given[first, None], length, axis=1)
        changed = np.flatnonzero(last > first)
        frames = begins[changed, None] + np.arange(length)
        given[changed] = self.given[np.searchsorted(self.given_rows, frames, side="right") - 1]
        states[..., columns(self.spec.given)] = given
        return states, actions

    def _read_block(
        self, places: _Places, length: int, dtype: np.dtype
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """States, the given dimensions still to be filled in, and actions of at most BLOCK windows."""
        rows = len(places.shards)
        codes = np.empty((rows, length, len(self.spec.predicted)), dtype=dtype)
        levels = np.zeros((rows, length, self.grid.low.size), dtype=np.int8)
        files = self._open(places.shards)
        state_bytes = [codes[0].nbytes] * rows
        action_bytes = (places.counts * self.grid.low.size).tolist()
        wanted = (
            (codes, places.states_at.tolist(), state_bytes),
            (levels, places.actions_at.tolist(), action_bytes),
        )
        if hasattr(os, "posix_fadvise"):
            for _, begins, sizes in wanted:
                for file, begin, size in zip(files, begins, sizes, strict=True):
                    if size:  # 0 would mean all of the file
                        os.posix_fadvise(file, begin, size, os.POSIX_FADV_WILLNEED)
        for array, begins, sizes in wanted:
            memory, step = memoryview(array.reshape(-1).view(np.uint8)), array[0].nbytes
            for i, (file, begin, size) in enumerate(zip(files, begins, sizes, strict=True)):
                if os.preadv(file, [memory[i * step : i * step + size]], begin) != size:
                    raise InputError(f"{self.paths[places.shards[i]]}: became shorter since it was opened")
        states = np.empty((rows, length, self.spec.size), dtype=np.float32)
        offset = self.offset[places.shards][:, None]
        states[..., columns(self.spec.predicted)] = decode_states(codes, self.scale, offset)
        actions = self.grid.decode(levels)
        actions[places.counts < length, -1] = np.nan
        return states, actions

    def _open(self, shards: NDArray[np.int64]) -> list[int]:
        """An open file for each of at most BLOCK shards; the longest unused are closed."""
        for shard in dict.fromkeys(shards.tolist()):
            file = self._files.pop(shard, None)
            if file is None:
                while len(self._files) >= self._most_files:
                    os.close(self._files.pop(next(iter(self._files))))
                try:
                    file = os.open(self.paths[shard], os.O_RDONLY)
                except OSError as error:
                    raise InputError(f"{self.paths[shard]}: {error.strerror}") from None
                if hasattr(os, "posix_fadvise"):  # what lies around a window is not wanted
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            self._files[shard] = file
        return [self._files[shard] for shard in shards.tolist()]

    def close(self) -> None:
        """Close the files; they open again when needed."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}  # open files mean nothing in another process

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()
