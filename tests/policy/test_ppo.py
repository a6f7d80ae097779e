"""Training a policy by PPO end to end, at a size that proves the path and not the policy."""

import json
from pathlib import Path

import numpy as np
import pytest

from ebm_traj.core.logs import read_metrics
from ebm_traj.envs.expert import ExpertSettings
from ebm_traj.envs.trained import PolicyNetwork
from ebm_traj.errors import InputError
from ebm_traj.policy.settings import DistillSettings, PolicySettings, PPOSettings

pytest.importorskip("stable_baselines3")

from ebm_traj.policy import run

TINY = PolicySettings(
    method="ppo",
    distill=DistillSettings(
        rounds=2, episodes=2, fit_steps=20, expert=ExpertSettings(samples=3, horizon=3, knots=2)
    ),
    ppo=PPOSettings(
        steps=192,
        fine_steps=64,
        envs=4,
        rollout=16,
        batch=32,
        epochs=1,
        width=16,
        warm_up=1,
        evaluate_every=2,
        evaluation_episodes=2,
    ),
)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TEST_EPISODES", 2)
    monkeypatch.setattr("ebm_traj.policy.distill.STEPS", 12)


def test_from_the_expert_to_a_file_that_acts(tmp_path: Path):
    path = run.train_policy(tmp_path / "run", TINY, num_threads=1)
    network = PolicyNetwork.load(path)
    card = network.card
    assert (card["object"], card["target_rotation"]) == ("block", "z")
    assert card["test"]["episodes"] == 2 and card["settings"]["ppo"]["steps"] == 192
    assert json.loads((tmp_path / "run" / "card.json").read_text()) == card
    assert read_metrics(tmp_path / "run" / "metrics.csv")[-1]["validation_reached"] >= 0
    with np.load(tmp_path / "run" / "labels-01.npz") as labels:
        assert labels["features"].shape == (24, 101) and np.abs(labels["labels"]).max() <= 1


def test_an_interrupted_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ebm_traj.policy import ppo

    class Stopped(Exception):
        pass

    checkpoint = ppo.Keeper.checkpoint

    def stop(self: ppo.Keeper) -> None:
        checkpoint(self)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(ppo.Keeper, "checkpoint", stop)
        with pytest.raises(Stopped):
            run.train_policy(tmp_path / "run", TINY, num_threads=1)
    labels = (tmp_path / "run" / "labels-00.npz").stat().st_mtime_ns
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert 0 < state["steps"] < 256
    run.train_policy(tmp_path / "run", TINY, num_threads=1)
    assert (tmp_path / "run" / "labels-00.npz").stat().st_mtime_ns == labels
    assert json.loads((tmp_path / "run" / "state.json").read_text())["steps"] == 256
    steps = [row["iteration"] for row in read_metrics(tmp_path / "run" / "metrics.csv")]
    assert steps == sorted(steps)


def test_other_settings_do_not_go_on_with_a_run(tmp_path: Path):
    run._claim(tmp_path / "run", TINY)
    with pytest.raises(InputError, match=r"made with seed = 0; asked for now is 1"):
        run._claim(tmp_path / "run", PolicySettings(seed=1, method="ppo", distill=TINY.distill, ppo=TINY.ppo))


def test_impossible_settings_are_named():
    with pytest.raises(InputError, match="envs: 0; needs 1 or more"):
        PPOSettings(envs=0)
    with pytest.raises(InputError, match="discount above 0"):
        PPOSettings(discount=0.0)
