"""Worker processes, each making whole shards, for environments that have no vector form of their own."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ebm_traj.collect.environment import open_environment
from ebm_traj.collect.shards import Report, collect_one_by_one
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.shard import write_shard
from ebm_traj.envs.behaviour import make_policy
from ebm_traj.errors import RunError

POLL_SECONDS = 0.2

_counts: Any = None  # in a worker: shared (episodes, steps) made so far


def collect_in_processes(
    out: Path, manifest: Manifest, shards: list[int], workers: int, report: Report
) -> None:
    """Make and write shards in `workers` processes; on an error or Ctrl-C they are ended at once."""
    # Not by forking: MuJoCo and its users run threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    counts: Any = context.Array("q", 2)
    pool = ProcessPoolExecutor(
        min(workers, len(shards)), mp_context=context, initializer=_begin_worker, initargs=(counts,)
    )
    seen = (0, 0)

    def forward() -> None:
        nonlocal seen
        with counts.get_lock():
            now = counts[0], counts[1]
        report(now[0] - seen[0], now[1] - seen[1])
        seen = now

    try:
        pending: set[Future[None]] = {pool.submit(_make_shard, out, manifest, shard) for shard in shards}
        while pending:
            done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            forward()
    except BrokenProcessPool:
        raise RunError(
            f"{out}: a worker process ended (out of memory, or killed); go on with --resume"
        ) from None
    except BaseException:
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker(counts: Any) -> None:
    global _counts
    _counts = counts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent killed by force cannot end its workers: they watch it themselves."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_shard(out: Path, manifest: Manifest, shard: int) -> None:
    env = open_environment(manifest.env_id, manifest.env_kwargs, manifest.steps)
    policy = make_policy(manifest.policy, manifest.action_low, manifest.action_high)

    def count(episodes: float, steps: int) -> None:
        with _counts.get_lock():
            _counts[0] += int(episodes)
            _counts[1] += steps

    data = collect_one_by_one(env, policy, manifest, shard, count)
    env.close()
    write_shard(out, shard, manifest, data)
