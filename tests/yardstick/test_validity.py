"""States that could not be: what the hand's model says of them, and when there is nothing to say."""

import sys

import numpy as np
import pytest

from ebm_traj.spec import StateSpec
from ebm_traj.yardstick.validity import Validity, state_measure

pytest.importorskip("mujoco")
pytest.importorskip("gymnasium_robotics")

BLOCK = "ebm_traj/HandBlock-v0"
X, QW, GOAL = 24, 27, 31


@pytest.fixture(scope="module")
def measure():
    from ebm_traj.envs.hand_model import state_spec

    found = state_measure(BLOCK, {}, state_spec())
    assert not isinstance(found, str)
    return found


@pytest.fixture(scope="module")
def resting() -> np.ndarray:
    """A state of the environment itself, the block at rest on the palm."""
    from ebm_traj.envs.hand import HandEnv

    env = HandEnv()
    observation, _ = env.reset(seed=0)
    return env.state_spec.read(observation).astype(np.float64)


def changed(state: np.ndarray, **values: float) -> np.ndarray:
    places = {
        "joint": 3,
        "x": X,
        "y": X + 1,
        "z": X + 2,
        "goal_x": GOAL,
        "goal_y": GOAL + 1,
        "goal_z": GOAL + 2,
    }
    found = state.copy()
    for name, value in values.items():
        found[places[name]] = value
    return found


def test_a_state_of_the_simulator_is_possible(measure, resting):
    found = {name: value[0] for name, value in measure(resting[None]).items()}
    assert found["joint_limits"] < 0.01
    assert found["quaternion"] < 1e-5
    assert found["penetration"] < 0.002


def test_a_joint_beyond_its_range_is_measured_in_radians(measure, resting):
    from ebm_traj.envs.hand_model import HandModel

    high = HandModel("block").mj.joint("robot0:FFJ2").range[1]
    found = measure(np.stack([changed(resting, joint=high - 0.1), changed(resting, joint=high + 0.25)]))
    assert found["joint_limits"] == pytest.approx([measure(resting[None])["joint_limits"][0], 0.25], abs=1e-3)


def test_the_block_in_the_palm_is_deep_and_the_goal_or_the_air_is_not(measure, resting):
    palm = changed(resting, z=resting[X + 2] - 0.02)
    goal_in_palm = changed(resting, goal_x=palm[X], goal_y=palm[X + 1], goal_z=palm[X + 2])
    in_air, on_floor = changed(resting, z=1.0), changed(resting, x=3.0, y=3.0, z=0.0)
    depth = measure(np.stack([palm, goal_in_palm, in_air, on_floor, resting]))["penetration"]
    assert depth[0] > 0.01
    assert depth[1] == depth[4]
    assert depth[2] == depth[3] == 0  # the floor is not the hand


def test_a_quaternion_of_another_length_is_seen(measure, resting):
    long = resting.copy()
    long[QW : QW + 4] *= 1.2
    found = measure(np.stack([resting, long]))
    assert found["quaternion"][1] == pytest.approx(0.2, abs=1e-4)
    assert found["penetration"][0] == pytest.approx(found["penetration"][1], abs=1e-6)  # the same rotation


def test_a_frame_that_is_not_finite_is_invalid_in_every_way(measure, resting):
    frames = np.repeat(resting[None, None], 4, 1)  # (1, 4, D)
    validity = Validity(measure, frames, seed=0)
    assert set(validity(frames).values()) == {0.0}
    broken = frames.copy()
    broken[0, 1, 5], broken[0, 2, X] = np.nan, np.inf
    assert set(validity(broken).values()) == {0.5}


def test_every_row_is_looked_at_in_the_same_few_frames(measure, resting):
    seen: list[np.ndarray] = []

    def spy(states: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(states[:, 0])
        return {"joint_limits": np.abs(states[:, 0])}

    frames = np.arange(5000.0).reshape(50, 100, 1)
    validity = Validity(spy, frames, seed=3, frames=200)
    validity(frames)
    assert len(seen[0]) == len(np.unique(seen[0])) == 200
    np.testing.assert_array_equal(seen[0], seen[1])
    assert validity.limits["joint_limits"] == pytest.approx(np.percentile(seen[0], 99.9))


def test_environments_and_machines_without_it_say_why(monkeypatch):
    from ebm_traj.envs.hand_model import state_spec

    assert "does not say" in str(state_measure("Wanderer-v0", {}, StateSpec.from_size(3)))
    assert "not the hand's own" in str(state_measure(BLOCK, {}, StateSpec.from_size(3)))
    for name in [name for name in sys.modules if name.startswith("ebm_traj.envs.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    assert state_measure(BLOCK, {}, state_spec()) == "mujoco is not installed"
