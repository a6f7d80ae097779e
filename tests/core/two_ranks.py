"""What `test_distributed.py` runs in two processes: `python two_ranks.py FOLDER`, told its rank by variables.

Each rank writes what it has at the end to FOLDER/<case>-<rank>.pt; nothing is asserted here.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ebm_traj.core.combined import CombinedObjective, Part
from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.distributed import make_fabric, share_of
from ebm_traj.core.energy import Energy, energy_and_gradient
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.likelihood import Likelihood
from ebm_traj.core.objectives import Batch, Objective, Regression
from ebm_traj.core.proposal import GaussianProposal, NoiseProposal
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.core.trainer import Trainer, TrainerConfig
from ebm_traj.errors import InputError

CONFIG = TrainerConfig(iterations=40, log_every=5, checkpoint_every=20, warmup=5)
BATCH, SLOTS = 40, 101
HALF = 20  # iterations after which a run is interrupted
SEEDS = range(5)


class SmallEnergy(Energy):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x, condition=None):
        return self.net(torch.cat([x, condition["c"]], -1)).squeeze(-1) + 0.5 * x.square().sum(-1)


class Centre(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 4)

    def forward(self, c):
        return self.net(c)


def rows(count: int) -> Callable[[int, torch.Generator], Batch]:
    """x = (c, -c) + 0.3 n: rows drawn by the rank's own generator."""

    def batches(iteration: int, generator: torch.Generator) -> Batch:
        c = torch.randn(count, 1, generator=generator)
        return Batch(torch.cat([c, -c], -1) + 0.3 * torch.randn(count, 2, generator=generator), {"c": c})

    return batches


def contrastive(rank: int, world: int, batch: int = BATCH, **changes) -> ContrastiveDivergence:
    torch.manual_seed(0)
    config = ContrastiveConfig(
        batch_size=batch // world,
        langevin=LangevinConfig(steps=3, step_size=0.2),
        buffer_size=share_of(SLOTS, rank, world),
        replay_fraction=0.5,
    )
    start = NoiseProposal(lambda condition: torch.zeros(len(condition["c"]), 2), 1.0)
    return ContrastiveDivergence(SmallEnergy(), start, dataclasses.replace(config, **changes))


