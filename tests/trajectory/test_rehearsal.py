"""Learning on: what is rehearsed, what a model dreams, and that training goes on from the given weights."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.datasets.recording import Recording
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.fc import FCConfig
from ebm_traj.trajectory.files import load
from ebm_traj.trajectory.gaussian import GaussianConfig
from ebm_traj.trajectory.learning_on import LearningOnConfig, ratio, study
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.rehearsal import (
    MixedWindows,
    Rehearsal,
    dream,
    earlier_windows,
    kept_episodes,
    require_same_kind,
    require_same_spaces,
)
from ebm_traj.trajectory.training import TrainSettings, train

FC = FCConfig(network=NetworkConfig(context_frames=2, width=8, depth=1), batch_size=32)
FEW = TrainerConfig(iterations=20, log_every=10, checkpoint_every=10, validate_every=0)
SETTINGS = TrainSettings(trainer=FEW, inverse_iterations=0)


class Numbered:
    """Windows that are all one number."""

    def __init__(self, number):
        self.number = number

    def draw(self, count, iteration, generator):
        return torch.full((count, 2, 3), self.number), torch.full((count, 2, 1), self.number)


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    acting = dataclasses.replace(SETTINGS, inverse_iterations=2)
    return train(toy, "fc", FC, acting, tmp_path_factory.mktemp("trained") / "fc")


def test_a_batch_has_its_share_of_every_source():
    mixed = MixedWindows(Numbered(0.0), [Numbered(1.0), Numbered(2.0)], 0.5)
    states, actions = mixed.draw(11, 0, torch.Generator())
    rows = states[:, 0, 0]
    assert len(rows) == 11 and torch.equal(rows, actions[:, 0, 0])
    counts = [int((rows == number).sum()) for number in range(3)]
    assert counts[0] == 11 - round(5.5) and abs(counts[1] - counts[2]) <= 1
    # objectives that take the first rows alone are given all sources, too
    first = mixed.draw(3000, 0, torch.Generator().manual_seed(0))[0][:900, 0, 0]
    assert abs(float((first == 0).float().mean()) - 0.5) < 0.06
    again = mixed.draw(3000, 0, torch.Generator().manual_seed(0))[0][:900, 0, 0]
    assert torch.equal(first, again)


def test_the_same_episodes_are_kept_each_time_and_they_are_training_episodes(toy):
    kept = kept_episodes(toy, 3, seed=1)
    again = kept_episodes(toy, 3, seed=1)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(kept, again, strict=True))
    train_rows = toy.episode_rows("train")
    starts = {tuple(toy.read_windows(toy.offsets[row : row + 1], 1)[0][0, 0]) for row in train_rows}
    assert all(tuple(states[0]) in starts for states, _ in kept)
    with pytest.raises(InputError, match="training episodes; asked for 100000"):
        kept_episodes(toy, 100_000, seed=1)


def test_dreams_go_on_from_recorded_contexts_by_the_models_own_samples(toy, trained):
    episodes = kept_episodes(toy, 2, seed=0)
    states, actions = dream(trained, episodes, 5, seed=0)
    assert states.shape[1] == 2 + 5 and actions.shape[:2] == states.shape[:2]
    assert np.isnan(actions[:, -1]).all() and np.isfinite(actions[:, :-1]).all()
    assert np.array_equal(states[0, :2], episodes[0][0][:2])
    expected = trained.sample(torch.from_numpy(states[:1, :2]), 5, 1)[0, 0]  # the FC net is deterministic
    assert np.allclose(states[0, 2:], expected.numpy(), atol=1e-5)
    drawn, _ = earlier_windows(
        toy, trained, Rehearsal(episodes=2, dreams=True, dream_steps=4), 3, torch.device("cpu"), 0
    ).draw(6, 0, torch.Generator().manual_seed(0))
    assert drawn.shape == (6, 3, toy.spec.size)


def test_dreams_of_a_model_that_cannot_act_hold_no_actions(toy, tmp_path):
    idle = train(toy, "fc", FC, SETTINGS, tmp_path / "idle")
    dreams, out = Rehearsal(episodes=2, dreams=True), tmp_path / "on"
    _, actions = dream(idle, kept_episodes(toy, 2, seed=0), 5, seed=0)
    assert np.isfinite(actions[:, :1]).all() and np.isnan(actions[:, 1:]).all()  # those of the context
    acting = dataclasses.replace(SETTINGS, inverse_iterations=2)
    with pytest.raises(InputError, match="inverse iterations: 2; the model to go on from has none"):
        train(toy, "fc", FC, acting, out, start_from=idle, earlier=[toy], rehearsal=dreams)
    assert not out.exists()
    on = train(toy, "fc", FC, SETTINGS, out, start_from=idle, earlier=[toy], rehearsal=dreams)
    assert all(torch.isfinite(values).all() for values in on.parameters())


def test_training_goes_on_from_the_weights_given(toy, trained, tmp_path):
    still = dataclasses.replace(SETTINGS, trainer=dataclasses.replace(FEW, iterations=1, learning_rate=1e-12))
    same = train(toy, "fc", FC, still, tmp_path / "same", start_from=trained)
    for ours, theirs in zip(same.parameters(), trained.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-8)
    beside = train(toy, "fc", FC, SETTINGS, tmp_path / "beside", start_from=trained, earlier=[toy])
    assert beside.card["rehearsed"] == [toy.env_id]
    assert same.card["inverse_iterations"] == 2  # these weights are taken over as well
    place = torch.randn(3, 2, toy.spec.size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(same.act(place, place[:, -1]), trained.act(place, place[:, -1]))
    identity = json.loads((tmp_path / "beside" / "settings.json").read_text())
    assert identity["rehearsal"]["share"] == 0.5 and len(identity["start_from"]) == 64


def test_what_does_not_fit_is_refused_before_anything_is_written(toy, trained, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="kind: gaussian; the model to go on from has fc"):
        train(toy, "gaussian", GaussianConfig(network=FC.network), SETTINGS, out, start_from=trained)
    wide = dataclasses.replace(FC, network=dataclasses.replace(FC.network, width=16))
    with pytest.raises(InputError, match=r"networks are others \(width 8, here 16\)"):
        train(toy, "fc", wide, SETTINGS, out, start_from=trained)
    with pytest.raises(InputError, match="use given: True; the model to go on from has False"):
        other = dataclasses.replace(SETTINGS, use_given=True)
        train(toy, "fc", FC, other, out, start_from=trained)
    with pytest.raises(InputError, match="rehearsal: dreams, but no model to start from"):
        train(toy, "fc", FC, SETTINGS, out, earlier=[toy], rehearsal=Rehearsal(dreams=True))
    with pytest.raises(InputError, match="conditioning"):
        require_same_kind(trained, "fc", "joint")
    with pytest.raises(InputError, match="rehearsal share: 1"):
        Rehearsal(share=1)
    for settings, message in (
        ({"inverse_iterations": -3}, "inverse iterations: -3"),
        ({"budget_gb": -1}, "budget gb: -1"),
        ({"conditioning": "action"}, "conditioning: 'action'; accepted are states, actions, joint"),
    ):
        with pytest.raises(InputError, match=message):
            TrainSettings(**settings)
    assert not out.exists()


def test_earlier_data_of_other_states_or_actions_are_refused_without_a_model_too(toy):
    def past(**other):
        same = {"spec": toy.spec, "action_low": toy.action_low, "action_high": toy.action_high}
        return SimpleNamespace(folder="past", **(same | other))

    require_same_spaces(toy, [toy, past()])
    with pytest.raises(InputError, match=r"past: not the states of .*: 7 dimensions against 3"):
        require_same_spaces(toy, [toy, past(spec=StateSpec.from_size(3))])
    with pytest.raises(InputError, match="past: its action box is not that of"):
        require_same_spaces(toy, [past(action_low=toy.action_low - 1)])


def test_a_study_scores_every_stage_and_goes_on_where_it_was(toy, toy_folder, tmp_path):
    other = Path(shutil.copytree(toy_folder, tmp_path / "other"))
    config = LearningOnConfig(kept=2, contexts=8, horizon=3)
    sets = [toy, Recording(other)]
    found = study(sets, "fc", FC, SETTINGS, config, tmp_path / "study", ("fine-tuning", "kept episodes"))
    assert [len(rows) for rows in found["methods"].values()] == [2, 2]
    assert found["methods"]["fine-tuning"][0][0]["value"] == 1  # the first stage is the model alone
    before = (tmp_path / "study/runs/fine-tuning 1 other/model.safetensors").stat().st_mtime_ns
    assert found == study(
        sets, "fc", FC, SETTINGS, config, tmp_path / "study", ("fine-tuning", "kept episodes")
    )
    assert (tmp_path / "study/runs/fine-tuning 1 other/model.safetensors").stat().st_mtime_ns == before
    assert load(tmp_path / "study/runs/alone other").kind == "fc"
    with pytest.raises(InputError, match="two or more"):
        study([toy], "fc", FC, SETTINGS, config, tmp_path / "one")


def test_a_ratio_has_an_interval_around_it():
    scores = np.random.default_rng(0).uniform(1, 2, 200)
    same = ratio(scores, scores)
    assert same["value"] == same["low"] == same["high"] == 1
    noisy = ratio(scores * np.random.default_rng(1).uniform(0.5, 2.5, 200), scores)
    assert noisy["low"] < noisy["value"] < noisy["high"]
