"""`HandEnv` against gymnasium-robotics: same seed and actions, same numbers, to the bit."""

import types
from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import numpy as np
import pytest

from ebm_traj.envs.hand import HandEnv

Original = Callable[..., Any]

TASKS = [
    {"object": "block", "target_rotation": "xyz"},
    {"object": "block", "target_rotation": "z"},
    {"object": "block", "target_rotation": "parallel"},
    {"object": "block", "target_rotation": "z", "target_position": "ignore", "reward_type": "dense"},
    {"object": "egg"},
    {"object": "pen"},
]
NAMES = ["block-xyz", "block-z", "block-parallel", "block-z-dense", "egg", "pen"]


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> Iterator[Original]:
    """Makes gymnasium-robotics' environment of the same task."""
    from gymnasium_robotics.envs.shadow_dexterous_hand import (
        manipulate_block,
        manipulate_egg,
        manipulate_pen,
    )
    from gymnasium_robotics.utils import mujoco_utils

    class PlainJointTypes(types.ModuleType):
        """mujoco, with joint types as plain numbers: from 3.12 its enums differ from the model's integers."""

        mjtJoint = types.SimpleNamespace(
            **{name: int(member.value) for name, member in mujoco.mjtJoint.__members__.items()}
        )

        def __getattr__(self, name: str) -> Any:
            return getattr(mujoco, name)

    monkeypatch.setattr(mujoco_utils, "mujoco", PlainJointTypes("mujoco"))
    classes = {
        "block": manipulate_block.MujocoHandBlockEnv,
        "egg": manipulate_egg.MujocoHandEggEnv,
        "pen": manipulate_pen.MujocoHandPenEnv,
    }
    envs = []

    def make(object: str, **kwargs: Any) -> Any:
        envs.append(classes[object](**kwargs))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_same_seed_and_actions_give_the_same_episode(original: Original, task: dict) -> None:
    theirs, ours = original(**task), HandEnv(**task)
    assert ours.dt == theirs.dt
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    actions = np.random.default_rng(0).uniform(-1.2, 1.2, (50, 20)).astype(np.float32)  # some beyond the box
    their_observation, _ = theirs.reset(seed=7)
    our_observation, _ = ours.reset(seed=7)
    assert same(our_observation, their_observation)
    moved = our_observation["observation"].copy()
    for action in actions:
        our_observation, reward, terminated, truncated, info = ours.step(action)
        their_observation, their_reward, *_, their_info = theirs.step(action)
        assert same(our_observation, their_observation)
        assert np.array_equal(ours.data.qpos, theirs.data.qpos)
        assert info["is_success_original"] == bool(their_info["is_success"])
        if task.get("reward_type") == "dense" and info["rotation_distance"] < 3:
            assert reward >= their_reward - 1e-12  # a shorter way round where the original reads above pi
        assert not terminated and not truncated
    assert np.abs(moved - our_observation["observation"]).max() > 0.1


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_resets_are_drawn_alike(original: Original, task: dict) -> None:
    theirs, ours = original(**task), HandEnv(**task)
    theirs.reset(seed=100)
    ours.reset(seed=100)
    for _ in range(8):
        # the original carries the solver's warm start from one episode to the next
        mujoco.mj_resetData(theirs.model, theirs.data)
        assert same(ours.reset()[0], theirs.reset()[0])


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_success_of_the_original_is_reported_as_the_original_has_it(original: Original, task: dict) -> None:
    theirs, ours = original(**task), HandEnv(**task)
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(400):
        goal = rng.normal(size=7)
        goal[3:] /= np.linalg.norm(goal[3:])
        pose = goal + rng.normal(scale=0.02, size=7)
        pose[3:] *= rng.choice([-1, 1]) / np.linalg.norm(pose[3:])
        verdict = bool(theirs._is_success(pose, goal))
        assert verdict == bool(ours.task.success_original(ours.task.distance(pose, goal)))
        seen.add(verdict)
    assert seen == {False, True}
