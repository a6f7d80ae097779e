"""Contrastive divergence with a generator as sampler against a replay buffer: equal energy, data and time."""

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ebm_traj.core.checkpoint import save_json, save_tensors
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.distributed import make_fabric
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.core.trainer import Trainer, TrainerConfig
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.ebgan.amortised import AmortisedConfig, AmortisedContrastive, GeneratorProposal
from ebm_traj.ebgan.class_scores import log_probabilities, reversed_score
from ebm_traj.ebgan.convolutional import SIZES, ConvGenerator
from ebm_traj.ebgan.fully_connected import FCGenerator
from ebm_traj.ebgan.layers import GENERATOR_STD, calibrate, first_weights
from ebm_traj.errors import InputError
from ebm_traj.image.chains import bounded_langevin
from ebm_traj.image.networks import ImageEnergy, NetworkConfig, build_network
from ebm_traj.image.objectives import PictureContrastive
from ebm_traj.image.pictures import batches, to_tensor
from ebm_traj.image.scores import Reference

Way = Literal["replay", "generator", "generator + chain"]
LATENT = 32
TRIAL_STEPS = 12  # by which the time of a step is measured
DRAWN_AT_ONCE = 250


@dataclasses.dataclass(frozen=True)
class SamplerStudyConfig:
    """The same energy for all; what each way has of its own was chosen on validation pictures."""

    cpu_seconds: float = 120.0
    """Of training, for each way."""
    channels: tuple[int, ...] = (16, 32, 64, 64)
    """Of the energy's convolutions (image.conv)."""
    batch_size: int = 64
    """Pictures in a step."""
    replay_steps: int = 20
    """Langevin steps from the buffer; 60 in UvA tutorial 8, whose training is a hundred times longer."""
    replay_step_size: float = 10.0
    """Of these steps, with `replay_clip` on each pixel's gradient."""
    replay_clip: float = 0.03
    """Bound on each pixel's gradient."""
    noise: float = 0.005
    """Of every Langevin step."""
    buffer_size: int = 8192
    """Chains in the buffer."""
    replay_regularisation: float = 0.1
    """Weight of the squared energies with the buffer."""
    replay_rate: float = 1e-3
    """Learning rate with the buffer."""
    generator_channels: int = 16
    """Of the generator's narrowest layers; it is fully connected where `convolutional` has no such size."""
    entropy_weight: float = 0.1
    """Of the generator's entropy."""
    generator_regularisation: float = 1.0
    """Weight of the squared energies with the generator."""
    generator_rate: float = 1e-3
    """Learning rate of energy and generator."""
    chain_steps: int = 10
    """Langevin steps from the generator's samples in the third way, and after training in all."""
    samples: int = 2000
    """Drawn and scored."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        if not self.cpu_seconds > 0:
            raise InputError(f"cpu seconds: {self.cpu_seconds}; accepted are more than 0")
        for name in ("samples", "chain_steps", "generator_channels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 1 and more")
        self.replay, self.amortised(0)  # their own checks

    @property
    def chain(self) -> LangevinConfig:
        """The buffer's chain."""
        return LangevinConfig(self.replay_steps, self.replay_step_size, self.noise, self.replay_clip)

    @property
    def replay(self) -> ContrastiveConfig:
        """Contrastive divergence with the buffer."""
        return ContrastiveConfig(
            batch_size=self.batch_size,
            langevin=self.chain,
            buffer_size=self.buffer_size,
            replay_fraction=0.95,
            energy_regularisation=self.replay_regularisation,
        )

    def amortised(self, steps: int) -> AmortisedConfig:
        """Contrastive divergence with the generator and so many steps from its samples."""
        return AmortisedConfig(
            batch_size=self.batch_size,
            weight=self.entropy_weight,
            steps=steps,
            step_size=self.replay_step_size,
            noise=self.noise,
            energy_regularisation=self.generator_regularisation,
        )


