"""Pictures of the hand from states alone, without an environment and without touching one's simulation."""

import atexit
import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.envs.gl import RenderError, make_context
from ebm_traj.envs.hand_model import HandModel
from ebm_traj.envs.hand_task import POSE
from ebm_traj.errors import InputError
from ebm_traj.registration import OBJECTS

__all__ = ["HandScene", "RenderError", "state_renderer"]

Image = NDArray[np.uint8]

LOOK_AT = (1.0, 0.915, 0.165)
DISTANCE = 0.36  # metres
AZIMUTH, ELEVATION = 55.0, -30.0  # degrees
GOAL_ASIDE = 0.15  # metres along x; where a goal without a target position is drawn
GHOST_OPACITY = 0.25
MAX_GEOMS = 10_000

SKY = (236, 240, 245)
HAND_COLOUR = (0.68, 0.72, 0.78, 1.0)
LIGHT = (0.35, 0.45, -0.8)  # direction; from above and behind the camera
ANTIALIASING = 4  # samples a pixel


def _set_looks(mj: mujoco.MjModel) -> None:
    """Calm colours in place of a green sky and an overexposed white hand; for pictures only."""
    for texture in np.flatnonzero(mj.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX.value):
        start, channels = int(mj.tex_adr[texture]), int(mj.tex_nchannel[texture])
        pixels = int(mj.tex_height[texture]) * int(mj.tex_width[texture])
        mj.tex_data[start : start + pixels * channels].reshape(pixels, channels)[:, :3] = SKY
    mj.mat_rgba[mj.material("robot0:MatViz").id] = HAND_COLOUR
    mj.mat_specular[mj.material("robot0:MatViz").id] = 0.3
    mj.mat_reflectance[:] = 0.0
    mj.vis.headlight.diffuse[:], mj.vis.headlight.ambient[:] = 0.25, 0.2
    mj.vis.headlight.specular[:] = 0.1
    mj.light_diffuse[:], mj.light_dir[:] = 0.6, LIGHT
    inner = mujoco.mj_name2id(mj, mujoco.mjtObj.mjOBJ_GEOM.value, "object_hidden")
    if inner >= 0:  # a dark core, which would show through ghosts
        mj.geom_rgba[inner, 3] = 0.0
    mj.vis.quality.offsamples = ANTIALIASING


class HandScene:
    """Draws states (38,) of `hand_model.state_spec`: joints, object and, half transparent, the goal.

    Args:
        object: `block`, `egg` or `pen`.
        width, height: size of a picture in pixels.
        goal_aside: draw the goal beside the hand, for tasks in which its position means nothing.

    Raises:
        RenderError: if no OpenGL library is there.

    A scene belongs to the thread that made it, as OpenGL contexts do.
    """

    def __init__(
        self, object: str = "block", width: int = 480, height: int = 480, *, goal_aside: bool = False
    ) -> None:
        self._hand = HandModel(object)  # a model of its own: its looks are changed below
        mj = self._hand.mj
        _set_looks(mj)
        mj.vis.global_.offwidth, mj.vis.global_.offheight = width, height
        self._gl: Any = make_context(width, height)
        _open_scenes.add(self)
        _close_at_exit()
        self._context = mujoco.MjrContext(mj, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._data = mujoco.MjData(mj)
        self._scene = mujoco.MjvScene(mj, MAX_GEOMS)
        self._camera = mujoco.MjvCamera()
        self._camera.lookat[:] = LOOK_AT
        self._camera.distance, self._camera.azimuth, self._camera.elevation = DISTANCE, AZIMUTH, ELEVATION
        self._options = mujoco.MjvOption()
        self._ghost_options = mujoco.MjvOption()
        self._ghost_options.geomgroup[2] = 0  # the goal
        self._perturb = mujoco.MjvPerturb()
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), dtype=np.uint8)
        self._goal_offset = np.array([GOAL_ASIDE if goal_aside else 0.0, 0.0, 0.0])

    def render(self, state: ArrayLike, ghosts: Sequence[ArrayLike] = ()) -> Image:
        """A picture (height, width, 3) of `state` (38,), with `ghosts` (38,) translucent in it."""
        self._pose(state)
        mujoco.mjv_updateScene(
            self._hand.mj,
            self._data,
            self._options,
            self._perturb,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._scene,
        )
        for ghost in ghosts:
            self._add_ghost(ghost)
        if self._gl is None:
            raise RenderError("rendering: this scene is closed; make another")
        self._gl.make_current()
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return self._pixels[::-1].copy()

    def _add_ghost(self, state: ArrayLike) -> None:
        self._pose(state)
        first = self._scene.ngeom
        moving = mujoco.mjtCatBit.mjCAT_DYNAMIC.value
        mujoco.mjv_addGeoms(
            self._hand.mj, self._data, self._ghost_options, self._perturb, moving, self._scene
        )
        for geom in self._scene.geoms[first : self._scene.ngeom]:
            geom.rgba[3] *= GHOST_OPACITY
            geom.transparent = 1

    def _pose(self, state: ArrayLike) -> None:
        """Put the hand, the object and the goal where `state` says."""
        hand, data = self._hand, self._data
        values = np.asarray(state, dtype=np.float64)
        joints = len(hand.robot_qpos)
        if values.shape != (joints + 2 * POSE,) or not np.isfinite(values).all():
            raise InputError(
                f"state to draw: found shape {values.shape}, finite: {bool(np.isfinite(values).all())}; "
                f"accepted is ({joints + 2 * POSE},) of finite numbers"
            )
        data.qpos[hand.robot_qpos] = values[:joints]
        data.qpos[hand.object_qpos] = values[joints : joints + POSE]
        data.qpos[hand.goal_qpos] = values[joints + POSE :]
        data.qpos[hand.goal_qpos][:3] += self._goal_offset
        mujoco.mj_kinematics(hand.mj, data)
        mujoco.mj_camlight(hand.mj, data)

    def close(self) -> None:
        """Free the OpenGL context; the scene cannot draw any more."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None


_open_scenes: weakref.WeakSet[HandScene] = weakref.WeakSet()


@functools.cache
def _close_at_exit() -> None:
    """Have open scenes closed before the OpenGL library shuts down; to be called once that is loaded."""

    def close_all() -> None:
        for scene in list(_open_scenes):
            scene.close()

    atexit.register(close_all)


def state_renderer(
    env_id: str, env_kwargs: Mapping[str, Any] | None = None, width: int = 480, height: int = 480
) -> Callable[..., Image] | None:
    """A function (state (D,), ghosts=()) -> picture (height, width, 3) for an environment of this package.

    None for any other environment. Raises RenderError if no OpenGL library is there.
    """
    name = env_id.rpartition(":")[2]
    if name not in OBJECTS:
        return None
    kwargs = {"object": OBJECTS[name], **(env_kwargs or {})}
    aside = kwargs.get("target_position") == "ignore"
    return HandScene(kwargs["object"], width, height, goal_aside=aside).render
