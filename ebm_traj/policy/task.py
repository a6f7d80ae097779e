"""The hand as a reinforcement learning task: features in, changes of action out.

Reward of a step, with d the angle to the goal in radians (before and after it):

    4 (d_before - d) - 0.1 d + 0.25 [d < 0.3] + 0.5 [d < 0.1] - 0.003 |a - a_before|^2 - 10 [dropped]

What the network gives is how far the joint targets move in this step, at most `change` of half their range.
Exploration then wanders instead of trembling: with targets given outright, learning took twice the steps.

A new goal is drawn when one has been held for 25 steps or tried for 100, so that the object is met in all the
poses that turning leads to; an episode is cut, not ended, after 400 steps.
"""

import dataclasses
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from ebm_traj.envs.hand_features import PALM, hand_features
from ebm_traj.envs.hand_model import ACTIONS
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.policy.settings import CHANGE, PolicySettings

Array = NDArray[np.float64]

NEAR, THERE = 0.3, 0.1  # radians
DROP_DISTANCE = 0.15  # metres from the palm's centre
EPISODE_STEPS, GOAL_STEPS, HOLD_STEPS = 400, 100, 25


def turning_reward(before: Array, after: Array, moved: Array, dropped: NDArray[np.bool_]) -> Array:
    """Rewards (...) of steps: angles to the goal before and after them (...), actions' changes (..., A)."""
    return (
        4.0 * (before - after)
        - 0.1 * after
        + 0.25 * (after < NEAR)
        + 0.5 * (after < THERE)
        - 0.003 * (moved**2).sum(axis=-1)
        - 10.0 * dropped
    )


@dataclasses.dataclass(frozen=True)
class TurningStep:
    """What a step of N environments led to."""

    features: NDArray[np.float32]
    """(N, F) of what is to be acted on next."""
    last_features: NDArray[np.float32]
    """(N, F) of what the step led to, before episodes were restarted and goals drawn anew."""
    taken: Array
    """(N, A) the actions that were taken."""
    reward: NDArray[np.float32]
    """(N,)."""
    dropped: NDArray[np.bool_]
    """(N,) whose object was dropped."""
    cut: NDArray[np.bool_]
    """(N,) whose episode was cut though the object was not dropped."""


