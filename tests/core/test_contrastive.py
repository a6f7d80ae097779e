"""Contrastive divergence: right gradients with and without the sampler's, right pairs, right fixed point."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from ebm_traj.core.contrastive import (
    ContrastiveConfig,
    ContrastiveDivergence,
    _centre_of,
    _whiten,
    differentiable_steps,
)
from ebm_traj.core.energy import Energy
from ebm_traj.core.langevin import LangevinConfig, langevin, noise_like
from ebm_traj.core.objectives import Batch
from ebm_traj.core.proposal import GaussianProposal, MixtureProposal, NoiseProposal, Proposal
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
        ({"batch_size": 2, "replay_fraction": 0.9}, "none of 2 rows"),
        ({"kl": -1.0}, "kl: -1.0"),
        ({"entropy": float("nan")}, "entropy: nan"),
        ({"kl": 1.0, "kl_steps": 21}, "kl steps: 21; accepted are 1 to the chain's 20"),
        ({"adapt": True}, "adapt: needs a chain with Metropolis steps"),
        ({"kl": 1.0, "langevin": LangevinConfig(metropolis=True, adapt=5)}, "Langevin adapt: 5"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        ContrastiveConfig(**settings)


class SmallEnergy(Energy):
    """A network of (x (B, 2), c (B, 1)) in double precision."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, x, condition=None):
        return self.net(torch.cat([x, condition["c"]], -1)).squeeze(-1) + 0.5 * x.square().sum(-1)


def double_batch(rows: int = 12, seed: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    c = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    return Batch(torch.cat([c, -c], -1), {"c": c})


def double_objective(energy: Energy, **settings) -> ContrastiveDivergence:
    proposal = NoiseProposal(lambda condition: condition["c"].repeat(1, 2), 1.0)
    defaults = {"batch_size": 12, "buffer_size": 100, "energy_regularisation": 0.0, "replay_fraction": 0.0}
    return ContrastiveDivergence(energy, proposal, ContrastiveConfig(**{**defaults, **settings}))


def gradient_of(objective: ContrastiveDivergence, seed: int = 1) -> torch.Tensor:
    objective.zero_grad()
    loss, _ = objective(double_batch(), torch.Generator().manual_seed(seed))
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in objective.energy.parameters()])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        LangevinConfig(steps=4, step_size=0.2),
        LangevinConfig(steps=4, step_size=0.2, noise=0.05, clip=0.3),
        LangevinConfig(steps=4, step_size=0.2, noise=0.0),
        LangevinConfig(steps=4, step_size=0.6, metropolis=True, temperature=0.7),
    ],
)
def test_differentiated_steps_are_those_of_the_chain(config, scaled):
    energy, batch = SmallEnergy(), double_batch(200)
    scale = 0.5 + torch.rand(200, 2, dtype=torch.float64) if scaled else None
    generators = [torch.Generator().manual_seed(2) for _ in range(2)]
    chain = langevin(energy.bind(batch.condition), batch.x, config, scale=scale, generator=generators[0])
    live, acceptance = differentiable_steps(energy, batch.condition, batch.x, config, scale, generators[1])
    assert torch.allclose(live.detach(), chain.x, atol=1e-12, rtol=0) and live.requires_grad
    assert torch.allclose(acceptance, chain.acceptance)
    assert not config.metropolis or 0.2 < float(acceptance) < 0.95


@pytest.mark.parametrize("metropolis", [False, True])
def test_the_terms_through_the_chain_leave_its_samples_as_they_are(metropolis):
    chain = LangevinConfig(steps=5, step_size=0.3, metropolis=metropolis)
    samples = []
    for settings in ({}, {"kl": 0.7}, {"kl": 0.7, "kl_steps": 5}):
        objective = double_objective(SmallEnergy(), langevin=chain, **settings)
        _, figures = objective(double_batch(), torch.Generator().manual_seed(1))
        samples.append((objective.buffer.rows["chain"][:12], figures["acceptance"]))
    for x, acceptance in samples[1:]:
        assert torch.allclose(x, samples[0][0], atol=1e-12, rtol=0)
        assert torch.allclose(acceptance, samples[0][1])


