"""Proposals: densities against torch.distributions, samples against densities, and finite at extremes."""

import math

import pytest
import torch
from torch import Tensor, distributions, nn

from ebm_traj.core.clipping import before_clipping
from ebm_traj.core.energy import FunctionEnergy
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.core.proposal import (
    COMPONENT_LOG_SCALE_RANGE,
    GaussianProposal,
    MixtureProposal,
    NoiseProposal,
    Proposal,
    require_share,
)
from ebm_traj.errors import InputError

SIZE, COMPONENTS = 3, 4


class Constant(nn.Module):
    """The same given numbers for every row."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, condition: Tensor) -> Tensor:
        return self.values.to(condition).expand(len(condition), -1)


def read(condition):
    return condition["c"]


def rows(count: int) -> dict[str, Tensor]:
    return {"c": torch.zeros(count, 1)}


def mixture_of(weights, means, scales) -> MixtureProposal:
    """A mixture whose components are as given, up to the soft bounds of the scales."""
    weights, means, scales = (torch.as_tensor(values) for values in (weights, means, scales))
    components = len(weights)
    proposal = MixtureProposal(Constant(torch.zeros(1)), read, components)
    log_scales = scales.log() - proposal.first_log_scales
    proposal.network = Constant(torch.cat([weights.log(), means.flatten(), log_scales.flatten()]))
    return proposal


def random_mixture(seed: int = 0, spread: float = 1.0) -> MixtureProposal:
    generator = torch.Generator().manual_seed(seed)
    outputs = MixtureProposal.outputs(SIZE, COMPONENTS)
    network = nn.Linear(2, outputs)
    with torch.no_grad():
        for values in network.parameters():
            values.copy_(spread * torch.randn(values.shape, generator=generator))
    return MixtureProposal(network, read, COMPONENTS).double()


def test_densities_are_those_of_torch_in_double_precision():
    generator = torch.Generator().manual_seed(0)
    condition = {"c": torch.randn(50, 2, generator=generator, dtype=torch.float64)}
    x = torch.randn(50, SIZE, generator=generator, dtype=torch.float64)

    gaussian = GaussianProposal(nn.Linear(2, 2 * SIZE), read).double()
    mean, scale = gaussian.mean_and_scale(condition)
    expected = distributions.Normal(mean, scale).log_prob(x).sum(-1)
    assert torch.allclose(gaussian.log_prob(x, condition), expected, rtol=1e-12, atol=1e-12)

    proposal = random_mixture()
    log_weights, means, log_scales, _ = proposal.mixture(condition)
    expected = distributions.MixtureSameFamily(
        distributions.Categorical(logits=log_weights),
        distributions.Independent(distributions.Normal(means, log_scales.exp()), 1),
    )
    assert torch.allclose(proposal.log_prob(x, condition), expected.log_prob(x), rtol=1e-12, atol=1e-12)
    assert torch.allclose(proposal.loss(x, condition), -expected.log_prob(x).mean())
    mean, scale = proposal.mean_and_scale(condition)
    assert torch.allclose(mean, expected.mean) and torch.allclose(scale, expected.stddev)
    assert torch.allclose(proposal.scale(condition), expected.stddev)


def test_density_of_noise_is_flat_inside_its_box_and_none_outside():
    proposal = NoiseProposal(read, 0.3)
    condition = {"c": torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])}
    x = torch.tensor([[1.0, 2.0], [1.25, 1.75], [1.0, 2.35]])
    flat = -2 * math.log(0.6)
    assert proposal.log_prob(x, condition).tolist() == pytest.approx([flat, flat, -math.inf])
    assert torch.isfinite(proposal.log_prob(proposal.sample(condition), condition)).all()


def test_a_proposal_without_a_density_says_so():
    with pytest.raises(TypeError, match="Proposal does not define log_prob"):
        Proposal().log_prob(torch.zeros(1, 1), {})
    with pytest.raises(InputError, match="components of the mixture: 0; accepted are 1 and more"):
        MixtureProposal(nn.Identity(), read, 0)


def test_a_mixture_samples_its_weights_means_and_scales():
    proposal = mixture_of([0.75, 0.25], [[-1.0], [2.0]], [[0.05], [0.8]])
    x, scale = proposal.sample_with_component(rows(40_000), torch.Generator().manual_seed(0))
    wide = (scale > 0.3).squeeze(1)
    assert float(wide.float().mean()) == pytest.approx(0.25, abs=0.01)
    for part, mean, std in ((x[~wide], -1.0, 0.05), (x[wide], 2.0, 0.8)):
        # the soft bound widens a scale of five times the lowest by a few per cent
        assert float(part.mean()) == pytest.approx(mean, abs=0.03)
        assert float(part.std()) == pytest.approx(std, rel=0.25 if std < 0.1 else 0.1)
    assert set(scale.flatten().tolist()) == set(proposal.mixture(rows(1)).log_scales.exp().flatten().tolist())
    assert not x.requires_grad
    assert float(x.std()) == pytest.approx(float(proposal.scale(rows(1))), rel=0.02)


def test_samples_are_a_function_of_the_generator():
    proposal, condition = random_mixture(), {"c": torch.randn(20, 2, dtype=torch.float64)}
    a, b, c = (proposal.sample(condition, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_components_start_with_scales_of_their_own():
    proposal = mixture_of([0.25] * 4, [[0.0]] * 4, [[1.0]] * 4)
    with torch.no_grad():
        proposal.network.values.zero_()
    scales = proposal.mixture(rows(1)).log_scales.exp().flatten()
    assert (scales.diff() > 0.1).all() and scales[0] < 0.15 < 0.8 < scales[-1]


@pytest.mark.parametrize("size", [1.0, 1e4, 1e15])
def test_likelihoods_and_their_gradients_are_finite_at_extremes(size):
    torch.manual_seed(0)
    proposal = random_mixture(spread=size).float()
    condition = {"c": torch.randn(64, 2)}
    for scale in (1e-20, 1.0, 1e4, 1e15):
        x = (scale * torch.randn(64, SIZE)).requires_grad_(True)
        proposal.zero_grad()
        log_prob = proposal.log_prob(x, condition)
        loss = proposal.loss(x, condition)
        loss.backward()
        assert torch.isfinite(log_prob).all() and torch.isfinite(x.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in proposal.parameters())
    low, high = COMPONENT_LOG_SCALE_RANGE
    log_scales = proposal.mixture(condition).log_scales.detach()
    assert float(log_scales.min()) > low - 1e-5 and float(log_scales.max()) < high + 1e-2
    assert (
        torch.isfinite(proposal.sample(condition)).all() and torch.isfinite(proposal.scale(condition)).all()
    )


def test_scales_are_still_learned_near_their_bounds():
    proposal = mixture_of([1.0], [[0.0]], [[0.0101]])  # wants to grow
    proposal.loss(torch.full((8, 1), 0.5), rows(8)).backward()
    assert float(proposal.network.values.grad[-1]) < -1


def quantiles_after(proposal: MixtureProposal, steps: int, by_component: bool) -> tuple[Tensor, Tensor]:
    """Quantiles of starts and ends of Metropolis-corrected chains on the mixture's own energy."""
    condition, generator = rows(10_000), torch.Generator().manual_seed(0)
    start, scale = proposal.sample_with_component(condition, generator)
    if not by_component:
        scale = proposal.scale(condition)
    energy = FunctionEnergy(lambda x: -proposal.log_prob(x, condition)).bind(condition)
    config = LangevinConfig(steps, 0.3, metropolis=True)
    end = langevin(energy, start, config, scale=scale, generator=generator).x
    assert float((end - start).abs().mean()) > 0.05
    at = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    return start.flatten().quantile(at), end.flatten().quantile(at)


