"""The conditional RBM as a trajectory model: its density by enumeration, what it learns, its files."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ebm_traj.core.ema import EMA
from ebm_traj.core.objectives import Batch
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.files import load
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.rbm import RBMConfig, RBMModel

NETWORK = NetworkConfig(context_frames=1, width=24, depth=1)


def spec_of(dims):
    scales = {"mean": np.zeros(dims), "std": np.ones(dims), "change_std": np.ones(dims)}
    return dataclasses.replace(StateSpec.from_size(dims), **scales)


def make(dims=1, conditioning="states", network=NETWORK, **settings):
    torch.manual_seed(0)
    config = RBMConfig(network, **{"hidden": 4, **settings})
    return RBMModel(config, spec_of(dims), -np.ones(1), np.ones(1), conditioning)


def fit(model, draw, iterations=400, rate=1e-2):
    objective = model.objective()
    ema = EMA(objective, 0.98)
    optimizer = torch.optim.Adam(objective.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(0)
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = rate * (1 - 0.95 * iteration / iterations)
        c = torch.rand(objective.new_rows, model.condition_size, generator=generator) * 2 - 1
        loss, _ = objective(Batch(draw(c, generator), {"context": c}), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(objective)
    objective.load_state_dict(ema.module.state_dict())
    model.eval()


def drawn_at(model, c, rows=4000):
    condition = {"context": torch.tensor(c).expand(rows, -1)}
    with torch.no_grad():
        return model._sample_window(condition, torch.Generator().manual_seed(5))


def randomised(dims=2):
    model = make(dims).double()
    with torch.no_grad():
        for parameter in model.rbm.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def test_free_energy_is_the_sum_over_hidden_states():
    rbm = randomised().rbm
    x = torch.randn(5, 2, dtype=torch.float64)
    condition = {"context": torch.randn(5, 2, dtype=torch.float64)}
    mean, logits = rbm.biases(condition)
    r = (x - mean) / rbm.log_scale.exp()
    joint = [
        0.5 * r.square().sum(-1) - logits @ h - (r @ rbm.weights) @ (h - 0.5)
        for h in torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    ]
    assert torch.allclose(rbm(x, condition), -(-torch.stack(joint)).logsumexp(0), atol=1e-12)


def test_gibbs_samples_have_the_density_of_the_free_energy():
    model = randomised(1)
    condition = {"context": torch.full((1, 1), 0.3, dtype=torch.float64)}
    grid = torch.linspace(-40, 40, 40_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        energy = model._window_energy(grid, {"context": condition["context"].expand(len(grid), -1)})
    density = (-energy).softmax(0)
    mean = float(density @ grid[:, 0])
    std = float((density @ (grid[:, 0] - mean) ** 2).sqrt())
    drawn = model._sample_window(
        {"context": condition["context"].expand(40_000, -1)}, torch.Generator().manual_seed(0)
    )
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.04 * std)
    assert float(drawn.std()) == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("biases", ["network", "linear"])
def test_it_learns_mean_spread_and_correlation(biases):
    def correlated(c, generator):
        """Mean (2 c0, -c1), two dimensions of standard deviation 0.5 with correlation 0.8."""
        n = torch.randn(c.shape, generator=generator)
        other = 0.8 * n[:, 0] + 0.6 * n[:, 1]
        return torch.stack([2 * c[:, 0] + 0.5 * n[:, 0], -c[:, 1] + 0.5 * other], 1)

    model = make(2, biases=biases, hidden=8, steps=2, batch_size=100)
    fit(model, correlated, 250 if biases == "network" else 700, 2e-2)
    drawn = drawn_at(model, [0.5, -0.5])
    assert torch.allclose(drawn.mean(0), torch.tensor([1.0, 0.5]), atol=0.1)
    assert torch.allclose(drawn.std(0), torch.full((2,), 0.5), atol=0.06)
    if biases == "linear":  # the other was stopped early
        assert 0.6 < float(torch.corrcoef(drawn.T)[0, 1]) < 0.9


def test_the_loss_has_no_gradient_through_the_chain():
    model = make(2)
    objective = model.objective()
    condition = {"context": torch.randn(256, 2)}
    x = torch.randn(256, 2)
    generator = torch.Generator().manual_seed(3)
    loss, figures = objective(Batch(x, condition), generator)
    rbm = model.rbm
    mean, logits = rbm.biases(condition)
    r = ((x - mean) * (-rbm.log_scale).exp()).detach()
    chain = rbm.gibbs(r, mean, logits, 1, torch.Generator().manual_seed(3))
    expected = rbm(x, condition).mean() - rbm(chain.detach(), condition).mean()
    parameters = list(rbm.parameters())
    pairs = zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    assert {"energy_data", "energy_chain"} <= set(figures)


@pytest.mark.parametrize("conditioning", ["states", "actions", "joint"])
def test_it_samples_windows_in_every_conditioning_and_survives_its_files(tmp_path, conditioning):
    network = NetworkConfig(context_frames=2, window_frames=2, width=8, depth=1, action_history=0)
    model = make(3, conditioning, network).eval()
    model.save(tmp_path)
    again = load(tmp_path)
    context = torch.randn(2, 2, 3)
    actions = torch.zeros(2, 1, 5, 1) if conditioning == "actions" else None
    drawn = [
        one.sample(context, 5, 4, actions=actions, generator=torch.Generator().manual_seed(0))
        for one in (model, again)
    ]
    assert drawn[0].shape == (2, 4, 5, 3) and torch.equal(*drawn)
    assert isinstance(again, RBMModel) and again.config == model.config
    assert isinstance(model.objective(), nn.Module)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"hidden": 0}, "hidden: 0"),
        ({"steps": 0}, "steps: 0"),
        ({"gibbs_steps": 0}, "gibbs steps: 0"),
        ({"biases": "cubic"}, "network, linear"),
        ({"batch_size": 0}, "batch size: 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        RBMConfig(**settings)
