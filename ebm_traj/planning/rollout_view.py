"""Pictures and videos of a rollout."""

from pathlib import Path
from typing import TYPE_CHECKING

import imageio.v3 as iio
import numpy as np
from matplotlib.figure import Figure  # not pyplot, which would set the backend of the whole process
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ebm_traj.errors import InputError

if TYPE_CHECKING:
    from ebm_traj.planning.rollout_data import Rollout

TRUTH, PLAN, CHOSEN = "#222222", "#d1495b", "#7a1f2d"
PANELS = 6
FANS = 5  # replannings whose futures are drawn
VIDEO_SIZE = 480
VIDEO_GHOSTS = 3


def plot_rollout(rollout: "Rollout", path: Path) -> None:
    """Fans of futures over what happened, for the dimensions that moved most; energies, surprise, costs."""
    spec = rollout.spec
    assert spec.std is not None
    moved = np.ptp(rollout.states, axis=0) / spec.std
    dims = [int(d) for d in spec.predicted[np.argsort(-moved[spec.predicted])][:PANELS]]
    rows = -(-len(dims) // 2) + 1
    figure = Figure(figsize=(11, 2.3 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 6)
    places = [figure.add_subplot(grid[i // 2, 3 * (i % 2) : 3 * (i % 2) + 3]) for i in range(len(dims))]
    horizon = rollout.futures.shape[2]
    # fans that do not overlap, spread over the episode
    apart = np.flatnonzero(np.diff(rollout.planned_at // horizon, prepend=-1))
    shown = apart[np.linspace(0, len(apart) - 1, min(FANS, len(apart))).round().astype(int)]
    for axis, dim in zip(places, dims, strict=True):
        for r in shown:
            at = rollout.planned_at[r]
            start = np.broadcast_to(rollout.states[at, dim], (rollout.futures.shape[1], 1))
            paths = np.concatenate([start, rollout.futures[r, :, :, dim]], axis=1)
            steps = np.arange(at, at + horizon + 1)
            axis.plot(steps, paths.T, color=PLAN, alpha=0.18, linewidth=0.7)
            axis.plot(steps, paths[rollout.chosen[r]], color=CHOSEN, linewidth=1.2)
        axis.plot(rollout.states[:, dim], color=TRUTH, linewidth=1.6)
        axis.set_title(spec.names[dim], fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
    energy, surprise, cost = (figure.add_subplot(grid[-1, 2 * i : 2 * i + 2]) for i in range(3))
    energy.fill_between(
        rollout.planned_at,
        rollout.energies.min(1),
        rollout.energies.max(1),
        color=PLAN,
        alpha=0.25,
        linewidth=0,
    )
    energy.plot(rollout.planned_at, np.median(rollout.energies, axis=1), color=PLAN)
    energy.set_title("energy of the futures (median, range)", fontsize=9, loc="left")
    known = np.isfinite(rollout.surprise).any()
    surprise.plot(rollout.surprise, color=TRUTH, linewidth=1.2)
    surprise.set_title("surprise" if known else "surprise: not known", fontsize=9, loc="left")
    cost.plot(rollout.planned_at, rollout.plan_ms, color=CHOSEN)
    cost.set_title("planning time (ms)", fontsize=9, loc="left")
    for axis in (energy, surprise, cost):
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
    handles = [
        Line2D([], [], color=colour, label=label)
        for colour, label in ((TRUTH, "observed"), (PLAN, "sampled futures"), (CHOSEN, "chosen"))
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, fontsize=9, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def write_video(rollout: "Rollout", path: Path, fps: int) -> None:
    """The episode as a video (any ending ffmpeg knows), plans as ghosts where states can be drawn.

    Raises InputError if the environment can neither be drawn from states nor were frames recorded.
    """
    frames = rollout.frames or _frames_from_states(rollout)
    height, width = (size - size % 2 for size in frames[0].shape[:2])  # H.264 wants even sizes
    path.parent.mkdir(parents=True, exist_ok=True)
    cropped = np.stack([frame[:height, :width] for frame in frames])
    iio.imwrite(path, cropped, fps=fps, macro_block_size=2, codec="libx264")


def _frames_from_states(rollout: "Rollout") -> list[NDArray[np.uint8]]:
    from ebm_traj.envs.render import state_renderer  # MuJoCo is needed for pictures alone

    env_id = rollout.meta.get("env_id", "")
    render = state_renderer(env_id, rollout.meta.get("env_kwargs", {}), VIDEO_SIZE, VIDEO_SIZE)
    if render is None:
        raise InputError(
            f"video: {env_id} cannot be drawn from states; make it with render_mode='rgb_array' and call "
            "rollout(..., record_frames=True)"
        )
    plan_of = np.searchsorted(rollout.planned_at, np.arange(len(rollout.states)), side="right") - 1
    frames = []
    for t, state in enumerate(rollout.states):
        r = plan_of[t]
        order = np.argsort(rollout.energies[r])[:VIDEO_GHOSTS]
        ghosts = [_last_frame(rollout.futures[r, m]) for m in order]
        frames.append(render(state, ghosts))
    return frames


def _last_frame(future: NDArray[np.float32]) -> NDArray[np.float32]:
    """The last frame (D,) of a future (H, D) that a deadline may have cut short, with NaN thereafter."""
    return future[np.isfinite(future).all(1)][-1]
