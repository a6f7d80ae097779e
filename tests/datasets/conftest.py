"""A small made-up data set with episodes of unequal length, quick to write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.shard import ShardData, write_shard
from ebm_traj.datasets.splits import episode_seed, split_codes
from ebm_traj.spec import StateSpec


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "env_id": "Made/Up-v0",
        "env_kwargs": {"size": 3},
        "policy": {"name": "random", "settings": {}, "goal_conditioned": False},
        "spec": StateSpec.from_size(3),
        "action_low": np.full(2, -1, np.float32),
        "action_high": np.full(2, 1, np.float32),
        "run_seed": 0,
        "episodes": 50,
        "steps": 9,
        "episodes_per_shard": 20,
        "test_fraction": 0.1,
        "validation_fraction": 0.05,
        "sim_state_every": 4,
        "versions": {"numpy": "1"},
    }
    return Manifest(**(values | changes))


def shard_data(manifest: Manifest, shard: int) -> ShardData:
    rng = np.random.default_rng([manifest.run_seed, shard])
    episodes = manifest.episodes_of(shard)
    rows = len(episodes)
    lengths = rng.integers(1, manifest.steps + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    frames = int(offsets[-1])
    sim_index = np.array([(row, 0) for row in range(rows)])
    return ShardData(
        states=rng.normal(5, 2, (frames, manifest.spec.size)).astype(np.float32),
        actions=rng.uniform(-1, 1, (frames - rows, 2)).astype(np.float32),
        rewards=np.zeros(frames - rows, np.float32),
        offsets=offsets,
        episode=np.array(episodes),
        seed=np.array([episode_seed(manifest.run_seed, episode) for episode in episodes]),
        split=split_codes(manifest.run_seed, episodes, manifest.test_fraction, manifest.validation_fraction),
        terminated=lengths < manifest.steps,
        success=np.zeros(rows, bool),
        sim_states=np.stack([sim_index[:, 0], np.full(rows, float(shard))], axis=1),
        sim_index=sim_index,
    )


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    return manifest


@pytest.fixture
def make_shard() -> Callable[[Manifest, int], ShardData]:
    return shard_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards, 50 episodes."""
    out = tmp_path / "data"
    out.mkdir()
    for shard in range(3):
        write_shard(out, shard, manifest(), shard_data(manifest(), shard))
    return out


KINDS = StateSpec(
    names=("joint", "goal_a", "x", "y", "qw", "qx", "qy", "qz", "goal_b"),
    kinds=("angle", "given", "position", "position", *["quaternion"] * 4, "given"),
    indices=tuple(range(9)),
    observation_size=9,
)


def compact_manifest(**changes: Any) -> Manifest:
    return manifest(**({"spec": KINDS, "storage": "compact"} | changes))


def compact_data(manifest: Manifest, shard: int) -> ShardData:
    """Given dimensions change in the middle of every third episode; in the last shard x runs over 100 m."""
    data = shard_data(manifest, shard)
    rng = np.random.default_rng([manifest.run_seed, shard, 1])
    frames = len(data.states)
    data.states = rng.uniform(-0.4, 0.4, (frames, KINDS.size)).astype(np.float32)
    for row, (begin, end) in enumerate(zip(data.offsets, data.offsets[1:], strict=False)):
        data.states[begin:end, KINDS.given] = rng.normal(size=2)
        if row % 3 == 0:
            data.states[(begin + end) // 2 : end, KINDS.given] = rng.normal(size=2)
    if shard == manifest.num_shards - 1:
        data.states[::2, 2] += 100
    data.actions = manifest.round_actions(data.actions)
    return data


@pytest.fixture
def make_compact_manifest() -> Callable[..., Manifest]:
    return compact_manifest


@pytest.fixture
def make_compact_shard() -> Callable[[Manifest, int], ShardData]:
    return compact_data


@pytest.fixture
def compact_folder(tmp_path: Path) -> Path:
    """Three shards of compact storage, 50 episodes; the last has states of 32 bits."""
    out = tmp_path / "compact"
    out.mkdir()
    for shard in range(3):
        write_shard(out, shard, compact_manifest(), compact_data(compact_manifest(), shard))
    return out
