"""The hand as a reinforcement learning task for Stable-Baselines3: features in, changes of action out.

Reward of a step, with d the angle to the goal in radians (before and after it):

    4 (d_before - d) - 0.1 d + 0.25 [d < 0.3] + 0.5 [d < 0.1] - 0.003 |a - a_before|^2 - 10 [dropped]

What the network gives is how far the joint targets move in this step, at most `CHANGE` of half their range.
Exploration then wanders instead of trembling: with targets given outright, learning took twice the steps.

A new goal is drawn when one has been held for 25 steps or tried for 100, so that the object is met in all the
poses that turning leads to; an episode is cut, not ended, after 400 steps.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ebm_traj.envs.hand_features import FEATURES, PALM, hand_features
from ebm_traj.envs.hand_model import ACTIONS
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.policy.settings import CHANGE

Array = NDArray[np.float64]

NEAR, THERE = 0.3, 0.1  # radians
DROP_DISTANCE = 0.15  # metres from the palm's centre
EPISODE_STEPS, GOAL_STEPS, HOLD_STEPS = 400, 100, 25


class TurningTask(VecEnv):
    """`num_envs` hands that turn their object, with features as observations.

    Args:
        num_envs: environments stepped together.
        seed: of resets and goals.
        mean, std: (F,) of the features, which are given z-scored.
        noise: share of the steps at which a uniformly random action takes the place of the policy's.
        settings: of `HandVectorEnv`, `substeps` and `num_threads` among them.

    `outcomes` collects, for every goal that was given up or held, whether it was (reached, held at the end,
    dropped).
    """

    def __init__(
        self, num_envs: int, seed: int, mean: Array, std: Array, *, noise: float = 0.0, **settings: Any
    ) -> None:
        self.envs = HandVectorEnv(
            num_envs, max_episode_steps=None, autoreset_mode=AutoresetMode.DISABLED, **settings
        )
        super().__init__(
            num_envs,
            spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32),
            spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32),
        )
        self.mean, self.std, self.noise = mean, std, noise
        self.outcomes: list[tuple[bool, bool, bool]] = []
        self._rng = np.random.default_rng(seed)
        self._seed = seed

    def reset(self) -> NDArray[np.float32]:
        """Start all environments, each at another point of its steps, so that they do not end together."""
        self._observation, _ = self.envs.reset(seed=self._seed)
        self._steps = self._rng.integers(0, EPISODE_STEPS, self.num_envs)
        self._goal_steps = np.zeros(self.num_envs, dtype=int)
        self._holding = np.zeros(self.num_envs, dtype=int)
        self._reached = np.zeros(self.num_envs, dtype=bool)
        self._previous = np.zeros((self.num_envs, ACTIONS))
        self._distance = self._measure()
        return self._features()

    def step_async(self, actions: NDArray[np.floating]) -> None:
        """Remember the changes (N, 20), in units of `CHANGE`."""
        change = CHANGE * np.clip(actions, -1.0, 1.0)
        self._actions = np.clip(self._previous + change, -1.0, 1.0)

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict]]:
        """Features (N, 101), rewards (N,), which have ended (N,) and what SB3 wants to know of those."""
        actions = self._actions
        if self.noise:
            surprised = self._rng.random(self.num_envs) < self.noise
            random = self._rng.uniform(-1.0, 1.0, actions.shape)
            actions = np.where(surprised[:, None], random, actions)
        self._observation, _, diverged, _, _ = self.envs.step(actions.astype(np.float32))
        distance, place = self._measure(), self._observation["achieved_goal"][:, :3]
        dropped = diverged | (np.linalg.norm(place - PALM, axis=1) > DROP_DISTANCE)
        reward = (
            4.0 * (self._distance - distance)
            - 0.1 * distance
            + 0.25 * (distance < NEAR)
            + 0.5 * (distance < THERE)
            - 0.003 * ((actions - self._previous) ** 2).sum(axis=1)
            - 10.0 * dropped
        )
        self._distance, self._previous = distance, actions
        self._steps += 1
        self._goal_steps += 1
        self._reached |= distance < THERE
        self._holding = np.where(distance < THERE, self._holding + 1, 0)

        cut = (self._steps >= EPISODE_STEPS) & ~dropped
        done = dropped | cut
        over = (self._goal_steps >= GOAL_STEPS) | (self._holding >= HOLD_STEPS) | dropped
        for i in np.flatnonzero(over):
            self.outcomes.append((bool(self._reached[i]), bool(distance[i] < THERE), bool(dropped[i])))
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        features = self._features()
        for i in np.flatnonzero(done):
            infos[i] = {"terminal_observation": features[i], "TimeLimit.truncated": bool(cut[i])}
        if done.any() or over.any():
            self._restart(done, over & ~done)
            features = self._features()
        return features, reward.astype(np.float32), done, infos

    def _restart(self, done: NDArray[np.bool_], over: NDArray[np.bool_]) -> None:
        """Reset the environments of `done` and draw new goals for those of `over`."""
        if done.any():
            self._observation, _ = self.envs.reset(options={"reset_mask": done})
            self._steps[done] = 0
            self._previous[done] = 0.0
        if over.any():
            rows = np.flatnonzero(over)
            poses = self._observation["achieved_goal"][rows]
            goals = np.stack([self.envs.task.draw_goal(self._rng, pose) for pose in poses])
            self.envs.set_goals(goals, rows)
            self._observation["desired_goal"][rows] = goals
        fresh = done | over
        self._goal_steps[fresh] = self._holding[fresh] = 0
        self._reached[fresh] = False
        self._distance = self._measure()

    def _features(self) -> NDArray[np.float32]:
        features = hand_features(self._observation, self._previous)
        return ((features - self.mean) / self.std).astype(np.float32)

    def _measure(self) -> NDArray[np.float64]:
        seen = self._observation
        return self.envs.task.distance(seen["achieved_goal"], seen["desired_goal"]).rotation

    def close(self) -> None:
        """End the threads."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of this object, once for each environment."""
        return [getattr(self, attr_name, None)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of this object."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """There are no single environments to call."""
        raise NotImplementedError(f"TurningTask has no single environments to call {method_name} on")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never."""
        return [False] * len(list(self._get_indices(indices)))
