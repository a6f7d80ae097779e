"""Making any Gymnasium environment by its id, and reading success from its infos."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from ebm_traj.envs.custom_policies import look_here_too
from ebm_traj.errors import InputError

SUCCESS_NAMES = ("is_success", "success")
"""Names under which environments report success; the first one counts."""


def make_env(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """`gymnasium.make`; the module of an id `module:id` is looked for in the current folder, too.

    Whatever making it raises comes as an InputError of one line, the error itself behind it: an unknown id,
    wrong keyword arguments, a missing package or file.
    """
    if ":" in env_id:
        look_here_too()
    try:
        return gymnasium.make(env_id, **kwargs)
    except InputError:
        raise
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise InputError(f"environment '{env_id}': {first_line(error)}") from error
    except Exception as error:  # its constructor is anyone's code
        own = {key: value for key, value in kwargs.items() if key not in OURS}
        told = f" with {own}" if own else ""
        raise InputError(
            f"environment '{env_id}'{told}: {type(error).__name__}: {first_line(error)}"
        ) from error


OURS = ("max_episode_steps", "disable_env_checker", "render_mode")


def succeeded(info: Mapping[str, Any]) -> bool:
    """Whether an environment's info reports success; False where it says nothing."""
    found = next((info[name] for name in SUCCESS_NAMES if name in info), None)
    return found is not None and bool(np.any(np.asarray(found) > 0))


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
