"""What a policy network sees of a hand environment: the observation in forms that a network can use."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.envs import rotations
from ebm_traj.envs.hand_model import ACTIONS, JOINTS

Array = NDArray[np.float64]

PALM = np.array([1.0, 0.87, 0.2])  # metres; where the object is put, above the palm
SPEED_SCALE, SPIN_SCALE, METRE_SCALE = 5.0, 0.3, 20.0  # bring typical values near 1
FEATURES = 2 * JOINTS + 3 + 6 + 9 + 9 + 3 + 3 + ACTIONS


def hand_features(observation: dict[str, Any], previous_actions: ArrayLike) -> Array:
    """Features (N, 101) of a batch of N observations and of the actions (N, 20) taken before them.

    Joint angles (24) and speeds (24), the object's place above the palm (3), its linear and angular velocity
    (6), its rotation as a matrix (9), and what is still to be turned, as a matrix less the identity (9) and
    as axis times angle (3), the way still to go (3), and the previous action (20; where it is NaN, because
    there is none, 0, the joints' middle, where a reset leaves them). None depends on a quaternion's sign.
    """
    full, pose, goal = (
        np.asarray(observation[key], np.float64) for key in ("observation", "achieved_goal", "desired_goal")
    )
    angles, speeds = full[:, :JOINTS], full[:, JOINTS : 2 * JOINTS]
    velocity = full[:, 2 * JOINTS : 2 * JOINTS + 6]
    turn = rotations.multiply(goal[:, 3:], pose[:, 3:] * np.array([1.0, -1.0, -1.0, -1.0]))
    return np.concatenate(
        [
            angles,
            speeds / SPEED_SCALE,
            (pose[:, :3] - PALM) * METRE_SCALE,
            velocity[:, :3] * SPEED_SCALE,
            velocity[:, 3:] * SPIN_SCALE,
            rotations.to_matrix(pose[:, 3:]).reshape(-1, 9),
            (rotations.to_matrix(turn) - np.eye(3)).reshape(-1, 9),
            rotations.to_rotation_vector(turn),
            (goal[:, :3] - pose[:, :3]) * METRE_SCALE,
            np.nan_to_num(np.asarray(previous_actions, np.float64)),
        ],
        axis=-1,
    )
