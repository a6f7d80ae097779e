"""Speed of the collector against bare `mujoco.rollout` and against Gymnasium's AsyncVectorEnv."""

import contextlib
import dataclasses
import importlib
import io
import statistics
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import mujoco.rollout
import numpy as np
from gymnasium.vector import AsyncVectorEnv
from numpy.typing import NDArray

from ebm_traj.benchmarks.paired import shown
from ebm_traj.collect.environment import open_lockstep
from ebm_traj.collect.run import CollectSettings, collect
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import episode_seed
from ebm_traj.envs.hand_model import SUBSTEPS
from ebm_traj.envs.workers import usable_cores

ENV = "ebm_traj/HandBlock-v0"
THEIR_ENV = "HandManipulateBlock-v1"
SETTLING_STEPS = 10  # of a reset
ROLLOUT_STEPS = 10  # environment steps of a bare rollout per call; it returns every substep, so memory counts


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the benchmark."""

    name: str
    steps_per_second: float
    """Environment steps (40 ms of 20 substeps each) per second of wall time."""
    ratio: float
    """Steps/s of the collector over this row's."""


def benchmark_collect(
    *,
    episodes: int = 256,
    steps: int = 100,
    workers: int | None = None,
    rounds: int = 3,
    seed: int = 0,
    settings: CollectSettings | None = None,
) -> list[Row]:
    """Rows: the collector, a bare rollout of the same episodes, the AsyncVectorEnv; medians over rounds.

    They take turns, so that other load on the machine hits them alike; ratios are taken in each round.
    The collector's time is all of `collect`: opening, resets (each settles for 10 steps), policy, writing.
    `settings` are those of the collector but for the numbers of episodes and steps and the seed.
    """
    begin = settings or CollectSettings(env=ENV)
    threads = usable_cores() if workers is None else workers
    speeds: dict[str, list[float]] = {}
    for _ in shown(range(rounds)):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "data"
            made = dataclasses.replace(begin, episodes=episodes, steps=steps, seed=seed)
            speeds.setdefault("collector", []).append(
                collect(out, made, workers=threads, progress=False).steps_per_second
            )
            recording = Recording(out)
            for name, settling in (("", 0), (", settling of resets included", SETTLING_STEPS)):
                speed = bare_rollout(recording, threads, settling)
                speeds.setdefault(f"bare mujoco.rollout{name}", []).append(speed)
        asynchronous = async_vector_env(threads, steps=max(50, steps))
        speeds.setdefault(f"AsyncVectorEnv({THEIR_ENV})", []).append(asynchronous)
    ours = speeds["collector"]
    return [
        Row(
            name,
            statistics.median(found),
            statistics.median([mine / other for mine, other in zip(ours, found, strict=True)]),
        )
        for name, found in speeds.items()
    ]


def bare_rollout(recording: Recording, threads: int, settling: int = 0) -> float:
    """Steps/s of `mujoco.rollout` alone, with the starts and actions of the recording's first shard.

    `settling` more steps an episode, with the hand at rest, are simulated first but not counted, as the
    collector must do in its resets.
    """
    manifest = recording.manifest
    numbers = manifest.episodes_of(0)
    envs: Any = open_lockstep(recording.env_id, recording.env_kwargs, len(numbers), threads)
    envs.reset(seed=[episode_seed(manifest.run_seed, number) for number in numbers])
    actions = recording.read_shard(0)[1].reshape(len(numbers), manifest.steps + 1, -1)[:, :-1]
    model = envs.model
    bits = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
    state: NDArray[np.float64] = envs.get_state()[:, : mujoco.mj_stateSize(model, bits)]
    envs.close()
    low, high = model.actuator_ctrlrange.T
    rest = np.zeros((len(numbers), settling, actions.shape[-1]), dtype=actions.dtype)
    actions = np.concatenate([rest, actions], axis=1)
    control = np.repeat((low + high) / 2 + actions * (high - low) / 2, SUBSTEPS, axis=1).astype(np.float64)
    datas = [mujoco.MjData(model) for _ in range(threads)]
    with mujoco.rollout.Rollout(nthread=threads) as rollout:
        begin = time.perf_counter()
        for start in range(0, control.shape[1], ROLLOUT_STEPS * SUBSTEPS):
            part = np.ascontiguousarray(control[:, start : start + ROLLOUT_STEPS * SUBSTEPS])
            states, _ = rollout.rollout(model, datas, np.ascontiguousarray(state), part)
            state = states[:, -1]
        seconds = time.perf_counter() - begin
    return len(numbers) * manifest.steps / seconds


def async_vector_env(workers: int, steps: int) -> float:
    """Steps/s of Gymnasium's AsyncVectorEnv over gymnasium-robotics' env: one episode in each process.

    One process per core; reset and random actions as in the collector, nothing recorded.
    """
    envs = AsyncVectorEnv([_their_env] * workers, context="spawn")
    envs.reset(seed=0)
    envs.action_space.seed(0)
    actions = [envs.action_space.sample() for _ in range(steps)]
    envs.step(actions[0])  # the processes have started before the clock does
    begin = time.perf_counter()
    envs.reset()
    for action in actions:
        envs.step(action)
    seconds = time.perf_counter() - begin
    envs.close()
    return workers * steps / seconds


def _their_env() -> gymnasium.Env:
    """gymnasium-robotics' hand and block, in a worker; works around its failure with mujoco >= 3.12."""
    gymnasium.logger.min_level = gymnasium.logger.ERROR  # it warns of deprecated names on import
    with contextlib.redirect_stderr(io.StringIO()):
        import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    utils: Any = importlib.import_module("gymnasium_robotics.utils.mujoco_utils")
    # It compares joint types, integers, with an enum that no longer equals an integer.
    joints = types.SimpleNamespace(
        **{
            name: int(getattr(mujoco.mjtJoint, name))
            for name in ("mjJNT_FREE", "mjJNT_BALL", "mjJNT_SLIDE", "mjJNT_HINGE")
        }
    )
    patched = types.ModuleType("mujoco")
    patched.__dict__.update(mujoco.__dict__ | {"mjtJoint": joints})
    utils.mujoco = patched
    return gymnasium.make(THEIR_ENV, max_episode_steps=10**6)
