"""Ranking noise-contrastive estimation: its optimum is the truth with the correction, and known without."""

import math

import pytest
import torch
from torch import nn

from ebm_traj.core.energy import Energy
from ebm_traj.core.objectives import Batch
from ebm_traj.core.proposal import NoiseProposal, Proposal
from ebm_traj.core.ranking import RankingConfig, RankingNCE
from ebm_traj.errors import InputError

TRUE_SLOPE, TRUE_STD, PROPOSAL_STD = 1.5, 0.5, 0.8


class LinearGaussian(Energy):
    """E(x | c) = (x - a c)^2 exp(-2 b) / 2, the density N(a c, exp(b)^2)."""

    def __init__(self, a: float = 0.0, b: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x, condition=None):
        return ((x - self.a * condition["c"]) ** 2).sum(-1) * torch.exp(-2 * self.b) / 2


class Known(Proposal):
    """q(x | c) = N(slope c, 0.8^2), with a density and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def sample(self, condition, generator=None):
        c = condition["c"]
        return self.slope * c + PROPOSAL_STD * torch.empty_like(c).normal_(generator=generator)

    def log_prob(self, x, condition):
        normal = torch.distributions.Normal(self.slope * condition["c"], PROPOSAL_STD)
        return normal.log_prob(x).sum(-1)

    def loss(self, x, condition):
        return -self.log_prob(x, condition).mean()


def data(rows: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    c = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    noise = torch.empty_like(c).normal_(generator=generator)
    return Batch(TRUE_SLOPE * c + TRUE_STD * noise, {"c": c})


def optimum(corrected: bool) -> tuple[float, float]:
    """Slope and precision at which the loss on one large batch is least."""
    energy = LinearGaussian()
    objective = RankingNCE(energy, Known(), RankingConfig(20_000, negatives=8, corrected=corrected))
    solver = torch.optim.LBFGS(energy.parameters(), max_iter=60, line_search_fn="strong_wolfe")
    batch = data(20_000)

    def closure():
        solver.zero_grad()
        loss, _ = objective(batch, torch.Generator().manual_seed(1))  # the same draws each time
        loss.backward()
        return loss

    solver.step(closure)
    closure()
    assert abs(energy.a.grad.item()) < 1e-4 and abs(energy.b.grad.item()) < 1e-4
    return energy.a.item(), math.exp(-2 * energy.b.item())


def test_with_the_correction_the_optimum_is_the_truth():
    slope, precision = optimum(corrected=True)
    assert slope == pytest.approx(TRUE_SLOPE, abs=0.02)
    assert precision == pytest.approx(1 / TRUE_STD**2, rel=0.03)


def test_without_it_the_optimum_is_the_ratio_of_truth_and_proposal():
    slope, precision = optimum(corrected=False)
    # p / q of two Gaussians is one again, of the difference of their precisions
    p, q = 1 / TRUE_STD**2, 1 / PROPOSAL_STD**2
    assert precision == pytest.approx(p - q, rel=0.06)
    assert slope == pytest.approx((p * TRUE_SLOPE - q * 1.0) / (p - q), abs=0.04)
    assert abs(precision - p) > 0.3 * p and slope > TRUE_SLOPE + 0.2


def test_loss_is_the_mean_negative_log_share_of_the_datum():
    energy, proposal, batch = LinearGaussian(0.4, -0.2), Known(), data(5)
    objective = RankingNCE(energy, proposal, RankingConfig(5, negatives=3))
    loss, figures = objective(batch, torch.Generator().manual_seed(2))
    repeated = {"c": batch.condition["c"].repeat_interleave(3, dim=0)}
    draws = proposal.sample(repeated, torch.Generator().manual_seed(2)).detach().view(5, 3)
    shares = []
    for row in range(5):
        weights = []
        for x in [batch.x[row, 0], *draws[row]]:
            at = {"c": batch.condition["c"][row : row + 1]}
            weights.append((-energy(x.view(1, 1), at) - proposal.log_prob(x.view(1, 1), at)).exp())
        shares.append(weights[0] / sum(weights))
    by_hand = -torch.cat(shares).log().mean()
    assert torch.allclose(loss, by_hand + proposal.loss(batch.x, batch.condition), atol=1e-12)
    assert figures["ranking_information"].item() == pytest.approx(math.log(4) - by_hand.item())


def test_the_ranking_sends_no_gradient_to_the_proposal():
    proposal, batch = Known(), data(50)
    loss, _ = RankingNCE(LinearGaussian(), proposal, RankingConfig(50, 4))(batch, torch.Generator())
    (got,) = torch.autograd.grad(loss, proposal.slope)
    (own,) = torch.autograd.grad(proposal.loss(batch.x, batch.condition), proposal.slope)
    assert torch.allclose(got, own, atol=1e-12)


def test_an_energy_that_is_the_proposal_is_at_chance():
    class Same(Energy):
        def __init__(self, proposal):
            super().__init__()
            self.proposal = proposal

        def forward(self, x, condition=None):
            return 7.0 * condition["c"].squeeze(-1) - self.proposal.log_prob(x, condition)

    proposal = Known()
    objective = RankingNCE(Same(proposal), proposal, RankingConfig(400, negatives=4))
    _, figures = objective(data(400), torch.Generator().manual_seed(0))
    assert figures["ranking_information"].item() == pytest.approx(0.0, abs=1e-9)
    assert figures["effective_samples"].item() == pytest.approx(1.0)


def test_a_datum_where_the_proposal_has_no_density_teaches_nothing():
    energy = LinearGaussian(0.4)
    objective = RankingNCE(energy, NoiseProposal(lambda condition: condition["c"], 0.5), RankingConfig(3, 4))
    c = torch.ones(3, 1, dtype=torch.float64)
    losses = []
    for last in (1.2, 9.0):
        x = torch.tensor([[1.1], [0.8], [last]], dtype=torch.float64)
        loss, _ = objective(Batch(x, {"c": c}), torch.Generator().manual_seed(0))
        losses.append(loss)
    inside, outside = losses
    assert 0 < outside.item() < inside.item()
    (slope,) = torch.autograd.grad(outside, energy.a)
    assert torch.isfinite(slope)


def test_what_it_cannot_use_is_named():
    class Unknown(Proposal):
        def sample(self, condition, generator=None):
            return torch.zeros_like(condition["c"])

    with pytest.raises(InputError, match="Unknown has no log_prob"):
        RankingNCE(LinearGaussian(), Unknown(), RankingConfig())
    objective = RankingNCE(LinearGaussian(), Unknown(), RankingConfig(5, corrected=False))
    assert torch.isfinite(objective(data(5), torch.Generator())[0])
    with pytest.raises(InputError, match="negatives: 0"):
        RankingConfig(negatives=0)
    with pytest.raises(InputError, match="batch size: 0"):
        RankingConfig(batch_size=0)
