"""Runs of the grid side by side: processes of this machine, or tasks of Ray on a cluster."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal, get_args

from ebm_traj.ebgan.grid import GridPoint
from ebm_traj.ebgan.grid_run import Budget, Judge, run_point
from ebm_traj.errors import InputError, RunError
from ebm_traj.processes import POLL_SECONDS, begin_worker, births_without_ctrl_c, ctrl_c_only_where_asked
from ebm_traj.ray_cluster import run_with_ray

Engine = Literal["local", "ray"]
Task = tuple[GridPoint, int]
"""A point and the number of its repetition."""
RETRIES = 3  # of a run whose Ray worker died

_judge: Judge | None = None  # of this process
_budget: Budget | None = None


def run_tasks(
    tasks: Sequence[Task],
    budget: Budget,
    done: Callable[[dict[str, Any]], None],
    *,
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
) -> None:
    """Run all tasks, in this order as far as workers are free, and call `done` here with each result.

    Raises InputError for an engine that is not there, RunError if a worker was lost.
    """
    if engine not in get_args(Engine):
        raise InputError(f"engine: '{engine}'; accepted are {', '.join(get_args(Engine))}")
    if workers < 1:
        raise InputError(f"workers: {workers}; accepted are 1 and more")
    if address is not None and engine != "ray":
        raise InputError(f"ray address '{address}': needs engine ray")
    if not tasks:
        return
    if engine == "ray":
        results = _with_ray(tasks, budget, workers, address)
    elif workers == 1:
        results = (_run(budget, task) for task in tasks)
    else:
        results = _in_processes(tasks, budget, min(workers, len(tasks)))
    for result in results:
        done(result)


def _run(budget: Budget, task: Task) -> dict[str, Any]:
    """One task in a single thread of this process, which reads data and classifier once."""
    import torch

    global _judge, _budget
    if _judge is None or _budget != budget:
        torch.set_num_threads(1)
        _judge, _budget = Judge(budget), budget
    return run_point(task[0], _judge, task[1])


def _in_processes(tasks: Sequence[Task], budget: Budget, workers: int) -> Iterator[dict[str, Any]]:
    # not by forking: torch runs threads, which do not survive a fork
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        waiting = list(reversed(tasks))
        pending: set[Future[dict[str, Any]]] = set()
        with ctrl_c_only_where_asked() as ask:
            while waiting or pending:
                while waiting and len(pending) < workers:  # no more, so that an interrupt ends soon
                    with births_without_ctrl_c():
                        pending.add(pool.submit(_run, budget, waiting.pop()))
                done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                ask()
    except BrokenProcessPool:
        raise RunError(
            "a worker process ended (out of memory, or killed); go on by the same command"
        ) from None
    except BaseException:
        for process in list(pool._processes.values()):  # their runs are not wanted any more
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    begin_worker()


def _with_ray(
    tasks: Sequence[Task], budget: Budget, workers: int, address: str | None
) -> Iterator[dict[str, Any]]:
    """Every node needs this package, and the data and classifier at the same path."""
    results = run_with_ray(
        _run,
        budget,
        tasks,
        workers=workers,
        address=address,
        name=lambda task: task[0].key,
        again="by the same command",
        retries=RETRIES,
    )
    return (found[1] for found in results if found is not None)
