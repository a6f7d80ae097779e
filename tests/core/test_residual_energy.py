"""An energy on top of a mixture: chains keep to their component, and feel the correction."""

import math

import pytest
import torch
from torch import nn

from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.energy import Energy, FunctionEnergy
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.core.objectives import Batch
from ebm_traj.core.proposal import BOXED, CENTRE, SCALE, MixtureProposal, ResidualEnergy

ROWS = 20_000
CHAIN = LangevinConfig(steps=30, step_size=0.3, metropolis=True)


class Constant(nn.Module):
    """The same numbers for every row."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.as_tensor(values))

    def forward(self, known):
        return self.values.expand(len(known), -1)


def two_modes_and_a_box():
    """Weights .5, .25 and .25 (box), two dimensions."""
    proposal = MixtureProposal(Constant(torch.zeros(1)), lambda c: c["context"], 2, box=True)
    means, scales = torch.tensor([[-3.0, 0.0], [3.0, 1.0]]), torch.tensor([[0.1, 0.1], [0.5, 1.0]])
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    log_scales = scales.log() - proposal.first_log_scales
    proposal.network = Constant(torch.cat([logits, means.flatten(), log_scales.flatten()]))
    return proposal


@pytest.fixture
def proposal():
    return two_modes_and_a_box()


@pytest.fixture
def condition():
    return {"context": torch.zeros(ROWS, 1)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def walk(proposal, correction, condition):
    start, component = proposal.start(condition, generator())
    known = {**condition, **component}
    energy = ResidualEnergy(proposal, correction)
    chain = langevin(energy.bind(known), start, CHAIN, scale=proposal.scale(known), generator=generator(1))
    return chain, component


def test_starts_fall_into_components_and_box_in_the_learned_shares(proposal, condition):
    start, component = proposal.start(condition, generator())
    boxed = component[BOXED][:, 0] > 0
    assert float(boxed.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(start[boxed].abs().max()) <= 1 and float(start[boxed].std()) == pytest.approx(
        1 / math.sqrt(3), rel=0.02
    )
    narrow = component[CENTRE][:, 0] == -3
    assert float(narrow.float().mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.allclose(component[SCALE][narrow], torch.tensor(0.1), rtol=0.15)  # softly bounded


def test_density_of_mixture_and_box_integrates_to_one(proposal):
    ticks = torch.linspace(-8, 8, 801)
    grid = torch.cartesian_prod(ticks, ticks)
    density = proposal.log_prob(grid, {"context": torch.zeros(len(grid), 1)}).exp().detach()
    assert float(density.sum()) * 0.02**2 == pytest.approx(1, abs=0.01)


def test_without_a_correction_chains_are_stationary_from_the_start(proposal, condition):
    flat = FunctionEnergy(lambda x: 0 * x.sum(-1))
    chain, component = walk(proposal, flat, condition)
    assert float(chain.acceptance) > 0.6
    boxed = component[BOXED][:, 0] > 0
    for chosen, mean in (
        (component[CENTRE][:, 0] == -3, [-3.0, 0.0]),
        (component[CENTRE][:, 0] == 3, [3.0, 1.0]),
        (boxed, [0.0, 0.0]),
    ):
        x = chain.x[chosen]
        assert torch.allclose(x.mean(0), torch.tensor(mean), atol=0.05)
        assert torch.allclose(x.std(0), component[SCALE][chosen][0], rtol=0.03)
    assert float(chain.x[component[BOXED][:, 0] > 0].abs().max()) <= 1


def test_a_linear_correction_moves_each_component_by_its_variance(proposal, condition):
    slope = torch.tensor([1.0, -0.5])
    chain, component = walk(proposal, FunctionEnergy(lambda x: (x * slope).sum(-1)), condition)
    wide = component[CENTRE][:, 0] == 3
    # N(m, s^2) times exp(-b x) is N(m - s^2 b, s^2)
    moved = torch.tensor([3.0, 1.0]) - component[SCALE][wide][0] ** 2 * slope
    assert torch.allclose(chain.x[wide].mean(0), moved, atol=0.05)


def test_energy_without_a_component_is_that_of_the_whole_mixture(proposal):
    x = torch.randn(9, 2)
    known = {"context": torch.zeros(9, 1)}
    correction = FunctionEnergy(lambda x: x.square().sum(-1))
    energy = ResidualEnergy(proposal, correction)
    assert torch.allclose(energy(x, known), x.square().sum(-1) - proposal.log_prob(x, known))
    assert energy.learned is correction
    assert not list(energy.parameters())  # the proposal's are not the energy's


class Quadratic(Energy):
    """a . x + b . x^2, learned."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2, 1))

    def forward(self, x, condition=None):
        return x @ self.weights[0] + x.square() @ self.weights[1]


def test_contrastive_divergence_learns_what_the_proposal_misses():
    """Data N(1, 0.5^2) against a start of N(0, 1): the correction must be 1.5 x^2 - 4 x, up to a constant."""
    torch.manual_seed(0)
    proposal = MixtureProposal(Constant(torch.zeros(3)), lambda c: c["context"], 1)
    energy = Quadratic()
    config = ContrastiveConfig(512, CHAIN, buffer_size=2000, energy_regularisation=0.0)
    objective = ContrastiveDivergence(ResidualEnergy(proposal, energy), proposal, config, fit_proposal=False)
    optimizer = torch.optim.Adam(energy.parameters(), 0.05)
    g = generator(2)
    tail = []
    for i in range(500):
        x = 1 + 0.5 * torch.randn(objective.new_rows, 1, generator=g)
        loss, _ = objective(Batch(x, {"context": torch.zeros(len(x), 1)}), g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i >= 250:
            tail.append(energy.weights.detach().flatten().clone())
    slope, curvature = torch.stack(tail).mean(0).tolist()
    assert slope == pytest.approx(-4, abs=0.4) and curvature == pytest.approx(1.5, abs=0.25)
