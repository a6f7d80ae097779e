"""Reading a data set: a folder of shards opened as one `Recording`."""

from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.datasets.compact_windows import CompactWindows, Layout, find_layout, most_open_files
from ebm_traj.datasets.episodes import Episodes, WindowPlaces
from ebm_traj.datasets.hdf5 import find_array, open_hdf5, read_array, read_rows
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.shard import (
    MANIFEST_DIGEST,
    read_frames,
    read_manifest,
    require_finite,
    shard_number,
)
from ebm_traj.datasets.splits import Split, split_code
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

# What shards of one data set may differ in: a second machine may have, say, another h5py.
MAY_DIFFER = ("versions",)
# Reading a shard whole takes as long as reading a window for every 20 of its frames (measured).
READ_WHOLE = 20
OPEN_FILES = 256  # at most

__all__ = ["Episodes", "Recording"]


class Recording:
    """A data set on disk. Opening reads attributes and episode tables; frames are read when asked for.

    Rows of the whole recording count the frames of all shards in the order of their files.

    Raises InputError, naming the file, if the folder is missing, holds no shards, or holds a file that is
    truncated, foreign, or of another environment, policy, spec or run than the first.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder; needed is a data set of scripts/collect.py")
        self.paths = sorted(self.folder.glob("shard-*.h5"))
        if not self.paths:
            raise InputError(f"{self.folder}: no shards (shard-00000.h5, ...); needed is a data set")
        for path in self.paths:
            if shard_number(path) < 0:
                raise InputError(f"{path}: no name of a shard (shard-00000.h5, ...); remove or rename it")
        tables: list[dict[str, NDArray[Any]]] = []
        self.versions: list[dict[str, str]] = []
        """Package versions found in the shards, each combination once."""
        layouts: list[Layout] = []
        known: set[str] = set()
        for path in self.paths:
            with open_hdf5(path) as file:
                found = str(file.attrs.get(MANIFEST_DIGEST, ""))
                if not found or found not in known:
                    self._add_manifest(read_manifest(file, path), path)
                    known.add(found)
                names = ("offsets", "episode", "seed", "split", "terminated", "success", "sim_index")
                tables.append({name: read_array(file, name) for name in names})
                if self.manifest.storage == "compact":
                    offsets = tables[-1]["offsets"]
                    layouts.append(find_layout(file, self.manifest, int(offsets[-1]), len(offsets) - 1))
        episodes_before = np.cumsum([0] + [len(table["episode"]) for table in tables])
        frames = np.cumsum([0] + [int(table["offsets"][-1]) for table in tables])
        self.shard_episodes: NDArray[np.int64] = episodes_before
        """(shards + 1,) episode rows at which shards begin."""
        self.shard_frames: NDArray[np.int64] = frames
        """(shards + 1,) frame rows at which shards begin."""
        begins = [table["offsets"][:-1] + start for table, start in zip(tables, frames, strict=False)]
        self.offsets: NDArray[np.int64] = np.concatenate([*begins, frames[-1:]])
        """(N + 1,) episode i has the rows offsets[i]:offsets[i + 1] of the whole recording."""

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([table[name] for table in tables])

        self.episode: NDArray[np.int64] = joined("episode")
        """(N,) numbers of the episodes in the run."""
        self.seed: NDArray[np.int64] = joined("seed")
        """(N,) seeds of the episodes."""
        self.split: NDArray[np.uint8] = joined("split")
        """(N,) 0 train, 1 validation, 2 test."""
        self.terminated: NDArray[np.bool_] = joined("terminated")
        self.success: NDArray[np.bool_] = joined("success")
        """(N,) whether the environment called the last step a success."""
        self.sim_index: NDArray[np.int64] = np.concatenate(
            [table["sim_index"] + [start, 0] for table, start in zip(tables, episodes_before, strict=False)]
        )
        """(K, 2) episode row in this recording and step of each stored simulator state."""
        self._sim_before = np.cumsum([0] + [len(table["sim_index"]) for table in tables])
        self._files: dict[int, h5py.File] = {}
        self._compact: CompactWindows | None = None
        if layouts:
            self._compact = CompactWindows(self.manifest, self.paths, layouts, frames)

    def _add_manifest(self, manifest: Manifest, path: Path) -> None:
        if path == self.paths[0]:
            self.manifest = manifest
        difference = self.manifest.difference(manifest, ignore=MAY_DIFFER)
        if difference:
            raise InputError(f"{path}: differs from {self.paths[0].name} in {difference}")
        if manifest.versions not in self.versions:
            self.versions.append(manifest.versions)

    @property
    def spec(self) -> StateSpec:
        """What the states are, without statistics."""
        return self.manifest.spec

    @property
    def env_id(self) -> str:
        """Gymnasium id of the environment."""
        return self.manifest.env_id

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Keyword arguments the environment was made with."""
        return self.manifest.env_kwargs

    @property
    def policy(self) -> dict[str, Any]:
        """`name`, `settings` and `goal_conditioned` of the behaviour."""
        return self.manifest.policy

    @property
    def action_low(self) -> NDArray[np.float32]:
        """(A,) lower bounds of the actions."""
        return self.manifest.action_low

    @property
    def action_high(self) -> NDArray[np.float32]:
        """(A,) upper bounds of the actions."""
        return self.manifest.action_high

    @property
    def action_size(self) -> int:
        """A, the number of dimensions of an action."""
        return len(self.manifest.action_low)

    @property
    def num_episodes(self) -> int:
        """Episodes on disk; in a run in progress fewer than planned."""
        return len(self.episode)

    @property
    def num_steps(self) -> int:
        """Steps on disk, over all episodes."""
        return int(self.offsets[-1]) - self.num_episodes

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) steps of each episode."""
        return np.diff(self.offsets) - 1

    def episode_rows(self, split: Split | None) -> NDArray[np.intp]:
        """Rows of the episodes of a split, or of all; InputError if there are none."""
        if split is None:
            return np.arange(self.num_episodes)
        rows = np.flatnonzero(self.split == split_code(split))
        if not len(rows):
            raise InputError(f"{self.folder}: none of its {len(self.split)} episodes is in the {split} split")
        return rows

    def rows_of(self, episodes: ArrayLike) -> NDArray[np.intp]:
        """Rows (n,) of episodes by their numbers in the run (n,); -1 for those that are not there."""
        numbers = np.asarray(episodes, dtype=np.int64)
        order = np.argsort(self.episode)
        place = np.searchsorted(self.episode, numbers, sorter=order)
        rows = order[np.minimum(place, self.num_episodes - 1)]
        return np.where(self.episode[rows] == numbers, rows, -1)

    def load(self, split: Split | None = None) -> Episodes:
        """All episodes of a split (of all splits if None) in memory.

        Raises InputError, naming the shard, if data are damaged or not finite.
        """
        rows = self.episode_rows(split)
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        states = np.empty((offsets[-1], self.spec.size), dtype=np.float32)
        actions = np.empty((offsets[-1], self.action_size), dtype=np.float32)
        done = 0
        for shard in np.unique(np.searchsorted(self.shard_episodes, rows, side="right") - 1):
            begin, end = self.shard_episodes[shard : shard + 2]
            inside = rows[(rows >= begin) & (rows < end)]
            shard_states, shard_actions = self.read_shard(int(shard))
            if len(inside) < end - begin:
                frames = np.diff(self.offsets[begin : end + 1])
                kept = np.repeat(np.isin(np.arange(begin, end), inside), frames)
                shard_states, shard_actions = shard_states[kept], shard_actions[kept]
            states[done : done + len(shard_states)] = shard_states
            actions[done : done + len(shard_states)] = shard_actions
            done += len(shard_states)
        return Episodes(states, actions, offsets, self.episode[rows])

    def read_shard(self, shard: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """States (F, D) and actions (F, A), NaN at the last frame of each episode, of one shard."""
        path = self.paths[shard]
        with open_hdf5(path) as file:
            states, taken = read_frames(file, self.manifest)
        begin, end = self.shard_episodes[shard : shard + 2]
        offsets = self.offsets[begin : end + 1] - self.offsets[begin]
        frames, steps = offsets[-1], offsets[-1] - (end - begin)
        for name, array, rows in (("states", states, frames), ("actions", taken, steps)):
            if len(array) != rows:
                raise InputError(f"{path}: {name} has {len(array)} rows; its offsets need {rows}")
            require_finite(str(path), name, array, offsets, self.episode[begin:end])
        actions = np.full((len(states), self.action_size), np.nan, dtype=np.float32)
        has_action = np.ones(len(states), dtype=bool)
        has_action[offsets[1:] - 1] = False
        actions[has_action] = taken
        return states, actions

    def window_places(self, length: int, first: int = 0, split: Split | None = None) -> WindowPlaces:
        """The windows of `length` frames that lie inside an episode of a split, numbered."""
        rows = self.episode_rows(split)
        return WindowPlaces(self.offsets[rows], self.lengths[rows] + 1, length, first)

    def window_starts(self, length: int, first: int = 0, split: Split | None = None) -> NDArray[np.int64]:
        """Rows of the whole recording where a window of `length` frames fits inside an episode of a split."""
        places = self.window_places(length, first, split)
        return places.at(np.arange(len(places)))

    def read_windows(self, starts: ArrayLike, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """States (n, length, D) and actions (n, length, A) of windows, for data larger than memory.

        `starts` (n,) are rows as given by `window_starts`. From compact storage each window is two small
        reads. From exact storage many windows of few shards are read much faster (each shard once, whole)
        than the same number from all over the recording. Not for several threads at once.
        """
        begins = np.asarray(starts, dtype=np.int64)
        row = np.searchsorted(self.offsets, begins, side="right") - 1
        last = self.num_episodes - 1
        ends = self.offsets[np.clip(row, 0, last) + 1]
        if np.any((begins < 0) | (row > last) | (begins + length > ends)):
            raise InputError(f"{self.folder}: a window of {length} frames does not lie inside one episode")
        shards = np.searchsorted(self.shard_frames, begins, side="right") - 1
        counts = length - (begins + length == ends)  # the last frame of an episode has no action
        if self._compact is not None:
            return self._compact.read(begins, shards, row - self.shard_episodes[shards], counts, length)
        states = np.empty((len(begins), length, self.spec.size), dtype=np.float32)
        actions = np.empty((len(begins), length, self.action_size), dtype=np.float32)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            local = begins[here] - self.shard_frames[shard]
            if len(here) * READ_WHOLE > self.shard_frames[shard + 1] - self.shard_frames[shard]:
                shard_states, shard_actions = self.read_shard(int(shard))
                rows = local[:, None] + np.arange(length)
                states[here], actions[here] = shard_states[rows], shard_actions[rows]
                continue
            file = self._open(int(shard))
            state_rows, action_rows = find_array(file, "states"), find_array(file, "actions")
            episodes_before = row[here] - self.shard_episodes[shard]
            order = np.argsort(local)  # neighbours share decompressed chunks
            for i, start, before in zip(here[order], local[order], episodes_before[order], strict=True):
                states[i] = read_rows(state_rows, slice(start, start + length))
                first = start - before
                actions[i, -1] = np.nan
                actions[i, : counts[i]] = read_rows(action_rows, slice(first, first + counts[i]))
        return states, actions

    def read_sim_states(self, rows: ArrayLike) -> NDArray[np.float64]:
        """Simulator states (n, Z) at rows of `sim_index`."""
        wanted = np.asarray(rows, dtype=np.int64)
        shards = np.searchsorted(self._sim_before, wanted, side="right") - 1
        found: NDArray[np.float64] | None = None
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            stored = read_array(self._open(int(shard)), "sim_states")
            if found is None:
                found = np.empty((len(wanted), stored.shape[1]))
            found[here] = stored[wanted[here] - self._sim_before[shard]]
        if found is None:
            raise InputError(f"{self.folder}: no simulator states asked for")
        return found

    def close(self) -> None:
        """Close the files that windows are read from; they open again when needed."""
        while self._files:
            self._files.popitem()[1].close()
        if self._compact is not None:
            self._compact.close()

    def _open(self, shard: int) -> h5py.File:
        if shard not in self._files:
            if len(self._files) >= min(OPEN_FILES, most_open_files()):
                self._files.pop(next(iter(self._files))).close()
            self._files[shard] = open_hdf5(self.paths[shard])
        return self._files[shard]
