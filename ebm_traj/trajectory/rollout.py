"""`rollout`: a model drives an environment, sampling futures of what it has seen and acting on one."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.spec import flatten_observation
from ebm_traj.trajectory.files import load
from ebm_traj.trajectory.model import TrajectoryModel
from ebm_traj.trajectory.rollout_data import Rollout

FutureEnergy = Callable[[Tensor], Tensor]
"""A wish about futures: raw states (M, H, D) to energies (M,), low where the wish is met."""

ACTION_MEMORY = 0.85  # of the smooth random actions tried with an action-conditional model
ACTION_SPREAD = 0.6


def rollout(
    env: Any,
    model: TrajectoryModel | str | Path,
    steps: int = 100,
    *,
    futures: int = 64,
    horizon: int = 16,
    replan_every: int = 1,
    seed: int = 0,
    energies: Mapping[str, FutureEnergy] | FutureEnergy | None = None,
    callback: Callable[[int, Callable[[], Rollout]], None] | None = None,
    record_frames: bool = False,
) -> Rollout:
    """Drive `env` for up to `steps` steps with plans sampled from `model`.

    At every replanning `futures` continuations of `horizon` steps are sampled from the last observed
    frames, the one of lowest energy (the model's own plus the given `energies`) is chosen, and its first
    `replan_every` steps are acted: by the actions it was sampled under if the model is action-conditional,
    else by the model's inverse dynamics.

    `env` is any Gymnasium environment with a Box (or Dict of Box) observation and a Box action, or its id;
    `model` a trajectory model or the folder of one. `energies` are plain functions of futures (M, H, D) in
    raw units to (M,). `callback(t, so_far)` is called after each step; `so_far()` builds the rollout until
    then.

    Raises InputError, before the first step, if the environment does not fit the model and says where.
    """
    if min(steps, futures, horizon, replan_every) < 1 or replan_every > horizon:
        raise InputError(
            f"rollout: steps {steps}, futures {futures}, horizon {horizon}, replan_every {replan_every}; "
            "accepted are 1 and more, and replan_every up to the horizon"
        )
    own_env = isinstance(env, str)
    env = open_env(env) if own_env else env
    model = load(model) if isinstance(model, str | Path) else model
    wishes = _named(energies)
    generator = seeded_generator(model.device, "rollout", seed)
    settings = {"seed": seed, "futures": futures, "horizon": horizon, "replan_every": replan_every}
    log = _Log(model, env, settings)
    try:
        check_fit(env, model)
        observation, _ = env.reset(seed=seed)
        log.see(observation, env, record_frames)
        for t in range(steps):
            if t % replan_every == 0:
                began = time.perf_counter()
                plan = _plan(model, log.context(), log.past_actions(), futures, horizon, wishes, generator)
                log.planned(t, *plan, milliseconds=1000 * (time.perf_counter() - began))
                sampled, actions, _, best = plan
            ahead = t % replan_every
            if actions is not None:
                action = actions[best, ahead]
            else:
                action = model.act(log.context(), sampled[best, ahead][None])[0]
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
    return log.result()


def _plan(
    model: TrajectoryModel,
    context: Tensor,
    past_actions: Tensor,
    count: int,
    horizon: int,
    wishes: Mapping[str, FutureEnergy],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None, Tensor, int]:
    """Futures (M, H, D), the actions (M, H, A) that go with them, energies (M,), the best one."""
    actions = None
    seen = {"past_actions": past_actions} if model.action_history else {}
    if model.conditioning == "joint":
        sampled, actions = model.sample_with_actions(context, horizon, count, generator=generator, **seen)
    elif model.conditioning == "actions":
        actions = smooth_actions(model, past_actions[0, -1], count, horizon, generator)[None]
        sampled = model.sample(context, horizon, count, actions=actions, generator=generator, **seen)
    else:
        sampled = model.sample(context, horizon, count, generator=generator)
    total = torch.zeros(count, device=sampled.device)
    if model.has_energy and horizon >= model.window_frames:
        with torch.no_grad():
            total = model.path_energy(context, sampled, actions, **seen)[0]
    for name, wish in wishes.items():
        value = wish(sampled[0])
        if value.shape != (count,):
            raise InputError(f"energy '{name}': gave shape {tuple(value.shape)}; accepted is ({count},)")
        total = total + value
    return sampled[0], None if actions is None else actions[0], total, int(total.argmin())


def smooth_actions(
    model: TrajectoryModel, last: Tensor, count: int, horizon: int, generator: torch.Generator
) -> Tensor:
    """Random action sequences (M, H, A) that start from the last action and change smoothly."""
    scaled = model.scale_actions(last).expand(count, -1)
    fresh = ACTION_SPREAD * (1 - ACTION_MEMORY**2) ** 0.5
    steps = []
    for _ in range(horizon):
        noise = torch.empty_like(scaled).normal_(generator=generator)
        scaled = (ACTION_MEMORY * scaled + fresh * noise).clamp(-1, 1)
        steps.append(scaled)
    return model.unscale_actions(torch.stack(steps, dim=1))


def open_env(env_id: str, **kwargs: Any) -> Any:
    """`gymnasium.make`, with an unknown or unusable id as InputError."""
    import gymnasium

    import ebm_traj  # noqa: F401 - registers the package's environments

    try:
        return gymnasium.make(env_id, **kwargs)
    except (gymnasium.error.Error, ModuleNotFoundError, TypeError) as error:
        raise InputError(f"env '{env_id}': {str(error).splitlines()[0]}") from error


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


def _named(energies: Mapping[str, FutureEnergy] | FutureEnergy | None) -> Mapping[str, FutureEnergy]:
    if energies is None:
        return {}
    return energies if isinstance(energies, Mapping) else {"energy": energies}


class _Log:
    """Collects a rollout as it happens."""

    def __init__(self, model: TrajectoryModel, env: Any, settings: dict[str, Any]) -> None:
        self.model = model
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
        self.plans: list[tuple[int, np.ndarray, np.ndarray, int, float]] = []
        self.frames: list[np.ndarray] = []

    def see(self, observation: Any, env: Any, record_frames: bool) -> None:
        self.observed.append(self.model.spec.read(observation))
        if record_frames and (frame := env.render()) is not None:
            self.frames.append(np.asarray(frame))

    def planned(
        self,
        t: int,
        futures: Tensor,
        actions: Tensor | None,
        energies: Tensor,
        best: int,
        milliseconds: float,
    ) -> None:
        self.plans.append((t, futures.cpu().numpy(), energies.cpu().numpy(), best, milliseconds))

    def did(self, action: np.ndarray, reward: float, info: Mapping[str, Any], milliseconds: float) -> None:
        self.done.append((action, reward, bool(info.get("is_success", False)), milliseconds))

    def context(self) -> Tensor:
        """(1, C, D) the last frames; before there are C of them the first one is repeated, as if at rest."""
        length = self.model.context_frames
        frames = [self.observed[0]] * (length - len(self.observed)) + self.observed[-length:]
        return torch.from_numpy(self.model.spec.align(np.stack(frames)))[None].to(self.model.device)

    def past_actions(self) -> Tensor:
        """(1, K or 1, A) the last actions; before there are so many, the centre of the box."""
        length = max(1, self.model.action_history)
        done = [torch.from_numpy(row[0]).to(self.model.device, torch.float32) for row in self.done[-length:]]
        return torch.stack([self.model.action_centre] * (length - len(done)) + done)[None]

    def result(self) -> Rollout:
        actions, rewards, success, step_ms = zip(*self.done, strict=True)
        planned_at, futures, energies, chosen, plan_ms = zip(*self.plans, strict=True)
        return Rollout(
            spec=self.model.spec,
            states=self.model.spec.align(np.stack(self.observed)),
            actions=np.stack(actions).astype(np.float32),
            rewards=np.array(rewards),
            success=np.array(success),
            futures=np.stack(futures),
            energies=np.stack(energies).astype(np.float64),
            chosen=np.array(chosen),
            planned_at=np.array(planned_at),
            plan_ms=np.array(plan_ms),
            step_ms=np.array(step_ms),
            meta=dict(self.meta),
            frames=list(self.frames),
        )
