"""An energy on top of a mixture: chains keep to their component, and feel the correction."""

import math

import pytest
import torch
from torch import nn

from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.energy import Energy, FunctionEnergy
from ebm_traj.core.gradients import BoundEnergy, mlp_form
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.core.objectives import Batch
from ebm_traj.core.proposal import BOXED, CENTRE, SCALE, MixtureProposal, ResidualEnergy
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.window_energy import WindowEnergy

ROWS = 20_000
NEVER = -30.0  # logit
CHAIN = LangevinConfig(steps=30, step_size=0.3, metropolis=True)


class Constant(nn.Module):
    """The same numbers for every row."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.as_tensor(values))

    def forward(self, known):
        return self.values.expand(len(known), -1)


def two_modes_and_a_box(blocks=1):
    """Two dimensions, two components of one weight; the second draws each block uniformly at even chance."""
    proposal = MixtureProposal(Constant(torch.zeros(1)), lambda c: c["context"], 2, blocks)
    means, scales = torch.tensor([[-3.0, 0.0], [3.0, 1.0]]), torch.tensor([[0.1, 0.1], [0.5, 1.0]])
    log_scales = scales.log() - proposal.first_log_scales
    chances = torch.tensor([[NEVER], [0.0]]).expand(2, blocks)
    parts = torch.zeros(2), means, log_scales, chances
    proposal.network = Constant(torch.cat([part.flatten() for part in parts]))
    return proposal


@pytest.fixture(params=[1, 2])
def proposal(request):
    return two_modes_and_a_box(request.param)


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
    boxed = component[BOXED] > 0
    assert float(boxed.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(start[boxed].abs().max()) <= 1 and float(start[boxed].std()) == pytest.approx(
        1 / math.sqrt(3), rel=0.02
    )
    together = float((boxed[:, 0] == boxed[:, 1]).float().mean())  # of the second half alone it is 1 or 1/2
    assert together == pytest.approx(1.0 if proposal.blocks == 1 else 0.75, abs=0.02)
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
    boxed, centre = component[BOXED] > 0, component[CENTRE]
    for dimension, means in enumerate(([-3.0, 3.0], [0.0, 1.0])):
        x, of = chain.x[:, dimension], boxed[:, dimension]
        for mean in means:
            chosen = ~of & (centre[:, dimension] == mean)
            assert float(x[chosen].mean()) == pytest.approx(mean, abs=0.05)
            assert float(x[chosen].std()) == pytest.approx(
                float(component[SCALE][chosen][0, dimension]), rel=0.03
            )
        assert float(x[of].abs().max()) <= 1 and float(x[of].mean()) == pytest.approx(0, abs=0.05)
        assert float(x[of].std()) == pytest.approx(1 / math.sqrt(3), rel=0.03)
    start = proposal.start(condition, generator()).x
    assert float((chain.x != start)[boxed].float().mean()) > 0.95  # they did walk


def test_mean_and_scale_are_those_of_draws(proposal, condition):
    mean, scale = proposal.mean_and_scale({"context": torch.zeros(1, 1)})
    drawn = proposal.sample(condition, generator())
    assert torch.allclose(drawn.mean(0), mean[0], atol=0.06)
    assert torch.allclose(drawn.std(0), scale[0], rtol=0.02)


def test_actions_of_many_frames_explore_each_by_itself():
    """Two frames of 20 numbers, each random at 1/4, else near 0: chances are learned, chains still walk."""
    torch.manual_seed(0)
    proposal = MixtureProposal(Constant(0.1 * torch.randn(4 * 83)), lambda c: c["context"], 4, 2)
    optimizer = torch.optim.Adam(proposal.parameters(), 0.05)
    known = {"context": torch.zeros(512, 1)}
    for i in range(400):
        random = torch.rand(512, 2, 1) < 0.25
        x = torch.where(random, 2 * torch.rand(512, 2, 20) - 1, 0.05 * torch.randn(512, 2, 20)).flatten(1)
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - i / 400)
        loss = proposal.loss(x, known)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    exact = 0.25 * math.log(0.25) - 0.25 * 20 * math.log(2) + 0.75 * math.log(0.75)
    exact -= 0.75 * 20 * (math.log(0.05) + 0.5 + 0.5 * math.log(2 * math.pi))
    assert -float(loss.detach()) == pytest.approx(2 * exact, abs=2.0)
    known = {"context": torch.zeros(4000, 1)}
    chain, component = walk(proposal, FunctionEnergy(lambda x: 0 * x.sum(-1)), known)
    boxed = component[BOXED][:, ::20] > 0
    shares = [float((boxed.sum(1) == count).float().mean()) for count in (0, 1, 2)]
    assert shares == pytest.approx([0.5625, 0.375, 0.0625], abs=0.04)
    assert float(chain.acceptance) > 0.5


def test_walls_are_the_same_with_the_gradient_written_out():
    settings = NetworkConfig(window_frames=2, width=16, depth=2)
    torch.manual_seed(1)
    correction = WindowEnergy(3, 2, settings, 0.0, levels=False).double()
    known = {
        "context": torch.randn(6, 3).double(),
        CENTRE: torch.randn(6, 4).double(),
        SCALE: torch.rand(6, 4).double() + 0.1,
        BOXED: (torch.rand(6, 4) < 0.5).double(),
    }
    whole = ResidualEnergy(MixtureProposal(nn.Identity(), lambda c: c["context"], 1, 2), correction)
    bound = whole.bind(known)
    assert isinstance(bound, BoundEnergy) and mlp_form(bound) is None
    x = (2.4 * torch.rand(6, 4) - 1.2).double()
    walls = bound(x).isinf()
    assert 0 < int(walls.sum()) < 6
    with torch.no_grad():
        value, gradient = bound.value_and_gradient(x)
    x.requires_grad_(True)
    expected = whole(x, known)
    assert torch.allclose(value, expected) and torch.allclose(bound(x), expected)
    (slope,) = torch.autograd.grad(expected[~walls].sum(), x)
    assert torch.allclose(gradient[~walls], slope[~walls])


def test_a_linear_correction_moves_each_component_by_its_variance(proposal, condition):
    slope = torch.tensor([1.0, -0.5])
    chain, component = walk(proposal, FunctionEnergy(lambda x: (x * slope).sum(-1)), condition)
    wide = (component[CENTRE][:, 0] == 3) & (component[BOXED].sum(1) == 0)
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
