"""Streams of the planning expert at work, for `td3` to learn from: `demos-NN.npz` in the folder of a run."""

import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ebm_traj.atomic import replacing
from ebm_traj.core.seeding import derive_seed
from ebm_traj.envs.expert import ExpertPolicy, ExpertSettings
from ebm_traj.envs.hand_model import ACTIONS
from ebm_traj.errors import RunError
from ebm_traj.policy.replay import FIELDS, Fields, Replay
from ebm_traj.policy.settings import PolicySettings
from ebm_traj.policy.task import TurningStep, TurningTask, task_for


def record_demos(out: Path, settings: PolicySettings, num_threads: int | None = None) -> Replay | None:
    """All recordings of the settings; those that are in `out` already are not made again. None for none."""
    parts = []
    for number in range(settings.demos.rounds):
        path = out / f"demos-{number:02d}.npz"
        if not path.exists():
            recording = record(settings, number, num_threads)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **recording)  # type: ignore[arg-type]
        try:
            with np.load(path) as file:
                parts.append({name: file[name] for name in FIELDS})
        except (OSError, ValueError, KeyError, zlib.error) as error:
            raise RunError(f"{path}: damaged ({error}); remove it, and --resume makes it again") from None
    return (
        Replay.of(parts, settings.hand_task, settings.form, settings.td3.change, settings.td3.discount)
        if parts
        else None
    )


def record(settings: PolicySettings, number: int, num_threads: int | None) -> Fields:
    """Fields (T, N, ...) of one round: the expert acts, its changes of action cut to what the network may."""
    chosen, seed = settings.demos, derive_seed(settings.seed, "demos", number)
    change = settings.td3.change
    task = task_for(settings, chosen.envs, seed, num_threads, chosen.hold)
    expert = expert_for(settings, chosen.expert, num_threads)
    task.reset()
    expert.reset([derive_seed(seed, row) for row in range(chosen.envs)])
    steps: list[Fields] = []
    bar = tqdm(range(chosen.steps), desc=f"expert, round {number}", unit="step", file=sys.stderr)
    for _ in bar:
        wanted = expert.act(task.observation, task.previous, task.envs.get_state())
        fields, _ = lived(task, (np.asarray(wanted, np.float64) - task.previous) / change)
        steps.append(fields)
        if task.outcomes:
            bar.set_postfix(reached=f"{np.mean(task.outcomes, axis=0)[0]:.2f}", refresh=False)
    task.close()
    expert.close()
    return {name: np.stack([step[name] for step in steps]) for name in FIELDS}


def expert_for(settings: PolicySettings, chosen: ExpertSettings, num_threads: int | None) -> ExpertPolicy:
    """The expert on the task that a policy is trained for."""
    low, high = np.full(ACTIONS, -1.0), np.full(ACTIONS, 1.0)
    told: dict[str, Any] = {"env_id": settings.env_id, "env_kwargs": settings.task}
    return ExpertPolicy(low, high, chosen, num_threads=num_threads, **told)


def lived(task: TurningTask, changes: NDArray[np.floating]) -> tuple[Fields, TurningStep]:
    """Take one step of the task; gives its fields (N, ...), as for `Replay.add`, and what it led to."""
    before: Fields = {
        "observation": task.observation["observation"].astype(np.float32),
        "goal": task.observation["desired_goal"].astype(np.float32),
        "previous": task.previous.astype(np.float32),
        "episode": task.episodes.copy(),
    }
    step = task.step(changes)
    fields = before | {"action": step.taken.astype(np.float32), "dropped": step.dropped, "cut": step.cut}
    return fields, step
