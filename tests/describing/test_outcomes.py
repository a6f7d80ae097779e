"""What episodes came to, read from made-up states whose answer is known."""

import numpy as np
import pytest

from ebm_traj.datasets import Recording
from ebm_traj.describing.outcomes import HandJudge, angle_between, net_rotation, noise_share, strayed
from ebm_traj.envs.hand_model import PALM_HEIGHT, state_spec
from ebm_traj.envs.hand_task import HandTask

SPEC = state_spec()
POSE = np.arange(24, 31)
GOAL = np.arange(31, 38)
OFFSETS = np.array([0, 3, 5])


def judge(**task) -> HandJudge:
    return HandJudge(HandTask(**task), POSE, GOAL)


def about_z(angle: float) -> list[float]:
    return [np.cos(angle / 2), 0, 0, np.sin(angle / 2)]


@pytest.fixture
def states() -> np.ndarray:
    """Two episodes of 3 and 2 frames that rest at (0, 0, 0.2), half a metre from their goal."""
    states = np.zeros((5, 38), np.float32)
    states[:, POSE] = [0, 0, 0.2, *about_z(0)]
    states[:, GOAL] = [0, 0, 0.7, *about_z(0)]
    return states


def test_success_is_judged_by_the_goal_of_the_action(states):
    assert judge().reached(states, OFFSETS).tolist() == [False, False]
    states[3, GOAL] = states[4, POSE]  # asked for by frame 3, there at frame 4, which asks for another
    assert judge().reached(states, OFFSETS).tolist() == [False, True]
    states[:, GOAL] = [0, 0, 0.7, *about_z(0)]
    states[2, GOAL] = states[3, POSE]  # the next episode's first frame fulfils nothing
    assert judge().reached(states, OFFSETS).tolist() == [False, False]


def test_an_ignored_position_is_not_asked_for(states):
    assert judge(target_position="ignore").reached(states, OFFSETS).all()


def test_an_object_below_the_palm_is_dropped(states):
    states[1, POSE[2]] = PALM_HEIGHT - 0.001
    assert judge().dropped(states, OFFSETS).tolist() == [True, False]


@pytest.mark.parametrize(
    ("pose", "still"),
    [
        ([0.009, 0, 0.2, *about_z(0.09)], True),
        ([0.011, 0, 0.2, *about_z(0)], False),
        ([0, 0, 0.2, *about_z(0.11)], False),
        ([0, 0, 0.2, *(-np.array(about_z(0.05)))], True),
    ],
)
def test_near_still_is_within_a_centimetre_and_a_tenth_of_a_radian(states, pose, still):
    states[1, POSE] = pose  # there and back again
    assert judge().still(states, OFFSETS).tolist() == [still, True]


def test_net_rotation_is_from_first_to_last_frame(states):
    states[1, POSE[3:]] = about_z(3)
    states[2, POSE[3:]] = about_z(0.5)
    np.testing.assert_allclose(net_rotation(SPEC, states, OFFSETS), [[0.5], [0]], atol=1e-6)


def test_small_angles_survive_float32():
    a, b = np.array(about_z(1.0), np.float32), np.array(about_z(1.0001), np.float32)
    assert angle_between(a, -b) == pytest.approx(1e-4, rel=0.01)


def test_strayed_is_the_farthest_from_the_first_value():
    states = np.array([[1], [4], [2], [0], [-1]], np.float32)
    assert strayed(states, OFFSETS).tolist() == [[3], [1]]


@pytest.mark.parametrize(
    ("record", "share"),
    [
        ({"name": "random", "noise": {"every": 4, "probability": 0.0}}, 0.25),
        ({"name": "trained", "noise": {"every": 0, "probability": 0.2}}, 0.2),
        ({"name": "expert", "noise": {"every": 0, "probability": 0.0}}, 0.0),
        ({"name": "minari", "settings": {}}, None),
    ],
)
def test_noise_share_is_read_from_the_record(record, share):
    assert noise_share(record) == share


def test_other_environments_have_no_judge(toy: Recording):
    assert HandJudge.of(toy) is None
