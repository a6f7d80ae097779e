"""Opening any Gymnasium environment that can be recorded, with one-line answers to what cannot."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from ebm_traj.envs.opening import make_env
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

LOCKSTEP = "ebm_traj.envs.vector:HandVectorEnv"  # the vector environments that take a number of threads


def open_environment(env_id: str, env_kwargs: dict[str, Any], steps: int) -> gymnasium.Env:
    """The environment with episodes of at most `steps` steps.

    Raises InputError for what cannot be made (`make_env`) and for spaces other than Box actions of floating
    point and Box (or Dict of Box) observations, all of one dimension.
    """
    env = make_env(env_id, max_episode_steps=steps, disable_env_checker=True, **env_kwargs)
    problem = space_problem(env.observation_space, "observation")
    problem = problem or space_problem(env.action_space, "action")
    if problem:
        env.close()
        raise InputError(f"environment '{env_id}': {problem}")
    return env


def action_box(env: gymnasium.Env) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bounds (A,), (A,) of the actions, rounded to float32 inwards."""
    assert isinstance(env.action_space, Box)
    exact = env.action_space.low, env.action_space.high
    low, high = (bound.astype(np.float32) for bound in exact)
    low = np.where(low < exact[0], np.nextafter(low, np.float32(np.inf)), low)
    return low, np.where(high > exact[1], np.nextafter(high, np.float32(-np.inf)), high)


def state_spec(env: gymnasium.Env) -> StateSpec:
    """The environment's own state spec, or all numbers of its flattened observation."""
    own = getattr(env.unwrapped, "state_spec", None)
    return own if isinstance(own, StateSpec) else StateSpec.from_size(space_size(env.observation_space))


def has_lockstep(env: gymnasium.Env) -> bool:
    """Whether there is a vector environment that steps many of these in threads of one process."""
    return env.spec is not None and env.spec.vector_entry_point == LOCKSTEP


def require_lockstep(env_id: str, env_kwargs: dict[str, Any], steps: int) -> None:
    """Raise InputError unless this is an environment that `has_lockstep`, one of this package's hands."""
    env = open_environment(env_id, env_kwargs, steps)
    fits = has_lockstep(env)
    env.close()
    if not fits:
        raise InputError(f"environment '{env_id}': needed is one such as ebm_traj/HandBlock-v0")


def open_lockstep(
    env_id: str, env_kwargs: dict[str, Any], num_envs: int, num_threads: int | None
) -> VectorEnv:
    """A vector environment without time limit or autoreset, of an environment that `has_lockstep`."""
    return gymnasium.make_vec(
        env_id,
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        num_threads=num_threads,
        max_episode_steps=None,
        autoreset_mode=AutoresetMode.DISABLED,
        **env_kwargs,
    )


def space_problem(space: Space, what: str) -> str | None:
    """Why a space of `what` (`observation` or `action`) cannot be recorded, in words; None if it can."""
    accepted = "accepted are Box spaces of one dimension"
    if what == "observation":
        accepted += " and Dicts of them"
    if isinstance(space, Dict) and what == "observation":
        problems = [space_problem(part, what) for part in space.spaces.values()]
        return next((problem for problem in problems if problem), None)
    if isinstance(space, Box) and len(space.shape) == 1:
        if what == "action" and space.dtype.kind != "f":
            return f"its action space is a Box of {space.dtype}; accepted are Boxes of floating point"
        return None
    found = f"Box of shape {space.shape}" if isinstance(space, Box) else type(space).__name__
    return f"its {what} space is a {found}; {accepted}"


def space_size(space: Space) -> int:
    """How many numbers a Box, or Dict of them, has when flattened."""
    if isinstance(space, Dict):
        return sum(space_size(part) for part in space.spaces.values())
    assert space.shape is not None
    return int(np.prod(space.shape))