class TurningTask:
    """`num_envs` hands that turn their object, with features as observations.

    Args:
        num_envs: environments stepped together.
        seed: of resets and goals.
        mean, std: (F,) of the features, which are given z-scored.
        noise: share of the steps at which a uniformly random action takes the place of the policy's.
        form: of the features, see `hand_features`.
        change: largest change of an action in a step, which a 1 stands for.
        hold: steps that a goal is held for before the next one is drawn.
        settings: of `HandVectorEnv`, `substeps` and `num_threads` among them.

    `outcomes` collects, for every goal that was given up or held, whether it was (reached, held at the end,
    dropped). `observation` is what is to be acted on, `previous` (N, 20) the actions before it, `episodes`
    (N,) the numbers of the episodes.
    """

    def __init__(
        self,
        num_envs: int,
        seed: int,
        mean: Array | float,
        std: Array | float,
        *,
        noise: float = 0.0,
        form: str = "matrix",
        change: float = CHANGE,
        hold: int = HOLD_STEPS,
        **settings: Any,
    ) -> None:
        self.envs = HandVectorEnv(
            num_envs, max_episode_steps=None, autoreset_mode=AutoresetMode.DISABLED, **settings
        )
        self.num_envs = num_envs
        self.mean, self.std, self.noise = mean, std, noise
        self.form, self.change, self.hold = form, change, hold
        self.episodes = np.arange(num_envs)
        self.outcomes: list[tuple[bool, bool, bool]] = []
        self._rng = np.random.default_rng(seed)
        self._seed = seed

    def reset(self) -> NDArray[np.float32]:
        """Start all environments, each at another point of its steps, so that they do not end together."""
        self.observation, _ = self.envs.reset(seed=self._seed)
        self._steps = self._rng.integers(0, EPISODE_STEPS, self.num_envs)
        self._goal_steps = np.zeros(self.num_envs, dtype=int)
        self._holding = np.zeros(self.num_envs, dtype=int)
        self._reached = np.zeros(self.num_envs, dtype=bool)
        self.previous = np.zeros((self.num_envs, ACTIONS))
        self._distance = self._measure()
        return self.features()

    def step(self, changes: NDArray[np.floating]) -> TurningStep:
        """Act by changes (N, 20) of the actions, in units of `change`; begin anew what has ended."""
        change = self.change * np.clip(changes, -1.0, 1.0)
        actions = np.clip(self.previous + change, -1.0, 1.0)
        if self.noise:
            surprised = self._rng.random(self.num_envs) < self.noise
            random = self._rng.uniform(-1.0, 1.0, actions.shape)
            actions = np.where(surprised[:, None], random, actions)
        self.observation, _, diverged, _, _ = self.envs.step(actions.astype(np.float32))
        distance, place = self._measure(), self.observation["achieved_goal"][:, :3]
        dropped = diverged | (np.linalg.norm(place - PALM, axis=1) > DROP_DISTANCE)
        reward = turning_reward(self._distance, distance, actions - self.previous, dropped)
        self._distance, self.previous = distance, actions
        self._steps += 1
        self._goal_steps += 1
        self._reached |= distance < THERE
        self._holding = np.where(distance < THERE, self._holding + 1, 0)

        cut = (self._steps >= EPISODE_STEPS) & ~dropped
        done = dropped | cut
        over = (self._goal_steps >= GOAL_STEPS) | (self._holding >= self.hold) | dropped
        for i in np.flatnonzero(over):
            self.outcomes.append((bool(self._reached[i]), bool(distance[i] < THERE), bool(dropped[i])))
        features = last = self.features()
        if done.any() or over.any():
            taken = actions.copy()  # a restart clears the rows in place
            self._restart(done, over & ~done)
            features, actions = self.features(), taken
        return TurningStep(features, last, actions, reward.astype(np.float32), dropped, cut)

    def _restart(self, done: NDArray[np.bool_], over: NDArray[np.bool_]) -> None:
        """Reset the environments of `done` and draw new goals for those of `over`."""
        if done.any():
            self.observation, _ = self.envs.reset(options={"reset_mask": done})
            self._steps[done] = 0
            self.episodes[done] += self.num_envs
            self.previous[done] = 0.0
        if over.any():
            rows = np.flatnonzero(over)
            poses = self.observation["achieved_goal"][rows]
            goals = np.stack([self.envs.task.draw_goal(self._rng, pose) for pose in poses])
            self.envs.set_goals(goals, rows)
            self.observation["desired_goal"][rows] = goals
        fresh = done | over
        self._goal_steps[fresh] = self._holding[fresh] = 0
        self._reached[fresh] = False
        self._distance = self._measure()

    def features(self) -> NDArray[np.float32]:
        """Features (N, F) of what is to be acted on."""
        features = hand_features(self.observation, self.previous, self.form)
        return ((features - self.mean) / self.std).astype(np.float32)

    def _measure(self) -> NDArray[np.float64]:
        seen = self.observation
        return self.envs.task.distance(seen["achieved_goal"], seen["desired_goal"]).rotation

    def close(self) -> None:
        """End the threads."""
        self.envs.close()


def task_for(
    settings: PolicySettings, num_envs: int, seed: int, num_threads: int | None, hold: int = HOLD_STEPS
) -> TurningTask:
    """The task as `td3` and its demonstrations have it, in coarse simulation."""
    chosen = settings.td3
    return TurningTask(
        num_envs,
        seed,
        0.0,
        1.0,
        form=settings.form,
        change=chosen.change,
        hold=hold,
        num_threads=num_threads,
        substeps=chosen.substeps,
        **settings.task,
    )
