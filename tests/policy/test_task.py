"""The turning task: its rewards, its goals and its episodes."""

import numpy as np

from ebm_traj.policy.task import EPISODE_STEPS, TurningTask

TASK = {"target_rotation": "z", "target_position": "ignore", "num_threads": 1, "substeps": 5}


def test_the_task_pays_for_progress_and_draws_new_goals():
    zeros = np.zeros(101)
    task = TurningTask(3, 0, zeros, zeros + 1, **TASK)
    features = task.reset()
    assert features.shape == (3, 101)
    goals = task.envs.observe()["desired_goal"].copy()
    rng = np.random.default_rng(0)
    for step in range(1, 101):
        before, held = task._distance, task.previous.copy()
        taken = task.step(rng.uniform(-1, 1, (3, 20)))
        reward, done = taken.reward, taken.dropped | taken.cut
        assert np.abs(taken.taken - held).max() <= 0.3 + 1e-9
        if step < 100 and not done.any():
            now = task._distance
            expected = (
                4 * (before - now)
                - 0.1 * now
                + 0.25 * (now < 0.3)
                + 0.5 * (now < 0.1)
                - 0.003 * ((task.previous - held) ** 2).sum(1)
            )
            if not len(task.outcomes):
                np.testing.assert_allclose(reward, expected, atol=1e-5)
    assert len(task.outcomes) >= 2  # an episode cut short is not judged
    assert (task.envs.observe()["desired_goal"] != goals).any(axis=1).all()
    assert EPISODE_STEPS > 100
    task.close()


def test_what_ended_begins_anew_and_what_it_led_to_is_told():
    task = TurningTask(6, 0, 0.0, 1.0, form="cube", change=0.6, **TASK)
    task.reset()
    task._steps[:] = [0, EPISODE_STEPS - 2, 0, EPISODE_STEPS - 1, 0, 0]
    episodes, cut = task.episodes.copy(), []
    for _ in range(3):
        step = task.step(np.ones((6, 20)))
        cut.append(step.cut)
        ended = step.dropped | step.cut
        assert (task.previous[ended] == 0).all() and (step.taken[ended] > 0).all()
        assert (step.last_features[~ended] == step.features[~ended]).all()
        assert (step.last_features[ended] != step.features[ended]).any(axis=1).all()
    np.testing.assert_array_equal(np.argwhere(cut), [[0, 3], [1, 1]])
    again = task.episodes != episodes
    assert again[[1, 3]].all() and len(set(task.episodes)) == 6
    task.close()


def test_a_goal_is_held_as_long_as_asked():
    task = TurningTask(2, 0, 0.0, 1.0, hold=3, **TASK)
    task.reset()
    task.envs.set_goals(task.observation["achieved_goal"].copy(), np.arange(2))
    task.observation["desired_goal"][:] = task.observation["achieved_goal"]
    for _ in range(3):
        assert not task.outcomes
        task.step(np.zeros((2, 20)))
    assert task.outcomes == [(True, True, False)] * 2
    task.close()
