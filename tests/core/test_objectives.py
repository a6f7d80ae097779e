"""Contrastive divergence and the proposals: right gradients, right pairs, right fixed point."""

import math

import pytest
import torch
from torch import nn

from ebm_traj.core.energy import Energy
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.objectives import Batch, ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.proposal import GaussianProposal, NoiseProposal
from ebm_traj.errors import InputError


class LinearGaussian(Energy):
    """E(x | c) = (x - a c)^2 exp(-2 b) / 2, the density N(a c, exp(b)^2)."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, x, condition=None):
        return ((x - self.a * condition["c"]) ** 2).sum(-1) * torch.exp(-2 * self.b) / 2


def start_at_zero() -> NoiseProposal:
    return NoiseProposal(lambda condition: torch.zeros_like(condition["c"]), 1.0)


def make(energy, **settings):
    config = ContrastiveConfig(
        **{"batch_size": 200, "buffer_size": 1000, "energy_regularisation": 0.0, **settings}
    )
    return ContrastiveDivergence(energy, start_at_zero(), config)


def test_learns_mean_and_scale_of_a_conditional_gaussian():
    torch.manual_seed(0)
    true_a, true_std = 1.5, 0.5
    energy = LinearGaussian(0.0, 0.0)
    chain = LangevinConfig(steps=15, step_size=0.1, metropolis=True)
    objective = make(energy, langevin=chain, replay_fraction=0.8)
    optimizer = torch.optim.Adam(energy.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 500)
        c = torch.randn(objective.new_rows, 1, generator=generator)
        x = true_a * c + true_std * torch.randn(c.shape, generator=generator)
        loss, _ = objective(Batch(x, {"c": c}), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert energy.a.item() == pytest.approx(true_a, abs=0.08)
    assert math.exp(energy.b.item()) == pytest.approx(true_std, rel=0.12)


def test_gradient_is_positive_minus_negative_phase_with_the_chain_held_fixed():
    energy = LinearGaussian(0.3, 0.1)
    # without steps the chain stays where it started, so the loss can be written down
    objective = make(energy, langevin=LangevinConfig(steps=0), replay_fraction=0.0)
    c, x = torch.randn(200, 1), torch.randn(200, 1)
    loss, _ = objective(Batch(x, {"c": c}), torch.Generator().manual_seed(3))
    loss.backward()
    got = energy.a.grad.clone()
    energy.zero_grad()
    start = start_at_zero().sample({"c": c}, torch.Generator().manual_seed(3))
    (energy(x, {"c": c}).mean() - energy(start, {"c": c}).mean()).backward()
    assert torch.allclose(got, energy.a.grad)


def test_replayed_rows_keep_context_and_data_together():
    energy = LinearGaussian(0.0, 0.0)
    objective = make(energy, batch_size=20, replay_fraction=0.5, buffer_size=100)
    for step in range(8):
        c = torch.arange(10.0)[:, None] + 10 * step
        objective(Batch(2 * c, {"c": c}), torch.Generator().manual_seed(step))
    assert len(objective.buffer) == 80
    _, rows = objective.buffer.draw(80)
    assert torch.equal(rows["data"], 2 * rows["c"])
    assert len(rows["c"].unique()) == 80


def test_energy_offset_of_a_condition_does_not_change_the_loss():
    class Offset(LinearGaussian):
        def forward(self, x, condition=None):
            return super().forward(x, condition) + 1000 * condition["c"].squeeze(-1)

    losses = []
    for cls in (LinearGaussian, Offset):
        objective = make(cls(0.2, 0.0))
        for step in range(4):
            generator = torch.Generator().manual_seed(step)
            c = torch.randn(objective.new_rows, 1, generator=generator)
            loss, _ = objective(Batch(c, {"c": c}), generator)
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


def test_recover_empties_the_buffer_and_halves_the_step():
    objective = make(LinearGaussian(0.0, 0.0))
    c = torch.randn(objective.new_rows, 1)
    objective(Batch(c, {"c": c}), torch.Generator())
    before = objective.langevin.step_size
    assert "0.05" in objective.recover()
    assert len(objective.buffer) == 0 and objective.langevin.step_size == before / 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch size: 0"),
        ({"replay_fraction": 1.0}, "replay fraction: 1.0"),
        ({"buffer_size": 10}, "buffer size: 10"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        ContrastiveConfig(**settings)


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
