"""What a policy network sees of a hand environment: the observation in forms that a network can use.

There are two forms. `matrix` is for any object. `cube` is for the block, which is a cube: turned by a right
angle about one of its axes it meets the fingers just as before, so its orientation is given such that the 24
rotations of a cube give the same features, and what is learnt at one is known at all.
"""

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.envs import rotations
from ebm_traj.envs.hand_model import ACTIONS, JOINTS

Array = NDArray[np.float64]

PALM = np.array([1.0, 0.87, 0.2])  # metres; where the object is put, above the palm
SPEED_SCALE, SPIN_SCALE, METRE_SCALE = 5.0, 0.3, 20.0  # bring typical values near 1
BEND = 0.1  # sine of the angle at which the direction of a turn is seven tenths of its full length
FEATURES = {
    "matrix": 2 * JOINTS + 3 + 6 + 9 + 9 + 3 + 3 + ACTIONS,
    "cube": 2 * JOINTS + 3 + 6 + 15 + 9 + 3 + 3 + 1 + ACTIONS,
}
"""Features of each form."""
QUARTICS = np.array(list(combinations_with_replacement(range(3), 4)))  # (15, 4) axes of the world
QUARTIC_SCALE = 3.0
QUARTIC_MEANS = np.array([[0.0, 0.6, 0.2][len(set(q)) * (q[0] == q[1] and q[2] == q[3])] for q in QUARTICS])


def form_of(object_name: str) -> str:
    """The form in which new networks see `block`, `egg` or `pen`."""
    return "cube" if object_name == "block" else "matrix"


def hand_features(observation: dict[str, Any], previous_actions: ArrayLike, form: str = "matrix") -> Array:
    """Features (N, F) of a batch of N observations and of the actions (N, 20) taken before them.

    `cube`: joint angles (24) and speeds (24), the object's place above the palm (3), its velocity and, in the
    world's frame, angular velocity (6), its orientation as a cube's (15), what is still to be turned as a
    matrix less the identity (9), as axis times sine (3), as axis (3) and as an angle (1), and the previous
    action (20). It is told no place to go to.

    `matrix`: joint angles (24) and speeds (24), the object's place above the palm (3), its linear and angular
    velocity (6), its rotation as a matrix (9), and what is still to be turned, as a matrix less the identity
    (9) and as axis times angle (3), the way still to go (3), and the previous action (20).

    Where the previous action is NaN, because there is none, it is 0, the joints' middle, where a reset leaves
    them. No feature depends on a quaternion's sign.
    """
    full, pose, goal = (
        np.asarray(observation[key], np.float64) for key in ("observation", "achieved_goal", "desired_goal")
    )
    angles, speeds = full[:, :JOINTS], full[:, JOINTS : 2 * JOINTS]
    velocity = full[:, 2 * JOINTS : 2 * JOINTS + 6]
    turn = rotations.multiply(goal[:, 3:], pose[:, 3:] * np.array([1.0, -1.0, -1.0, -1.0]))
    previous = np.nan_to_num(np.asarray(previous_actions, np.float64))
    if form == "cube":
        matrix, left = rotations.to_matrix(pose[:, 3:]), rotations.to_matrix(turn)
        spin = np.einsum("nij,nj->ni", matrix, velocity[:, 3:])  # MuJoCo gives it in the object's own frame
        sine = 0.5 * np.stack([left[:, i, j] - left[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))], axis=1)
        length = np.sqrt((sine**2).sum(axis=1, keepdims=True))
        return np.concatenate(
            [
                angles,
                speeds / SPEED_SCALE,
                (pose[:, :3] - PALM) * METRE_SCALE,
                velocity[:, :3] * SPEED_SCALE,
                spin * SPIN_SCALE,
                cube_orientation(matrix),
                (left - np.eye(3)).reshape(-1, 9),
                sine,
                sine / np.hypot(length, BEND),
                np.arctan2(length, (np.trace(left, axis1=1, axis2=2)[:, None] - 1) / 2),
                previous,
            ],
            axis=-1,
        )
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
            previous,
        ],
        axis=-1,
    )


def cube_orientation(matrices: Array) -> Array:
    """Fifteen smooth numbers (N, 15) of rotations (N, 3, 3) that only a cube's own rotations leave alone.

    They are the components of sum_k a_k (x) a_k (x) a_k (x) a_k over the three axes a_k of the cube, centred
    and scaled: the lowest symmetric tensor that is not the same for all rotations. About a fixed axis they go
    as the sine and cosine of four times the angle.
    """
    first, second, third, fourth = (matrices[:, axes, :] for axes in QUARTICS.T)
    return QUARTIC_SCALE * ((first * second * third * fourth).sum(axis=-1) - QUARTIC_MEANS)
