"""Training of a generator and a discriminator: guarded, logged, resumable, with pictures on the way.

The core's trainer minimises one objective by one optimiser; here two networks of opposed aims take turns. The
files of a run are the same.
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ebm_traj.core.checkpoint import (
    load_optimizer_tensors,
    load_tensors,
    optimizer_tensors,
    require_same,
    save_tensors,
    under_prefix,
    with_prefix,
)
from ebm_traj.core.ema import EMA
from ebm_traj.core.guard import DivergenceGuard
from ebm_traj.core.logs import MetricLog
from ebm_traj.core.objectives import Batch
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.core.trainer import TRAINING_FILE
from ebm_traj.ebgan.layers import calibrate
from ebm_traj.ebgan.model import CALIBRATION_BATCHES, CALIBRATION_ROWS, AdversarialModel
from ebm_traj.ebgan.step import AdversarialStep, OptimiserConfig
from ebm_traj.errors import InputError, RunError

GRIDS = "samples"
GRID_SIDE = 10  # pictures across and down

Score = Callable[[Tensor], Mapping[str, float]]
"""Samples (N, C, H, W) to figures for the log."""


@dataclasses.dataclass(frozen=True)
class AdversarialSettings:
    """Settings of the loop."""

    iterations: int = 5000
    """Updates of the discriminator, and of the generator."""
    batch_size: int = 128
    """Pictures, and samples, in an update."""
    final_learning_rate: float = 1.0
    """Learning rate at the end, as a share of the first; the way there is linear."""
    ema_decay: float = 0.0
    """Decay of the averaged weights of the generator, which are then the ones kept; 0 for none."""
    log_every: int = 50
    """Iterations between rows of the log and looks of the guard."""
    checkpoint_every: int = 500
    """Iterations between training checkpoints."""
    grid_every: int = 500
    """Iterations between pictures of samples of the same noise; 0 for none."""
    score_every: int = 0
    """Iterations between scores of samples, where there is a classifier; 0 for none."""
    score_samples: int = 1000
    """Samples of a score."""
    energy_limit: float = 1e4
    """Mean energies beyond +- this count as a divergence."""
    max_restarts: int = 5
    """Divergences after which training gives up."""
    seed: int = 0
    """Seed of all random numbers of the run."""

    def __post_init__(self) -> None:
        for name in ("iterations", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 1 and more")
        for name in ("grid_every", "score_every"):
            if getattr(self, name) < 0:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 0 and more")
        if self.batch_size < 2:
            raise InputError(f"batch size: {self.batch_size}; batch norm needs 2 and more")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema decay: {self.ema_decay}; accepted is 0 to below 1")
        if not 0 <= self.final_learning_rate <= 1:
            raise InputError(
                f"final learning rate: {self.final_learning_rate}; accepted are shares of 0 to 1"
            )


class _Both:
    """Two optimisers as the guard sees one."""

    def __init__(self, step: AdversarialStep) -> None:
        self.parts = {"generator": step.generator, "discriminator": step.discriminator}

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


class AdversarialTrainer:
    """Trains a model in place.

    All random numbers of an iteration come from a generator seeded by (seed, restarts, iteration): a resumed
    run takes the same steps as an uninterrupted one.
    """

    def __init__(
        self,
        model: AdversarialModel,
        batches: Callable[[int, torch.Generator], Batch],
        optimiser: OptimiserConfig,
        settings: AdversarialSettings,
        folder: Path,
        identity: dict[str, Any],
        score: Score | None = None,
    ) -> None:
        """`identity` is what must be the same for a run to be resumed."""
        self.model, self.batches, self.settings = model, batches, settings
        self.folder, self.identity, self.score = folder, identity, score
        self.optimiser = optimiser
        self.step = AdversarialStep(model, optimiser)
        self.both = _Both(self.step)
        self.schedule = model.config.schedule(model.shape)
        self.ema = EMA(model.generator, settings.ema_decay) if settings.ema_decay else None
        self.guard = DivergenceGuard(settings.energy_limit, settings.max_restarts)
        self.iteration, self.seconds = 0, 0.0

    def fit(self) -> dict[str, float]:
        """Train to the last iteration from where the run stands; the last row of the log.

        Raises RunError if it diverged more than `max_restarts` times.
        """
        settings, figures = self.settings, {}
        began = time.perf_counter() - self.seconds
        self.model.train()
        self._keep()
        bar = tqdm(total=settings.iterations, initial=self.iteration, unit="it", mininterval=1)
        with bar, MetricLog(self.folder, self.iteration) as log:
            while self.iteration < settings.iterations:
                tensors = self._one()
                last = self.iteration == settings.iterations
                scored = self.score is not None and self._due(settings.score_every, last)
                logged = scored or self._due(settings.log_every, last)
                saved = self._due(settings.checkpoint_every, last)
                if logged or saved:  # what is saved is looked at: a resumed run could not go back before it
                    figures = {name: float(value) for name, value in tensors.items()}
                    trouble = self.guard.trouble(figures)
                    if trouble:
                        self._go_back(trouble, bar)
                        continue
                    self._keep()
                if logged:
                    if scored and self.score is not None:
                        generator = seeded_generator(self.model.device, settings.seed, "score")
                        found = self.score(self._shown(settings.score_samples, generator))
                        figures |= {f"validation/{name}": value for name, value in found.items()}
                    log.write(self.iteration, figures)
                    shown = {name: f"{figures[name]:.3g}" for name in list(figures)[:4]}
                    bar.set_postfix(shown, refresh=False)
                if self._due(settings.grid_every, last):
                    self.draw()
                bar.update(self.iteration - bar.n)
                if saved:
                    self.seconds = time.perf_counter() - began
                    self.save()
        if self.ema is not None:
            self.model.generator.load_state_dict(self.ema.module.state_dict())
        return figures

    def _due(self, every: int, last: bool) -> bool:
        return every > 0 and (last or self.iteration % every == 0)

    def _one(self) -> dict[str, Tensor]:
        settings = self.settings
        generator = seeded_generator(self.model.device, settings.seed, self.guard.restarts, self.iteration)
        share = 1 - (1 - settings.final_learning_rate) * self.iteration / settings.iterations
        rate = self.optimiser.learning_rate * share
        for part in self.both.parts.values():
            for group in part.param_groups:
                group["lr"] = rate
        margin = self.schedule.at(self.iteration, settings.iterations)
        figures = self.step(self.batches(self.iteration, generator).x, margin, generator)
        if self.ema is not None:
            self.ema.update(self.model.generator)
        self.iteration += 1
        return {**figures, "margin": torch.tensor(margin), "learning_rate": torch.tensor(rate)}

    def _keep(self) -> None:
        both = cast(torch.optim.Optimizer, self.both)
        self.guard.keep(self.iteration, self.model, both, self._average)

    @property
    def _average(self) -> nn.Module:
        return self.model.generator if self.ema is None else self.ema.module

    def _go_back(self, trouble: str, bar: tqdm) -> None:
        at = self.iteration
        both = cast(torch.optim.Optimizer, self.both)
        self.iteration = self.guard.restore(self.model, both, self._average)
        if self.guard.restarts > self.settings.max_restarts:
            raise RunError(
                f"training diverged {self.guard.restarts} times, last at iteration {at} ({trouble}); "
                "try a lower learning rate"
            )
        message = f"iteration {at}: {trouble}; back to {self.iteration} with a new seed"
        bar.write(message)
        with (self.folder / "restarts.log").open("a") as file:
            file.write(message + "\n")

    @torch.no_grad()
    def _shown(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples of a copy of the generator to be kept, its batch norm settled."""
        network = copy.deepcopy(self._average)
        noise = (self.model.noise(CALIBRATION_ROWS, generator) for _ in range(CALIBRATION_BATCHES))
        calibrate(network, noise)
        network.eval()
        return torch.cat([network(z) for z in self.model.noise(count, generator).split(500)])

    def draw(self) -> Path:
        """Write a picture of samples of always the same noise."""
        from ebm_traj.image.grids import write_grid

        generator = seeded_generator(self.model.device, self.settings.seed, "grid")
        x = self._shown(GRID_SIDE**2, generator)
        return write_grid(self.folder / GRIDS / f"{self.iteration:07d}.png", x, GRID_SIDE)

    def save(self) -> None:
        """Write the training checkpoint: weights, average, both optimisers, counters."""
        tensors = with_prefix("weights", self.model.state_dict())
        for name, part in self.both.parts.items():
            tensors |= with_prefix(name, optimizer_tensors(part))
        if self.ema is not None:
            tensors |= with_prefix("ema", self.ema.module.state_dict())
        meta = {
            "identity": self.identity,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "restarts": self.guard.restarts,
            "ema_updates": 0 if self.ema is None else self.ema.updates,
        }
        save_tensors(self.folder / TRAINING_FILE, tensors, meta)

    def resume(self) -> None:
        """Go on from the folder's training checkpoint.

        Raises InputError if there is none, or if it was made with other settings (and says which).
        """
        tensors, meta = load_tensors(self.folder / TRAINING_FILE, self.model.device)
        require_same(self.folder, self.identity, meta["identity"])
        self.model.load_state_dict(under_prefix("weights", tensors))
        for name, part in self.both.parts.items():
            load_optimizer_tensors(part, under_prefix(name, tensors))
        if self.ema is not None:
            self.ema.module.load_state_dict(under_prefix("ema", tensors))
            self.ema.updates = meta["ema_updates"]
        self.iteration, self.seconds = meta["iteration"], meta["seconds"]
        self.guard.restarts = meta["restarts"]
