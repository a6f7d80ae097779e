"""Tasks of one core each by Ray, on this machine or on a cluster of them."""

import logging
import os
import socket
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from ebm_traj.errors import InputError, RunError

T = TypeVar("T")
CONNECT_SECONDS = 10
IN_FLIGHT_PER_CORE = 2  # tasks asked for at a time: one being done, one ready to begin


def require_ray() -> Any:
    """The module `ray`; InputError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import; no reports are sent
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise a notice of many lines
    try:
        import ray
    except ImportError:
        raise InputError('engine ray: not installed; pip install "ebm_traj[ray]"') from None
    return ray


def require_cluster(address: str | None) -> None:
    """Raise InputError without the package `ray`, or if nothing answers at an address `host:port`."""
    require_ray()
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # Ray looks for `auto` itself; at an address it would try for many minutes
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"ray address '{address}': no cluster answers there ({error})") from None


def run_with_ray(
    function: Callable[..., Any],
    shared: Any,
    tasks: Sequence[T],
    *,
    workers: int,
    address: str | None,
    name: Callable[[T], str],
    again: str,
    retries: int,
    poll_seconds: float | None = None,
) -> Generator[tuple[T, Any] | None, None, None]:
    """`function(shared, task)` of all tasks; each with its result, as they come.

    Args:
        function: picklable by Ray; a task whose worker (process or machine) is lost is done again elsewhere.
        shared: sent to every node once.
        tasks: begun in this order.
        workers: processes of the Ray instance started here, if `address` is None.
        address: of a running cluster, as `ray.init` takes it: `auto`, `host:port`, `ray://host:port`.
            In a program that is connected to Ray already, its connection is used.
        name: of a task, for messages.
        again: how to go on, for messages.
        retries: of a task whose worker died.
        poll_seconds: None is yielded when nothing has come for so long; by default it waits.

    Raises:
        InputError: without the package `ray`, and for an address where no cluster answers.
        RunError: when Ray gives a task up; what `function` raises is raised here.
    """
    ray = require_ray()
    connected = ray.is_initialized()
    if not connected:
        _connect(ray, address, min(workers, len(tasks)))
    try:
        limit = IN_FLIGHT_PER_CORE * max(1, int(ray.cluster_resources().get("CPU", 1)))
        remote = ray.remote(num_cpus=1, max_retries=retries)(function)
        sent = ray.put(shared)
        waiting = list(reversed(tasks))
        pending: dict[Any, T] = {}
        while waiting or pending:
            while waiting and len(pending) < limit:
                task = waiting.pop()
                pending[remote.remote(sent, task)] = task
            ready = ray.wait(list(pending), num_returns=1, timeout=poll_seconds)[0]
            for reference in ready:
                task = pending.pop(reference)
                result = _result(ray, reference, name(task), again)
                del reference  # so that Ray need not keep it any longer
                yield task, result
            if not ready:
                yield None
    finally:
        if not connected:
            ray.shutdown()  # of what was started here; of a cluster, only this job's tasks end


def _connect(ray: Any, address: str | None, cores: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        what = f"ray address '{address}'" if address else "engine ray"
        raise InputError(f"{what}: {' '.join(str(error).split())[:200]}") from None


def _result(ray: Any, reference: Any, name: str, again: str) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # raised by our own code, over there
        raise error.cause from None
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{name}: given up by Ray ({type(error).__name__}: {reason}); go on {again}") from None
