"""Speed of training on several processes against one: `python -m ebm_traj.benchmarks.scaling [--ranks 2]`.

Strong scaling holds the rows of all ranks together, efficiency t_1(B) / (W t_W(B)); weak scaling holds the
rows of each rank, efficiency t_1(B) / t_W(W B). W processes that know nothing of each other, on B rows each,
tell what the machine loses by their number: the rest is what waiting and averaging cost. A step is that of
training: contrastive divergence with a full replay buffer, the mean of the gradients, clip, Adam, averaged
weights.
"""

import dataclasses
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ebm_traj.benchmarks.paired import shown
from ebm_traj.cli import run
from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.distributed import average_gradients, even_share, make_fabric, share_of
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.objectives import Batch
from ebm_traj.core.proposal import NoiseProposal
from ebm_traj.core.trainer import Trainer, TrainerConfig
from ebm_traj.errors import InputError, RunError
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.window_energy import WindowEnergy

REPLAYED = 0.7
CONTEXT = 31  # numbers that the energy is conditioned on
# of a network of one H200 node and more: bytes a second of each GPU's link between machines, and seconds for
# one hop of a small message
NETWORK_BANDWIDTH, NETWORK_LATENCY = 40e9, 15e-6


@dataclasses.dataclass(frozen=True)
class ScalingSettings:
    """The step of training that is timed."""

    ranks: int = 2
    """W, processes."""
    batch: int = 512
    """B, rows in a step of one process."""
    steps: int = 60
    """Steps of the chain."""
    width: int = 128
    """Units of a hidden layer."""
    depth: int = 3
    """Hidden layers."""
    iterations: int = 20
    """Steps of training in a block of which the time is taken."""
    rounds: int = 3
    """Times that the processes are started, one and W by turns."""

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "width", "depth", "iterations", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}; accepted are 1 and more")
        if self.ranks < 2:
            raise InputError(f"ranks: {self.ranks}; accepted are 2 and more")
        even_share("batch", self.batch, self.ranks)


