"""`ExpertPolicy`: model-predictive control of the hand by sampling plans in the simulator itself.

At every second step it draws plans around the last one, simulates them all from the present simulator state
with `mujoco.rollout`, and acts on what the optimiser makes of their costs. The simulator it plans in takes
coarser steps than the one it acts in. Cost of a plan, in radians, over its H steps:

    mean_t (r_t + w_p |position_t - position_goal|) + w_f r_H
    r_t = rotation_t + w_n tanh(rotation_t / 0.2)

rotation_t is the angle between object and goal, and the last two tenths of a radian count for more, so that
the goal is held; where the task ignores the position, the goal's is where the object came to rest at the
start. How optimisers and settings compare is in RESULTS.md.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.envs.hand import check_substeps
from ebm_traj.envs.hand_model import HandModel
from ebm_traj.envs.hand_task import POSE, HandTask
from ebm_traj.envs.optimizers import MPPI, CrossEntropy, Optimizer, PredictiveSampling
from ebm_traj.envs.workers import HandWorkers, usable_cores
from ebm_traj.errors import InputError

Array = NDArray[np.float64]

EXPERT_STREAM = 3  # keeps the expert's draws apart from others with the same seed
OPTIMIZERS = ("mppi", "predictive-sampling", "cem")
NEAR = 0.2  # radians, twice the environment's threshold of success
PLANS_AT_ONCE = 4096  # whose actions and states are held in memory together


@dataclasses.dataclass(frozen=True)
class ExpertSettings:
    """Settings of the expert; the defaults are the best measured for turning the block."""

    optimizer: str = "mppi"
    """mppi, predictive-sampling or cem."""
    samples: int = 64
    """Plans simulated at each planning."""
    horizon: int = 14
    """Steps of a plan."""
    knots: int = 5
    """Knots of a plan; actions between them are interpolated."""
    replan_every: int = 2
    """Steps acted on before planning anew."""
    noise: tuple[float, ...] = (0.15, 0.5, 1.0)
    """Standard deviations of the knots' noise, in half-widths of the action box; plans take them in turn."""
    temperature: float = 0.02
    """Of MPPI, in units of the cost."""
    elites: int = 8
    """Of the cross-entropy method."""
    position_weight: float = 20.0
    """Cost in radians of an object one metre off."""
    free_distance: float = 0.02
    """Metres that the object may be off at no cost where the task ignores its position."""
    final_weight: float = 2.0
    """Weight of the last step's rotation."""
    near_weight: float = 0.5
    """How much more the last two tenths of a radian count, in radians."""
    substeps: int = 5
    """Simulator steps in an environment step while planning; 20 is exact."""

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"expert: optimizer '{self.optimizer}'; accepted: {', '.join(OPTIMIZERS)}")
        for name, least in (("samples", 2), ("knots", 2), ("replan_every", 1), ("elites", 1)):
            if getattr(self, name) < least:
                raise InputError(f"expert: {name} is {getattr(self, name)}; needs {least} or more")
        if not self.replan_every <= self.horizon or self.horizon < self.knots:
            raise InputError(
                f"expert: horizon is {self.horizon} steps; needs at least {self.knots} (its knots) and "
                f"{self.replan_every} (steps acted on)"
            )
        if not self.noise or min(self.noise) <= 0 or self.temperature <= 0:
            raise InputError("expert: noise and temperature must be above 0")
        if not self.near_weight >= 0:
            raise InputError(f"expert: near_weight is {self.near_weight}; needs 0 or more")