def combined(rank: int, world: int) -> Objective:
    """Two parts, the second from iteration 15, with a step size that adapts."""
    torch.manual_seed(0)
    proposal = GaussianProposal(Centre(), lambda condition: condition["c"])
    chain = LangevinConfig(steps=3, step_size=1.5, metropolis=True)
    config = ContrastiveConfig(BATCH // world, chain, share_of(SLOTS, rank, world), 0.5, adapt=True)
    second = ContrastiveDivergence(SmallEnergy(), proposal, config, fit_proposal=False)
    return CombinedObjective(
        [Part("likelihood", Likelihood(proposal, BATCH // world)), Part("contrastive", second, start=15)]
    )


def regression(rank: int, world: int) -> tuple[Objective, Callable]:
    """A regression in double precision on rows that are the same however many ranks share them."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2)).double()

    def batches(iteration: int, generator: torch.Generator) -> Batch:
        c = torch.randn(BATCH, 3, generator=seeded_generator("cpu", iteration), dtype=torch.float64)
        c = c[rank::world]
        return Batch(c[:, :2] ** 2, {"c": c})

    class Predict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, condition):
            return self.network(condition["c"])

    return Regression(Predict(), BATCH // world), batches


class Marked(Objective):
    """A parabola whose figures tell the rank, and that goes wrong on one rank at one iteration."""

    def __init__(self, rank: int, wrong: str = "", wrong_rank: int = 1) -> None:
        super().__init__()
        self.parameter = nn.Parameter(torch.ones(1))
        self.new_rows = 1
        self.rank, self.wrong, self.wrong_rank = rank, wrong, wrong_rank
        self.calls = self.recovered = 0

    def forward(self, batch, generator):
        self.calls += 1
        wrong = self.wrong if (self.calls, self.rank) == (13, self.wrong_rank) else ""
        loss = (self.parameter**2).sum() * (float("nan") if wrong == "nan" else 1.0)
        energy = torch.tensor(1e9 if wrong == "energy" else 0.0)
        return loss, {
            "energy_data": energy,
            "rank": torch.tensor(self.rank),
            "rank_max": torch.tensor(self.rank),
        }

    def recover(self) -> str:
        self.recovered += 1
        return "took a breath"


def held_out(energy: Energy) -> float:
    """Mean squared error of dE/dx against that of the data's own density, on fixed points."""
    generator = seeded_generator("cpu", "held out")
    c = torch.randn(500, 1, generator=generator)
    x = torch.cat([c, -c], -1) + 0.3 * torch.randn(500, 2, generator=generator)
    _, gradient = energy_and_gradient(lambda z: energy(z, {"c": c}), x)
    return float((gradient - (x - torch.cat([c, -c], -1)) / 0.3**2).square().mean())


def curve(rank: int, world: int, seed: int, fabric, folder: Path) -> list[float]:
    """Held-out error of a contrastive training at its start and its end."""
    if rank == 0:
        folder.mkdir(exist_ok=True, parents=True)
    config = TrainerConfig(
        iterations=55, learning_rate=3e-2, final_learning_rate=1.0, warmup=1, log_every=55, seed=seed
    )
    chain = LangevinConfig(steps=8, step_size=0.05)
    objective = contrastive(rank, world, 64, buffer_size=share_of(256, rank, world), langevin=chain)
    trainer = Trainer(objective, rows(objective.new_rows), config, folder, fabric, {})
    before = held_out(objective.energy)
    trainer.fit()
    return [before, held_out(trainer.raw.energy)]


def make(
    folder: Path, fabric, objective: Objective, config=CONFIG, identity=None, batches=None, **kw
) -> Trainer:
    batches = batches or rows(objective.new_rows)
    return Trainer(objective, batches, config, folder, fabric, identity or {"data": "toy"}, **kw)


def interrupt(trainer: Trainer, at: int) -> None:
    """Fit until just before a step."""
    step = trainer.step

    def stopped():
        if trainer.iteration == at:
            raise KeyboardInterrupt
        return step()

    trainer.step = stopped  # type: ignore[method-assign]
    try:
        trainer.fit()
    except KeyboardInterrupt:
        trainer.step = step  # type: ignore[method-assign]


def vector(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def filled(objective: ContrastiveDivergence) -> Tensor:
    """(n, 5) the rows of a replay buffer: chain, data, condition."""
    buffer = objective.buffer
    return torch.cat([buffer.rows[name][: buffer.size] for name in ("chain", "data", "c")], dim=1).clone()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    fabric = make_fabric("cpu")
    rank, world = fabric.global_rank, fabric.world_size

    def place(name: str) -> Path:
        """Only rank 0 is given a folder that exists."""
        path = folder / name if rank == 0 else folder / "nowhere" / name
        if rank == 0:
            path.mkdir(exist_ok=True)
        return path

    def keep(name: str, **values) -> None:
        torch.save(values, folder / f"{name}-{rank}.pt")

    # a step of all parts; the weights before are made unlike, to be taken from rank 0
    objective = combined(rank, world)
    with torch.no_grad():
        next(objective.parameters()).add_(float(rank))
    trainer = make(place("combined"), fabric, objective)
    late = objective.parts[1].objective
    weights, sizes, moments = [], [], []
    step = trainer.step

    def watched():
        figures = step()
        weights.append(vector(trainer.raw))
        sizes.append(late.langevin.step_size)
        moments.append(len(trainer.optimizer.state_dict()["state"]))
        return figures

    trainer.step = watched
    trainer.fit()
    keep(
        "combined", weights=torch.stack(weights), sizes=sizes, moments=moments,
        ema=vector(trainer.ema.module), rows=filled(late), clock=late.buffer.clock,
    )  # fmt: skip

    objective, batches = regression(rank, world)
    trainer = make(place("regression"), fabric, objective, batches=batches)
    trainer.fit()
    keep("regression", weights=vector(trainer.raw))

    keep("curve", errors=[curve(rank, world, seed, fabric, place(f"curve-{seed}")) for seed in SEEDS])

    # a run of two ranks, interrupted for one to go on with
    trainer = make(place("to_one"), fabric, contrastive(rank, world))
    interrupt(trainer, HALF)
    keep("to_one", rows=filled(trainer.raw), weights=vector(trainer.raw))

    # a run of one, interrupted before, gone on with; its folder is read by rank 0 alone
    trainer = make(place("to_two"), fabric, contrastive(rank, world))
    trainer.resume()
    found = {"rows": filled(trainer.raw), "iteration": trainer.iteration, "before": vector(trainer.raw)}
    trainer.fit()
    keep("to_two", **found, weights=vector(trainer.raw), capacity=trainer.raw.buffer.capacity)

    other = make(place("to_two"), fabric, contrastive(rank, world), identity={"data": "other"})
    try:
        other.resume()
    except InputError as error:
        keep("identity", message=str(error))

    for name, wrong_rank in (("nan", 1), ("energy", 0)):
        objective = Marked(rank, name, wrong_rank)
        # every step is looked at: energies that run away for one step alone are seen then
        config = dataclasses.replace(CONFIG, log_every=5 if name == "nan" else 1)
        trainer = make(place(name), fabric, objective, config)
        report = trainer.fit()
        keep(name, restarts=report.restarts, recovered=objective.recovered, weights=vector(objective))

    # validation runs on rank 0 and counts on both
    calls = []

    def validate(module):
        calls.append(rank)
        return {"energy_score": float(len(calls) == 2)}

    config = dataclasses.replace(CONFIG, validate_every=10)
    trainer = make(place("validated"), fabric, Marked(rank), config, validate=validate)
    report = trainer.fit()
    keep("validated", calls=len(calls), kept=report.kept_iteration, weights=vector(trainer.ema.module))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
