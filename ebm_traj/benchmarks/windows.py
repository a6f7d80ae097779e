"""Speed of random windows from data sets on disk: compact and exact storage, and a group for each episode."""

import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ebm_traj.benchmarks.paired import shown
from ebm_traj.datasets.manifest import Manifest, Storage
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.shard import ShardData, write_shard
from ebm_traj.datasets.splits import SPLITS, split_codes
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

STEPS, WINDOW, BATCH = 100, 32, 1024
ACTION, SIM_STATE, SIM_STATE_EVERY = 20, 120, 10
# dimensions and one-step change of a recording of the hand and block
KINDS = {"angle": (24, 0.08), "position": (3, 0.004), "quaternion": (4, 0.02), "given": (7, 0.0)}
COLD_BATCHES = 4  # more would find pages that earlier ones have brought in

Read = Callable[[NDArray[np.int64], NDArray[np.int64]], Any]
"""Reads windows of WINDOW frames, given their episodes (n,) and first steps (n,)."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the benchmark."""

    name: str
    bytes_per_step: float
    """On disk, all that is stored counted."""
    open_seconds: float
    """From a path to the first window, the file's pages in memory."""
    warm: float
    """Windows/s with the files in the system's page cache."""
    warm_ratio: float
    """Windows/s of compact storage over this row's."""
    cold: float
    """Windows/s right after the files were dropped from the page cache."""
    cold_ratio: float
    """Windows/s of compact storage over this row's."""


def benchmark_windows(
    *,
    episodes: int = 20_000,
    episodes_per_shard: int = 512,
    rounds: int = 3,
    seed: int = 0,
    folder: Path | None = None,
    warm_seconds: float = 2.0,
) -> list[Row]:
    """Rows: compact storage, exact storage, a group for each episode; medians over rounds, taking turns.

    The episodes are made up (walks with the one-step changes of a hand), of the sizes of the paper: 100
    steps, state 38 with 7 given, action 20, simulator states of 5 % of the episodes at every 10th step.
    Windows of 32 frames are drawn from all over the set in batches of 1,024, states and actions, by one
    thread, warm for `warm_seconds`. `folder` is where the sets are made, for a while; by default in the
    system's temporary folder.
    """
    rng = np.random.default_rng(seed)
    per_shard = min(episodes_per_shard, episodes)
    data = made_up_shard(per_shard, rng)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        places = {
            "compact storage": _write_shards(Path(made) / "compact", "compact", episodes, data),
            "exact storage (gzip)": _write_shards(Path(made) / "exact", "exact", episodes, data),
            "a group for each episode (as Minari)": _write_groups(Path(made) / "groups.h5", episodes, data),
        }
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in places}
        for _ in shown(range(rounds)):
            for name, place in places.items():
                found[name].append(_measure(place, episodes, rng, warm_seconds))
        sizes = {name: sum(path.stat().st_size for path in _files(place)) for name, place in places.items()}
    ours = found["compact storage"]
    return [
        Row(
            name=name,
            bytes_per_step=sizes[name] / (episodes * STEPS),
            open_seconds=statistics.median([seconds for seconds, _, _ in theirs]),
            warm=statistics.median([warm for _, warm, _ in theirs]),
            warm_ratio=statistics.median([a[1] / b[1] for a, b in zip(ours, theirs, strict=True)]),
            cold=statistics.median([cold for _, _, cold in theirs]),
            cold_ratio=statistics.median([a[2] / b[2] for a, b in zip(ours, theirs, strict=True)]),
        )
        for name, theirs in found.items()
    ]


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| random windows of 32 frames | bytes/step | opening, s | warm, windows/s | x "
        "| cold, windows/s | x |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.name} | {row.bytes_per_step:.0f} | {row.open_seconds:.2f} | {row.warm:,.0f} "
        f"| {row.warm_ratio:.1f} | {row.cold:,.0f} | {row.cold_ratio:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def made_up_shard(episodes: int, rng: np.random.Generator) -> ShardData:
    """Episodes of 100 steps in the sizes and scales of a recording of the hand and block."""
    changes = np.repeat([change for _, change in KINDS.values()], [size for size, _ in KINDS.values()])
    walk = rng.normal(size=(episodes, STEPS + 1, len(changes)))
    for t in range(1, STEPS + 1):  # walks that stay within a few changes of where they began
        walk[:, t] = 0.9 * walk[:, t - 1] + walk[:, t]
    states = (walk * changes + rng.uniform(-0.1, 0.1, (episodes, 1, len(changes)))).astype(np.float32)
    split = split_codes(0, range(episodes), test_fraction=0.05, validation_fraction=0.0)
    held_out = np.flatnonzero(split == SPLITS.index("test"))
    moments = np.arange(0, STEPS, SIM_STATE_EVERY)
    sim_index = np.stack([np.repeat(held_out, len(moments)), np.tile(moments, len(held_out))], axis=1)
    manifest = _manifest("compact", episodes, episodes)
    return ShardData(
        states=states.reshape(-1, len(changes)),
        actions=manifest.round_actions(rng.uniform(-1, 1, (episodes * STEPS, ACTION))),
        rewards=np.full(episodes * STEPS, -1, np.float32),
        offsets=np.arange(episodes + 1) * (STEPS + 1),
        episode=np.arange(episodes),
        seed=rng.integers(2**62, size=episodes),
        split=split,
        terminated=np.zeros(episodes, bool),
        success=np.zeros(episodes, bool),
        sim_states=rng.normal(size=(len(sim_index), SIM_STATE)),
        sim_index=sim_index,
    )