@dataclasses.dataclass(frozen=True)
class ScalingResult:
    """Medians over rounds, seconds."""

    settings: ScalingSettings
    alone: float
    """A step of one process on B rows, nothing else running."""
    share: float
    """The same on B / W rows."""
    apart: float
    """A step of each of W such processes at the same time, on B rows each."""
    strong: float
    """A step of W processes on B rows together."""
    weak: float
    """A step of W processes on B rows each."""
    average: float
    """Of such a step, the mean of the gradients."""
    gradient_bytes: int
    """Bytes of a gradient of all parameters."""

    @property
    def strong_efficiency(self) -> float:
        """t_1(B) / (W t_W(B)); 1 is perfect."""
        return self.alone / (self.settings.ranks * self.strong)

    @property
    def weak_efficiency(self) -> float:
        """t_1(B) / t_W(W B); 1 is perfect."""
        return self.alone / self.weak

    @property
    def together_efficiency(self) -> float:
        """Of W processes that step together against as many that do not: 1 if agreement cost nothing."""
        return self.apart / self.weak

    def text(self) -> str:
        """Markdown."""
        world, batch = self.settings.ranks, self.settings.batch
        rows = [
            ("1 process", batch, self.alone, None),
            ("1 process", batch // world, self.share, None),
            (f"{world} processes apart", world * batch, self.apart, self.alone / self.apart),
            (f"{world} processes", batch, self.strong, self.strong_efficiency),
            (f"{world} processes", world * batch, self.weak, self.weak_efficiency),
        ]
        lines = ["| | rows in all | steps/s | efficiency |", "|---|---:|---:|---:|"]
        for name, count, seconds, efficiency in rows:
            told = "" if efficiency is None else f"{efficiency:.2f}"
            lines.append(f"| {name} | {count} | {1 / seconds:.1f} | {told} |")
        lines.append("")
        lines.append(
            f"Mean of the gradients ({self.gradient_bytes / 1e6:.2f} MB): {1e3 * self.average:.2f} ms of a "
            f"step of {1e3 * self.weak:.1f} ms. Together against apart: {self.together_efficiency:.2f}."
        )
        return "\n".join(lines)


def all_reduce_seconds(
    gradient_bytes: float, ranks: int, bandwidth: float = NETWORK_BANDWIDTH, latency: float = NETWORK_LATENCY
) -> float:
    """Time of one sum over ranks, on paper: each sends and receives 2 (W - 1) / W of the bytes.

    Plus 2 log2(W) hops of a tree, which is what a small message costs (Thakur et al. 2005, section 4.4).
    """
    return 2 * (ranks - 1) / ranks * gradient_bytes / bandwidth + 2 * math.log2(ranks) * latency


def benchmark_scaling(settings: ScalingSettings) -> ScalingResult:
    """All four rows, each process on one thread of the CPU.

    Raises RunError if a process fails.
    """
    world = settings.ranks
    found: dict[str, list[float]] = {}
    size = 0.0
    for _ in shown(range(settings.rounds)):
        blocks = [
            _finish([_start(settings, {"alone": settings.batch, "share": settings.batch // world})]),
            _finish([_start(settings, {"apart": settings.batch}) for _ in range(world)]),
            _finish(_start_ranks(settings, {"strong": settings.batch, "weak": settings.batch * world})),
        ]
        for told in blocks:
            size = told.pop("gradient_bytes")
            for name, seconds in told.items():
                found.setdefault(name, []).append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    return ScalingResult(settings, gradient_bytes=int(size), **medians)


def _start_ranks(settings: ScalingSettings, batches: dict[str, int]) -> list[subprocess.Popen]:
    """W processes that step together, started as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = str(settings.ranks)
    shared = {
        **{"TORCHELASTIC_RUN_ID": "scaling", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        **{"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": "0"},
    }
    return [
        _start(settings, batches, **shared, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(settings.ranks)
    ]


def _start(settings: ScalingSettings, batches: dict[str, int], **variables: str) -> subprocess.Popen:
    work = json.dumps({"settings": dataclasses.asdict(settings), "batches": batches})
    return subprocess.Popen(
        [sys.executable, "-m", "ebm_traj.benchmarks.scaling", work],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(processes: list[subprocess.Popen]) -> dict[str, float]:
    """What the processes found, the mean over them."""
    told = [process.communicate() for process in processes]
    if any(process.returncode for process in processes):
        raise RunError("scaling: a process failed: " + " ".join(told[0][1].splitlines()[-1:]))
    found = [json.loads(out.splitlines()[-1]) for out, _ in told]
    return {name: statistics.fmean(part[name] for part in found) for name in found[0]}


def _work(settings: ScalingSettings, batches: dict[str, int]) -> None:
    """One rank: times a block of steps for each batch of all ranks, and prints what it took."""
    torch.set_num_threads(1)
    fabric = make_fabric("cpu")
    found: dict[str, float] = {}
    for name, batch in batches.items():
        trainer = _trainer(settings, batch, fabric)
        for _ in range(5):  # the buffer is full, allocators have what they need
            trainer.step()
        fabric.barrier()
        began = time.perf_counter()
        for _ in range(settings.iterations):
            trainer.step()
        found[name] = (time.perf_counter() - began) / settings.iterations
        if fabric.world_size > 1:
            fabric.barrier()
            began = time.perf_counter()
            for _ in range(settings.iterations):
                average_gradients(trainer.raw.parameters(), fabric)
            found["average"] = (time.perf_counter() - began) / settings.iterations
    found["gradient_bytes"] = 4 * sum(values.numel() for values in trainer.raw.parameters())
    print(json.dumps(found))


def _trainer(settings: ScalingSettings, batch: int, fabric: Any) -> Trainer:
    rank, world = fabric.global_rank, fabric.world_size
    torch.manual_seed(0)
    network = NetworkConfig(
        context_frames=1, width=settings.width, depth=settings.depth, architecture="mlp", whitening=None
    )
    energy = WindowEnergy(CONTEXT, CONTEXT, network, 1.0, levels=False)
    proposal = NoiseProposal(lambda condition: torch.zeros_like(condition["context"]), 1.0)
    config = ContrastiveConfig(
        batch_size=batch // world,
        langevin=LangevinConfig(steps=settings.steps, step_size=0.01),
        buffer_size=share_of(2 * batch, rank, world),
        replay_fraction=REPLAYED,
    )
    objective = ContrastiveDivergence(energy, proposal, config)

    def rows(iteration: int, generator: torch.Generator) -> Batch:
        context = torch.randn(objective.new_rows, CONTEXT, generator=generator)
        return Batch(context, {"context": context})

    return Trainer(objective, rows, TrainerConfig(), Path(), fabric, {})


def main(settings: ScalingSettings) -> None:
    """Time training on several processes against one, on the CPU."""
    print(benchmark_scaling(settings).text())


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("{"):
        given = json.loads(sys.argv[1])
        _work(ScalingSettings(**given["settings"]), given["batches"])
    else:
        run(main, ScalingSettings)
