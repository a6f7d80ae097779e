"""`HandEnv` as a Gymnasium environment: spaces, state, errors, divergence."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from ebm_traj.envs.hand import HandEnv
from ebm_traj.errors import InputError
from ebm_traj.spec import flatten_observation


@pytest.fixture(scope="module")
def env() -> HandEnv:
    return HandEnv(max_episode_steps=30)


def actions(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 20)).astype(np.float32)


def outcome(result: tuple) -> tuple:
    observation, *rest = result
    return (flatten_observation(observation).tolist(), *rest)


@pytest.mark.parametrize("kind", ["block", "egg", "pen"])
def test_gymnasium_finds_nothing_to_complain_of(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # observations have no bounds, as in the original
        warnings.filterwarnings("ignore", message=".*Box observation space m(in|ax)imum value is .*infinity")
        check_env(HandEnv(kind, max_episode_steps=5), skip_render_check=True)


def test_the_state_is_joints_object_and_goal(env: HandEnv) -> None:
    observation, _ = env.reset(seed=0)
    spec = env.state_spec
    state = spec.read(observation)
    assert spec.size == 38
    assert spec.names[:3] == ("WRJ1", "WRJ0", "FFJ3") and spec.names[23] == "THJ0"
    hinges = [env.model.joint(i).name.removeprefix("robot0:") for i in range(24)]
    assert list(spec.names[:24]) == hinges
    assert spec.names[24:31] == tuple(f"object_{k}" for k in ("x", "y", "z", "qw", "qx", "qy", "qz"))
    assert spec.names[31] == "goal_x" and spec.kinds[31:] == ("given",) * 7
    np.testing.assert_array_equal(state[:31], env.data.qpos[:31].astype(np.float32))
    np.testing.assert_array_equal(state[31:], env.goal.astype(np.float32))


def test_a_seed_determines_the_episode_whatever_came_before() -> None:
    used, fresh = HandEnv(), HandEnv()
    used.reset(seed=1)
    for action in actions(5):
        used.step(action)
    assert outcome(used.reset(seed=2)) == outcome(fresh.reset(seed=2))
    assert outcome(used.reset()) == outcome(fresh.reset())
    assert outcome(used.reset()) != outcome(used.reset())


@pytest.mark.parametrize("rotation", ["fixed", "ignore"])
def test_a_goal_of_fixed_or_ignored_rotation_is_the_rotation_at_the_start(rotation: str) -> None:
    env = HandEnv(target_rotation=rotation, target_position="fixed")
    observation, info = env.reset(seed=0)
    np.testing.assert_allclose(observation["desired_goal"], observation["achieved_goal"], atol=1e-12)
    assert info["is_success"]
    assert env.step(np.zeros(20, np.float32))[1] in (0.0, -1.0)


def test_a_saved_state_continues_to_the_bit_in_another_environment(env: HandEnv) -> None:
    env.reset(seed=3)
    steps = actions(32)
    for action in steps[:8]:
        env.step(action)
    saved = env.get_state()
    expected = [outcome(env.step(action)) for action in steps[8:]]
    other = HandEnv(max_episode_steps=30)  # never reset
    for target in (other, env):
        target.set_state(saved)
        assert target.elapsed_steps == 8
        assert [outcome(target.step(action)) for action in steps[8:]] == expected
    assert [result[3] for result in expected] == [False] * 21 + [True] * 3  # truncated from step 30 on


def test_get_state_is_a_copy_and_set_state_takes_one(env: HandEnv) -> None:
    env.reset(seed=0)
    saved = env.get_state()
    first = saved.copy()
    env.step(actions(1)[0])
    np.testing.assert_array_equal(saved, first)
    env.set_state(saved)
    saved[:] = 0
    np.testing.assert_array_equal(env.get_state(), first)


def test_rewards_of_relabelled_goals_are_those_of_the_steps() -> None:
    env = HandEnv(reward_type="dense")
    env.reset(seed=0)
    steps = [env.step(action) for action in actions(6)]
    achieved = np.stack([s[0]["achieved_goal"] for s in steps])
    desired = np.stack([s[0]["desired_goal"] for s in steps])
    infos = np.array([s[4] for s in steps])
    assert env.compute_reward(achieved, desired, infos).tolist() == [s[1] for s in steps]
    assert env.compute_reward(achieved, achieved, infos) == pytest.approx(0, abs=1e-6)
    assert not env.compute_terminated(achieved, desired, infos)
    assert not env.compute_truncated(achieved, desired, infos)


def test_actions_beyond_the_box_are_clipped(env: HandEnv) -> None:
    env.reset(seed=0)
    saved = env.get_state()
    action = actions(1)[0] * 3
    beyond = outcome(env.step(action))
    env.set_state(saved)
    assert outcome(env.step(np.clip(action, -1, 1))) == beyond


def test_a_divergence_ends_the_episode_at_the_last_good_state(
    env: HandEnv, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log there
    env.reset(seed=0)
    state = env.get_state()
    state[1 + env.model.nq + 24] = 1e11  # the object's speed, more than MuJoCo accepts
    env.set_state(state)
    observation, _, terminated, truncated, info = env.step(np.zeros(20, np.float32))
    assert terminated and not truncated and info["diverged"]
    state[-2] += 1  # steps since reset
    np.testing.assert_array_equal(env.get_state(), state)
    assert observation["observation"][48] == 1e11
    _, info = env.reset(seed=0)
    assert not info["diverged"]
    _, _, terminated, _, info = env.step(np.zeros(20, np.float32))
    assert not terminated and not info["diverged"]


@pytest.mark.parametrize(
    ("action", "found"),
    [
        (np.zeros(19), r"\(19,\)"),
        (np.zeros((1, 20)), r"\(1, 20\)"),
        (0.0, r"\(\)"),
        (np.full(20, np.nan), "NaN"),
        (np.full(20, np.inf), "infinity"),
        (["left"] * 20, "no number"),
    ],
)
def test_a_bad_action_is_refused_before_the_simulation(env: HandEnv, action, found: str) -> None:
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(InputError, match=rf"{found}.*\(20,\)"):
        env.step(action)
    np.testing.assert_array_equal(env.get_state(), before)


def test_a_bad_state_is_refused(env: HandEnv) -> None:
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(InputError, match=rf"\(3,\).*\({len(before)},\)"):
        env.set_state(np.zeros(3))
    with pytest.raises(InputError, match="NaN"):
        env.set_state(np.full(len(before), np.nan))
    np.testing.assert_array_equal(env.get_state(), before)


@pytest.mark.parametrize(
    ("setting", "accepted"),
    [
        ({"object": "ball"}, "block, egg, pen"),
        ({"render_mode": "ansi"}, "rgb_array"),
        ({"width": 0}, "whole number"),
        ({"height": 2.5}, "whole number"),
        ({"max_episode_steps": 0}, "whole number"),
        ({"colour": "red"}, "unknown setting"),
    ],
)
def test_a_bad_setting_is_refused(setting: dict, accepted: str) -> None:
    with pytest.raises(InputError, match=accepted):
        HandEnv(**setting)


def test_a_step_needs_a_reset_first() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded):
        HandEnv().step(np.zeros(20))