def test_chains_with_one_scale_for_the_condition_keep_the_mixture():
    start, end = quantiles_after(mixture_of([0.6, 0.4], [[-0.5], [0.5]], [[0.1], [0.6]]), 10, False)
    assert torch.allclose(start, end, atol=0.04)


def test_chains_with_their_components_scale_reach_the_mixture_but_not_at_once():
    proposal = mixture_of([0.6, 0.4], [[-0.5], [0.5]], [[0.25], [0.6]])
    start, soon = quantiles_after(proposal, 6, True)
    assert float((start - soon).abs().max()) > 0.06
    start, late = quantiles_after(proposal, 150, True)
    assert torch.allclose(start, late, atol=0.04)


def test_a_fitted_mixture_finds_a_narrow_and_a_wide_mode(narrow=0.05):
    """Behaviour as recorded: three in four steps nearly deterministic, one in four wide."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, MixtureProposal.outputs(1, 4)))
    proposal = MixtureProposal(network, read, 4)
    optimizer = torch.optim.Adam(proposal.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):
        c = torch.rand(256, 1, generator=generator) * 2 - 1
        noise = torch.randn(256, 1, generator=generator)
        wide = torch.rand(256, 1, generator=generator) < 0.25
        x = torch.where(wide, c + noise, c + narrow * noise)
        optimizer.zero_grad()
        proposal.loss(x, {"c": c}).backward()
        optimizer.step()
    drawn = proposal.sample({"c": torch.full((20_000, 1), 0.4)}, generator).flatten() - 0.4
    # what the narrow mode holds: nearly 3/4, and of the wide one what falls inside by chance
    inside = float((drawn.abs() < 3 * narrow).float().mean())
    by_chance = float(distributions.Normal(0.0, 1.0).cdf(torch.tensor(3 * narrow))) * 2 - 1
    assert inside == pytest.approx(0.75 + 0.25 * by_chance, abs=0.05)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.15)


# --- components that are next to never meant ----------------------------------------------------------


def modes_of(shares: list[float]) -> MixtureProposal:
    """Components of one number at 0, 10, 20, ... with these shares and a scale of one tenth."""
    count = len(shares)
    logits = torch.tensor(shares).log()
    means = 10.0 * torch.arange(count)
    # far below the bounds, so that all scales are the smallest there is
    numbers = torch.cat([logits, means, torch.full((count,), -20.0)])
    return MixtureProposal(Constant(numbers), lambda c: c["context"], count)


def test_outside_of_training_rare_components_are_not_drawn_and_the_rest_keep_their_shares():
    proposal = modes_of([0.6, 0.3999, 0.0001])
    condition = {"context": torch.zeros(200_000, 1)}

    def shares() -> list[float]:
        x = proposal.sample(condition, torch.Generator().manual_seed(0)).round(decimals=-1)
        return [float((x == 10 * k).float().mean()) for k in range(3)]

    proposal.least_share = 0.001
    proposal.train()
    assert shares()[2] > 0
    proposal.eval()
    assert shares() == [pytest.approx(0.6, abs=0.005), pytest.approx(0.4, abs=0.005), 0.0]
    everywhere = proposal.log_prob(torch.tensor([[20.0]]), {"context": torch.zeros(1, 1)})
    assert float(everywhere.detach()) > -8  # the density keeps it
    proposal.least_share = 0.0
    assert shares()[2] > 0


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InputError, match=r"least share: .*accepted are 0 to below 1"):
        require_share(share)


# --- what lies in a box -------------------------------------------------------------------------------


@pytest.mark.parametrize("std", [0.1, 0.3, 0.5, 1 / math.sqrt(3), 0.7])
def test_clipped_draws_have_the_standard_deviation_asked_for(std):
    wide = before_clipping(torch.full((400_000,), std))
    clipped = (wide * torch.randn(400_000, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    assert float(clipped.std()) == pytest.approx(std, rel=0.01)


def test_scales_that_clipping_leaves_alone_or_that_no_box_holds_stay():
    scales = torch.tensor([[0.01, 0.15], [0.76, 9.0]])
    assert torch.allclose(before_clipping(scales), scales, rtol=1e-4)


def test_a_mixture_widens_its_draws_outside_of_training_only():
    count, uniform = 400_000, 1 / math.sqrt(3)
    proposal = mixture_of([1.0], [[0.0]], [[uniform]])
    learned = float(proposal.mixture(rows(1)).log_scales.detach().exp())  # within soft bounds
    proposal.clip = True
    proposal.train()
    assert not proposal.clipped
    plain = proposal.sample(rows(count), torch.Generator().manual_seed(0))
    assert float(plain.std()) == pytest.approx(learned, rel=0.01)
    proposal.eval()
    start = proposal.start(rows(count), torch.Generator().manual_seed(0))
    assert float(start.x.clamp(-1, 1).std()) == pytest.approx(learned, rel=0.01)
    assert float(start.component["component_scale"][0, 0]) > 1.05 * learned
