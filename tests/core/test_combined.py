"""Objectives together: the sum of their parts, each from its start, shared modules once, exact resume."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from ebm_traj.core.checkpoint import load_tensors, save_tensors
from ebm_traj.core.combined import CombinedObjective, Part
from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.energy import Energy
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.logs import read_metrics
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.proposal import NoiseProposal
from ebm_traj.core.trainer import TRAINING_FILE, Trainer, TrainerConfig
from ebm_traj.errors import InputError


class SmallEnergy(Energy):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x, condition=None):
        return self.net(torch.cat([x, condition["c"]], -1)).squeeze(-1) + 0.5 * x.square().sum(-1)


class Slope(Objective):
    """Mean squared dE/dx at the data plus noise: cheap, and random."""

    def __init__(self, energy: Energy, rows: int) -> None:
        super().__init__()
        self.energy = energy
        self.new_rows = self.batch_size = rows
        self.seen: Batch | None = None

    def forward(self, batch, generator):
        self.seen = batch
        x = batch.x + torch.empty_like(batch.x).normal_(generator=generator)
        energy = self.energy(x.requires_grad_(True), batch.condition)
        (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        loss = slope.square().mean()
        return loss, {"slope": loss.detach()}


def contrastive(energy: Energy) -> ContrastiveDivergence:
    chain = LangevinConfig(steps=3, metropolis=True)
    config = ContrastiveConfig(
        20, chain, buffer_size=100, replay_fraction=0.5, adapt=True, kl=0.5, entropy=0.1
    )
    start = NoiseProposal(lambda condition: torch.zeros(len(condition["c"]), 2), 1.0)
    return ContrastiveDivergence(energy, start, config)


def combined(start: int = 7, weight: float = 0.3) -> CombinedObjective:
    torch.manual_seed(0)
    energy = SmallEnergy()
    return CombinedObjective(
        [Part("slope", Slope(energy, 24)), Part("contrastive", contrastive(energy), weight, start)]
    )


def batches(iteration, generator):
    c = torch.randn(24, 1, generator=generator)
    return Batch(torch.cat([c, -c], -1), {"c": c})


def first(batch: Batch, rows: int) -> Batch:
    return Batch(batch.x[:rows], {"c": batch.condition["c"][:rows]})


def test_it_is_the_weighted_sum_of_its_parts_to_the_bit():
    together, apart = combined(start=2), combined(start=2)
    slope, divergence = (part.objective for part in apart.parts)
    for step in range(6):
        generators = [torch.Generator().manual_seed(step) for _ in range(2)]
        batch = batches(step, torch.Generator().manual_seed(100 + step))
        loss, figures = together(batch, generators[0])
        expected, _ = slope(first(batch, 24), generators[1])
        assert figures["slope/loss"] == expected
        if step >= 2:
            other, inner = divergence(first(batch, 10), generators[1])
            assert figures["contrastive/loss"] == other
            assert all(torch.equal(figures[f"contrastive/{name}"], inner[name]) for name in inner)
            expected = expected + 0.3 * other
        else:
            assert not any(name.startswith("contrastive") for name in figures)
        assert torch.equal(loss, expected)
        for objective, value in ((together, loss), (apart, expected)):
            objective.zero_grad()
            (value + 0 * sum(p.sum() for p in objective.parameters())).backward()  # no gradient is None
        assert all(
            torch.equal(a.grad, b.grad)
            for a, b in zip(together.parameters(), apart.parameters(), strict=True)
        )


def test_rows_costs_and_shared_parameters_are_counted_once():
    objective = combined(start=0)
    assert objective.new_rows == 24 and objective.batch_size == 34
    assert objective.gradients == sum(part.objective.gradients for part in objective.parts)
    energy = objective.parts[0].objective.energy
    assert sum(p.numel() for p in objective.parameters()) == sum(p.numel() for p in energy.parameters())
    batch = batches(0, torch.Generator().manual_seed(0))
    objective(batch, torch.Generator().manual_seed(0))
    assert torch.equal(objective.parts[0].objective.seen.x.detach(), batch.x)
    assert torch.equal(objective.parts[1].objective.buffer.rows["data"][:10], batch.x[:10])
    assert len(objective.parts[1].objective.buffer) == 10


def test_a_checkpoint_holds_shared_tensors_once_and_restores_them(tmp_path):
    objective, other = combined(), combined()
    state = objective.state_dict()
    assert len(state) == len(list(objective.parameters()))
    save_tensors(tmp_path / "t.safetensors", state, {})
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(load_tensors(tmp_path / "t.safetensors")[0])
    assert all(torch.equal(a, b) for a, b in zip(objective.parameters(), other.parameters(), strict=True))
    assert other.parts[0].objective.energy is other.parts[1].objective.energy
    # as a part of something larger, too
    outer = nn.ModuleDict({"inner": combined()})
    outer.load_state_dict(outer.state_dict())
    assert len(outer.state_dict()) == len(state)


def make(folder) -> Trainer:
    folder.mkdir(exist_ok=True)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    config = TrainerConfig(iterations=40, log_every=5, checkpoint_every=10, warmup=5)
    return Trainer(combined(start=13), batches, config, folder, fabric, {"data": "toy"})


def stop():
    raise KeyboardInterrupt


@pytest.mark.parametrize("at", [12, 27])
def test_a_resumed_run_takes_the_same_steps(tmp_path, at):
    whole, begun = make(tmp_path / "whole"), make(tmp_path / "parts")
    whole.fit()
    step, begun.step = begun.step, lambda: step() if begun.iteration < at else stop()
    with pytest.raises(KeyboardInterrupt):
        begun.fit()
    resumed = make(tmp_path / "parts")
    resumed.resume()
    assert resumed.iteration == resumed.raw.iteration == at // 10 * 10
    resumed.fit()
    vectors = [nn.utils.parameters_to_vector(t.ema.module.parameters()) for t in (whole, resumed)]
    assert torch.equal(*vectors)
    memories = [t.raw.memory() for t in (whole, resumed)]
    assert memories[0].keys() == memories[1].keys()
    assert all(torch.equal(memories[0][name], memories[1][name]) for name in memories[0])
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "parts")]
    assert rows[0] == rows[1] and "contrastive/energy_gap" in rows[0][-1]
    assert "contrastive/energy_gap" not in rows[0][1]
    assert (tmp_path / "parts" / TRAINING_FILE).is_file()


def test_recovery_concerns_the_parts_that_have_started():
    objective = combined(start=1)
    batch = batches(0, torch.Generator().manual_seed(0))
    objective(batch, torch.Generator().manual_seed(0))
    assert objective.recover() == "slope: nothing changed"
    objective(batch, torch.Generator().manual_seed(1))
    assert "contrastive: replay buffer emptied" in objective.recover()
    assert len(objective.parts[1].objective.buffer) == 0


def test_the_guard_sees_the_largest_energy_of_all_parts():
    objective = combined(start=0)
    _, figures = objective(batches(0, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0))
    energies = [abs(v.item()) for name, v in figures.items() if name.startswith("contrastive/energy_")]
    assert len(energies) == 3 and figures["energy_largest"].item() == max(energies)


def test_parts_that_cannot_be_told_apart_or_never_start_are_refused():
    energy = SmallEnergy()
    with pytest.raises(InputError, match="must differ"):
        CombinedObjective([Part("a", Slope(energy, 2)), Part("a", Slope(energy, 2))])
    with pytest.raises(InputError, match="one objective must start at 0"):
        CombinedObjective([Part("a", Slope(energy, 2), start=3)])
    for settings, message in (
        ({"name": "a.b"}, "objective name: 'a.b'"),
        ({"weight": 0.0}, "weight of a: 0.0"),
        ({"start": -1}, "start of a: -1"),
    ):
        with pytest.raises(InputError, match=message):
            Part(**{"name": "a", "objective": Slope(energy, 2), **settings})
