"""Whitened conditions: covariances in closed form, one product for all that is linear, training, files."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ebm_traj
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.statistics import with_training_statistics
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import EBMConfig
from ebm_traj.trajectory.fc import FCConfig, FCModel
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.networks import make_network
from ebm_traj.trajectory.prepared_condition import PreparedCondition
from ebm_traj.trajectory.training import TrainSettings, train
from ebm_traj.trajectory.whitening import Whitening

NETWORK = NetworkConfig(context_frames=3, width=16, depth=1)
BOX = np.ones(2, dtype=np.float32)


def correlated(rows: int = 4000) -> torch.Tensor:
    """Four numbers, of which two are nearly the same and one never changes."""
    drawn = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    nearly = drawn[:, :1] + 0.05 * drawn[:, 1:2]
    return torch.cat([3 * drawn[:, :1], 3 * nearly, drawn[:, 2:], torch.full((rows, 1), 7.0)], dim=1)


def whitenings(model: torch.nn.Module) -> list[Whitening]:
    return [each for each in model.modules() if isinstance(each, Whitening)]


def test_whitened_rows_are_uncorrelated_with_the_variance_that_the_floor_leaves():
    rows, floor = correlated(), 0.1
    whitening = Whitening(4)
    whitening.fit(rows, floor)
    white = whitening(rows)
    variances = torch.linalg.eigvalsh(torch.cov(rows.double().T, correction=0)).clamp_min(0)
    wanted = torch.diag(variances / (variances + floor**2))
    found = torch.cov(white.double().T, correction=0)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(white.mean(0), torch.zeros(4), atol=1e-4, rtol=0)


def test_before_it_is_fitted_whitening_changes_nothing():
    rows = correlated(10)
    assert torch.equal(Whitening(4)(rows), rows)


@pytest.mark.parametrize("rows", [torch.zeros(1, 4), torch.full((9, 4), torch.nan)])
def test_rows_that_tell_no_directions_are_refused(rows):
    with pytest.raises(InputError, match=r"whitening: . rows; needed are 2 and more, and finite"):
        Whitening(4).fit(rows, 0.1)


@pytest.mark.parametrize("floor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_floor_that_is_none_is_refused(floor):
    with pytest.raises(InputError, match=r"whitening: .*it must be above 0, or None"):
        NetworkConfig(whitening=floor)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("architecture", ["mlp", "residual", "temporal"])
def test_without_a_graph_one_product_gives_the_same(architecture, linear):
    torch.manual_seed(0)
    size = dataclasses.replace(NETWORK, architecture=architecture, linear_path=linear)
    network = make_network(size, 4, 0, 5, per_frame=False)
    assert isinstance(network, PreparedCondition)
    if network.linear is not None:
        torch.nn.init.normal_(network.linear.weight)
    rows = correlated()
    network.eval()
    network.fit_whitening(torch.cat([rows, rows[:, :2]], dim=1), 0.1)  # two numbers that others are told
    expected = network(network.encode(rows[:50]))
    with torch.no_grad():
        for _ in range(2):
            found = network(network.encode(rows[:50]))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        network.fit_whitening(rows * torch.tensor([1.0, 2.0, 3.0, 1.0]), 0.1)
        assert not torch.allclose(network(network.encode(rows[:50])), expected, atol=1e-2)


def put_in_place(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """New parameters in place of the old ones, at every module."""
    for name, values in weights.items():
        holder, _, last = name.rpartition(".")
        if last in network.get_submodule(holder)._parameters:
            setattr(network.get_submodule(holder), last, torch.nn.Parameter(values.clone()))


@pytest.mark.parametrize("how", ["copied", "assigned", "replaced"])
@pytest.mark.parametrize("architecture", ["mlp", "residual", "temporal"])
def test_other_weights_give_other_values(architecture, how):
    torch.manual_seed(0)
    size = dataclasses.replace(NETWORK, architecture=architecture)
    network, rows = make_network(size, 4, 0, 5, per_frame=False).eval(), correlated(50)
    assert isinstance(network, PreparedCondition)
    for values in network.parameters():
        torch.nn.init.normal_(values, std=0.3)
    network.fit_whitening(rows, 0.1)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for values in other.parameters():
            values.mul_(0.5)
        before = network(network.encode(rows))  # what is derived from the weights is kept from here on
        if how == "replaced":
            put_in_place(network, other.state_dict())
        else:
            given = {name: values.clone() for name, values in other.state_dict().items()}
            network.load_state_dict(given, assign=how == "assigned")
        found, wanted = network(network.encode(rows)), other(other.encode(rows))
    assert torch.equal(found, wanted) and not torch.allclose(found, before, atol=1e-2)


def test_an_energy_on_a_whitened_condition_has_the_gradient_of_autograd():
    torch.manual_seed(0)
    network = make_network(dataclasses.replace(NETWORK, linear_path=False), 4, 3, 1, per_frame=False)
    network = network.double().eval()
    assert isinstance(network, PreparedCondition)
    rows = correlated().double()
    network.fit_whitening(rows, 0.1)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    value = network(network.encode(rows[:6]), x)[:, 0]
    (expected,) = torch.autograd.grad(value.sum(), x)
    with torch.no_grad():
        found, gradient = network.input_gradient(network.encode(rows[:6]))(x.detach(), True)
    torch.testing.assert_close(found, value.detach())
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("kind", "conditioning", "count"),
    [("fc", "states", 1), ("fc", "actions", 1), ("ebm", "joint", 4), ("flow", "joint", 1)],
)
def test_training_whitens_all_that_networks_are_told(toy: Recording, tmp_path, kind, conditioning, count):
    config = {"fc": FCConfig, "ebm": EBMConfig, "flow": None}[kind]
    if config is None:
        from ebm_traj.trajectory.flow import FlowConfig as config
    settings = TrainSettings(
        trainer=TrainerConfig(iterations=2), inverse_iterations=0, conditioning=conditioning
    )
    made = [train(toy, kind, config(network=NETWORK), settings, tmp_path / name) for name in ("a", "b")]
    one, other = map(whitenings, made)
    assert len(one) == count
    for a, b, c in zip(one, other, whitenings(ebm_traj.load(tmp_path / "a")), strict=True):
        assert not torch.equal(a.matrix, torch.eye(a.size))
        assert torch.equal(a.matrix, b.matrix) and torch.equal(a.matrix, c.matrix)


def test_going_on_with_other_data_keeps_the_whitening(toy: Recording, tmp_path: Path):
    settings = TrainSettings(trainer=TrainerConfig(iterations=2), inverse_iterations=0)
    first = train(toy, "fc", FCConfig(network=NETWORK), settings, tmp_path / "first")
    again = dataclasses.replace(settings, trainer=TrainerConfig(iterations=2, seed=5))
    on = train(toy, "fc", FCConfig(network=NETWORK), again, tmp_path / "on", start_from=first)
    assert torch.equal(whitenings(on)[0].matrix, whitenings(first)[0].matrix)


def test_a_model_of_before_is_loaded_without_it(toy: Recording, tmp_path: Path):
    plain = dataclasses.replace(NETWORK, whitening=None)
    model = FCModel(FCConfig(plain), with_training_statistics(toy), -BOX, BOX)
    assert not whitenings(model)
    model.save(tmp_path)
    file = tmp_path / "model.json"
    saved = json.loads(file.read_text())
    del saved["config"]["network"]["whitening"]
    file.write_text(json.dumps(saved | {"version": 3}))
    assert not whitenings(ebm_traj.load(tmp_path))
