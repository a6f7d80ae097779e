"""How well a behaviour policy turns the object: success over many seeds, and its speed."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ebm_traj.collect.environment import open_lockstep
from ebm_traj.envs.behaviour import Policy
from ebm_traj.envs.hand_model import PALM_HEIGHT
from ebm_traj.errors import InputError
from ebm_traj.intervals import wilson


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What came of one policy in N episodes."""

    reached: NDArray[np.bool_]
    """(N,) the goal was met at some step."""
    held: NDArray[np.bool_]
    """(N,) the goal was met at the last step."""
    reached_original: NDArray[np.bool_]
    """(N,) as `reached`, by gymnasium-robotics' reading, which q and -q mislead."""
    rotation: NDArray[np.float64]
    """(N,) angle to the goal at the last step, radians."""
    dropped: NDArray[np.bool_]
    """(N,) the object fell off the palm."""
    acting_seconds: float
    """Time spent in the policy."""
    seconds: float
    """Wall time, simulation included."""
    steps: int
    """Actions taken in all."""

    def summary(self) -> dict[str, Any]:
        """The figures as plain numbers, success with 95 % confidence limits."""
        return {
            "episodes": len(self.reached),
            "reached": share(self.reached),
            "held": share(self.held),
            "reached_original": share(self.reached_original),
            "dropped": float(self.dropped.mean()),
            "rotation_mean": float(self.rotation.mean()),
            "rotation_median": float(np.median(self.rotation)),
            "actions_per_second": self.steps / self.acting_seconds,
            "seconds_per_episode": self.seconds / len(self.reached),
        }


def share(flags: NDArray[np.bool_]) -> list[float]:
    """Share of True with the limits of its 95 % Wilson interval: [share, low, high]."""
    return list(wilson(int(flags.sum()), len(flags)))


def in_words(share: Sequence[float]) -> str:
    """A share and its limits in per cent."""
    return "{:.0f} % ({:.0f} to {:.0f})".format(*(100 * value for value in share))


def evaluate(
    policy: Policy,
    env_id: str,
    env_kwargs: dict[str, Any],
    *,
    episodes: int,
    seed: int,
    steps: int = 100,
    num_threads: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run `episodes` episodes of `steps` steps in a hand environment, with seeds `seed`, `seed` + 1, ...

    Raises InputError for fewer than one episode or step.
    """
    for name, value in (("episodes", episodes), ("steps", steps)):
        if value < 1:
            raise InputError(f"{name}: {value}; needs 1 or more")
    envs: Any = open_lockstep(env_id, env_kwargs, episodes, num_threads)
    begin = time.perf_counter()
    seeds = list(range(seed, seed + episodes))
    observation, _ = envs.reset(seed=seeds)
    policy.reset(seeds)
    previous = np.full((episodes, envs.single_action_space.shape[0]), np.nan, np.float32)
    reached, original, dropped, held = (np.zeros(episodes, dtype=bool) for _ in range(4))
    rotation, acting = np.zeros(episodes), 0.0
    for _ in tqdm(range(steps), desc="evaluate", unit="step", disable=not progress, file=sys.stderr):
        started = time.perf_counter()
        previous = policy.act(observation, previous, envs.get_state() if policy.needs_simulator else None)
        acting += time.perf_counter() - started
        observation, _, diverged, _, info = envs.step(previous)
        if diverged.any():  # gone: set it back to nowhere in particular, so that the others can go on
            envs.reset(options={"reset_mask": diverged})
        dropped |= diverged | (observation["achieved_goal"][:, 2] < PALM_HEIGHT)
        held = info["is_success"] & ~dropped
        reached |= held
        original |= info["is_success_original"] & ~dropped
        rotation = info["rotation_distance"]
    envs.close()
    return Evaluation(
        reached, held, original, rotation, dropped, acting, time.perf_counter() - begin, steps * episodes
    )