class ExpertPolicy:
    """Turns the object to its goal by planning; see the head of this module.

    It keeps a plan from step to step, so what it does next does not follow from state and goal alone.

    Args:
        action_low, action_high: the action box (20,).
        settings: how it plans.
        env_id, env_kwargs: the environment it acts in, one of `ebm_traj/Hand*`.
        num_threads: threads that simulate plans; None: one for each usable core.

    Raises:
        InputError: for another environment.
    """

    goal_conditioned = True
    needs_simulator = True
    markov = False
    Settings: ClassVar = ExpertSettings

    def __init__(
        self,
        action_low: NDArray[np.floating],
        action_high: NDArray[np.floating],
        settings: ExpertSettings | None = None,
        *,
        env_id: str,
        env_kwargs: dict[str, Any],
        num_threads: int | None = None,
    ) -> None:
        self.settings = settings or ExpertSettings()
        check_substeps(self.settings.substeps)
        self._task = task_of(env_id, env_kwargs, "expert")
        self._hand = HandModel(self._task.object, self.settings.substeps)
        self._workers = HandWorkers(self._hand, num_threads or usable_cores())
        self._low, self._high = np.asarray(action_low, np.float64), np.asarray(action_high, np.float64)
        self._optimizer = self._make_optimizer()
        self._seeds: list[int] = []

    def reset(self, seeds: Sequence[int], steps: ArrayLike = 0) -> None:
        """Begin an episode per seed without a plan; `steps` (scalar or (N,)) picks the part of its draws."""
        self._seeds = [int(seed) for seed in seeds]
        self._steps = np.broadcast_to(np.asarray(steps, dtype=np.int64), len(self._seeds)).copy()
        self._since_plan = 0
        size = len(self._low)
        self._knots = np.zeros((len(self._seeds), self.settings.knots, size))
        self._planned = False
        self._optimizer.reset(len(self._seeds), self.settings.knots, size)

    def act(
        self,
        observations: Any,
        previous_actions: NDArray[np.floating],
        simulator_states: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Actions (N, 20) for simulator states (N, S); observations and previous actions are not looked at.

        Raises InputError without simulator states, or if there are not N of them.
        """
        if simulator_states is None or len(simulator_states) != len(self._seeds):
            found = "none" if simulator_states is None else f"{len(simulator_states)}"
            raise InputError(f"policy 'expert': {found} simulator states; needed are {len(self._seeds)}")
        if not self._planned or self._since_plan == self.settings.replan_every:
            self._plan(simulator_states)
        action = self._actions[:, self._since_plan]
        self._since_plan += 1
        self._steps += 1
        return np.clip(action, self._low, self._high).astype(np.float32)

    def close(self) -> None:
        """End the planning threads."""
        self._workers.close()

    def _plan(self, states: Array) -> None:
        """Improve the plans from states (N, S)."""
        chosen = self.settings
        if self._planned:
            self._knots = shift(self._knots, chosen.replan_every * (chosen.knots - 1) / (chosen.horizon - 1))
        candidates = np.repeat(self._knots[:, None], chosen.samples, axis=1)  # (N, M, K, 20)
        candidates[:, 1:] += self._optimizer.spread(chosen.samples) * self._draws()
        np.clip(candidates, -1.0, 1.0, out=candidates)
        costs = np.empty(candidates.shape[:2])
        rows = max(1, PLANS_AT_ONCE // chosen.samples)
        for first in range(0, len(states), rows):
            part = slice(first, first + rows)
            costs[part] = self._costs(states[part], interpolate(candidates[part], chosen.horizon))
        self._knots = self._optimizer.update(candidates, costs)
        self._actions = interpolate(self._knots, chosen.horizon)  # (N, H, 20)
        self._planned, self._since_plan = True, 0

    def _draws(self) -> Array:
        """Standard normal numbers (N, M-1, K, 20), each row's a function of its seed and step."""
        shape = (self.settings.samples - 1, self.settings.knots, len(self._low))
        return np.stack(
            [
                np.random.default_rng([seed, EXPERT_STREAM, step]).standard_normal(shape)
                for seed, step in zip(self._seeds, self._steps.tolist(), strict=True)
            ]
        )

    def _costs(self, states: Array, actions: Array) -> Array:
        """Costs (n, M) of action sequences (n, M, H, 20) from states (n, S)."""
        n, plans, horizon, size = actions.shape
        control = self._hand.control(actions.reshape(n * plans, horizon, size), (n * plans, horizon))
        physics = self._workers.rollout(np.repeat(states, plans, axis=0), control)
        pose = self._hand.object_poses(physics).reshape(n, plans, horizon, POSE)
        goal = np.broadcast_to(states[:, None, None, self._hand.goal], pose.shape)
        rotation = self._task.distance(pose, goal).rotation
        rotation = rotation + self.settings.near_weight * np.tanh(rotation / NEAR)
        offset = np.linalg.norm(pose[..., :3] - goal[..., :3], axis=-1)
        if self._task.target_position == "ignore":
            offset = np.maximum(offset - self.settings.free_distance, 0.0)
        running = (rotation + self.settings.position_weight * offset).mean(axis=-1)
        return running + self.settings.final_weight * rotation[..., -1]

    def _make_optimizer(self) -> Optimizer:
        chosen = self.settings
        if chosen.optimizer == "mppi":
            return MPPI(chosen.noise, chosen.temperature)
        if chosen.optimizer == "cem":
            return CrossEntropy(chosen.noise, chosen.elites)
        return PredictiveSampling(chosen.noise)


def task_of(env_id: str, env_kwargs: dict[str, Any], policy: str) -> HandTask:
    """The task of a hand environment. InputError, naming the policy, if it is another environment."""
    try:
        spec = gymnasium.spec(env_id)
    except gymnasium.error.Error:
        spec = None
    if spec is None or spec.vector_entry_point != "ebm_traj.envs.vector:HandVectorEnv":
        raise InputError(
            f"policy '{policy}' acts in the hand environments, such as ebm_traj/HandBlock-v0; "
            f"found '{env_id}'"
        )
    fields = {field.name for field in dataclasses.fields(HandTask)}
    settings = {**spec.kwargs, **env_kwargs}
    return HandTask.from_settings(**{key: value for key, value in settings.items() if key in fields})


def interpolate(knots: Array, steps: int) -> Array:
    """Actions (..., steps, A) on the straight lines between knots (..., K, A), first and last included."""
    return _between(knots, np.linspace(0, knots.shape[-2] - 1, steps))


def shift(knots: Array, by: float) -> Array:
    """Knots (..., K, A) of the same plan begun `by` knots later; it ends with the last one repeated."""
    last = knots.shape[-2] - 1
    return _between(knots, np.minimum(np.arange(last + 1) + by, last))


def _between(knots: Array, places: Array) -> Array:
    left = np.minimum(places.astype(int), knots.shape[-2] - 2)
    share = (places - left)[:, None]
    return knots[..., left, :] * (1 - share) + knots[..., left + 1, :] * share
