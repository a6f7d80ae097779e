"""The interface of objectives, regression, and the proposals: right fits, right densities."""

import math

import pytest
import torch
from torch import nn

from ebm_traj.core.objectives import Batch, Objective, Regression
from ebm_traj.core.proposal import GaussianProposal, NoiseProposal


def test_regression_is_the_mean_squared_error_of_its_network():
    network = nn.Linear(2, 3)
    objective = Regression(lambda condition: network(condition["c"]), 10)
    c, x = torch.randn(10, 2), torch.randn(10, 3)
    loss, figures = objective(Batch(x, {"c": c}), torch.Generator())
    assert torch.equal(loss, nn.functional.mse_loss(network(c), x)) and loss.requires_grad
    assert figures["squared_error"].item() == loss.item() and objective.new_rows == 10


def test_an_objective_without_memory_restores_nothing_and_one_without_forward_says_so():
    objective = Objective()
    objective.load_memory(objective.memory(), torch.device("cpu"))
    assert objective.memory() == {} and objective.gradients == 1 and objective.recover() == "nothing changed"
    with pytest.raises(TypeError, match="Objective does not define forward"):
        objective(Batch(torch.zeros(1), {}), torch.Generator())


def test_gaussian_proposal_fits_mean_and_scale_and_samples_them():
    torch.manual_seed(0)
    proposal = GaussianProposal(nn.Linear(1, 2), lambda condition: condition["c"])
    optimizer = torch.optim.Adam(proposal.parameters(), lr=0.05)
    c = torch.randn(2000, 1)
    x = 0.7 * c - 0.2 + 0.4 * torch.randn(2000, 1)
    for _ in range(300):
        optimizer.zero_grad()
        proposal.loss(x, {"c": c}).backward()
        optimizer.step()
    at = {"c": torch.ones(20_000, 1)}
    drawn = proposal.sample(at, torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(drawn.std()) == pytest.approx(0.4, abs=0.05)
    assert torch.allclose(proposal.scale(at), drawn.std(), atol=0.02)
    assert not drawn.requires_grad


def test_gaussian_proposal_loss_is_the_negative_log_likelihood():
    network = nn.Linear(1, 2)
    proposal = GaussianProposal(network, lambda condition: condition["c"])
    c, x = torch.randn(50, 1), torch.randn(50, 1)
    mean, scale = proposal.mean_and_scale({"c": c})
    exact = -torch.distributions.Normal(mean, scale).log_prob(x).mean() - 0.5 * math.log(2 * math.pi)
    assert torch.allclose(proposal.loss(x, {"c": c}), exact)


def test_noise_proposal_is_uniform_around_its_centre():
    proposal = NoiseProposal(lambda condition: condition["c"], 0.3)
    drawn = proposal.sample({"c": torch.full((20_000, 1), 2.0)}, torch.Generator().manual_seed(0)) - 2
    assert float(drawn.abs().max()) <= 0.3 and float(drawn.std()) == pytest.approx(
        0.3 / math.sqrt(3), rel=0.03
    )
