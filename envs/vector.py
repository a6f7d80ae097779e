"""`HandVectorEnv`: many `HandEnv`s stepped by threads, with the same results to the bit.

How the threads work, and why not simply `mujoco.rollout`, stands in `workers`.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from ebm_traj.envs.hand import (
    METADATA,
    Observation,
    action_space,
    check_display,
    check_substeps,
    observation_space,
)
from ebm_traj.envs.hand_model import ACTIONS, STEP_SECONDS, SUBSTEPS, HandModel, state_spec
from ebm_traj.envs.hand_task import HandTask
from ebm_traj.envs.render import HandScene
from ebm_traj.envs.workers import HandWorkers, usable_cores
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

Flags = NDArray[np.bool_]


class HandVectorEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """`num_envs` hands of one kind; every number equals that of a `HandEnv`, for any number of threads.

    Args:
        num_envs: number of environments N.
        num_threads: threads that step them; None: one for each usable core.
        max_episode_steps: truncate after so many steps; None: never.
        autoreset_mode: Gymnasium's: a finished environment is reset in the next step, in the same step (the
            last observation is then `info["final_obs"]`), or only by `reset(options={"reset_mask": mask})`.
        substeps, render_mode, width, height: as in `HandEnv`.
        task: `object`, `target_rotation` and all other settings of `HandTask`.

    Raises:
        InputError: for a value that is not accepted, and for actions of the wrong shape or with NaN.
    """

    def __init__(
        self,
        num_envs: int = 1,
        num_threads: int | None = None,
        max_episode_steps: int | None = 100,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        *,
        substeps: int = SUBSTEPS,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        **task: Any,
    ) -> None:
        check_display(render_mode, width, height, max_episode_steps)
        check_substeps(substeps)
        for name, value in (("num_envs", num_envs), ("num_threads", num_threads)):
            if not (isinstance(value, int) and value >= 1) and (name, value) != ("num_threads", None):
                raise InputError(f"hand environment: {name} is {value!r}; accepted: a whole number from 1 up")
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            accepted = ", ".join(mode.value for mode in AutoresetMode)
            raise InputError(
                f"hand environment: autoreset_mode is {autoreset_mode!r}; accepted: {accepted}"
            ) from None
        self.task = HandTask.from_settings(**task)
        self.num_envs = num_envs
        self.num_threads = min(num_threads or usable_cores(), num_envs)
        self.max_episode_steps = max_episode_steps
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.width, self.height = width, height
        self.single_action_space, self.single_observation_space = action_space(), observation_space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.state_spec: StateSpec = state_spec()

        self._hand = HandModel(self.task.object, substeps)
        self.model = self._hand.mj
        self.dt = STEP_SECONDS
        self._states = np.zeros((num_envs, self._hand.state_size))
        self._started = np.zeros(num_envs, dtype=bool)
        self._finished = np.zeros(num_envs, dtype=bool)  # episodes that ended and are to be reset
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int] = [-1] * num_envs  # -1: unknown, as Gymnasium has it
        self._workers = HandWorkers(self._hand, self.num_threads)
        self._scene: HandScene | None = None

    # ---------------------------------------------------------------- Gymnasium

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start new episodes: all, or those of `options["reset_mask"]`, a boolean array (N,).

        An int seeds environment i with `seed + i`; a sequence gives each its own. Observations are those of
        all N environments, `info` has entries for those that were reset.
        """
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError("hand environment: reset() after close()")
        mask = self._reset_mask(options)
        seeds = self._seed_list(seed)
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                self._rngs[i], self._seeds[i] = seeding.np_random(seeds[i])
        self._reset_envs(np.flatnonzero(mask))
        if not self._started.all():
            raise gymnasium.error.ResetNeeded(
                "hand environment: the first reset() must be of all environments"
            )
        observation = self.observe()
        info, _ = self._read(observation, np.zeros(self.num_envs, dtype=bool))
        return observation, self._masked(info, mask)

    def step(
        self, actions: ArrayLike
    ) -> tuple[Observation, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Hold the target angles `actions` (N, 20) for 40 ms; goals as in `HandEnv.step`."""
        control = self._hand.control(actions, (self.num_envs,))
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError("hand environment: step() after close()")
        if not self._started.all():
            raise gymnasium.error.ResetNeeded("hand environment: call reset() before step()")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._finished.any():
            raise gymnasium.error.ResetNeeded(
                f"hand environment: environments {np.flatnonzero(self._finished).tolist()} have finished; "
                "reset them with options={'reset_mask': mask}"
            )
        fresh = self._finished.copy()  # with NEXT_STEP these start anew and ignore their action
        self._reset_envs(np.flatnonzero(fresh))
        diverged = self._workers.step(self._states, control, np.flatnonzero(~fresh))

        observation = self.observe()
        info, reward = self._read(observation, diverged)
        reward[fresh] = 0.0
        self._draw_goals(observation, np.flatnonzero(~fresh))
        truncated = ~fresh & self._over()
        self._finished = diverged | truncated
        infos = self._masked(info, np.ones(self.num_envs, dtype=bool))
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._finished.any():
            observation, infos = self._reset_finished(observation, info)
        return observation, reward, diverged, truncated, infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """One picture (height, width, 3) for each environment, or None without a render mode.

        Raises RenderError if no OpenGL library is there.
        """
        if self.render_mode is None:
            return None
        if self._scene is None:
            aside = self.task.target_position == "ignore"
            self._scene = HandScene(self.task.object, self.width, self.height, goal_aside=aside)
        states = self.state_spec.read(self._hand.observe(self._states))
        return tuple(self._scene.render(state) for state in states)

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads and free the renderer."""
        if workers := getattr(self, "_workers", None):  # absent when the arguments were refused
            workers.close()
        if scene := getattr(self, "_scene", None):
            scene.close()

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The random generators of the environments."""
        for i, rng in enumerate(self._rngs):
            if rng is None:
                self._rngs[i], self._seeds[i] = seeding.np_random()
        return tuple(rng for rng in self._rngs if rng is not None)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seeds of the environments."""
        return tuple(self._seeds) if self.np_random else ()

    # ---------------------------------------------------------------- simulator states

    def observe(self) -> Observation:
        """The observation of all N environments as they are."""
        return self._hand.observe(self._states)

    def get_state(self) -> NDArray[np.float64]:
        """Simulator states (N, S), each as of `HandEnv.get_state`."""
        return self._states.copy()

    def set_state(self, states: ArrayLike, indices: ArrayLike | None = None) -> None:
        """Continue from `states` (K, S): all environments, or those of `indices` (K,).

        An environment whose steps have reached `max_episode_steps` counts as finished. Raises InputError for
        another shape, NaN, or an index that is not there.
        """
        chosen = np.arange(self.num_envs) if indices is None else np.asarray(indices)
        if (
            chosen.ndim != 1
            or chosen.dtype.kind not in "iu"
            or np.any((chosen < 0) | (chosen >= self.num_envs))
        ):
            raise InputError(
                f"indices: found {np.asarray(indices).tolist()}; "
                f"accepted are whole numbers from 0 to {self.num_envs - 1}"
            )
        self._states[chosen] = self._hand.check_states(states, (len(chosen),))
        self._started[chosen] = True
        self._finished[chosen] = self._over()[chosen]

    def set_goals(self, goals: ArrayLike, indices: ArrayLike) -> None:
        """Give the environments of `indices` (K,) the goal poses `goals` (K, 7) from here on."""
        chosen = np.asarray(indices)
        states = self._states[chosen]
        states[:, self._hand.goal] = goals
        self.set_state(states, chosen)

    def rollout(self, states: ArrayLike, actions: ArrayLike) -> NDArray[np.float64]:
        """What follows from `states` (B, S) under `actions` (B, H, 20): MuJoCo's full physics (B, H, P).

        The environments are not touched, and B may be any number. P numbers are time, positions and
        velocities: the first P of a simulator state, equal to those of `step` to the bit. After a divergence
        the last state repeats, as `mujoco.rollout` has it. Memory beyond the result is bounded. Raises
        InputError for wrong shapes or NaN.
        """
        shape = np.shape(actions)
        if len(shape) != 3:
            raise InputError(f"actions: found shape {shape}; accepted is (batch, steps, {ACTIONS})")
        batch, steps, _ = shape
        control = self._hand.control(actions, (batch, steps))
        starts = self._hand.check_states(states, (batch,))
        return self._workers.rollout(starts, control)

    # ---------------------------------------------------------------- inside

    def _reset_envs(self, indices: NDArray[np.intp]) -> None:
        if len(indices):
            self._workers.reset(self._states, self.task, self.np_random, indices)
            self._started[indices] = True
            self._finished[indices] = False

    def _draw_goals(self, observation: Observation, indices: NDArray[np.intp]) -> None:
        """Put new goals, where they are due, into states and observation."""
        if not self.task.goal_every:
            return
        hand, states = self._hand, self._states
        for i in indices[states[indices, hand.elapsed] % self.task.goal_every == 0]:
            goal, pose = states[i, hand.goal].copy(), hand.object_poses(states[i])
            new = self.task.next_goal(states[i, hand.goal_seed], states[i, hand.elapsed], goal, pose)
            states[i, hand.goal] = observation["desired_goal"][i] = new

    def _reset_finished(
        self, observation: Observation, info: dict[str, NDArray[Any]]
    ) -> tuple[Observation, dict[str, Any]]:
        """Reset what has finished; the last observation and info of those go to `final_obs`, `final_info`."""
        finals: dict[str, Any] = {}
        indices = np.flatnonzero(self._finished)
        for i in indices:
            last = {
                "final_obs": {key: value[i] for key, value in observation.items()},
                "final_info": {key: value[i].item() for key, value in info.items()},
            }
            finals = self._add_info(finals, last, int(i))
        self._reset_envs(indices)
        observation = self.observe()
        info["diverged"][indices] = False
        first, _ = self._read(observation, info["diverged"])
        for name, value in info.items():  # the others keep that of the goal their action was taken for
            value[indices] = first[name][indices]
        return observation, {**finals, **self._masked(info, np.ones(self.num_envs, dtype=bool))}

    def _read(
        self, observation: Observation, diverged: Flags
    ) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
        distance = self.task.distance(observation["achieved_goal"], observation["desired_goal"])
        return {**self.task.info(distance), "diverged": diverged.copy()}, self.task.reward(distance)

    def _over(self) -> Flags:
        """Which environments have used up their steps."""
        if self.max_episode_steps is None:
            return np.zeros(self.num_envs, dtype=bool)
        return self._states[:, self._hand.elapsed] >= self.max_episode_steps

    def _masked(self, info: dict[str, NDArray[Any]], mask: Flags) -> dict[str, Any]:
        """Gymnasium's form: each entry beside `_entry`, which says whose it is; zero for the others."""
        masked: dict[str, Any] = {}
        for name, value in info.items():
            masked[name] = np.where(mask, value, np.zeros((), value.dtype))
            masked[f"_{name}"] = mask.copy()
        return masked

    def _seed_list(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        seeds = [None if s is None else int(s) for s in seed]
        if len(seeds) != self.num_envs:
            raise InputError(
                f"seed: found {len(seeds)} seeds; accepted is an int or a list of {self.num_envs}"
            )
        return seeds

    def _reset_mask(self, options: dict[str, Any] | None) -> Flags:
        if options is None or "reset_mask" not in options:
            return np.ones(self.num_envs, dtype=bool)
        mask = options["reset_mask"]
        if (
            not isinstance(mask, np.ndarray)
            or mask.shape != (self.num_envs,)
            or mask.dtype != bool
            or not mask.any()
        ):
            raise InputError(
                f"reset_mask: found {mask!r}; "
                f"accepted is a boolean array ({self.num_envs},) with at least one True"
            )
        return mask
