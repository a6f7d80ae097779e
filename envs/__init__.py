"""Gymnasium environments of a Shadow hand with an object, their pictures, and behaviour policies.

The names below load on first use, so that importing this package imports neither gymnasium nor mujoco.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebm_traj.envs.hand import HandEnv
    from ebm_traj.envs.render import HandScene, RenderError, state_renderer
    from ebm_traj.envs.vector import HandVectorEnv

_HOME = {
    "HandEnv": "hand",
    "HandVectorEnv": "vector",
    "HandScene": "render",
    "RenderError": "render",
    "state_renderer": "render",
}

__all__ = ["HandEnv", "HandScene", "HandVectorEnv", "RenderError", "state_renderer"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
