"""`HandVectorEnv` against Gymnasium's `SyncVectorEnv` of `HandEnv`s, to the bit, and what it adds."""

import itertools
import threading
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from ebm_traj.envs.hand import HandEnv
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.errors import InputError

NUM_ENVS = 3
LIMIT = 4


def actions(steps: int, num_envs: int = NUM_ENVS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, num_envs, 20)).astype(np.float32)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal in structure, type and every bit."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    elif isinstance(theirs, np.ndarray) and theirs.dtype == object:
        assert_same(list(ours), list(theirs))
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs


def sync(mode: AutoresetMode = AutoresetMode.NEXT_STEP, **kwargs: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: HandEnv(max_episode_steps=LIMIT, **kwargs)] * NUM_ENVS, autoreset_mode=mode)


def set_states(envs: SyncVectorEnv, states: np.ndarray) -> None:
    for env, state in zip(envs.envs, states, strict=True):
        assert isinstance(env, HandEnv)
        env.set_state(state)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_same_numbers_as_single_environments(threads: int, mode: AutoresetMode) -> None:
    theirs = sync(mode, reward_type="dense")
    ours = HandVectorEnv(NUM_ENVS, threads, LIMIT, mode, reward_type="dense")
    assert ours.num_threads == threads
    assert ours.observation_space == theirs.observation_space
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] is mode
    assert_same(ours.reset(seed=5), theirs.reset(seed=5))
    assert ours.np_random_seed == theirs.np_random_seed == (5, 6, 7)
    for action in actions(2 * LIMIT + 3):
        assert_same(ours.step(action), theirs.step(action))
    ours.close()


@pytest.mark.parametrize("kind", ["egg", "pen"])
def test_same_numbers_for_other_objects(kind: str) -> None:
    theirs, ours = sync(object=kind), HandVectorEnv(NUM_ENVS, 2, LIMIT, object=kind)
    assert_same(ours.reset(seed=[3, 1, 2]), theirs.reset(seed=[3, 1, 2]))
    for action in actions(LIMIT + 2):
        assert_same(ours.step(action), theirs.step(action))
    ours.close()


def test_episodes_of_unequal_length_are_reset_one_by_one() -> None:
    theirs, ours = sync(), HandVectorEnv(NUM_ENVS, 2, LIMIT)
    theirs.reset(seed=0)
    ours.reset(seed=0)
    states = ours.get_state()
    states[:, -1] = [0, 2, 3]  # steps so far
    ours.set_state(states)
    set_states(theirs, states)
    for action in actions(2 * LIMIT):
        assert_same(ours.step(action), theirs.step(action))
    ours.close()


def test_without_autoreset_a_mask_says_which_to_reset() -> None:
    theirs, ours = sync(AutoresetMode.DISABLED), HandVectorEnv(NUM_ENVS, 2, LIMIT, "Disabled")
    theirs.reset(seed=0)
    ours.reset(seed=0)
    states = ours.get_state()
    states[:, -2] = [LIMIT - 1, 0, LIMIT - 1]  # steps since reset
    ours.set_state(states)
    set_states(theirs, states)
    steps = actions(3)
    assert_same(result := ours.step(steps[0]), theirs.step(steps[0]))
    assert result[3].tolist() == [True, False, True]
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"\[0, 2\]"):
        ours.step(steps[1])
    mask = result[3]
    seeds = [9, None, None]
    assert_same(
        ours.reset(seed=seeds, options={"reset_mask": mask.copy()}),
        theirs.reset(seed=seeds, options={"reset_mask": mask.copy()}),
    )
    assert_same(ours.step(steps[1]), theirs.step(steps[1]))
    with pytest.raises(InputError, match="reset_mask"):
        ours.reset(options={"reset_mask": np.zeros(NUM_ENVS, dtype=bool)})
    ours.close()


