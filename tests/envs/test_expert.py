"""The planning expert: its plans, its independence of batch and threads, and that it turns the block."""

from typing import Any

import numpy as np
import pytest

from ebm_traj.envs.expert import ExpertPolicy, ExpertSettings, interpolate, shift, task_of
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.errors import InputError

LOW, HIGH = np.full(20, -1.0), np.full(20, 1.0)
TASK = {"target_rotation": "z", "target_position": "ignore"}
SMALL = ExpertSettings(samples=6, horizon=4, knots=3)


def expert(settings: ExpertSettings = SMALL, num_threads: int = 1, **kwargs: Any) -> ExpertPolicy:
    told: dict[str, Any] = {"env_id": "ebm_traj/HandBlock-v0", "env_kwargs": TASK, **kwargs}
    return ExpertPolicy(LOW, HIGH, settings, num_threads=num_threads, **told)


def drive(policy: ExpertPolicy, seeds: list[int], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Actions (N, T, 20) and angles to the goal (N, T)."""
    envs = HandVectorEnv(len(seeds), 1, max_episode_steps=None, **TASK)
    observation, _ = envs.reset(seed=seeds)
    policy.reset(seeds)
    actions, angles = [], []
    for _ in range(steps):
        actions.append(policy.act(observation, np.zeros((len(seeds), 20)), envs.get_state()))
        observation, _, _, _, info = envs.step(actions[-1])
        angles.append(info["rotation_distance"])
    envs.close()
    return np.stack(actions, axis=1), np.stack(angles, axis=1)


def test_interpolation_and_shift_by_hand():
    knots = np.array([0.0, 1.0, 3.0])[:, None]
    np.testing.assert_allclose(interpolate(knots, 5).ravel(), [0, 0.5, 1, 2, 3])
    np.testing.assert_allclose(shift(knots, 0.5).ravel(), [0.5, 2, 3])
    np.testing.assert_allclose(shift(knots, 1).ravel(), [1, 3, 3])
    np.testing.assert_allclose(shift(knots, 9).ravel(), [3, 3, 3])
    batch = np.random.default_rng(0).normal(size=(4, 2, 3, 5))
    np.testing.assert_array_equal(interpolate(batch, 7)[2, 1], interpolate(batch[2, 1], 7))


def test_a_row_depends_neither_on_its_batch_nor_on_threads():
    together, _ = drive(expert(num_threads=2), [3, 4, 5], 5)
    alone, _ = drive(expert(), [4], 5)
    np.testing.assert_array_equal(alone[0], together[1])
    assert not np.array_equal(together[0], together[1])


def test_it_acts_on_a_plan_between_plannings():
    policy = expert(ExpertSettings(samples=6, horizon=6, knots=3, replan_every=3))
    calls: list[int] = []
    plan = policy._plan
    policy._plan = lambda states: (calls.append(len(states)), plan(states))[1]  # type: ignore[method-assign]
    drive(policy, [0, 1], 7)
    assert calls == [2, 2, 2]


def test_the_last_two_tenths_of_a_radian_count_for_more():
    envs = HandVectorEnv(4, 1, max_episode_steps=None, **TASK)
    envs.reset(seed=0)
    states, actions = envs.get_state(), np.zeros((4, 1, 3, 20))
    envs.close()
    costs = []
    for weight in (0.0, 0.2, 0.4):
        policy = expert(ExpertSettings(samples=6, horizon=3, knots=2, near_weight=weight))
        costs.append(policy._costs(states, actions)[:, 0])
        policy.close()
    plain, more, most = costs
    np.testing.assert_allclose(most - plain, 2 * (more - plain), rtol=1e-12)
    angles = plain / 3  # the mean and twice the last of an angle that hardly changes in three steps
    np.testing.assert_allclose(more - plain, 0.2 * 3 * np.tanh(angles / 0.2), atol=0.02)
    assert angles.max() > 0.5 and (more > plain).all()


@pytest.mark.parametrize("optimizer", ["mppi", "predictive-sampling", "cem"])
def test_it_turns_the_block_to_its_goal(optimizer: str):
    settings = ExpertSettings(
        optimizer=optimizer, samples=16, horizon=8, knots=4, elites=4, noise=(0.1, 0.3, 0.6)
    )
    seeds = [0, 4, 16]
    envs = HandVectorEnv(len(seeds), 1, **TASK)
    _, info = envs.reset(seed=seeds)
    _, angles = drive(expert(settings), seeds, 24)
    assert np.mean(info["rotation_distance"] - angles[:, -1]) > 0.15
    envs.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"optimizer": "luck"}, "optimizer 'luck'; accepted: mppi, predictive-sampling, cem"),
        ({"samples": 1}, "samples is 1; needs 2 or more"),
        ({"knots": 1}, "knots is 1"),
        ({"replan_every": 0}, "replan_every is 0"),
        ({"horizon": 3}, "horizon is 3 steps; needs at least 5"),
        ({"replan_every": 15}, "horizon is 14 steps; needs at least 5 .* and 15"),
        ({"noise": ()}, "noise and temperature must be above 0"),
        ({"near_weight": -0.1}, "near_weight is -0.1; needs 0 or more"),
        ({"temperature": 0.0}, "noise and temperature must be above 0"),
        ({"substeps": 2}, "substeps is 2"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], named: str):
    with pytest.raises(InputError, match=named):
        expert(ExpertSettings(**settings))


def test_other_environments_and_missing_states_are_refused():
    with pytest.raises(
        InputError, match=r"policy 'expert' acts in the hand environments.* found 'Reacher-v5'"
    ):
        expert(env_id="Reacher-v5", env_kwargs={})
    policy = expert()
    policy.reset([0, 1])
    with pytest.raises(InputError, match="none simulator states; needed are 2"):
        policy.act(None, np.zeros((2, 20)))
    with pytest.raises(InputError, match="1 simulator states; needed are 2"):
        policy.act(None, np.zeros((2, 20)), np.zeros((1, 120)))


def test_the_task_is_read_from_environment_and_arguments():
    assert task_of("ebm_traj/HandPen-v0", {"goal_every": 5, "substeps": 5}, "expert").object == "pen"
    assert task_of("ebm_traj/HandBlock-v0", TASK, "expert").target_rotation == "z"
