"""The turning task in the form that Stable-Baselines3 steps."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ebm_traj.envs.hand_features import FEATURES
from ebm_traj.envs.hand_model import ACTIONS
from ebm_traj.policy.task import TurningTask


class StableTask(VecEnv):
    """A `TurningTask` as a vector environment of Stable-Baselines3; `outcomes` are the task's."""

    def __init__(self, task: TurningTask) -> None:
        super().__init__(
            task.num_envs,
            spaces.Box(-np.inf, np.inf, (FEATURES[task.form],), np.float32),
            spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32),
        )
        self.task, self.outcomes = task, task.outcomes

    def reset(self) -> NDArray[np.float32]:
        """Start all environments."""
        return self.task.reset()

    def step_async(self, actions: NDArray[np.floating]) -> None:
        """Remember the changes (N, 20)."""
        self._changes = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict]]:
        """Features (N, F), rewards (N,), which have ended (N,) and what SB3 wants to know of those."""
        step = self.task.step(self._changes)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        done = step.dropped | step.cut
        for i in np.flatnonzero(done):
            infos[i] = {
                "terminal_observation": step.last_features[i],
                "TimeLimit.truncated": bool(step.cut[i]),
            }
        return step.features, step.reward, done, infos

    def close(self) -> None:
        """End the threads."""
        self.task.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of this object, once for each environment."""
        return [getattr(self, attr_name, None)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of this object."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """There are no single environments to call."""
        raise NotImplementedError(f"StableTask has no single environments to call {method_name} on")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never."""
        return [False] * len(list(self._get_indices(indices)))
