"""Distances, success, reward, and refused settings of the hand task."""

import numpy as np
import pytest

from ebm_traj.envs import rotations
from ebm_traj.envs.hand_task import HandTask
from ebm_traj.errors import InputError

UPRIGHT = np.array([1.0, 0.9, 0.2, 1, 0, 0, 0])


def pose(
    position: tuple[float, ...] = (1.0, 0.9, 0.2), angle: float = 0.0, axis: tuple = (0, 1, 0)
) -> np.ndarray:
    return np.concatenate([position, rotations.about_axis(angle, axis)])


def test_distance_is_metres_and_the_angle_between_rotations() -> None:
    distance = HandTask().distance(pose((1.03, 0.9, 0.24), angle=0.3), UPRIGHT)
    assert distance.position == pytest.approx(0.05)
    assert distance.rotation == pytest.approx(0.3)


def test_q_and_minus_q_are_the_same_rotation_but_not_to_the_original() -> None:
    flipped = UPRIGHT * np.array([1, 1, 1, -1, -1, -1, -1])
    task = HandTask()
    distance = task.distance(flipped, UPRIGHT)
    assert distance.rotation == 0
    assert distance.rotation_original == pytest.approx(2 * np.pi)
    assert task.success(distance)
    assert not task.success_original(distance)


def test_no_two_rotations_are_further_apart_than_half_a_turn() -> None:
    q = np.random.default_rng(0).normal(size=(500, 7))
    q[:, 3:] /= np.linalg.norm(q[:, 3:], axis=1, keepdims=True)
    distance = HandTask().distance(q[:250], q[250:])
    assert distance.rotation.max() <= np.pi
    assert distance.rotation_original.max() > np.pi


def test_success_needs_both_position_and_rotation() -> None:
    task = HandTask(distance_threshold=0.01, rotation_threshold=0.1)
    near, far = (1.0, 0.9, 0.209), (1.0, 0.9, 0.211)
    verdicts = [task.success(task.distance(pose(p, a), UPRIGHT)) for p in (near, far) for a in (0.09, 0.11)]
    assert verdicts == [True, False, False, False]


def test_sparse_reward_is_0_on_success_and_else_minus_1() -> None:
    task = HandTask()
    reward = task.reward(task.distance(np.stack([UPRIGHT, pose(angle=0.5)]), np.stack([UPRIGHT, UPRIGHT])))
    assert reward.tolist() == [0, -1]


def test_dense_reward_weighs_ten_centimetres_as_a_radian() -> None:
    task = HandTask(reward_type="dense")
    assert task.reward(task.distance(pose((1.0, 0.9, 0.3), 0.25), UPRIGHT)) == pytest.approx(-1.25)


def test_what_is_ignored_does_not_count() -> None:
    far = pose((2.0, 0, 0), angle=1.0)
    assert HandTask(target_position="ignore").distance(far, UPRIGHT).position == 0
    assert HandTask(target_rotation="ignore").distance(far, UPRIGHT).rotation == 0


def test_the_pen_may_spin_about_its_own_axis() -> None:
    tilt = rotations.from_euler(0.5, -0.3, 0.0)
    spun = rotations.from_euler(0.5, -0.3, 2.0)
    a, b = (np.concatenate([UPRIGHT[:3], q]) for q in (tilt, spun))
    assert HandTask("pen").distance(a, b).rotation == pytest.approx(0, abs=1e-7)
    assert HandTask("block").distance(a, b).rotation == pytest.approx(2.0)
    assert HandTask("pen").distance(a, UPRIGHT).rotation > 0.4


@pytest.mark.parametrize("kind", ["block", "egg", "pen"])
def test_a_batch_of_any_shape_gives_the_bits_of_its_rows(kind: str) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3, 5, 7))
    a[..., 3:] /= np.linalg.norm(a[..., 3:], axis=-1, keepdims=True)
    b[..., 3:] /= np.linalg.norm(b[..., 3:], axis=-1, keepdims=True)
    task = HandTask(kind, reward_type="dense")
    batch = task.reward(task.distance(a, b))
    assert batch.shape == (3, 5)
    for i, j in np.ndindex(3, 5):
        assert batch[i, j] == task.reward(task.distance(a[i, j], b[i, j]))


@pytest.mark.parametrize("kind", ["block", "egg", "pen"])
@pytest.mark.parametrize("rotation", ["xyz", "z", "parallel", "fixed", "ignore"])
@pytest.mark.parametrize("position", ["random", "fixed", "ignore"])
def test_drawn_poses_are_where_the_task_says(kind: str, rotation: str, position: str) -> None:
    task = HandTask(kind, rotation, position)
    rng = np.random.default_rng(0)
    start = pose(angle=0.4)
    for _ in range(20):
        first = task.draw_object_pose(rng, start)
        goal = task.draw_goal(rng, start)
        for quaternion in (first[3:], goal[3:]):
            assert np.linalg.norm(quaternion) == pytest.approx(1)
        assert (position == "fixed") == np.array_equal(first[:3], start[:3])
        turned = kind != "pen" and rotation != "fixed"
        assert turned != np.allclose(first[3:], start[3:])
        offset = goal[:3] - start[:3]
        if position == "random":
            assert np.all(offset >= [-0.04, -0.06, 0]) and np.all(offset <= [0.04, 0.02, 0.06])
        else:
            assert not offset.any()
        if rotation in ("fixed", "ignore"):
            np.testing.assert_allclose(goal[3:], start[3:])
        if rotation == "z":
            assert goal[4] == goal[5] == 0  # a turn about the vertical
        if rotation == "parallel":
            w, x, y, z = goal[3:]
            vertical = [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
            assert sorted(np.abs(vertical)) == pytest.approx([0, 0, 1], abs=1e-12)  # along one of its axes


@pytest.mark.parametrize(
    ("setting", "accepted"),
    [
        ({"object": "ball"}, "block, egg, pen"),
        ({"target_rotation": "xy"}, "xyz, z, parallel, fixed, ignore"),
        ({"target_position": "here"}, "random, fixed, ignore"),
        ({"reward_type": "shaped"}, "sparse, dense"),
        ({"distance_threshold": -1.0}, "a number above 0"),
        ({"rotation_threshold": float("nan")}, "a number above 0"),
        ({"rotation_threshold": float("inf")}, "a number above 0"),
        ({"distance_threshold": True}, "a number above 0"),
        ({"randomize_initial_position": "false"}, "true and false"),
        ({"ignore_z_target_rotation": 1}, "true and false"),
        ({"goal_every": True}, "a whole number from 1 up"),
        ({"gravity": 3}, "target_rotation"),
    ],
)
def test_a_setting_that_is_not_accepted_is_named_with_what_is(setting: dict, accepted: str) -> None:
    with pytest.raises(InputError, match=accepted) as caught:
        HandTask.from_settings(**setting)
    assert next(iter(setting)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_goals_of_two_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(3, 7\)"):
        HandTask().distance(np.zeros((3, 7)), np.zeros(7))
