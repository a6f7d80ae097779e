"""Judging a policy: shares with their limits, success counted as the environment says."""

from typing import Any

import numpy as np
import pytest

from ebm_traj.errors import InputError
from ebm_traj.intervals import bootstrap
from ebm_traj.policy.evaluate import evaluate, share

ENV = "ebm_traj/HandBlock-v0"


class Still:
    """Keeps the hand as it is."""

    goal_conditioned = needs_simulator = False
    markov = True

    def reset(self, seeds: Any, steps: Any = 0) -> None:
        self.rows = len(seeds)

    def act(self, observations: Any, previous_actions: Any, simulator_states: Any = None) -> np.ndarray:
        assert simulator_states is None or simulator_states.shape[0] == self.rows
        return np.zeros((self.rows, 20), np.float32)


def test_paired_samples_are_of_one_length():
    with pytest.raises(InputError, match=r"paired samples of \[3, 5\] values"):
        bootstrap(lambda a, b: float(a.mean() - b.mean()), [1, 2, 3], [1, 2, 3, 4, 5], paired=True)


def test_limits_are_wilson_s():
    np.testing.assert_allclose(share(np.arange(100) < 85), [0.85, 0.76717, 0.90694], atol=1e-4)
    np.testing.assert_allclose(share(np.zeros(10, dtype=bool)), [0, 0, 0.27753], atol=1e-4)
    np.testing.assert_allclose(share(np.ones(10, dtype=bool)), [1, 0.72247, 1], atol=1e-4)


def test_a_goal_that_is_the_start_is_reached_and_held():
    task = {"target_rotation": "fixed", "target_position": "ignore"}
    found = evaluate(Still(), ENV, task, episodes=3, seed=0, steps=4, progress=False)
    assert found.reached.all() and found.held.all() and not found.dropped.any()
    assert found.steps == 12 and np.all(found.rotation < 0.1)


def test_standing_still_meets_goals_at_random_only_and_the_simulator_is_given_when_wanted():
    class Watching(Still):
        needs_simulator = True

        def act(self, observations: Any, previous_actions: Any, simulator_states: Any = None) -> np.ndarray:
            assert simulator_states is not None
            return super().act(observations, previous_actions, simulator_states)

    task = {"target_rotation": "z", "target_position": "ignore"}
    found = evaluate(Watching(), ENV, task, episodes=12, seed=0, steps=3, progress=False)
    summary = found.summary()
    assert summary["reached"][0] < 0.3 and summary["rotation_mean"] > 0.8
    assert summary["episodes"] == 12 and summary["actions_per_second"] > 0


@pytest.mark.parametrize("name", ["episodes", "steps"])
def test_less_than_one_is_refused(name: str):
    with pytest.raises(InputError, match=f"{name}: 0; needs 1 or more"):
        evaluate(Still(), ENV, {}, **({"episodes": 1, "seed": 0, "steps": 1} | {name: 0}))
