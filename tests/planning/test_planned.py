"""Collecting with a planner: it acts, is recorded with its model, and says what it cannot do."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from ebm_traj.collect import CollectSettings, collect
from ebm_traj.datasets import Recording
from ebm_traj.errors import InputError
from ebm_traj.planning.planned import PlannedSettings
from ebm_traj.trajectory.files import load, weights_digest

SMALL = PlannedSettings(model="hand-block-fast", futures=4, horizon=2, rounds=1)
TASK = CollectSettings(
    env_kwargs={"target_rotation": "z", "target_position": "ignore"},
    episodes=3,
    steps=4,
    policy="planner",
    policy_settings=SMALL,
    test_fraction=0.0,
    validation_fraction=0.0,
)


def shards(folder: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("shard-*.h5"))]


def test_a_planner_collects_the_same_bytes_twice_and_is_named_with_its_model(tmp_path: Path) -> None:
    for name in ("one", "two"):
        collect(tmp_path / name, TASK, progress=False)
    assert shards(tmp_path / "one") == shards(tmp_path / "two")
    policy = Recording(tmp_path / "one").manifest.policy
    assert policy["name"] == "planner" and policy["settings"]["model"] == "hand-block-fast"
    assert policy["sha256"] == weights_digest(load("hand-block-fast"))
    assert policy["goal_conditioned"] and not policy["markov"]
    together = dataclasses.replace(SMALL, prior="hand-block-small")
    collect(tmp_path / "three", dataclasses.replace(TASK, policy_settings=together), progress=False)
    assert Recording(tmp_path / "three").manifest.policy["sha256"] != policy["sha256"]
    averaged = dataclasses.replace(SMALL, average=True)  # acts otherwise, from the same draws
    collect(tmp_path / "four", dataclasses.replace(TASK, policy_settings=averaged), progress=False)
    plain, mean = (Recording(tmp_path / name).load("train").actions for name in ("one", "four"))
    assert plain.shape == mean.shape and not np.array_equal(plain, mean, equal_nan=True)
    downhill = dataclasses.replace(together, descent_steps=4, descent_rate=0.02, descent_energy_weight=0.0)
    collect(tmp_path / "five", dataclasses.replace(TASK, policy_settings=downhill), progress=False)
    sampled, descended = (Recording(tmp_path / name).load("train").actions for name in ("three", "five"))
    assert not np.array_equal(sampled, descended, equal_nan=True)


@pytest.mark.parametrize(
    ("settings", "env", "message"),
    [
        (PlannedSettings(), "ebm_traj/HandBlock-v0", "give --planner.model"),
        (PlannedSettings(model="nowhere"), "ebm_traj/HandBlock-v0", "nowhere: no such folder"),
        (PlannedSettings(model="hand-block-states"), "ebm_traj/HandBlock-v0", "predicts without actions"),
        (
            PlannedSettings(model="hand-block-dynamics", descent_steps=1),
            "ebm_traj/HandBlock-v0",
            "needs a joint model with an energy",
        ),
        (SMALL, "Reacher-v5", "20 actions of another box than the 2 of Reacher-v5"),
    ],
)
def test_what_it_cannot_do(settings: PlannedSettings, env: str, message: str, tmp_path: Path) -> None:
    asked = CollectSettings(env=env, episodes=2, steps=3, policy="planner", policy_settings=settings)
    with pytest.raises(InputError, match=message):
        collect(tmp_path / "data", asked, progress=False)
    assert not list(tmp_path.glob("data/shard-*"))