@pytest.mark.parametrize("last", [1, 2])
def test_kl_gradient_is_that_of_the_chain_written_out_and_of_finite_differences(last):
    chain = LangevinConfig(steps=3, step_size=0.2)
    energy = SmallEnergy()
    got = gradient_of(double_objective(energy, langevin=chain, kl=1.0, kl_steps=last)) - gradient_of(
        double_objective(energy, langevin=chain)
    )

    batch = double_batch()
    generator = torch.Generator().manual_seed(1)
    start = double_objective(energy).proposal.sample(batch.condition, generator)
    before = dataclasses.replace(chain, steps=3 - last)
    held = langevin(energy.bind(batch.condition), start, before, generator=generator).x
    noise = [torch.empty_like(held).normal_(generator=generator) for _ in range(last)]
    fixed = copy.deepcopy(energy).requires_grad_(False)

    def value(moving: Energy) -> torch.Tensor:
        x = held.clone().requires_grad_(True)
        for n in noise:
            (slope,) = torch.autograd.grad(moving(x, batch.condition).sum(), x, create_graph=True)
            x = x - 0.2 * slope + math.sqrt(0.4) * n
        return fixed(x, batch.condition).mean()

    by_hand = torch.autograd.grad(value(energy), list(energy.parameters()), allow_unused=True)
    # the last bias moves no sample
    by_hand = [torch.zeros(1) if part is None else part for part in by_hand]
    assert torch.allclose(got, torch.cat([part.flatten() for part in by_hand]), atol=1e-12, rtol=1e-9)

    vector = nn.utils.parameters_to_vector(energy.parameters()).detach()
    differences = []
    for index in range(len(vector)):
        ends = []
        for step in (1e-5, -1e-5):
            moved = copy.deepcopy(energy)
            shifted = vector.clone()
            shifted[index] += step
            nn.utils.vector_to_parameters(shifted, moved.parameters())
            ends.append(value(moved).item())
        differences.append((ends[0] - ends[1]) / 2e-5)
    assert torch.allclose(got, torch.tensor(differences, dtype=torch.float64), atol=1e-8)
    assert float(got.abs().max()) > 1e-3


def test_kl_leaves_the_negative_phase_as_it_is():
    """E = theta x: the step moves x by -eta theta, so all of it can be written down."""

    class Slope(Energy):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, x, condition=None):
            return self.theta * x.sum(-1)

    eta, weight = 0.2, 3.0
    chain = LangevinConfig(steps=4, step_size=eta)
    plain, full = (double_objective(Slope(), langevin=chain, kl=kl) for kl in (0.0, weight))
    got = gradient_of(plain), gradient_of(full)
    samples = plain.buffer.rows["chain"][:12]
    assert torch.allclose(samples, full.buffer.rows["chain"][:12], atol=1e-12)
    phases = (double_batch().x.sum(-1) - samples.sum(-1)).mean()
    assert got[0].item() == pytest.approx(phases.item(), rel=1e-12)
    # x has two dimensions; were theta not held fixed in E*, weight * mean(x) would be added
    assert got[1].item() == pytest.approx(phases.item() - weight * 2 * eta * 0.7, rel=1e-12)


def test_a_rejected_step_passes_nothing_on():
    chain = LangevinConfig(steps=2, step_size=1e6, metropolis=True)
    plain, full = (double_objective(SmallEnergy(), langevin=chain, kl=kl, entropy=kl) for kl in (0.0, 1.0))
    for objective in (plain, full):  # a first step, so that the buffer is not empty
        gradient_of(objective, seed=0)
    assert torch.equal(gradient_of(plain), gradient_of(full))


class Bowl(Energy):
    """E(x | c) = (x - c)^2 exp(b) / 2; at b = 0 a step of 0.9 draws samples to a tenth of their distance."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, condition=None):
        return 0.5 * self.b.exp() * (x - condition["c"]).square().sum(-1)


class Around(Proposal):
    """Standard normal around the condition."""

    def centre(self, condition):
        return condition["c"]

    def sample(self, condition, generator=None):
        return condition["c"] + noise_like(condition["c"], generator)


def test_entropy_pushes_collapsed_samples_apart_whatever_their_conditions():
    def objective(energy, entropy):
        config = ContrastiveConfig(
            batch_size=80,
            langevin=LangevinConfig(steps=1, step_size=0.9, noise=1e-3),
            buffer_size=160,
            replay_fraction=0.0,
            entropy=entropy,
        )
        return ContrastiveDivergence(energy, Around(), config)

    energy = Bowl()
    full, plain = objective(energy, 1.0), objective(energy, 0.0)
    optimizer = torch.optim.Adam([energy.b], lr=0.02)
    spreads, distances = [], []
    for step in range(150):
        c = 1000 * torch.randn(80, 1, generator=torch.Generator().manual_seed(step)).double()
        batch = Batch(c, {"c": c})
        loss, figures = full(batch, torch.Generator().manual_seed(step))
        rest, _ = plain(batch, torch.Generator().manual_seed(step))
        energy.b.grad = None
        (loss - rest).backward()  # the entropy's part alone
        optimizer.step()
        newest = full.buffer.rows["chain"][80 * (step % 2) :][:80]
        spreads.append((newest - c).std().item())
        distances.append(figures.get("nearest_distance", torch.tensor(math.nan)).item())
    # conditions lie some ten apart: the distances are those of the whitened samples
    assert max(distances[1:]) < 0.05 and sum(distances[-40:]) > 1.2 * sum(distances[1:41])
    assert spreads[0] == pytest.approx(0.1, rel=0.2) and min(spreads[-20:]) > 0.25


def test_entropy_takes_the_mean_of_every_proposal_and_refuses_one_without():
    torch.manual_seed(0)
    head = nn.Linear(1, MixtureProposal.outputs(2, 3))
    read = lambda condition: condition["c"]  # noqa: E731
    config = ContrastiveConfig(20, LangevinConfig(steps=2), 100, entropy=0.1, kl=0.1)
    for proposal in (GaussianProposal(nn.Linear(1, 4), read), MixtureProposal(head, read, 3)):
        objective = ContrastiveDivergence(SmallEnergy().float(), proposal, config)
        for step in range(3):
            batch = double_batch(objective.new_rows, step)
            batch = Batch(batch.x.float(), {"c": batch.condition["c"].float()})
            loss, figures = objective(batch, torch.Generator().manual_seed(step))
        assert torch.isfinite(loss) and figures["nearest_distance"] > 0
        drawn = torch.stack([proposal.sample(batch.condition, None) for _ in range(4000)]).mean(0)
        assert torch.allclose(_centre_of(proposal)(batch.condition), drawn, atol=0.1)
    with pytest.raises(InputError, match="entropy: Proposal has no centre"):
        ContrastiveDivergence(SmallEnergy(), Proposal(), config)


def test_samples_are_whitened_by_the_component_that_their_chain_keeps_to():
    """Two narrow components far apart: by the whole mixture's mean and theirs, samples would be 100 off."""
    head = nn.Linear(1, MixtureProposal.outputs(1, 2))
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.0, 0.0, -1.0, 1.0, math.log(0.01), math.log(0.1)]))
    proposal = MixtureProposal(head, lambda condition: condition["c"], 2)
    condition = {"c": torch.zeros(4000, 1)}
    start = proposal.start(condition, torch.Generator().manual_seed(0))
    around = condition | start.component
    white = _whiten(start.x, proposal, around, proposal.scale(around))
    assert float(white.mean()) == pytest.approx(0, abs=0.06)
    assert float(white.std()) == pytest.approx(1, rel=0.05)


