"""The Shadow hand in MuJoCo: its model, how it starts, how it steps, and how its state is read.

Single and vector environment both go through this file, which is why they agree to the bit. The MJCF and the
meshes are those of the installed gymnasium-robotics package, found without importing it.
"""

import importlib.util
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.envs.hand_task import POSE, HandTask
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec, state_names

Array = NDArray[np.float64]

STEP_SECONDS = 0.04
SUBSTEPS = 20  # simulator steps of 2 ms in an environment step, as in gymnasium-robotics
SETTLE_STEPS = 10  # environment steps in which a placed object comes to rest
PALM_HEIGHT = 0.04  # metres; an object whose centre is lower after settling has fallen off
MAX_RESET_ATTEMPTS = 1000
ACTIONS = 20
JOINTS = 24
OBSERVATION = 2 * JOINTS + 6 + POSE  # joint angles and speeds, object velocity and pose

PHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
# The constraint solver starts from the last acceleration; without it a continued run drifts from the first.
PHYSICS_AND_WARMSTART = PHYSICS | mujoco.mjtState.mjSTATE_WARMSTART.value
BAD_STATE = [
    mujoco.mjtWarning.mjWARN_BADQPOS.value,
    mujoco.mjtWarning.mjWARN_BADQVEL.value,
    mujoco.mjtWarning.mjWARN_BADQACC.value,
]


def asset_path(object_name: str) -> Path:
    """The MJCF file of the hand with `object_name` (`block`, `egg` or `pen`).

    Raises InputError if gymnasium-robotics is not installed.
    """
    found = importlib.util.find_spec("gymnasium_robotics")
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / "envs" / "assets" / "hand" / f"manipulate_{object_name}.xml"
        if path.exists():
            return path
    raise InputError(
        "hand environment: the hand's MJCF is missing; it comes with `pip install gymnasium-robotics`"
    )


def state_spec() -> StateSpec:
    """The 38 numbers of a state and where they stand in the flattened observation of 75.

    24 joint angles, object pose, goal pose. The flattened observation has its keys in sorted order:
    achieved_goal (7), desired_goal (7), observation (61).
    """
    fingers = [f"{finger}J{joint}" for finger in ("FF", "MF", "RF") for joint in (3, 2, 1, 0)]
    little, thumb = [f"LFJ{joint}" for joint in (4, 3, 2, 1, 0)], [f"THJ{joint}" for joint in (4, 3, 2, 1, 0)]
    pose = ("x", "y", "z", "qw", "qx", "qy", "qz")
    return StateSpec(
        names=(
            "WRJ1",
            "WRJ0",
            *fingers,
            *little,
            *thumb,
            *state_names("object", pose),
            *state_names("goal", pose),
        ),
        kinds=("angle",) * JOINTS + ("position",) * 3 + ("quaternion",) * 4 + ("given",) * POSE,
        indices=(*range(2 * POSE, 2 * POSE + JOINTS), *range(POSE), *range(POSE, 2 * POSE)),
        observation_size=2 * POSE + OBSERVATION,
    )


