"""Could these states be? Joint limits, unit quaternions and penetration, against what truth itself does.

An environment says how far a state is from possible; only this module knows that there are environments, and
it imports them when asked.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

Array = NDArray[np.float64]
Measure = Callable[[Array], dict[str, Array]]
"""Excesses (n,) of states (n, D) by name; 0 where nothing is wrong."""

FRAMES = 10_000  # looked at for each row: a share is known to about 0.1 points
# name -> percentile of truth beyond which a frame is invalid, and the least such limit (rounding of float32)
LIMITS = {"joint_limits": (99.9, 1e-3), "quaternion": (99.9, 1e-3), "penetration": (99.0, 1e-5)}


def state_measure(env_id: str, env_kwargs: Mapping[str, Any], spec: StateSpec) -> Measure | str:
    """What an environment of this package says of states; or in a line why there is nothing to say."""
    try:
        from ebm_traj.registration import OBJECTS

        name = env_id.rpartition(":")[2]
        if name not in OBJECTS:
            return f"'{env_id}' does not say which states can be"
        from ebm_traj.envs.hand_model import state_spec

        difference = state_spec().difference(spec)
        if difference is not None:
            return f"states of '{env_id}' are not the hand's own: {difference}"
        return hand_measure(str(env_kwargs.get("object", OBJECTS[name])))
    except ImportError as error:
        return f"{error.name} is not installed"
    except InputError as error:  # the hand's meshes are missing
        return str(error)


def hand_measure(object_name: str) -> Measure:
    """Of hand states (n, 38): joints beyond their range (rad), |norm - 1|, object into the hand (m)."""
    import mujoco

    from ebm_traj.envs.hand_model import JOINTS, POSE, HandModel

    hand = HandModel(object_name)
    mj, data = hand.mj, mujoco.MjData(hand.mj)
    joints = [i for i in range(mj.njnt) if mj.joint(i).name.startswith("robot")]
    low, high = mj.jnt_range[joints].T
    pose = slice(JOINTS, JOINTS + POSE)
    of_object = mj.geom_bodyid == mj.body("object").id
    # the goal's body and the floor are neither
    of_hand = np.array([mj.body(i).name.startswith("robot") for i in mj.geom_bodyid])

    def depth(state: Array) -> float:
        data.qpos[hand.robot_qpos] = state[:JOINTS]
        data.qpos[hand.object_qpos] = state[pose]
        mujoco.mj_kinematics(mj, data)
        mujoco.mj_comPos(mj, data)
        mujoco.mj_collision(mj, data)
        if not data.ncon:
            return 0.0
        one, other = data.contact.geom.T
        between = (of_object[one] & of_hand[other]) | (of_hand[one] & of_object[other])
        return max(0.0, -float(data.contact.dist[between].min(initial=0.0)))

    def measure(states: Array) -> dict[str, Array]:
        angles, quaternion = states[:, :JOINTS], states[:, pose][:, 3:]
        finite = np.all(np.isfinite(states), axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            found = {
                "joint_limits": np.maximum(np.maximum(low - angles, angles - high), 0).max(1),
                "quaternion": np.abs(np.linalg.norm(quaternion, axis=1) - 1),
            }
        found["penetration"] = np.array(
            [depth(s) if ok else np.inf for s, ok in zip(states, finite, strict=True)]
        )
        return {name: np.where(finite, value, np.inf) for name, value in found.items()}

    return measure


class Validity:
    """The share of frames that could not be, at the same random frames of every row."""

    def __init__(self, measure: Measure, truth: ArrayLike, seed: int, frames: int = FRAMES) -> None:
        """`truth` (N, H, D) sets the limits: percentiles of what it does itself."""
        total = int(np.prod(np.shape(truth)[:2]))
        rng = np.random.default_rng(np.random.SeedSequence([seed, total]))
        self.measure = measure
        self.pick = np.sort(rng.choice(total, min(frames, total), replace=False))
        self.limits = {
            name: max(float(np.percentile(value, LIMITS[name][0])), LIMITS[name][1])
            for name, value in self._look(truth).items()
        }

    def _look(self, states: ArrayLike) -> dict[str, Array]:
        array = np.asarray(states)
        return self.measure(array.reshape(-1, array.shape[-1])[self.pick].astype(np.float64))

    def __call__(self, states: ArrayLike) -> dict[str, float]:
        """Shares (0 to 1) of the frames of (N, H, D) beyond each limit, and `invalid`, beyond any of them."""
        beyond = {name: value > self.limits[name] for name, value in self._look(states).items()}
        return {
            "invalid": float(np.any(list(beyond.values()), axis=0).mean()),
            **{name: float(value.mean()) for name, value in beyond.items()},
        }