def _manifest(storage: Storage, episodes: int, per_shard: int) -> Manifest:
    kinds = [kind for kind, (size, _) in KINDS.items() for _ in range(size)]
    spec = StateSpec(
        names=tuple(f"{kind}_{i}" for i, kind in enumerate(kinds)),
        kinds=tuple(kinds),
        indices=tuple(range(len(kinds))),
        observation_size=len(kinds),
    )
    return Manifest(
        env_id="Made/Up-v0",
        env_kwargs={},
        policy={"name": "random", "settings": {}, "goal_conditioned": False},
        spec=spec,
        action_low=np.full(ACTION, -1, np.float32),
        action_high=np.full(ACTION, 1, np.float32),
        run_seed=0,
        episodes=episodes,
        steps=STEPS,
        episodes_per_shard=per_shard,
        test_fraction=0.05,
        validation_fraction=0.0,
        sim_state_every=SIM_STATE_EVERY,
        versions={},
        storage=storage,
    )


def _write_shards(folder: Path, storage: Storage, episodes: int, data: ShardData) -> Path:
    """A data set of the same episodes again and again, in another order in each shard."""
    folder.mkdir()
    manifest = _manifest(storage, episodes, len(data.episode))
    for shard in tqdm(range(manifest.num_shards), desc=storage, delay=2, leave=False, disable=None):
        rows = len(manifest.episodes_of(shard))
        frames, steps = rows * (STEPS + 1), rows * STEPS
        kept = data.sim_index[:, 0] < rows
        write_shard(
            folder,
            shard,
            manifest,
            dataclasses.replace(
                data,
                states=np.roll(data.states, shard * (STEPS + 1), axis=0)[:frames],
                actions=np.roll(data.actions, shard * STEPS, axis=0)[:steps],
                rewards=data.rewards[:steps],
                offsets=data.offsets[: rows + 1],
                episode=np.array(manifest.episodes_of(shard)),
                **{name: getattr(data, name)[:rows] for name in ("seed", "split", "terminated", "success")},
                sim_states=data.sim_states[kept],
                sim_index=data.sim_index[kept],
            ),
        )
    return folder


def _write_groups(path: Path, episodes: int, data: ShardData) -> Path:
    """One HDF5 file with a group for each episode, uncompressed, as Minari lays data out.

    In Minari's favour: float32, the 38 numbers of the state alone, no simulator states.
    """
    states = data.states.reshape(-1, STEPS + 1, data.states.shape[1])
    actions = data.actions.reshape(-1, STEPS, ACTION)
    with h5py.File(path, "w", libver="latest") as file:
        for i in tqdm(range(episodes), desc=path.stem, delay=2, leave=False, disable=None):
            group = file.create_group(f"episode_{i}")
            group["observations"] = states[i % len(states)]
            group["actions"] = actions[i % len(states)]
            group["rewards"] = data.rewards[:STEPS]
            group["terminations"] = group["truncations"] = np.zeros(STEPS, bool)
    with path.open("rb") as written:
        os.fsync(written.fileno())
    return path


@contextlib.contextmanager
def _reader(place: Path) -> Iterator[Read]:
    if place.is_dir():
        recording = Recording(place)
        yield lambda episodes, steps: recording.read_windows(recording.offsets[episodes] + steps, WINDOW)
        recording.close()
        return
    with h5py.File(place, "r") as file:
        size = sum(KINDS[kind][0] for kind in KINDS)

        def read(episodes: NDArray[np.int64], steps: NDArray[np.int64]) -> Any:
            states = np.empty((len(episodes), WINDOW, size), np.float32)
            actions = np.full((len(episodes), WINDOW, ACTION), np.nan, np.float32)
            for i, (episode, step) in enumerate(zip(episodes, steps, strict=True)):
                group = file[f"episode_{episode}"]
                states[i] = group["observations"][step : step + WINDOW]
                taken = group["actions"][step : step + WINDOW]
                actions[i, : len(taken)] = taken
            return states, actions

        yield read


def _measure(
    place: Path, episodes: int, rng: np.random.Generator, warm_seconds: float
) -> tuple[float, float, float]:
    """Seconds to open, windows/s warm, windows/s cold."""

    def draw() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return rng.integers(episodes, size=BATCH), rng.integers(STEPS + 2 - WINDOW, size=BATCH)

    for path in _files(place):
        with path.open("rb") as file:  # into the page cache
            while file.read(2**24):
                pass
    begin = time.perf_counter()
    with _reader(place) as read:
        read(np.zeros(1, np.int64), np.zeros(1, np.int64))
        opening = time.perf_counter() - begin
        read(*draw())
        batches, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < warm_seconds:
            read(*draw())
            batches += 1
        warm = batches * BATCH / (time.perf_counter() - begin)
    with _reader(place) as read:
        drop_from_cache(_files(place))
        begin = time.perf_counter()
        for _ in range(COLD_BATCHES):
            read(*draw())
        cold = COLD_BATCHES * BATCH / (time.perf_counter() - begin)
    return opening, warm, cold


def drop_from_cache(paths: list[Path]) -> None:
    """Have this system forget the contents of files; a disk below may still remember them."""
    if not hasattr(os, "posix_fadvise"):
        raise InputError("benchmark of cold files: needed is a system with posix_fadvise, such as Linux")
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _files(place: Path) -> list[Path]:
    return sorted(place.glob("*.h5")) if place.is_dir() else [place]