def test_a_divergence_is_that_of_the_single_environment(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log there
    theirs, ours = sync(), HandVectorEnv(NUM_ENVS, 2, LIMIT)
    theirs.reset(seed=0)
    ours.reset(seed=0)
    states = ours.get_state()
    states[1, 1 + ours.model.nq + 24] = 1e11
    ours.set_state(states)
    set_states(theirs, states)
    steps = actions(3)
    assert_same(result := ours.step(steps[0]), theirs.step(steps[0]))
    assert result[2].tolist() == result[4]["diverged"].tolist() == [False, True, False]
    for action in steps[1:]:  # the diverged one starts anew, no thread keeps the warning
        assert_same(ours.step(action), theirs.step(action))
    ours.close()


def test_states_continue_to_the_bit_also_in_other_rows_and_in_a_single_environment() -> None:
    env = HandVectorEnv(NUM_ENVS, 2, None)
    env.reset(seed=0)
    steps = actions(10)
    for action in steps[:4]:
        env.step(action)
    saved = env.get_state()
    expected = [env.step(action)[0]["observation"] for action in steps[4:]]

    env.set_state(saved)
    assert_same([env.step(action)[0]["observation"] for action in steps[4:]], expected)

    other = HandVectorEnv(2, 1, None)
    other.set_state(saved[[2]], indices=[0])
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step(steps[4][:2])
    other.set_state(saved[[0]], indices=[1])
    for action, result in zip(steps[4:], expected, strict=True):
        assert_same(other.step(action[[2, 0]])[0]["observation"], result[[2, 0]])

    single = HandEnv()
    single.set_state(saved[1])
    for action, result in zip(steps[4:], expected, strict=True):
        assert_same(single.step(action[1])[0]["observation"], result[1])
    env.close()
    other.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_open_loop_rollout_equals_stepping(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebm_traj.envs.workers.ROLLOUT_BYTES", 1)  # so that the batch takes several chunks
    env = HandVectorEnv(5, threads, None)
    env.reset(seed=0)
    steps = actions(8, 5)
    for action in steps[:3]:  # from mid-episode, where the warm start matters
        env.step(action)
    starts = env.get_state()
    physics = env.rollout(starts, steps[3:].swapaxes(0, 1))
    assert_same(env.get_state(), starts)
    for t, action in enumerate(steps[3:]):
        env.step(action)
        np.testing.assert_array_equal(physics[:, t], env.get_state()[:, : physics.shape[-1]])
    np.testing.assert_allclose(physics[:, -1, 0] - starts[:, 0], 5 * env.dt)
    assert env.rollout(starts[:2], np.zeros((2, 0, 20))).shape == (2, 0, physics.shape[-1])
    env.close()


def test_a_rollout_that_diverges_repeats_its_last_state(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log there
    env = HandVectorEnv(2, 1)
    env.reset(seed=0)
    starts, plan = env.get_state(), np.zeros((2, 3, 20))
    good = env.rollout(starts, plan)
    starts[1, 1 + env.model.nq + 24] = 1e11
    physics = env.rollout(starts, plan)
    np.testing.assert_array_equal(physics[0], good[0])
    assert np.all(physics[1] == physics[1, :1])
    assert not env.step(plan[:, 0])[4]["diverged"].any()  # the environments know nothing of it
    env.close()


def test_a_rollout_with_wrong_shapes_is_refused() -> None:
    env = HandVectorEnv(2, 1)
    env.reset(seed=0)
    starts = env.get_state()
    for states, plan in (
        (starts, np.zeros((2, 20))),
        (starts[:1], np.zeros((2, 4, 20))),
        (starts, np.zeros((2, 4, 3))),
    ):
        with pytest.raises(InputError, match="accepted is"):
            env.rollout(states, plan)


def test_gymnasium_makes_the_vector_environment() -> None:
    from ebm_traj.registration import register_envs

    register_envs()
    env = gymnasium.make_vec("ebm_traj/HandEgg-v0", num_envs=4, num_threads=2, target_rotation="z")
    assert isinstance(env, HandVectorEnv)
    assert (env.num_envs, env.num_threads, env.max_episode_steps) == (4, 2, 100)
    assert (env.task.object, env.task.target_rotation) == ("egg", "z")
    env.close()
    env = gymnasium.make_vec(
        "ebm_traj/HandBlock-v0", num_envs=2, max_episode_steps=7, autoreset_mode="SameStep"
    )
    assert isinstance(env, HandVectorEnv)
    assert env.max_episode_steps == 7
    assert env.autoreset_mode is AutoresetMode.SAME_STEP
    env.close()


def test_closing_ends_the_threads() -> None:
    before = threading.active_count()
    env = HandVectorEnv(4, 2)
    env.reset(seed=0)
    assert threading.active_count() > before
    env.close()
    assert threading.active_count() == before
    env.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.step(np.zeros((4, 20)))
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.reset(seed=0)


def test_results_are_the_callers_own() -> None:
    env = HandVectorEnv(2, 1)
    observation, _ = env.reset(seed=0)
    before = {key: value.copy() for key, value in observation.items()}
    env.step(np.ones((2, 20)))
    assert_same(observation, before)
    state = env.get_state()
    observation["desired_goal"][:] = 0
    assert_same(env.get_state(), state)


@pytest.mark.parametrize(
    ("bad", "found"),
    [(np.zeros((3, 20)), r"\(3, 20\)"), (np.zeros(20), r"\(20,\)"), (np.full((2, 20), np.nan), "NaN")],
)
def test_bad_actions_are_refused_before_the_simulation(bad: np.ndarray, found: str) -> None:
    env = HandVectorEnv(2, 1)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(InputError, match=rf"{found}.*\(2, 20\)"):
        env.step(bad)
    assert_same(env.get_state(), before)


@pytest.mark.parametrize(
    ("setting", "accepted"),
    [
        ({"num_envs": 0}, "whole number"),
        ({"num_threads": 0}, "whole number"),
        ({"autoreset_mode": "never"}, "NextStep, SameStep, Disabled"),
        ({"object": "ball"}, "block, egg, pen"),
        ({"max_episode_steps": 1.5}, "whole number"),
    ],
)
def test_a_bad_setting_is_refused(setting: dict, accepted: str) -> None:
    with pytest.raises(InputError, match=accepted):
        HandVectorEnv(**setting)


def test_bad_seeds_and_indices_are_refused() -> None:
    env = HandVectorEnv(2, 1)
    with pytest.raises(InputError, match="3 seeds"):
        env.reset(seed=[1, 2, 3])
    env.reset(seed=0)
    with pytest.raises(InputError, match="from 0 to 1"):
        env.set_state(env.get_state(), indices=[1, 2])


def test_a_step_needs_a_reset_first() -> None:
    env = HandVectorEnv(2, 1)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros((2, 20)))


@pytest.mark.parametrize("target_position", ["random", "ignore"])
def test_new_goals_are_drawn_alike_and_on_time(target_position: str) -> None:
    settings = {"target_rotation": "z", "target_position": target_position, "goal_every": 3}
    theirs = [HandEnv(**settings) for _ in range(2)]
    ours = HandVectorEnv(2, 2, None, "Disabled", **settings)
    seen, _ = ours.reset(seed=4)
    goals = [seen["desired_goal"].copy()]
    for i, env in enumerate(theirs):
        np.testing.assert_array_equal(env.reset(seed=4 + i)[0]["desired_goal"], goals[0][i])
    for action in actions(7)[:, :2]:
        before = goals[-1]
        seen, reward, _, _, info = ours.step(action)
        goals.append(seen["desired_goal"].copy())
        distance = ours.task.distance(seen["achieved_goal"], before)
        np.testing.assert_array_equal(info["rotation_distance"], distance.rotation)  # of the goal acted for
        for i, env in enumerate(theirs):
            observation, mine, _, _, _ = env.step(action[i])
            np.testing.assert_array_equal(observation["desired_goal"], goals[-1][i])
            assert mine == reward[i]
            np.testing.assert_array_equal(env.get_state(), ours.get_state()[i])
        np.testing.assert_array_equal(ours.observe()["desired_goal"], goals[-1])
    changed = [bool((a != b).any()) for a, b in itertools.pairwise(goals)]
    assert changed == [False, False, True, False, False, True, False]
    moved = np.abs(goals[3] - goals[2])[:, :3].max()
    assert (moved > 0) == (target_position == "random")
    ours.close()


def test_one_that_finishes_leaves_the_others_their_info() -> None:
    found = []
    for mode in ("SameStep", "Disabled"):
        env = HandVectorEnv(2, 1, 5, mode, goal_every=2, target_position="ignore")
        env.reset(seed=1)
        env.step(np.zeros((2, 20)))
        env.reset(seed=[None, 7], options={"reset_mask": np.array([False, True])})
        for _ in range(4):
            _, _, _, truncated, info = env.step(np.zeros((2, 20)))
        assert truncated.tolist() == [True, False]
        found.append([info[name][1] for name in ("rotation_distance", "is_success", "diverged")])
        env.close()
    assert found[0] == found[1] and found[0][0] > 0


def test_a_state_knows_the_goals_to_come() -> None:
    settings = {"target_rotation": "z", "goal_every": 2}
    first, second = HandVectorEnv(1, **settings), HandVectorEnv(1, **settings)
    first.reset(seed=0)
    second.reset(seed=1)
    second.set_state(first.get_state())
    for action in actions(5)[:, :1]:
        goal = first.step(action)[0]["desired_goal"]
        np.testing.assert_array_equal(second.step(action)[0]["desired_goal"], goal)


def test_coarse_steps_are_those_of_the_single_environment_too() -> None:
    theirs, ours = HandEnv(substeps=5), HandVectorEnv(1, substeps=5)
    exact = HandVectorEnv(1)
    assert theirs.dt == ours.dt == exact.dt == 0.04
    exact.reset(seed=3)
    start = exact.get_state()
    theirs.set_state(start[0])
    ours.set_state(start)
    for action in actions(4)[:, :1]:
        ours.step(action)
        theirs.step(action[0])
        exact.step(action)
        np.testing.assert_array_equal(ours.get_state()[0], theirs.get_state())
    pose, true = ours.observe()["achieved_goal"], exact.observe()["achieved_goal"]
    assert 0 < np.abs(pose - true).max() < 0.05
    planned = ours.rollout(start, actions(4)[None, :, 0])
    size = planned.shape[-1]
    np.testing.assert_array_equal(planned[0, -1], ours.get_state()[0, :size])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"substeps": 3}, "substeps is 3; accepted: a whole number from 4 to 100"),
        ({"substeps": 5.0}, "substeps is 5.0"),
        ({"goal_every": 0}, "goal_every is 0; accepted: None or a whole number from 1 up"),
    ],
)
def test_impossible_steps_and_goals_are_refused(settings: dict, named: str) -> None:
    for make in (HandEnv, HandVectorEnv):
        with pytest.raises(InputError, match=named):
            make(**settings)