class HandModel:
    """The compiled model of a hand with an object, and everything that is read from it once.

    A simulator state is a row (S,) of float64: MuJoCo's full physics (P) and warm start, the goal pose (7),
    the number of steps since reset, and the seed of the goals to come. It holds all that an exact
    continuation needs, but not the environment's random generator.
    """

    def __init__(self, object_name: str, substeps: int = SUBSTEPS) -> None:
        self.mj = mujoco.MjModel.from_xml_path(str(asset_path(object_name)))
        self.substeps = substeps
        if substeps != SUBSTEPS:
            self.mj.opt.timestep = STEP_SECONDS / substeps
        sizes = [mujoco.mj_stateSize(self.mj, bits) for bits in (1, PHYSICS, PHYSICS_AND_WARMSTART)]
        self.time_size, self.physics_size, self.simulator_size = sizes
        self.goal = slice(self.simulator_size, self.simulator_size + POSE)
        self.elapsed = self.simulator_size + POSE
        self.goal_seed = self.elapsed + 1
        self.state_size = self.goal_seed + 1

        joint = self.mj.joint("object:joint")
        self.object_qpos = slice(int(joint.qposadr[0]), int(joint.qposadr[0]) + POSE)
        target = int(self.mj.joint("target:joint").qposadr[0])
        self.goal_qpos = slice(target, target + POSE)  # of the goal's free body, which only pictures use
        qvel = int(joint.dofadr[0])
        robot = [i for i in range(self.mj.njnt) if self.mj.joint(i).name.startswith("robot")]
        self.robot_qpos = self.mj.jnt_qposadr[robot]
        position, speed = self.time_size, self.time_size + self.mj.nq
        self._observed = np.concatenate(
            [
                position + self.robot_qpos,
                speed + self.mj.jnt_dofadr[robot],
                speed + np.arange(qvel, qvel + 6),
                position + np.arange(self.object_qpos.start, self.object_qpos.stop),
            ]
        )
        self._site = self.mj.site("object:center").id

        low, high = self.mj.actuator_ctrlrange.T
        self._low, self._high = low.copy(), high.copy()
        self._centre, self._reach = (high + low) / 2.0, (high - low) / 2.0

    def control(self, actions: ArrayLike, batch: tuple[int, ...] = ()) -> Array:
        """Joint targets (*batch, 20) in radians of actions in [-1, 1]; beyond that they are clipped.

        Raises InputError for another shape and for numbers that are not finite.
        """
        wanted = (*batch, ACTIONS)
        array = np.asarray(actions)
        if array.shape != wanted:
            raise InputError(f"action: found shape {array.shape}; accepted is {wanted}")
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise InputError(
                f"action: found NaN, infinity or no number; accepted is {wanted} of numbers from -1 to 1"
            )
        target = self._centre + np.minimum(np.maximum(array, -1.0), 1.0) * self._reach
        return np.minimum(np.maximum(target, self._low), self._high)

    def reset(self, data: mujoco.MjData, task: HandTask, rng: np.random.Generator) -> Array:
        """Start an episode in `data`: place the object, let it settle, and return the goal pose (7,).

        An object that does not come to rest on the palm is placed anew.
        """
        mj = self.mj
        mujoco.mj_resetData(mj, data)
        for _ in range(MAX_RESET_ATTEMPTS):
            data.time = 0.0
            data.qpos[:] = mj.qpos0
            data.qvel[:] = 0.0
            mujoco.mj_forward(mj, data)
            data.qpos[self.object_qpos] = task.draw_object_pose(rng, mj.qpos0[self.object_qpos])
            data.ctrl[:] = self._centre
            mujoco.mj_step(mj, data, nstep=SETTLE_STEPS * self.substeps)
            mujoco.mj_forward(mj, data)
            if not self._diverged(data) and data.site_xpos[self._site, 2] > PALM_HEIGHT:
                return task.draw_goal(rng, data.qpos[self.object_qpos].copy())
        raise RuntimeError(f"hand environment: the object left the palm in {MAX_RESET_ATTEMPTS} resets")

    def step(self, data: mujoco.MjData, control: Array) -> bool:
        """Simulate one environment step; False if the simulation diverged, and `data` is then of no use."""
        data.ctrl[:] = control
        mujoco.mj_step(self.mj, data, nstep=self.substeps)
        return not self._diverged(data)

    def _diverged(self, data: mujoco.MjData) -> bool:
        """Whether MuJoCo has met NaN or huge numbers, upon which it starts over from its initial state."""
        counts = data.warning.number
        if not counts.any() or not counts[BAD_STATE].any():
            return False
        counts[:] = 0
        return True

    def get_state(self, data: mujoco.MjData, out: Array) -> None:
        """Write the simulator's part of a state into `out`, a contiguous (simulator_size,)."""
        mujoco.mj_getState(self.mj, data, out, PHYSICS_AND_WARMSTART)

    def set_state(self, data: mujoco.MjData, state: Array) -> None:
        """Continue `data` from the simulator's part of a state, a contiguous (simulator_size,)."""
        mujoco.mj_setState(self.mj, data, state, PHYSICS_AND_WARMSTART)

    def check_states(self, states: ArrayLike, batch: tuple[int, ...] = ()) -> Array:
        """`states` as contiguous float64; InputError unless they are (*batch, S) and finite."""
        array = np.array(states, dtype=np.float64, order="C")
        wanted = (*batch, self.state_size)
        if array.shape != wanted:
            raise InputError(f"simulator state: found shape {array.shape}; accepted is {wanted}")
        if not np.isfinite(array).all():
            raise InputError("simulator state: found NaN or infinity; accepted are finite numbers")
        return array

    def object_poses(self, physics: Array) -> Array:
        """Object poses (..., 7) of physics (..., P) or simulator states (..., S)."""
        first = self.time_size + self.object_qpos.start
        return physics[..., first : first + POSE]

    def observe(self, states: Array) -> dict[str, Array]:
        """Of states (..., S): `observation` (..., 61), `achieved_goal` (..., 7), `desired_goal` (..., 7)."""
        observation = states[..., self._observed]
        return {
            "observation": observation,
            "achieved_goal": observation[..., -POSE:].copy(),
            "desired_goal": states[..., self.goal].copy(),
        }
