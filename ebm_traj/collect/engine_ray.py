"""An engine that makes shards as tasks of Ray, on one machine or on a cluster of them.

Every node needs this package and its dependencies of the same versions, and what `--env` and `--policy` name;
it needs no common disk: shards come back as arrays, and the process that asked for them writes them.
"""

import contextlib
from pathlib import Path

from ebm_traj.collect.engines import make_shards
from ebm_traj.collect.shards import Report
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.shard import ShardData, write_shard
from ebm_traj.processes import errors_that_travel
from ebm_traj.ray_cluster import run_with_ray

RETRIES = 10  # of a shard whose worker died; more deaths than that are no accident
POLL_SECONDS = 0.2


def collect_with_ray(
    out: Path,
    manifest: Manifest,
    shards: list[int],
    lockstep: bool,
    workers: int,
    address: str | None,
    report: Report,
) -> None:
    """Make shards as Ray tasks of one core each, and write them here.

    A shard is a pure function of the manifest and its number: one whose worker (process or machine) is lost
    is made again elsewhere, to the same bytes.

    Args:
        out: existing folder.
        manifest, shards: what to make.
        lockstep: whether the environment `has_lockstep`.
        workers: processes of the Ray instance started here, if `address` is None.
        address: of a running cluster, as `ray.init` takes it: `auto`, `host:port`, `ray://host:port`.
            In a program that is connected to Ray already, its connection is used.
        report: called for every shard written.

    Raises:
        InputError: without the package `ray`, for an address where no cluster answers, and what making a
            shard raises.
        RunError: when Ray gives a shard up.
    """
    results = run_with_ray(
        make_shard,
        (manifest, lockstep),
        shards,
        workers=workers,
        address=address,
        name=lambda shard: f"{out}: shard {shard}",
        again="with --resume",
        retries=RETRIES,
        poll_seconds=POLL_SECONDS,
    )
    with contextlib.closing(results):
        for found in results:
            if found is not None:
                shard, data = found
                write_shard(out, shard, manifest, data)
                report(len(data.episode), len(data.actions))
            report(0, 0)


@errors_that_travel()
def make_shard(told: tuple[Manifest, bool], shard: int) -> ShardData:
    """A shard in a single thread; `told` is the manifest and whether the environment `has_lockstep`."""
    manifest, lockstep = told
    ((_, data),) = make_shards(manifest, [shard], lockstep, 1, lambda *_: None)
    return data
