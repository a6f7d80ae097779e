"""Runs of the grid side by side: processes of this machine, or tasks of Ray on a cluster."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal, get_args

from ebm_traj.ebgan.grid import GridPoint
from ebm_traj.ebgan.grid_run import Budget, Judge, run_point
from ebm_traj.errors import InputError, RunError

Engine = Literal["local", "ray"]
Task = tuple[GridPoint, int]
"""A point and the number of its repetition."""
RETRIES = 3  # of a run whose Ray worker died
IN_FLIGHT_PER_CORE = 2

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
        while waiting or pending:
            while waiting and len(pending) < workers:  # no more, so that an interrupt ends soon
                pending.add(pool.submit(_run, budget, waiting.pop()))
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent killed by force cannot end its workers: they watch it themselves."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def require_ray() -> Any:
    """The module `ray`; InputError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import; no reports are sent
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise a notice of many lines
    try:
        import ray
    except ImportError:
        raise InputError('engine ray: not installed; pip install "ebm_traj[ray]"') from None
    return ray


def _with_ray(
    tasks: Sequence[Task], budget: Budget, workers: int, address: str | None
) -> Iterator[dict[str, Any]]:
    """Tasks of one core each. Every node needs this package, and the data and classifier at the same path."""
    ray = require_ray()
    connected = ray.is_initialized()
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if not connected and address is None:
            ray.init("local", num_cpus=min(workers, len(tasks)), include_dashboard=False, **quiet)
        elif not connected:
            ray.init(address, **quiet)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        what = f"ray address '{address}'" if address else "engine ray"
        raise InputError(f"{what}: {' '.join(str(error).split())[:200]}") from None
    try:
        limit = IN_FLIGHT_PER_CORE * max(1, int(ray.cluster_resources().get("CPU", 1)))
        remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
        waiting = list(reversed(tasks))
        pending: dict[Any, Task] = {}
        while waiting or pending:
            while waiting and len(pending) < limit:
                task = waiting.pop()
                pending[remote.remote(budget, task)] = task
            for reference in ray.wait(list(pending), num_returns=1)[0]:
                task = pending.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayTaskError as error:  # raised by our own code, over there
                    raise error.cause from None
                except ray.exceptions.RayError as error:
                    reason = " ".join(str(error).split())[:200]
                    raise RunError(
                        f"{task[0].key}: given up by Ray ({type(error).__name__}: {reason}); go on by the "
                        "same command"
                    ) from None
    finally:
        if not connected:
            ray.shutdown()
