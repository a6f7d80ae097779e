"""Worker processes, each making whole shards, for environments that have no vector form of their own."""

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ebm_traj.collect.environment import open_environment
from ebm_traj.collect.shards import Report, collect_one_by_one, policy_of
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.shard import write_shard
from ebm_traj.errors import RunError
from ebm_traj.processes import (
    POLL_SECONDS,
    begin_worker,
    births_without_ctrl_c,
    ctrl_c_only_where_asked,
    errors_that_travel,
)

_counts: Any = None  # in a worker: shared numbers of episodes and steps made so far, and whether to stop
EPISODES, STEPS, STOP = range(3)


class _Stopped(Exception):
    """Raised in a worker that was asked to stop."""


def collect_in_processes(
    out: Path, manifest: Manifest, shards: list[int], workers: int, report: Report
) -> None:
    """Make and write shards in `workers` processes; after an error or Ctrl-C they end their episode and stop.

    They are asked, not killed: a pool whose workers die while they hold one of its locks may never end.
    """
    # Not by forking: MuJoCo and its users run threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    counts: Any = context.Array("q", 3)
    pool = ProcessPoolExecutor(
        min(workers, len(shards)), mp_context=context, initializer=_begin_worker, initargs=(counts,)
    )
    seen = (0, 0)

    def forward() -> None:
        nonlocal seen
        with counts.get_lock():
            now = counts[EPISODES], counts[STEPS]
        report(now[0] - seen[0], now[1] - seen[1])
        seen = now

    try:
        with ctrl_c_only_where_asked() as ask:
            with births_without_ctrl_c():
                pending: set[Future[None]] = {
                    pool.submit(_make_shard, out, manifest, shard) for shard in shards
                }
            while pending:
                done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                forward()
                ask()
    except BrokenProcessPool:
        raise RunError(
            f"{out}: a worker process ended (out of memory, or killed); go on with --resume"
        ) from None
    except BaseException:
        counts[STOP] = 1
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker(counts: Any) -> None:
    global _counts
    _counts = counts
    begin_worker()


@errors_that_travel()
def _make_shard(out: Path, manifest: Manifest, shard: int) -> None:
    if _counts[STOP]:
        raise _Stopped
    env = open_environment(manifest.env_id, manifest.env_kwargs, manifest.steps)
    policy = policy_of(manifest)

    def count(episodes: float, steps: int) -> None:
        with _counts.get_lock():
            _counts[EPISODES] += int(episodes)
            _counts[STEPS] += steps
            if _counts[STOP]:
                raise _Stopped

    data = collect_one_by_one(env, policy, manifest, shard, count)
    env.close()
    write_shard(out, shard, manifest, data)
