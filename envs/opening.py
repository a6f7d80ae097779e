"""Making any Gymnasium environment by its id."""

from typing import Any

import gymnasium

from ebm_traj.envs.custom_policies import look_here_too
from ebm_traj.errors import InputError, in_one_line

OURS = ("max_episode_steps", "disable_env_checker", "render_mode")


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
        raise InputError(f"environment '{env_id}': {in_one_line(error)}") from error
    except Exception as error:  # its constructor is anyone's code
        own = {key: value for key, value in kwargs.items() if key not in OURS}
        told = f" with {own}" if own else ""
        raise InputError(
            f"environment '{env_id}'{told}: {type(error).__name__}: {in_one_line(error)}"
        ) from error