def test_a_replayed_chain_is_not_near_to_itself():
    """Chains that hardly move would else have a nearest neighbour at no distance: their own past."""
    config = ContrastiveConfig(
        batch_size=40,
        langevin=LangevinConfig(steps=1, step_size=1e-12),
        buffer_size=40,
        replay_fraction=0.95,
        entropy=0.3,
    )
    objective = ContrastiveDivergence(
        SmallEnergy(),
        NoiseProposal(lambda condition: torch.zeros(len(condition["c"]), 2).double(), 1.0),
        config,
    )
    for step in range(30):
        batch = double_batch(2, step)
        _, figures = objective(batch, torch.Generator().manual_seed(step))
    # 40 points on a square of 2 by 2
    assert 0.05 < figures["nearest_distance"].item() < 0.5


@pytest.mark.parametrize("step_size", [0.01, 30.0])
def test_step_size_finds_the_target_acceptance(step_size):
    chain = LangevinConfig(steps=3, step_size=step_size, metropolis=True)
    objective = make(LinearGaussian(1.0, 0.0), langevin=chain, adapt=True)
    accepted = []
    for step in range(600):
        generator = torch.Generator().manual_seed(step)
        c = torch.randn(objective.new_rows, 1, generator=generator)
        _, figures = objective(Batch(c, {"c": c}), generator)
        accepted.append(figures["acceptance"].item())
    assert sum(accepted[-100:]) / 100 == pytest.approx(0.574, abs=0.03)
    assert float(figures["step_size"]) == pytest.approx(objective.langevin.step_size, rel=0.05)
    assert objective.config.langevin.step_size == step_size


def test_memory_resumes_every_term_to_the_bit():
    def fresh() -> ContrastiveDivergence:
        chain = LangevinConfig(steps=4, step_size=0.3, metropolis=True)
        return double_objective(
            SmallEnergy(), langevin=chain, kl=1.0, entropy=0.3, adapt=True, replay_fraction=0.5
        )

    def run(objective: ContrastiveDivergence, first: int, last: int) -> torch.Tensor:
        for step in range(first, last):
            loss, figures = objective(double_batch(6, step), torch.Generator().manual_seed(step))
        return torch.stack([loss.detach(), *(value.double() for value in figures.values())])

    whole, parts, resumed = fresh(), fresh(), fresh()
    run(parts, 0, 17)
    saved = {name: value.clone() for name, value in parts.memory().items()}
    resumed.load_memory(saved, torch.device("cpu"))
    assert torch.equal(run(whole, 0, 45), run(resumed, 17, 45))
    assert whole.langevin == resumed.langevin and whole.langevin.step_size != 0.3


def test_figures_tell_how_long_chains_have_gone_on():
    objective = make(LinearGaussian(0.0, 0.0), batch_size=20, replay_fraction=0.5, buffer_size=40)
    for step in range(9):
        c = torch.randn(10, 1)
        _, figures = objective(Batch(c, {"c": c}), torch.Generator().manual_seed(step))
        if step == 0:
            assert "buffer_age_mean" not in figures
        elif step == 1:
            assert float(figures["buffer_age_mean"]) == float(figures["buffer_age_max"]) == 1
    # four batches of ten fit
    assert 1 < float(figures["buffer_age_mean"]) < float(figures["buffer_age_max"]) <= 4
    assert {"energy_data", "energy_samples", "energy_gap", "displacement", "acceptance", "step_size"} <= set(
        figures
    )
