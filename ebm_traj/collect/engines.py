"""Engines on the cores of this machine: threads in lock step, or processes for other environments."""

from collections.abc import Iterator
from pathlib import Path

from ebm_traj.collect.environment import open_environment, open_lockstep
from ebm_traj.collect.shards import Report, collect_lockstep, collect_one_by_one, policy_of
from ebm_traj.collect.workers import collect_in_processes
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.shard import ShardData, write_shard


def collect_locally(
    out: Path, manifest: Manifest, shards: list[int], lockstep: bool, workers: int, report: Report
) -> None:
    """Make and write shards in `workers` threads (`lockstep`, see `has_lockstep`) or processes."""
    if not lockstep and workers > 1 and len(shards) > 1:
        collect_in_processes(out, manifest, shards, workers, report)
        return
    for shard, data in make_shards(manifest, shards, lockstep, workers, report):
        write_shard(out, shard, manifest, data)


def make_shards(
    manifest: Manifest, shards: list[int], lockstep: bool, threads: int, report: Report
) -> Iterator[tuple[int, ShardData]]:
    """Shards with their numbers, made in this process; without `lockstep` in one thread."""
    make = _in_lockstep if lockstep else _one_by_one
    return make(manifest, shards, threads, report)


def _in_lockstep(
    manifest: Manifest, shards: list[int], threads: int, report: Report
) -> Iterator[tuple[int, ShardData]]:
    policy = policy_of(manifest)
    envs = None
    for shard in shards:
        size = len(manifest.episodes_of(shard))
        if envs is None or envs.num_envs != size:  # only the last shard may be smaller
            if envs is not None:
                envs.close()
            envs = open_lockstep(manifest.env_id, manifest.env_kwargs, size, threads)
        yield shard, collect_lockstep(envs, policy, manifest, shard, report)
    if envs is not None:
        envs.close()


def _one_by_one(
    manifest: Manifest, shards: list[int], threads: int, report: Report
) -> Iterator[tuple[int, ShardData]]:
    policy = policy_of(manifest)
    env = open_environment(manifest.env_id, manifest.env_kwargs, manifest.steps)
    for shard in shards:
        yield shard, collect_one_by_one(env, policy, manifest, shard, report)
    env.close()
