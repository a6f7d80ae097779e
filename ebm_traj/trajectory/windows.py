"""Random training windows on the device: all data where they fit; otherwise windows read one by one from
compact storage, and a few shards at a time from exact storage."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ebm_traj.core.seeding import derive_seed
from ebm_traj.datasets.episodes import window_starts
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import Split, split_code
from ebm_traj.errors import InputError

BYTES_PER_NUMBER = 4  # float32


class Windows(Protocol):
    """A source of random windows."""

    def draw(self, count: int, iteration: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """States (n, L, D) and actions (n, L, A) of `count` windows; the last action of an episode is NaN."""
        ...


class ResidentWindows:
    """Windows gathered by index from frames that lie on the device."""

    def __init__(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        starts: np.ndarray,
        length: int,
        device: torch.device,
    ) -> None:
        """`states` (F, D), `actions` (F, A), `starts` (n,) rows at which a window of `length` fits."""
        self.states = torch.from_numpy(states).to(device)
        self.actions = torch.from_numpy(actions).to(device)
        self.starts = torch.from_numpy(starts).to(device)
        self.steps = torch.arange(length, device=device)

    def draw(self, count: int, iteration: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pick = torch.randint(len(self.starts), (count,), generator=generator, device=self.starts.device)
        rows = self.starts[pick][:, None] + self.steps
        return self.states[rows], self.actions[rows]


class DrawnWindows:
    """Windows of a whole split, read from disk as they are drawn: the very ones that are drawn if resident.

    For data sets of compact storage, where a random window is two small reads.
    """

    def __init__(self, recording: Recording, split: Split, length: int, device: torch.device) -> None:
        self.recording, self.length, self.device = recording, length, device
        self.places = recording.window_places(length, split=split)
        if not len(self.places):
            raise _too_long(recording, split, length)

    def draw(self, count: int, iteration: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pick = torch.randint(len(self.places), (count,), generator=generator, device=self.device)
        states, actions = self.recording.read_windows(self.places.at(pick.cpu().numpy()), self.length)
        return torch.from_numpy(states).to(self.device), torch.from_numpy(actions).to(self.device)


class StreamedWindows:
    """Windows from a changing set of shards, for data larger than the budget.

    Which shards are resident is a pure function of (seed, iteration): shards are shuffled anew in each
    pass, taken `resident` at a time for `refresh` iterations, and the next ones are read in the background.
    Of `world` ranks each holds `resident` shards of its own; ranks share a shard where a pass has too few
    left. A pass of all ranks together reads every shard.
    """

    def __init__(
        self,
        recording: Recording,
        split: Split,
        length: int,
        device: torch.device,
        resident: int,
        refresh: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.recording, self.length, self.device = recording, length, device
        self.rank, self.world = rank, world
        self.code = split_code(split)
        begins = recording.shard_episodes
        self.shards = [
            shard
            for shard in range(len(recording.paths))
            if np.any(self._fits(slice(int(begins[shard]), int(begins[shard + 1]))))
        ]
        if not self.shards:
            raise _too_long(recording, split, length)
        self.resident = max(1, min(resident, -(-len(self.shards) // world)))
        self.refresh = refresh
        self.seed = seed
        self._reader = ThreadPoolExecutor(1)
        self._blocks: dict[int, Future[ResidentWindows]] = {}

    def draw(self, count: int, iteration: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        block = iteration // self.refresh
        for wanted in (block, block + 1):
            if wanted not in self._blocks:
                self._blocks[wanted] = self._reader.submit(self._read, wanted)
        self._blocks = {number: read for number, read in self._blocks.items() if number >= block}
        return self._blocks[block].result().draw(count, iteration, generator)

    def block_shards(self, block: int) -> list[int]:
        """Shards resident on this rank during a block of `refresh` iterations."""
        together = self.resident * self.world
        number, part = divmod(block, -(-len(self.shards) // together))
        order = np.random.default_rng(derive_seed("shards", self.seed, number)).permutation(self.shards)
        here = order[part * together : (part + 1) * together].tolist()
        return here[self.rank :: self.world] or [here[self.rank % len(here)]]

    def _fits(self, episodes: slice) -> np.ndarray:
        return (self.recording.split[episodes] == self.code) & (
            self.recording.lengths[episodes] + 1 >= self.length
        )

    def _read(self, block: int) -> ResidentWindows:
        parts, starts, done = [], [], 0
        for shard in self.block_shards(block):
            begin, end = (int(row) for row in self.recording.shard_episodes[shard : shard + 2])
            states, actions = self.recording.read_shard(shard)
            offsets = self.recording.offsets[begin : end + 1] - self.recording.offsets[begin]
            here = window_starts(offsets, self.length)
            episode = np.searchsorted(offsets, here, side="right") - 1
            starts.append(here[self._fits(slice(begin, end))[episode]] + done)
            parts.append((states, actions))
            done += len(states)
        states = np.concatenate([part[0] for part in parts])
        actions = np.concatenate([part[1] for part in parts])
        return ResidentWindows(states, actions, np.concatenate(starts), self.length, self.device)


def open_windows(
    recording: Recording,
    split: Split,
    length: int,
    device: torch.device,
    *,
    budget_gb: float = 4.0,
    refresh: int = 200,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Windows:
    """Windows of `length` frames of a split: resident if its frames fit into the budget, else from disk.

    Budget is that of one device. Each of `world` ranks draws by its own generator, from all windows where
    they are resident or drawn one by one, and from its own shards where shards are streamed.

    Raises InputError if no episode of the split is long enough.
    """
    row_bytes = BYTES_PER_NUMBER * (recording.spec.size + recording.action_size)
    frames = int((recording.lengths[recording.episode_rows(split)] + 1).sum())
    if frames * row_bytes <= budget_gb * 1e9:
        episodes = recording.load(split)
        starts = episodes.window_starts(length)
        if not len(starts):
            raise _too_long(recording, split, length)
        return ResidentWindows(episodes.states, episodes.actions, starts, length, device)
    if recording.manifest.storage == "compact":
        return DrawnWindows(recording, split, length, device)
    shard_bytes = row_bytes * float(recording.shard_frames[-1]) / len(recording.paths)
    resident = int(budget_gb * 1e9 / (2 * shard_bytes))  # the next block is read while one is in use
    return StreamedWindows(recording, split, length, device, resident, refresh, seed, rank, world)


def _too_long(recording: Recording, split: Split, length: int) -> InputError:
    return InputError(
        f"{recording.folder}: no {split} episode is long enough for a window of {length} frames"
    )