@dataclasses.dataclass
class Trained:
    """One way, trained."""

    way: Way
    objective: Any
    """A `ContrastiveDivergence`, its averaged weights."""
    iterations: int
    cpu_seconds: float
    parameters: int


def make_objective(way: Way, shape: tuple[int, int, int], config: SamplerStudyConfig) -> Objective:
    """Energy and sampler of one way; the energies' first weights are the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        energy = build_network(NetworkConfig(kind="conv", channels=config.channels), shape, 0)
    if way == "replay":
        return PictureContrastive(energy, shape, config.replay, data_noise=config.noise)
    square = shape[1] == shape[2] and shape[1] in SIZES
    generator = (
        ConvGenerator(shape, LATENT, config.generator_channels)
        if square
        else FCGenerator(shape, LATENT, 3, 25 * config.generator_channels)
    )
    first_weights(generator, GENERATOR_STD, seeded_generator("cpu", config.seed, "generator"))
    steps = 0 if way == "generator" else config.chain_steps
    return AmortisedContrastive(energy, generator, LATENT, config.amortised(steps))


def train_way(way: Way, train: PictureSet, config: SamplerStudyConfig, out: Path) -> Trained:
    """Train one way by the core's trainer for `cpu_seconds`, as far as a trial of a few steps tells."""
    objective = make_objective(way, train.shape, config)
    draw = _unlabelled(batches(train, objective.new_rows))
    step = _seconds_of_a_step(copy.deepcopy(objective), draw, config.seed)
    iterations = max(1, round(config.cpu_seconds / step))
    generator_way = way != "replay"
    settings = TrainerConfig(
        iterations=iterations,
        learning_rate=config.generator_rate if generator_way else config.replay_rate,
        warmup=min(50, iterations),
        final_learning_rate=0.1,
        betas=(0.5, 0.999) if generator_way else (0.0, 0.999),
        gradient_clip=1e6 if generator_way else 1.0,
        ema_decay=0.99,
        log_every=20,
        checkpoint_every=max(1, iterations // 4),
        validate_every=0,
        seed=config.seed,
    )
    folder = out / way.replace(" + ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"way": way, "study": repr(config), "data": train.name}
    trainer = Trainer(objective, draw, settings, folder, make_fabric("cpu"), identity)
    began = time.process_time()
    trainer.fit()
    spent = time.process_time() - began
    averaged: Any = trainer.ema.module
    if generator_way:  # its batch norm has no averages of its own
        proposal = averaged.proposal
        generator = seeded_generator("cpu", config.seed, "calibrate")
        with torch.no_grad():
            noise = [torch.empty(256, LATENT).normal_(generator=generator) for _ in range(4)]
        calibrate(proposal.generator, noise)
    else:
        averaged.buffer = trainer.raw.buffer
    averaged.eval()
    save_tensors(folder / "weights.safetensors", averaged.state_dict(), {"way": way})
    return Trained(way, averaged, iterations, spent, sum(p.numel() for p in objective.parameters()))


def _unlabelled(
    draw: Callable[[int, torch.Generator], Batch],
) -> Callable[[int, torch.Generator], Batch]:
    """Batches whose condition has the rows' number and nothing of their class."""

    def batch(iteration: int, generator: torch.Generator) -> Batch:
        x = draw(iteration, generator).x
        return Batch(x, {"row": torch.zeros(len(x))})

    return batch


def _seconds_of_a_step(
    objective: Objective, draw: Callable[[int, torch.Generator], Batch], seed: int
) -> float:
    """CPU seconds of a training step, the first ones left out."""
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-5)
    objective.train()
    times = []
    for number in range(TRIAL_STEPS):
        began = time.process_time()
        generator = seeded_generator("cpu", seed, "trial", number)
        loss, _ = objective(draw(number, generator), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.process_time() - began)
    return sum(times[2:]) / len(times[2:])


def draws(trained: Trained, config: SamplerStudyConfig) -> dict[str, tuple[Tensor, float, int]]:
    """Ways to draw samples of a trained energy: pictures, CPU seconds, gradients of the energy for each."""
    generator = seeded_generator("cpu", config.seed, "samples", trained.way)
    objective, count = trained.objective, config.samples
    energy: ImageEnergy = objective.energy
    found: dict[str, tuple[Tensor, float, int]] = {}

    def timed(name: str, gradients: int, make: Callable[[], Tensor]) -> None:
        began = time.process_time()
        x = make()
        found[name] = (x.clamp(-1, 1), time.process_time() - began, gradients)

    def walked(start: Tensor, steps: int) -> Tensor:
        chain = dataclasses.replace(config.chain, steps=steps)
        parts = start.split(DRAWN_AT_ONCE)
        bound = energy.bind({})
        return torch.cat([bounded_langevin(bound, x, chain, 1.0, generator=generator).x for x in parts])

    if isinstance(objective.proposal, GeneratorProposal):
        proposal = objective.proposal

        @torch.no_grad()
        def generated() -> Tensor:
            return torch.cat([proposal.draw(n, generator) for n in _sizes(count)])

        timed("generator", 0, generated)
        timed(
            f"generator + {config.chain_steps} steps",
            config.chain_steps,
            lambda: walked(generated(), config.chain_steps),
        )
        return found
    held = min(count, len(objective.buffer))
    _, rows = objective.buffer.draw(held, generator)
    timed("buffer", 0, lambda: rows["chain"].clone())
    noise = torch.empty(count, *energy.shape).uniform_(-1, 1, generator=generator)
    for times in (1, 4):
        steps = times * config.replay_steps
        timed(f"noise + {steps} steps", steps, lambda steps=steps: walked(noise, steps))  # type: ignore[misc]
    return found


def _sizes(count: int) -> list[int]:
    return [min(DRAWN_AT_ONCE, count - at) for at in range(0, count, DRAWN_AT_ONCE)]


def compare(
    ways: Sequence[Way],
    train: PictureSet,
    real: PictureSet,
    classifier: Any,
    config: SamplerStudyConfig,
    out: Path,
) -> list[dict[str, Any]]:
    """Train each way, draw, and score against `real`; a row for each way to draw, and the floor last."""
    reference = Reference.of(real, classifier, config.samples, config.seed)
    rows: list[dict[str, Any]] = []
    for way in ways:
        trained = train_way(way, train, config, out)
        for name, (x, seconds, gradients) in draws(trained, config).items():
            enough = len(x) >= reference.count and bool(x.isfinite().all())
            rows.append(
                {
                    "way": way,
                    "samples": name,
                    "iterations": trained.iterations,
                    "train_cpu_seconds": round(trained.cpu_seconds, 1),
                    "parameters": trained.parameters,
                    "gradients_per_step": trained.objective.gradients,
                    "sample_cpu_ms": 1000 * seconds / len(x),
                    "sample_gradients": gradients,
                    **(_figures(reference, classifier, x) if enough else {}),
                    "pictures": x[:40],
                }
            )
        save_json(out / "rows.json", [{k: v for k, v in r.items() if k != "pictures"} for r in rows])
    floor, others = reference.floor(), to_tensor(reference.others.x)
    score = reversed_score(log_probabilities(classifier, others))
    kept = {name: float(floor[name]) for name in KEPT}
    rows.append({"way": "pictures themselves", "samples": "-", **kept, "reversed_score": score})
    return rows


KEPT = ("classifier_fd", "precision", "recall", "density", "coverage", "classifier_is")


def _figures(reference: Reference, classifier: Any, x: Tensor) -> dict[str, float]:
    found = reference.score(x)
    score = reversed_score(log_probabilities(classifier, x[: reference.count]))
    return {**{name: float(found[name]) for name in KEPT}, "reversed_score": score}
