"""An engine that makes shards as tasks of Ray, on one machine or on a cluster of them.

Every node needs this package and its dependencies of the same versions, and what `--env` and `--policy` name;
it needs no common disk: shards come back as arrays, and the process that asked for them writes them.
"""

import logging
import os
import socket
from pathlib import Path
from typing import Any

from ebm_traj.collect.engines import make_shards
from ebm_traj.collect.shards import Report
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.shard import ShardData, write_shard
from ebm_traj.errors import InputError, RunError

RETRIES = 10  # of a shard whose worker died; more deaths than that are no accident
CONNECT_SECONDS = 10
POLL_SECONDS = 0.2
IN_FLIGHT_PER_CORE = 2  # shards asked for at a time: one being made, one ready to begin


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
    ray = require_ray()
    connected = ray.is_initialized()
    if not connected:
        _connect(ray, address, min(workers, len(shards)))
    try:
        limit = IN_FLIGHT_PER_CORE * max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(make_shard)
        shared = ray.put(manifest)
        waiting = list(reversed(shards))
        pending: dict[Any, int] = {}
        while waiting or pending:
            while waiting and len(pending) < limit:
                shard = waiting.pop()
                pending[task.remote(shared, shard, lockstep)] = shard
            for reference in ray.wait(list(pending), num_returns=1, timeout=POLL_SECONDS)[0]:
                shard = pending.pop(reference)
                data = _result(ray, out, shard, reference)
                del reference  # so that Ray need not keep it any longer
                write_shard(out, shard, manifest, data)
                report(len(data.episode), len(data.actions))
            report(0, 0)
    finally:
        if not connected:
            ray.shutdown()  # of what was started here; of a cluster, only this job's tasks end


def make_shard(manifest: Manifest, shard: int, lockstep: bool) -> ShardData:
    """A shard in a single thread of this process."""
    ((_, data),) = make_shards(manifest, [shard], lockstep, 1, lambda *_: None)
    return data


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


def require_ray() -> Any:
    """The module `ray`; InputError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import; collecting sends no reports
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise a notice of many lines
    try:
        import ray
    except ImportError:
        raise InputError('engine ray: not installed; pip install "ebm_traj[ray]"') from None
    return ray


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


def _result(ray: Any, out: Path, shard: int, reference: Any) -> ShardData:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # raised by our own code, over there
        raise error.cause from None
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"{out}: Ray gave up shard {shard} ({type(error).__name__}: {reason}); go on with --resume"
        ) from None
