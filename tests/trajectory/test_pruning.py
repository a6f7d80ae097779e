"""Pruning: what is never drawn goes, and nothing else changes."""

import dataclasses

import numpy as np
import pytest
import torch

from ebm_traj.datasets.statistics import with_training_statistics
from ebm_traj.errors import InputError
from ebm_traj.trajectory import pretrained
from ebm_traj.trajectory.ebm import EBMConfig, TrajectoryEBM
from ebm_traj.trajectory.ensemble import EnergyEnsemble
from ebm_traj.trajectory.fc import FCConfig, FCModel
from ebm_traj.trajectory.files import load
from ebm_traj.trajectory.joint import ACTIONS
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.pruning import pruned

NETWORK = NetworkConfig(context_frames=2, width=8, depth=2)
BOX = np.ones(2, np.float32)


def build(toy, conditioning, live, **changes):
    """An untrained model whose mixtures have all their weight in the components `live`."""
    torch.manual_seed(0)
    config = EBMConfig(NETWORK, components=5, **changes)
    model = TrajectoryEBM(config, with_training_statistics(toy), -BOX, BOX, conditioning).eval()
    for name, values in model.named_parameters():
        if name.startswith("proposal.") and name.endswith("out.1.bias"):
            torch.nn.init.normal_(values.data, std=0.3)
            values.data[:5] = -60.0
            values.data[list(live)] = 0.0
        elif name.startswith("proposal.") and name.endswith("linear.weight"):
            torch.nn.init.normal_(values.data, std=0.1)
    return model


def told(model, rows=200):
    context = torch.tensor([0.5, -0.5, 1.0, 0, 0, 0, 0.3]).repeat(rows, 2, 1)
    past = torch.zeros(rows, 1, 2) if model.action_history else None
    return model.condition(context, None, past)


@pytest.mark.parametrize("uniform_actions", [True, False])
@pytest.mark.parametrize("conditioning", ["states", "joint"])
@pytest.mark.parametrize("live", [(1, 3), (4,), (0, 1, 2, 3, 4)])
def test_densities_and_draws_stay(toy, live, conditioning, uniform_actions):
    model = build(toy, conditioning, live, uniform_actions=uniform_actions)
    small = pruned(model, toy)
    assert small.config.components == len(live)
    known = told(model)
    drawn = [each.proposal.sample(known, torch.Generator().manual_seed(0)) for each in (model, small)]
    assert drawn[0].shape == drawn[1].shape
    if conditioning == "states":
        assert small.config.state_components is None
        pairs = [(model.proposal, small.proposal, drawn[0], known)]
    else:
        assert small.config.state_components == len(live)
        actions, states, after = model.proposal.parts.split(drawn[0], known)
        assert ACTIONS in after
        pairs = [
            (model.proposal.actions, small.proposal.actions, actions, known),
            (model.proposal.states, small.proposal.states, states, after),
        ]
    for before, now, x, condition in pairs:
        assert torch.allclose(now.log_prob(x, condition), before.log_prob(x, condition), atol=1e-4)
        mean, scale = before.mean_and_scale(condition)
        assert torch.allclose(now.mean_and_scale(condition)[0], mean, atol=1e-5)
        assert torch.allclose(now.mean_and_scale(condition)[1], scale, atol=1e-5)
    fewer = [sum(values.numel() for values in each.parameters()) for each in (small, model)]
    assert fewer[0] < fewer[1] if len(live) < 5 else fewer[0] == fewer[1]


def test_a_pruned_model_is_saved_and_loaded(toy, tmp_path):
    small = pruned(build(toy, "joint", (2,)), toy)
    small.save(tmp_path / "small")
    back = load(tmp_path / "small")
    assert back.config.components == back.config.state_components == 1
    known = told(small)
    x = small.proposal.sample(known)
    assert torch.equal(back.proposal.log_prob(x, known), small.proposal.log_prob(x, known))


def test_the_command_ships_a_pruned_model(toy, toy_folder, tmp_path, monkeypatch, call_script):
    monkeypatch.setattr(pretrained, "ROOT", tmp_path / "pretrained")
    model = build(toy, "joint", (0, 3))
    model.card = {"env_id": toy.env_id}
    model.save(tmp_path / "run")
    ship = ["--run", str(tmp_path / "run"), "--name", "toy", "--prune"]
    call_script("ship_model", *ship, str(toy_folder))
    shipped = load(tmp_path / "pretrained" / "toy")
    assert shipped.config.components == shipped.config.state_components == 2
    assert "import ebm_traj" in (tmp_path / "pretrained" / "toy" / "README.md").read_text()
    with pytest.raises(SystemExit):
        call_script("ship_model", *ship, str(tmp_path / "nothing"))


def test_what_cannot_be_pruned_is_named(toy):
    spec = with_training_statistics(toy)
    with pytest.raises(InputError, match="this fc model does not start its chains from a mixture"):
        pruned(FCModel(FCConfig(NETWORK, 8), spec, -BOX, BOX), toy)
    gaussian = EBMConfig(NETWORK, proposal="gaussian")
    with pytest.raises(InputError, match="does not start its chains from a mixture"):
        pruned(TrajectoryEBM(gaussian, spec, -BOX, BOX), toy)
    with pytest.raises(InputError, match="this ensemble model does not start its chains from a mixture"):
        pruned(EnergyEnsemble([build(toy, "joint", (1,)), build(toy, "joint", (2,))]), toy)
    with pytest.raises(InputError, match="state components: 0"):
        dataclasses.replace(gaussian, state_components=0)
    other = TrajectoryEBM(EBMConfig(NETWORK), spec, -2 * BOX, BOX)
    with pytest.raises(InputError, match="its action box is not that of the model"):
        pruned(other, toy)
