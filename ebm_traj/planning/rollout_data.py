"""What a rollout leaves behind: `Rollout`, its scores and its HDF5 file."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.hdf5 import open_hdf5, read_array, write_hdf5
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.yardstick.scores import energy_score, normalise

FORMAT = "ebm_traj.rollout"
ARRAYS = (
    "states",
    "actions",
    "rewards",
    "success",
    "futures",
    "energies",
    "chosen",
    "planned_at",
    "plan_ms",
    "step_ms",
)
SURPRISE = "surprise"  # newer than the others: files without it are read as well
NO_SURPRISE = "no_surprise"  # in `Rollout.meta`: why it is not known


@dataclasses.dataclass(eq=False)
class Rollout:
    """One episode driven by a model, with everything it imagined on the way.

    T steps, R replannings, M futures of H frames, D state and A action dimensions.
    """

    spec: StateSpec
    states: NDArray[np.float32]
    """(T + 1, D) what was observed."""
    actions: NDArray[np.float32]
    """(T, A) what was done."""
    rewards: NDArray[np.float64]
    """(T,) what the environment paid."""
    success: NDArray[np.bool_]
    """(T,) the environment's `is_success` or `success` after each step; False where it has neither."""
    futures: NDArray[np.float32]
    """(R, M, H, D) all futures sampled."""
    energies: NDArray[np.float64]
    """(R, M) energy of each future, what the planner chose by; 0 where nothing told them apart."""
    chosen: NDArray[np.int64]
    """(R,) the future acted on."""
    planned_at: NDArray[np.int64]
    """(R,) step at which each planning took place."""
    plan_ms: NDArray[np.float64]
    """(R,) milliseconds of sampling and choosing."""
    step_ms: NDArray[np.float64]
    """(T,) milliseconds of the environment's step."""
    surprise: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.empty(0))
    """(T,) how far what each step led to was from what the model expected after that action, in standard
    deviations of the energies of its own draws (of a model without a density: its root mean square error, in
    one-step changes), see `planning.monitor`. NaN while the context is not full, or if it is not known."""
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    """env_id, env_kwargs, model kind, seed, settings, and whether the episode terminated or was truncated."""
    frames: list[NDArray[np.uint8]] = dataclasses.field(default_factory=list)
    """Pictures (height, width, 3) rendered on the way, if asked for; not saved with the rest."""

    def __post_init__(self) -> None:
        if not len(self.surprise):
            self.surprise = np.full(len(self.actions), np.nan)

    def scores(self) -> dict[str, float]:
        """How the predictions compare with what then happened, mean over replannings with a known outcome.

        Distances are Euclidean over z-scored predicted dimensions, mean over the horizon: `chosen_error` of
        the future acted on, `best_error` of the nearest one, `persistence_error` of standing still,
        `energy_score` of the whole set against the one outcome (lower is better). NaN if no replanning has
        its whole horizon inside the episode. The futures are the model's, the outcome is that of acting on
        one of them: this is closed-loop consistency, not the yardstick of compare.py.
        """
        horizon = self.futures.shape[2]
        known = self.planned_at + horizon < len(self.states)
        known &= np.isfinite(self.futures).all((1, 2, 3))  # a deadline may have cut some short
        names = ("chosen_error", "best_error", "persistence_error", "energy_score")
        if not known.any():
            return dict.fromkeys(names, float("nan"))
        at = self.planned_at[known]
        outcome = normalise(self.states[at[:, None] + 1 + np.arange(horizon)], self.spec)[:, None]
        futures = normalise(self.futures[known], self.spec)
        errors = np.linalg.norm(futures - outcome, axis=-1).mean(-1)
        still = normalise(self.states[at], self.spec)[:, None]
        return {
            "chosen_error": float(errors[np.arange(len(at)), self.chosen[known]].mean()),
            "best_error": float(errors.min(1).mean()),
            "persistence_error": float(np.linalg.norm(outcome[:, 0] - still, axis=-1).mean()),
            "energy_score": float(energy_score(futures, outcome).mean()),
        }

    def summary(self) -> str:
        """A few lines for a terminal."""
        scores = self.scores()
        told = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items())
        if not np.isfinite(list(scores.values())).any():
            told = f"none, as no plan of {self.futures.shape[2]} steps was played to its end"
        surprise = self.meta.get(NO_SURPRISE, "not known")
        if np.isfinite(self.surprise).any():
            highest = int(np.nanargmax(self.surprise))
            surprise = f"median {np.nanmedian(self.surprise):.2f}, highest {self.surprise[highest]:.2f}"
            surprise += f" at step {highest}"
        return "\n".join(
            [
                f"{self.meta.get('env_id', 'environment')}: {len(self.actions)} steps, "
                f"reward {self.rewards.sum():.3f}, success at {int(self.success.sum())} of them",
                f"{self.futures.shape[1]} futures of {self.futures.shape[2]} steps at "
                f"{len(self.planned_at)} replannings, {np.median(self.plan_ms):.0f} ms each (median), "
                f"environment {np.median(self.step_ms):.1f} ms a step",
                f"prediction against what then happened: {told}",
                f"surprise: {surprise}",
            ]
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write one HDF5 file, whole or not at all; InputError if it exists, unless `overwrite`."""
        path = Path(path)
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists already; give another path, or overwrite=True")
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.asarray(getattr(self, name)) for name in (*ARRAYS, SURPRISE)}
        meta = json.dumps(self.meta, default=_plain)
        attributes = {"format": FORMAT, "spec": self.spec.to_json(), "meta": meta}
        write_hdf5(path, arrays, attributes)

    @classmethod
    def load(cls, path: str | Path) -> "Rollout":
        """The rollout saved in `path`; InputError if it is missing, truncated or something else."""
        path = Path(path)
        with open_hdf5(path) as file:
            if file.attrs.get("format") != FORMAT:
                raise InputError(f"{path}: an HDF5 file, but not a rollout (attribute format = '{FORMAT}')")
            arrays: dict[str, Any] = {name: read_array(file, name) for name in ARRAYS}
            if SURPRISE in file:
                arrays[SURPRISE] = read_array(file, SURPRISE)
            return cls(
                spec=StateSpec.from_json(_text(file, "spec")), meta=json.loads(_text(file, "meta")), **arrays
            )

    def plot(self, path: str | Path) -> None:
        """Draw futures over what happened, energies, surprise and timings to a PNG, see `rollout_view`."""
        from ebm_traj.planning.rollout_view import plot_rollout

        plot_rollout(self, Path(path))

    def video(self, path: str | Path, fps: int = 25) -> None:
        """Write a video of the episode, plans as ghosts where the environment can be drawn from states."""
        from ebm_traj.planning.rollout_view import write_video

        write_video(self, Path(path), fps)

    def rerun(self, path: str | Path) -> None:
        """Write a Rerun recording (.rrd): curves, and futures of the object in space, see `rollout_rerun`."""
        from ebm_traj.planning.rollout_rerun import write_rerun

        write_rerun(self, Path(path))


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy, as an environment's arguments may have them, in JSON's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


def _text(file: h5py.File, name: str) -> str:
    value = file.attrs[name]
    return value.decode() if isinstance(value, bytes) else str(value)
