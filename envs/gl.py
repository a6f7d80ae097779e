"""Which OpenGL library draws: found by trying, so that no setting is needed without a display."""

import functools
import importlib
import os
import subprocess
import sys
from typing import Any

from ebm_traj.errors import RunError

BACKENDS = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa", "glfw": "mujoco.glfw", "cgl": "mujoco.cgl"}
OFF = ("disable", "disabled", "off", "false", "0")
PROBE_SECONDS = 60.0
PROBE = "import sys, importlib; importlib.import_module(sys.argv[1]).GLContext(64, 64).make_current()"
ADVICE = (
    "install one (Debian and Ubuntu: `apt-get install libegl1` or `apt-get install libosmesa6`) "
    "and leave MUJOCO_GL unset, or set it to egl, osmesa or glfw"
)


class RenderError(RunError):
    """No picture can be drawn on this machine; the message says what to install."""


def candidates() -> list[str]:
    """Backends worth trying where MUJOCO_GL is unset, best first."""
    if sys.platform == "darwin":
        return ["cgl"]
    if sys.platform == "win32":
        return ["glfw"]
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ["egl", "osmesa", "glfw"] if display else ["egl", "osmesa"]


@functools.cache
def works(backend: str) -> bool:
    """Whether a context can be made; tried in a process of its own, since PyOpenGL keeps its first choice."""
    try:
        command = [sys.executable, "-c", PROBE, BACKENDS[backend]]
        environment = {**os.environ, "MUJOCO_GL": backend}
        return not subprocess.run(
            command, env=environment, capture_output=True, timeout=PROBE_SECONDS
        ).returncode
    except subprocess.TimeoutExpired:
        return False


def choose_backend() -> str:
    """The backend to draw with: MUJOCO_GL if set, else the first that works.

    The choice is written to MUJOCO_GL, which other programs of this process (Gymnasium's MuJoCo renderer) and
    its children read. Raises RenderError if there is none.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked in OFF:
        raise RenderError(
            f"rendering: MUJOCO_GL={asked} turns it off; unset it or set it to egl, osmesa or glfw"
        )
    if asked:
        if asked not in BACKENDS:
            raise RenderError(f"rendering: MUJOCO_GL={asked} is unknown; accepted: {', '.join(BACKENDS)}")
        return asked
    for backend in candidates():
        if works(backend):
            os.environ["MUJOCO_GL"] = backend
            return backend
    raise RenderError(f"rendering: no OpenGL library works (tried {', '.join(candidates())}); {ADVICE}")


def make_context(width: int, height: int) -> Any:
    """A current offscreen OpenGL context; RenderError if it cannot be made."""
    backend = choose_backend()
    try:
        context = importlib.import_module(BACKENDS[backend]).GLContext(width, height)
        context.make_current()
    except Exception as error:  # PyOpenGL raises whatever the missing library happens to cause
        reason = " ".join(str(error).split())[:200]
        raise RenderError(
            f"rendering: MUJOCO_GL={backend} does not work here ({reason}); {ADVICE}"
        ) from error
    return context
