"""Several policies on the same episodes: blocks add up, differences are paired, compute is told apart."""

import time
from typing import Any

import numpy as np
import pytest

from ebm_traj.errors import InputError
from ebm_traj.policy.contest import contest, opponent, table
from ebm_traj.policy.evaluate import evaluate

ENV, TASK = "ebm_traj/HandBlock-v0", {"target_rotation": "fixed", "target_position": "ignore"}


class Still:
    """Keeps the hand as it is, after a while."""

    goal_conditioned = needs_simulator = False
    markov = True

    def __init__(self, seconds: float = 0.0, bend: float = 0.0) -> None:
        self.seconds, self.bend = seconds, bend

    def reset(self, seeds: Any, steps: Any = 0) -> None:
        self.rows = len(seeds)

    def act(self, observations: Any, previous_actions: Any, simulator_states: Any = None) -> np.ndarray:
        time.sleep(self.seconds)
        return np.full((self.rows, 20), self.bend, np.float32)


def test_blocks_are_the_episodes_of_one_evaluation():
    task = {"target_rotation": "z", "target_position": "ignore"}
    told: dict[str, Any] = {"episodes": 5, "seed": 3, "steps": 4, "progress": False}
    whole = evaluate(Still(), ENV, task, **told)
    (entry,) = contest({"still": Still()}, ENV, task, block=2, **told)
    np.testing.assert_array_equal(entry.found.rotation, whole.rotation)
    np.testing.assert_array_equal(entry.found.reached, whole.reached)
    assert entry.found.steps == whole.steps == 20


def test_who_holds_the_goal_is_ahead_by_all_and_who_thinks_longer_takes_more():
    policies = {"still": Still(0.002), "bent": Still(0.02, bend=1.0), "twin": Still(0.002)}
    first, bent, twin = contest(policies, ENV, TASK, episodes=6, seed=0, steps=30, block=3, progress=False)
    told = bent.beside(first)
    assert first.found.held.all() and not bent.found.held.any()
    assert told["first_less_this"]["held"] == [1, 1, 1]
    assert told["compute_of_first"] < 0.5
    assert twin.beside(first)["first_less_this"] == {"reached": [0, 0, 0], "held": [0, 0, 0]}
    drawn = table([first, bent, twin])
    assert "| 0 % (0 to 39) |" in drawn and "+100 (+100 to +100) |" in drawn
    assert drawn.splitlines()[2].endswith("|  |  |")  # the first has no difference to itself


@pytest.mark.parametrize("name", ["expert", "trained", "random"])
def test_the_package_s_policies_take_part(name: str):
    task = {"target_rotation": "z", "target_position": "ignore"}
    policy = opponent(name, ENV, task, num_threads=1)
    (entry,) = contest({name: policy}, ENV, task, episodes=1, seed=0, steps=2, progress=False)
    assert entry.found.steps == 2 and entry.milliseconds > 0


def test_an_empty_block_is_refused():
    with pytest.raises(InputError, match="block: 0; needs 1 or more"):
        contest({"still": Still()}, ENV, TASK, episodes=2, seed=0, block=0)
