"""`rollout`: a model drives an environment, sampling futures of what it has seen and acting on one."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ebm_traj.core.seeding import seeded_generator
from ebm_traj.envs.success import succeeded
from ebm_traj.errors import InputError
from ebm_traj.planning.energies import FutureEnergy
from ebm_traj.planning.monitor import surprise
from ebm_traj.planning.plan import Plan, Planner
from ebm_traj.planning.rollout_data import NO_SURPRISE, Rollout
from ebm_traj.planning.sampling import Method, PlannerConfig, SamplingPlanner
from ebm_traj.spec import StateSpec, flatten_observation
from ebm_traj.trajectory.files import load
from ebm_traj.trajectory.model import TrajectoryModel


def rollout(
    env: Any,
    model: TrajectoryModel | Planner | str | Path,
    steps: int = 100,
    *,
    futures: int = 64,
    horizon: int = 16,
    replan_every: int = 1,
    replan_beyond: float | None = None,
    method: Method = "resampling",
    deadline_ms: float | None = None,
    seed: int = 0,
    energies: Mapping[str, FutureEnergy] | FutureEnergy | None = None,
    callback: Callable[[int, Callable[[], Rollout]], None] | None = None,
    record_frames: bool = False,
) -> Rollout:
    """Drive `env` for up to `steps` steps with plans sampled from `model`.

    At every replanning `futures` continuations of `horizon` steps are sampled from the last observed frames.
    The one that meets the given `energies` best, or without any the one of lowest model energy, is chosen,
    and its first `replan_every` steps are acted: by its actions if the model is joint or action-conditional,
    else by the model's inverse dynamics. How candidates are found is `method`, see `PlannerConfig`.

    `env` is any Gymnasium environment with a Box (or Dict of Box) observation and a Box action, or its id;
    `model` a trajectory model, the folder of one or the name of a pretrained one, or a planner of your own
    (`futures`, `horizon`, `method` and `energies` are then its business). `energies` are plain functions of
    futures (M, H, D) in raw units to (M,), see `planning.energies`. With `replan_beyond` a plan is also given
    up as soon as what is observed is further than so many standard deviations (root mean square over the
    predicted dimensions, each in units of its one-step change) from what was planned. `deadline_ms` bounds
    the milliseconds of a planning: the best plan so far is then taken. `callback(t, so_far)` is called after
    each step; `so_far()` builds the rollout until then.

    Raises InputError, before the first step, if the environment does not fit the model and says where.
    """
    if min(steps, futures, horizon, replan_every) < 1 or replan_every > horizon:
        raise InputError(
            f"rollout: steps {steps}, futures {futures}, horizon {horizon}, replan_every {replan_every}; "
            "accepted are 1 and more, and replan_every up to the horizon"
        )
    if seed < 0:
        raise InputError(f"rollout: seed {seed}; accepted are 0 and more")
    if isinstance(env, TrajectoryModel) or not (isinstance(env, str) or hasattr(env, "step")):
        raise InputError(
            f"rollout: env is a {type(env).__name__}; the environment comes first, then the model"
        )
    if not isinstance(model, str | Path | TrajectoryModel) and not hasattr(model, "plan"):
        raise InputError(
            f"rollout: model is a {type(model).__name__}; accepted are a model, its folder or name, or a "
            "planner"
        )
    if deadline_ms is not None and not deadline_ms > 0:
        raise InputError(f"rollout: deadline_ms {deadline_ms}; it must be above 0")
    own_env = isinstance(env, str)
    env = open_env(env) if own_env else env
    if isinstance(model, str | Path):
        model = load(model)
    if isinstance(model, TrajectoryModel):
        config = PlannerConfig(futures=futures, horizon=horizon, method=method)
        planner: Planner = SamplingPlanner(model, config, energies)
    else:
        planner, model = model, model.model
    generator = seeded_generator(model.device, "rollout", seed)
    settings = {"seed": seed, "futures": futures, "horizon": horizon, "replan_every": replan_every}
    log = _Log(model, env, planner.context_frames, {**settings, "planner": type(planner).__name__})
    try:
        check_fit(env, model)
        observation, _ = env.reset(seed=seed)
        planner.reset()
        log.see(observation, env, record_frames)
        plan, ahead = None, 0
        for t in range(steps):
            if plan is None or log.is_over(plan, ahead, replan_every, replan_beyond):
                began = time.perf_counter()
                deadline = None if deadline_ms is None else began + deadline_ms / 1000
                seen = log.context(), log.past_actions()
                plan = planner.plan(*seen, generator, ahead=ahead, deadline=deadline)
                log.planned(t, plan, seen[0], milliseconds=1000 * (time.perf_counter() - began))
                ahead = 0
            actions = plan.chosen_actions()
            if actions is not None:
                action = actions[0, ahead]
            else:
                seen_by_model = log.context()[:, -model.context_frames :]
                action = model.act(seen_by_model, plan.chosen_states()[:, ahead])[0]
            ahead += 1
            chosen = action.cpu().numpy().astype(env.action_space.dtype)
            began = time.perf_counter()
            observation, reward, terminated, truncated, info = env.step(chosen)
            log.did(chosen, float(reward), info, milliseconds=1000 * (time.perf_counter() - began))
            log.see(observation, env, record_frames)
            log.meta |= {"terminated": bool(terminated), "truncated": bool(truncated)}
            if callback is not None:
                callback(t, log.result)
            if terminated or truncated:
                break
    finally:
        if own_env:
            env.close()
    return with_surprise(log.result(), model)


def with_surprise(result: Rollout, model: TrajectoryModel) -> Rollout:
    """The rollout with the surprise of each of its steps under `model`; where there is none, meta says why.

    A whole episode at once, after it: nothing that a control loop has to wait for.
    """
    try:
        found = surprise(model, result.states[None], result.actions[None])[0]
    except InputError as error:
        return dataclasses.replace(result, meta=result.meta | {NO_SURPRISE: str(error)})
    return dataclasses.replace(result, surprise=found)


def open_env(env_id: str, **kwargs: Any) -> Any:
    """`make_env`: an unknown or unusable id is an InputError."""
    import ebm_traj  # noqa: F401 - registers the package's environments
    from ebm_traj.envs.opening import make_env

    return make_env(env_id, **kwargs)


def check_fit(env: Any, model: TrajectoryModel) -> None:
    """InputError, naming what differs, if `env` is not one that `model` can read and act in."""
    from gymnasium import spaces

    if model.conditioning == "states" and not model.card.get("inverse_iterations"):
        raise InputError(
            "model: it predicts states and was trained without inverse dynamics, so it cannot act; "
            "train it with --inverse-iterations above 0, or with --conditioning joint or actions"
        )
    if not isinstance(env.action_space, spaces.Box) or len(env.action_space.shape) != 1:
        raise InputError(f"env: action space {env.action_space}; accepted is a Box of one dimension")
    if env.action_space.shape != (model.action_size,):
        raise InputError(
            f"env: {env.action_space.shape[0]} actions; the model was trained on {model.action_size}"
        )
    box = env.action_space
    if not same_box(model, box.low, box.high):
        raise InputError(
            f"env: actions of {box.low.min():g} to {box.high.max():g}; the model was trained on "
            f"{model.action_low.min():g} to {model.action_high.max():g}"
        )
    parts = env.observation_space
    leaves = list(parts.spaces.values()) if isinstance(parts, spaces.Dict) else [parts]
    if not all(isinstance(leaf, spaces.Box | spaces.Dict) for leaf in leaves):
        raise InputError(f"env: observation space {parts}; accepted is a Box or a Dict of Box")
    size = flatten_observation(parts.sample()).shape[-1]
    if size != model.spec.observation_size:
        raise InputError(
            f"env: observations of {size} numbers; the model reads {model.spec.observation_size} "
            f"(it was trained on {model.card.get('env_id', 'another environment')})"
        )
    own_spec = getattr(env.unwrapped, "state_spec", None)
    difference = own_spec.difference(model.spec) if own_spec is not None else None
    if difference:
        raise InputError(f"env: its state differs from the model's: {difference}")


def same_box(model: TrajectoryModel, low: ArrayLike, high: ArrayLike) -> bool:
    """Whether actions between `low` and `high` (A,) are those that the model was trained on."""
    own = model.action_low, model.action_high
    return all(
        np.shape(bound) == mine.shape and np.allclose(bound, mine, atol=1e-4)
        for bound, mine in zip((low, high), own, strict=True)
    )


class _Log:
    """Collects a rollout as it happens."""

    def __init__(
        self, model: TrajectoryModel, env: Any, context_frames: int, settings: dict[str, Any]
    ) -> None:
        """`context_frames` is what the planner wants to see, which may be more than the model does."""
        self.model = model
        self.context_frames = context_frames
        spec = getattr(env, "spec", None)
        self.meta: dict[str, Any] = {
            "env_id": spec.id if spec else type(env).__name__,
            "env_kwargs": {
                key: value for key, value in (spec.kwargs if spec else {}).items() if key != "render_mode"
            },
            "model": model.kind,
            "conditioning": model.conditioning,
            **settings,
        }
        self.observed: list[np.ndarray] = []
        self.done: list[tuple[np.ndarray, float, bool, float]] = []
        self.plans: list[tuple[int, np.ndarray, np.ndarray, np.ndarray, int, float]] = []
        self.frames: list[np.ndarray] = []

    def see(self, observation: Any, env: Any, record_frames: bool) -> None:
        self.observed.append(self.model.spec.read(observation))
        if record_frames and (frame := env.render()) is not None:
            self.frames.append(np.asarray(frame))

    def planned(self, t: int, plan: Plan, context: Tensor, milliseconds: float) -> None:
        """A plan made at step t from a context (1, C, D)."""
        futures, energies = plan.states[0].cpu().numpy(), plan.energies[0].cpu().numpy()
        present = context[0, -1].cpu().numpy()
        self.plans.append((t, present, futures, energies, int(plan.chosen[0]), milliseconds))

    def is_over(self, plan: Plan, ahead: int, replan_every: int, beyond: float | None) -> bool:
        """Whether a plan was acted on long enough, or what was observed last is too far from it."""
        if ahead >= min(replan_every, plan.horizon):
            return True
        if beyond is None or ahead == 0:
            return False
        spec = self.model.spec
        assert spec.change_std is not None
        planned = plan.chosen_states()[0, ahead - 1].cpu().numpy()
        off = spec.align(np.stack([planned, self.observed[-1]]))[1] - spec.align(planned[None])[0]
        return bool(np.sqrt(np.mean((off / spec.change_std)[spec.moving] ** 2)) > beyond)

    def did(self, action: np.ndarray, reward: float, info: Mapping[str, Any], milliseconds: float) -> None:
        self.done.append((action, reward, succeeded(info), milliseconds))

    def context(self) -> Tensor:
        """(1, C, D) the last frames; before there are C of them the first one is repeated, as if at rest."""
        length = self.context_frames
        frames = [self.observed[0]] * (length - len(self.observed)) + self.observed[-length:]
        return torch.from_numpy(self.model.spec.align(np.stack(frames)))[None].to(self.model.device)

    def past_actions(self) -> Tensor:
        """(1, C, A) the last actions; before there are so many, the centre of the box."""
        length = self.context_frames
        done = [torch.from_numpy(row[0]).to(self.model.device, torch.float32) for row in self.done[-length:]]
        return torch.stack([self.model.action_centre] * (length - len(done)) + done)[None]

    def result(self) -> Rollout:
        steps = min(
            len(self.done), len(self.observed) - 1
        )  # Ctrl-C may fall between an action and what is seen
        actions, rewards, success, step_ms = zip(*self.done[:steps], strict=True)
        plans = [plan for plan in self.plans if plan[0] < steps]
        planned_at, presents, futures, energies, chosen, plan_ms = zip(*plans, strict=True)
        spec, states = self.model.spec, self.model.spec.align(np.stack(self.observed[: steps + 1]))
        futures = [
            _with_signs_of(spec, states[t], present, frames)
            for t, present, frames in zip(planned_at, presents, futures, strict=True)
        ]
        return Rollout(
            spec=spec,
            states=states,
            actions=np.stack(actions).astype(np.float32),
            rewards=np.array(rewards),
            success=np.array(success),
            futures=_stack(futures),
            energies=np.stack(energies).astype(np.float64),
            chosen=np.array(chosen),
            planned_at=np.array(planned_at),
            plan_ms=np.array(plan_ms),
            step_ms=np.array(step_ms),
            meta=dict(self.meta),
            frames=self.frames[: steps + 1],
        )


def _with_signs_of(
    spec: StateSpec, state: np.ndarray, present: np.ndarray, futures: np.ndarray
) -> np.ndarray:
    """Futures (M, H, D) planned from `present` (D,), each quaternion of the sign that it has in `state`.

    A context has w >= 0 in its first frame; an episode does in its first, and may have turned over since.
    """
    signs = np.ones(len(state), dtype=futures.dtype)
    for dims in spec.quaternions:
        signs[dims] = -1 if np.dot(state[dims], present[dims]) < 0 else 1
    return futures * signs


def _stack(futures: Sequence[np.ndarray]) -> np.ndarray:
    """(R, M, H, D) of futures that a deadline may have cut short: NaN after the last frame of a short one."""
    longest = max(array.shape[1] for array in futures)
    widths = [((0, 0), (0, longest - array.shape[1]), (0, 0)) for array in futures]
    return np.stack([np.pad(a, w, constant_values=np.nan) for a, w in zip(futures, widths, strict=True)])
