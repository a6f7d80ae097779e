"""`HandEnv`: a Shadow hand turns an object to a goal pose, after gymnasium-robotics' HandManipulate*-v1.

Model, settling, observation, action and draws are theirs: the same seed gives the same first reset, and the
same actions the same states, to the bit, on one version of MuJoCo. What differs is said in `HandEnv`.
"""

from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ebm_traj.envs.hand_model import ACTIONS, OBSERVATION, STEP_SECONDS, SUBSTEPS, HandModel, state_spec
from ebm_traj.envs.hand_task import POSE, HandTask
from ebm_traj.envs.render import HandScene
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

Observation = dict[str, NDArray[np.float64]]

LEAST_SUBSTEPS, MOST_SUBSTEPS = 4, 100
RENDER_MODES = ("rgb_array",)
METADATA = {"render_modes": list(RENDER_MODES), "render_fps": 25}


def action_space() -> spaces.Box:
    """Actions (20,) in [-1, 1]: each actuator's target angle, from the low to the high end of its range."""
    return spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)


def observation_space() -> spaces.Dict:
    """`observation` (61,): 24 joint angles, 24 joint speeds, object velocity (6), object pose (7).

    `achieved_goal` and `desired_goal` (7,) are poses: position in metres and unit quaternion, scalar first.
    """
    sizes = {"observation": OBSERVATION, "achieved_goal": POSE, "desired_goal": POSE}
    return spaces.Dict({k: spaces.Box(-np.inf, np.inf, (n,), np.float64) for k, n in sizes.items()})


def check_display(render_mode: str | None, width: int, height: int, max_episode_steps: int | None) -> None:
    """Raise InputError unless the arguments that both environments share can be used."""
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise InputError(
            f"hand environment: render_mode is {render_mode!r}; accepted: None, {', '.join(RENDER_MODES)}"
        )
    for name, value in (("width", width), ("height", height), ("max_episode_steps", max_episode_steps)):
        if name == "max_episode_steps" and value is None:
            continue
        if not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"hand environment: {name} is {value!r}; accepted: a whole number from 1 up")


def check_substeps(substeps: int) -> None:
    """Raise InputError unless the simulation is stable with so many steps of 40 ms / substeps."""
    if not isinstance(substeps, int | np.integer) or not LEAST_SUBSTEPS <= substeps <= MOST_SUBSTEPS:
        raise InputError(
            f"hand environment: substeps is {substeps!r}; accepted: a whole number from {LEAST_SUBSTEPS} "
            f"to {MOST_SUBSTEPS}"
        )


class HandEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """One hand, one object, one goal pose.

    It differs from gymnasium-robotics in this: the rotation distance is the angle between two rotations
    (2 arccos|q.q'|); `info` reports the original's success beside ours; a reset does not depend on the
    episode before it (there, the solver's warm start is carried over); `target_rotation` may be `fixed` or
    `ignore`; a simulation that diverges ends the episode with `info["diverged"]` and the last good state as
    observation.

    Args:
        object, target_rotation, target_position, reward_type: see `HandTask`.
        substeps: simulator steps in an environment step; 20 of 2 ms are gymnasium-robotics'. Five of 8 ms run
            3.1 times as fast and follow the original to a tenth of its motion over ten steps (measured).
        max_episode_steps: truncate after so many steps; None: never. `gymnasium.make` truncates by a wrapper
            with a count of its own, which `set_state` does not reach.
        render_mode: `rgb_array` or None.
        width, height: size of a picture in pixels.
        task: the other settings of `HandTask`, such as `distance_threshold`.

    Raises:
        InputError: for a value that is not accepted, and for an action of the wrong shape or with NaN.
    """

    metadata: ClassVar[dict[str, Any]] = METADATA  # type: ignore[misc]

    def __init__(
        self,
        object: str = "block",
        target_rotation: str = "xyz",
        target_position: str = "random",
        reward_type: str = "sparse",
        *,
        substeps: int = SUBSTEPS,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        **task: Any,
    ) -> None:
        check_display(render_mode, width, height, max_episode_steps)
        check_substeps(substeps)
        self.task = HandTask.from_settings(
            object=object,
            target_rotation=target_rotation,
            target_position=target_position,
            reward_type=reward_type,
            **task,
        )
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.width, self.height = width, height
        self.action_space = action_space()  # type: ignore[assignment]
        self.observation_space = observation_space()  # type: ignore[assignment]
        self.state_spec: StateSpec = state_spec()

        self._hand = HandModel(object, substeps)
        self.model = self._hand.mj
        self.data = mujoco.MjData(self.model)
        self.dt = STEP_SECONDS
        self._state = np.zeros(self._hand.state_size)
        self._physics = self._state[: self._hand.simulator_size]
        self._started = False
        self._scene: HandScene | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; `info` has the entries of `step`."""
        super().reset(seed=seed)
        hand = self._hand
        self._state[hand.goal] = hand.reset(self.data, self.task, self.np_random)
        self._state[hand.elapsed] = 0
        self._state[hand.goal_seed] = self.task.draw_goal_seed(self.np_random)
        hand.get_state(self.data, self._physics)
        self._started = True
        observation, info, _ = self._read(diverged=False)
        return observation, info

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Hold the target angles `action` (20,) for 40 ms.

        With `goal_every`, reward and info are those of the goal that the action was taken for; the
        observation carries the one to act on next.
        """
        control = self._hand.control(action)
        if not self._started:
            raise gymnasium.error.ResetNeeded("hand environment: call reset() before step()")
        diverged = not self._hand.step(self.data, control)
        if diverged:
            self._restore()
        else:
            self._hand.get_state(self.data, self._physics)
        self._state[self._hand.elapsed] += 1
        observation, info, reward = self._read(diverged)
        observation["desired_goal"][:] = self._next_goal()
        limit = self.max_episode_steps
        truncated = limit is not None and bool(self._state[self._hand.elapsed] >= limit)
        return observation, reward, diverged, truncated, info

    def _next_goal(self) -> NDArray[np.float64]:
        """Put the goal that is to be acted on now into the state, and return it."""
        hand, state = self._hand, self._state
        pose = hand.object_poses(state)
        state[hand.goal] = self.task.next_goal(
            state[hand.goal_seed], state[hand.elapsed], state[hand.goal].copy(), pose
        )
        return state[hand.goal]

    def _read(self, diverged: bool) -> tuple[Observation, dict[str, Any], float]:
        observation = self._hand.observe(self._state)
        distance = self.task.distance(observation["achieved_goal"], observation["desired_goal"])
        info = {name: value.item() for name, value in self.task.info(distance).items()}
        info["diverged"] = diverged
        return observation, info, float(self.task.reward(distance))

    def compute_reward(self, achieved_goal: ArrayLike, desired_goal: ArrayLike, info: Any) -> Any:
        """Rewards (...) of poses (..., 7) under goals (..., 7), for relabelling goals; `info` is unused."""
        return self.task.reward(self.task.distance(achieved_goal, desired_goal))

    def compute_terminated(self, achieved_goal: ArrayLike, desired_goal: ArrayLike, info: Any) -> bool:
        """Reaching the goal does not end the episode."""
        return False

    def compute_truncated(self, achieved_goal: ArrayLike, desired_goal: ArrayLike, info: Any) -> bool:
        """No goal cuts an episode short."""
        return False

    @property
    def goal(self) -> NDArray[np.float64]:
        """The goal pose (7,), a copy."""
        return self._state[self._hand.goal].copy()

    @property
    def elapsed_steps(self) -> int:
        """Steps since reset."""
        return int(self._state[self._hand.elapsed])

    def get_state(self) -> NDArray[np.float64]:
        """The simulator state (S,): physics, warm start, goal, elapsed steps, goal seed; see `HandModel`.

        `set_state` in this or any other `HandEnv` of the same object continues from it to the bit. The random
        generator, which the next reset draws from, is not part of it.
        """
        return self._state.copy()

    def set_state(self, state: ArrayLike) -> None:
        """Continue from a state (S,) of `get_state`; InputError for another shape or NaN."""
        self._state[:] = self._hand.check_states(state)
        self._restore()
        self._started = True

    def _restore(self) -> None:
        """Bring the simulator to `self._state`, quantities derived from it included."""
        self._hand.set_state(self.data, self._physics)
        mujoco.mj_forward(self.model, self.data)
        self._hand.set_state(self.data, self._physics)  # MuJoCo 3.3.0 changes the warm start in mj_forward

    def render(self) -> NDArray[np.uint8] | None:
        """The hand, the object and, half transparent, the goal: (height, width, 3), or None without a mode.

        Raises RenderError if no OpenGL library is there.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(
                "hand environment: render() without a render_mode; make it with 'rgb_array'"
            )
            return None
        if self._scene is None:
            self._scene = HandScene(
                self.task.object, self.width, self.height, goal_aside=self.task.target_position == "ignore"
            )
        return self._scene.render(self.state_spec.read(self._hand.observe(self._state)))

    def close(self) -> None:
        """Free the renderer."""
        if self._scene is not None:
            self._scene.close()
            self._scene = None
