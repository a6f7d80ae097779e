"""TD3 with demonstrations: the learner against problems solved by hand, and a tiny training end to end."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_traj.core.logs import read_metrics
from ebm_traj.envs.expert import ExpertSettings
from ebm_traj.envs.trained import PolicyNetwork
from ebm_traj.errors import InputError, RunError
from ebm_traj.policy import run, td3
from ebm_traj.policy.replay import Batch
from ebm_traj.policy.settings import DemoSettings, PolicySettings, TD3Settings

SMALL = TD3Settings(width=32, batch=256, learning_rate=2e-3)
TINY = PolicySettings(
    demos=DemoSettings(rounds=2, envs=2, steps=12, expert=ExpertSettings(samples=3, horizon=3, knots=2)),
    td3=TD3Settings(
        steps=160,
        envs=4,
        memory=400,
        warm_up=10,
        batch=32,
        width=16,
        evaluate_every=20,
        evaluation_episodes=2,
    ),
)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TEST_EPISODES", 2)


def batch_of(
    features: torch.Tensor, change: torch.Tensor, reward: torch.Tensor, *, room: float = 9.0
) -> Batch:
    """Steps after which the object is dropped, so that a value is the reward."""
    rows = len(features)
    wide = (torch.full((rows, 20), -room), torch.full((rows, 20), room))
    ones = torch.ones(rows)
    return Batch(features, features, change, wide, wide, reward, 0 * ones, ones, ones)


def wanted(features: torch.Tensor) -> torch.Tensor:
    """The best change, known in closed form."""
    return 0.6 * torch.tanh(torch.cat([features, features.flip(1), features, features.flip(1)], 1))


def test_it_finds_the_best_action_of_a_problem_of_one_step():
    torch.manual_seed(0)
    learner = td3.Learner(5, SMALL, 0)
    for _ in range(1500):
        features = torch.randn(256, 5)
        change = 2 * torch.rand(256, 20) - 1
        reward = 5 - 3 * (change - wanted(features)).square().mean(1) / td3.REWARD_SCALE
        learner.update(batch_of(features, change, reward), torch.zeros(256))
    features = torch.randn(500, 5)
    found = torch.from_numpy(learner.act(features.numpy()))
    error = (found - wanted(features)).square().mean()
    assert error < 0.35 * wanted(features).square().mean()
    seen = torch.cat([features, wanted(features)], 1)
    values = torch.stack([value(seen)[:, 0] for value in learner.values])
    torch.testing.assert_close(values.mean(), torch.tensor(5 * td3.REWARD_SCALE), atol=0.1, rtol=0)


def test_values_are_of_rewards_to_come_and_nothing_follows_a_drop():
    learner = td3.Learner(3, dataclasses.replace(SMALL, average=0.1), 0)
    torch.manual_seed(0)
    for _ in range(800):
        features = torch.randn(256, 3)
        ended = (torch.rand(256) < 0.5).float()
        # What is dropped can be told by the first feature; the others go on for ever at a reward of 1.
        features[:, 0] = ended
        batch = batch_of(features, 2 * torch.rand(256, 20) - 1, 1 - 3 * ended)
        batch = dataclasses.replace(batch, discount=0.8 * (1 - ended))
        learner.update(batch, torch.zeros(256))
    with torch.no_grad():
        seen = torch.cat([features, batch.change], 1)
        value = learner.values[0](seen)[:, 0]
    assert abs(value[ended > 0].mean() + 2 * td3.REWARD_SCALE) < 0.1
    assert abs(value[ended == 0].mean() - td3.REWARD_SCALE / (1 - 0.8)) < 0.1


@pytest.mark.parametrize("good", [True, False])
def test_the_expert_is_followed_where_its_actions_are_valued_above(good: bool):
    settings = dataclasses.replace(SMALL, imitation=20.0)
    torch.manual_seed(0)
    learner = td3.Learner(5, settings, 0)
    sign = 1.0 if good else -1.0
    with torch.no_grad():  # what values there are: sign times the change, of any part
        for value in learner.values:
            value.forward = lambda seen: sign * seen[:, 5:].sum(1, keepdim=True)  # type: ignore[method-assign]
    learner.actor_optimizer.param_groups[0]["lr"] = 0.0
    features, change = torch.randn(256, 5), torch.full((256, 20), 0.9)
    batch = batch_of(features, change, torch.zeros(256))
    _, figures = learner._actor_loss(batch, torch.ones(256))
    assert figures["expert_better"] == float(good)
    _, figures = learner._actor_loss(batch, torch.zeros(256))
    assert "expert_better" not in figures
    other_goal = dataclasses.replace(batch, asked=torch.zeros(256))
    assert "expert_better" not in learner._actor_loss(other_goal, torch.ones(256))[1]


def test_a_state_goes_on_where_it_was():
    first, second = td3.Learner(5, SMALL, 0), td3.Learner(5, SMALL, 1)
    torch.manual_seed(0)
    batches = [batch_of(torch.randn(64, 5), torch.rand(64, 20), torch.randn(64)) for _ in range(6)]
    for batch in batches[:3]:
        first.update(batch, torch.zeros(64))
    second.load(copy.deepcopy(first.state()))
    for batch in batches[3:]:
        assert first.update(batch, torch.zeros(64)) == second.update(batch, torch.zeros(64))
    networks = first.networks({})
    features = np.random.default_rng(0).normal(size=(4, 5))
    np.testing.assert_array_equal(networks["last"](features), second.networks({})["last"](features))
    assert (networks["last"](features) != networks["smooth"](features)).all()


def test_from_the_expert_to_a_file_that_acts(tmp_path: Path):
    path = run.train_policy(tmp_path / "run", TINY, num_threads=1)
    card = PolicyNetwork.load(path).card
    assert (card["features"], card["squash"], card["change"]) == ("cube", "tanh", 0.6)
    assert card["test"]["episodes"] == 2 and card["settings"]["td3"]["steps"] == 160
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [row["iteration"] for row in rows if "last_held" in row] == [20, 40]
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    again = run.train_policy(tmp_path / "again", TINY, num_threads=1)
    features = np.random.default_rng(0).normal(size=(3, 108))
    np.testing.assert_array_equal(PolicyNetwork.load(again)(features), PolicyNetwork.load(path)(features))


def test_an_interrupted_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Stopped(Exception):
        pass

    judged = td3.evaluate

    def stop(*args: object) -> float:
        if args[4] == 40:
            raise Stopped
        return judged(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(td3, "evaluate", stop)
        with pytest.raises(Stopped):
            run.train_policy(tmp_path / "run", TINY, num_threads=1)
    shown = (tmp_path / "run" / "demos-01.npz").stat().st_mtime_ns
    run.train_policy(tmp_path / "run", TINY, num_threads=1)
    assert (tmp_path / "run" / "demos-01.npz").stat().st_mtime_ns == shown
    assert torch.load(tmp_path / "run" / "td3.pt", weights_only=False)["iteration"] == 40


def test_a_damaged_recording_is_named(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "demos-00.npz").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"demos-00.npz: damaged"):
        run.train_policy(tmp_path / "run", TINY, num_threads=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "td3 batch: 0; needs 1 or more"),
        ({"demo_share": 1.0}, "td3 demo share: 1.0; accepted: from 0 to below 1"),
        ({"earlier": 0.6, "elsewhere": 0.6}, "together at most 1"),
        ({"ahead": 0}, "td3 ahead: 0; needs 1 or more"),
        ({"discount": 1.0}, "discount must be above 0 and below 1"),
        ({"warm_up": 1}, "2 steps or more"),
        ({"noise": ()}, "needs one number or more"),
    ],
)
def test_impossible_settings_are_named(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        TD3Settings(**settings)


def test_what_is_no_task_is_refused_before_a_folder_is_made():
    with pytest.raises(InputError, match="object is 'cube'; accepted: block, egg, pen"):
        PolicySettings(object="cube")


def test_a_run_begins_with_the_networks_of_another(tmp_path: Path):
    other = tmp_path / "td3.pt"
    learner = td3.Learner(108, TINY.td3, 5)
    torch.save({"learner": learner.state()}, other)
    begun = td3.begun(dataclasses.replace(TINY, target_rotation="xyz", start=str(other)), seed=0)
    features = np.random.default_rng(0).normal(size=(3, 108)).astype(np.float32)
    np.testing.assert_array_equal(begun.act(features), learner.act(features))
    assert begun.updates == 0
    assert (begun.act(features) != td3.begun(TINY, seed=0).act(features)).any()


@pytest.mark.parametrize("content", [None, "wider", b"nothing"])
def test_a_start_that_does_not_fit_is_refused_before_any_work(tmp_path: Path, content: str | bytes | None):
    other = tmp_path / "td3.pt"
    if content == "wider":
        torch.save({"learner": td3.Learner(108, dataclasses.replace(TINY.td3, width=8), 0).state()}, other)
    elif isinstance(content, bytes):
        other.write_bytes(content)
    with pytest.raises(
        InputError, match=r"start: .*td3.pt does not hold networks of 108 features and width 16"
    ):
        run.train_policy(tmp_path / "run", dataclasses.replace(TINY, start=str(other)))
    assert not (tmp_path / "run").exists()
