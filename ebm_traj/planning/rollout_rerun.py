"""A rollout as a Rerun recording: curves of state, energy and surprise, futures of the object in space."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ebm_traj.atomic import replacing
from ebm_traj.errors import InputError

if TYPE_CHECKING:
    from ebm_traj.planning.rollout_data import Rollout

TIMELINE = "step"
PLACE = ("object_x", "object_y", "object_z")
PLAN, CHOSEN, TRUTH = [209, 73, 91, 70], [122, 31, 45], [34, 34, 34]


def write_rerun(rollout: "Rollout", path: Path) -> None:
    """Write `path` (.rrd), whole or not at all, to be opened with `rerun FILE`; one timeline, `step`.

    Logged: `state/NAME`, `action/I`, `reward`, `surprise`, `energy/{median,lowest,chosen}`, `milliseconds`;
    where the state has the object's place also its path and all futures of it as lines in `object/`; `camera`
    where frames were recorded. Raises InputError if rerun-sdk is not installed.
    """
    try:
        import rerun as rr
    except ImportError:
        raise InputError('rerun: not installed; pip install "ebm_traj[rerun]"') from None
    stream = rr.RecordingStream("ebm_traj", recording_id=path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    names = rollout.spec.names
    dims = [names.index(name) for name in PLACE] if set(PLACE) <= set(names) else None
    with replacing(path) as temporary:
        stream.save(temporary)
        for step, state in enumerate(rollout.states):
            stream.set_time(TIMELINE, sequence=step)
            for name, value in zip(names, state, strict=True):
                stream.log(f"state/{name}", rr.Scalars(float(value)))
            if dims is not None:
                stream.log("object/path", rr.LineStrips3D([rollout.states[: step + 1, dims]], colors=[TRUTH]))
                stream.log("object/now", rr.Points3D([state[dims]], colors=[TRUTH], radii=0.004))
            if step < len(rollout.actions):
                _log_step(rr, stream, rollout, step)
            if step < len(rollout.frames):
                stream.log("camera", rr.Image(rollout.frames[step]).compress())
        for number, at in enumerate(rollout.planned_at):
            stream.set_time(TIMELINE, sequence=int(at))
            _log_plan(rr, stream, rollout, number, dims)
        stream.flush()
        stream.disconnect()  # closes the file


def _log_step(rr: Any, stream: Any, rollout: "Rollout", step: int) -> None:
    for i, value in enumerate(rollout.actions[step]):
        stream.log(f"action/{i}", rr.Scalars(float(value)))
    stream.log("reward", rr.Scalars(float(rollout.rewards[step])))
    if np.isfinite(rollout.surprise[step]):
        stream.log("surprise", rr.Scalars(float(rollout.surprise[step])))


def _log_plan(rr: Any, stream: Any, rollout: "Rollout", number: int, dims: list[int] | None) -> None:
    energies, chosen = rollout.energies[number], int(rollout.chosen[number])
    for name, value in (
        ("median", np.median(energies)),
        ("lowest", energies.min()),
        ("chosen", energies[chosen]),
    ):
        stream.log(f"energy/{name}", rr.Scalars(float(value)))
    stream.log("milliseconds", rr.Scalars(float(rollout.plan_ms[number])))
    if dims is None:
        return
    begin = np.broadcast_to(rollout.states[rollout.planned_at[number], dims], (len(energies), 1, 3))
    paths = np.concatenate([begin, rollout.futures[number][..., dims]], axis=1)
    finite = np.isfinite(paths).all((1, 2))  # a deadline may have cut some short
    stream.log("object/futures", rr.LineStrips3D(list(paths[finite]), colors=[PLAN]))
    if finite[chosen]:
        stream.log("object/chosen", rr.LineStrips3D([paths[chosen]], colors=[CHOSEN]))
