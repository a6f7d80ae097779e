"""Semi-supervised learning with few labels: ladder network, EBGAN-LN and labels alone, cell by cell.

A cell is a method, a number of labels and a seed. All cells of a seed see the same labelled pictures, begin
with the same weights and take the same number of updates on the same pictures in the same order; EBGAN-LN
spends more time an update while its margin is above 0. `ladder-longer` is the ladder network given as many
more updates as even that out.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ebm_traj.core.checkpoint import (
    load_optimizer_tensors,
    load_tensors,
    optimizer_tensors,
    save_tensors,
    under_prefix,
    with_prefix,
)
from ebm_traj.core.logs import MetricLog
from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.ebgan.ladder import LadderConfig, LadderNetwork
from ebm_traj.ebgan.ladder_ebgan import ContrastConfig, LadderGenerator, contrast
from ebm_traj.ebgan.semi_supervised_data import SplitPictures, balanced_rows
from ebm_traj.errors import InputError, RunError

Method = Literal["supervised", "ladder", "ladder-longer", "ebgan-ln"]
METHODS: tuple[Method, ...] = get_args(Method)
CHECKPOINT = "training.safetensors"
CELLS = "cells"  # folder of a study that holds a folder for each cell
STATISTICS_ROWS = 20_000  # training pictures that give the batch statistics of the clean path


@dataclasses.dataclass(frozen=True)
class SemiSupervisedConfig:
    """One cell's training; the same for all methods."""

    updates: int = 90_000
    """Optimiser steps; the paper's are 150 epochs of 600."""
    labelled_batch: int = 100
    """Labelled pictures an update; all, if there are fewer."""
    unlabelled_batch: int = 100
    """Pictures without labels an update."""
    learning_rate: float = 2e-3
    """Of Adam."""
    decay_from: float = 2 / 3
    """Share of the updates after which the learning rate falls, linearly, to 0."""
    longer: float = 1.25
    """Times as many updates of `ladder-longer`."""
    ladder: LadderConfig = dataclasses.field(default_factory=LadderConfig)
    contrast: ContrastConfig = dataclasses.field(default_factory=ContrastConfig)
    validations: int = 20
    """Looks at the validation part, evenly spread; for the log, nothing is chosen by them within a cell."""
    checkpoint_every: int = 500
    """Updates between checkpoints."""

    def __post_init__(self) -> None:
        for name, least in (
            ("updates", 1),
            ("labelled_batch", 2),
            ("unlabelled_batch", 2),
            ("validations", 1),
            ("checkpoint_every", 1),
        ):
            if getattr(self, name) < least:
                raise InputError(
                    f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are {least} and more"
                )
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning rate: {self.learning_rate}; it must be above 0")
        if not 0 <= self.decay_from < 1:
            raise InputError(f"decay from: {self.decay_from}; accepted are shares from 0 to below 1")
        if not 0 < self.longer < math.inf:
            raise InputError(f"longer: {self.longer}; it must be above 0")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the study."""

    method: Method
    labels: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.labels}-{self.seed}"


@dataclasses.dataclass
class CellResult:
    """What a cell came to, with its last weights; errors are shares."""

    method: Method
    labels: int
    seed: int
    updates: int
    epochs: float
    """Passes over the unlabelled pictures."""
    cpu_seconds: float
    """Of training, over all sittings, without validation."""
    validation_error: float
    test_error: float
    test_wrong: list[int]
    """Rows of the test part that are classified wrongly."""


def cell_of(result: CellResult) -> Cell:
    """The cell that a result is of."""
    return Cell(result.method, result.labels, result.seed)


def updates_of(method: Method, config: SemiSupervisedConfig) -> int:
    """Optimiser steps of a method."""
    return round(config.updates * config.longer) if method == "ladder-longer" else config.updates


def learning_rate_at(update: int, updates: int, config: SemiSupervisedConfig) -> float:
    """Constant, then linear to 0, for an update counted from 0."""
    left = (1 - update / updates) / (1 - config.decay_from)
    return config.learning_rate * min(1.0, left)


class EpochOrder:
    """Rows of each update by running through a fresh permutation in every epoch; state-free.

    Rows that do not fill a batch at an epoch's end wait for another permutation.
    """

    def __init__(self, rows: int, batch: int, *seed: int | str) -> None:
        self.rows, self.batch, self.seed = rows, min(batch, rows), seed
        self._epoch, self._order = -1, torch.empty(0)

    def __call__(self, update: int) -> Tensor:
        epoch, at = divmod(update, self.rows // self.batch)
        if epoch != self._epoch:
            generator = seeded_generator("cpu", *self.seed, epoch)
            self._epoch, self._order = epoch, torch.randperm(self.rows, generator=generator)
        return self._order[at * self.batch : (at + 1) * self.batch]


class CellTraining:
    """A cell's networks and optimisers; `run` takes it to its end from where it stands."""

    def __init__(
        self,
        cell: Cell,
        pictures: SplitPictures,
        config: SemiSupervisedConfig,
        device: str = "cpu",
    ) -> None:
        self.cell, self.config, self.device = cell, config, device
        self.updates = updates_of(cell.method, config)
        rows = torch.from_numpy(
            balanced_rows(pictures.train_labels, cell.labels, pictures.classes, cell.seed)
        )
        self.labelled = pictures.train[rows].to(device)
        self.answers = torch.from_numpy(pictures.train_labels)[rows].to(device)
        self.unlabelled = pictures.train.to(device)
        self.pictures = pictures
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("ladder weights", cell.seed))
            self.ladder = LadderNetwork(self.unlabelled.shape[1], pictures.classes, config.ladder).to(device)
            torch.manual_seed(derive_seed("generator weights", cell.seed))
            self.generator = (
                LadderGenerator(self.unlabelled.shape[1], config.contrast).to(device)
                if cell.method == "ebgan-ln"
                else None
            )
        self.optimizer = torch.optim.Adam(self.ladder.parameters(), lr=config.learning_rate, fused=True)
        self.generator_optimizer = (
            torch.optim.Adam(
                self.generator.parameters(),
                lr=config.contrast.learning_rate,
                betas=(0.5, 0.999),
                fused=True,
            )
            if self.generator is not None
            else None
        )
        self.labelled_order = EpochOrder(len(rows), config.labelled_batch, "labelled", cell.seed)
        self.unlabelled_order = EpochOrder(
            len(self.unlabelled), config.unlabelled_batch, "unlabelled", cell.seed
        )
        self.update = 0
        self.cpu_seconds = 0.0

    def step(self) -> dict[str, Tensor]:
        """One update; figures as 0-d tensors."""
        config, noise = self.config, self.config.ladder.noise
        random = seeded_generator(self.device, "update", self.cell.seed, self.update)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.update, self.updates, config)
        self.optimizer.zero_grad()
        rows = self.labelled_order(self.update)
        parts = [self.labelled[rows]]
        if self.cell.method != "supervised":
            parts.append(self.unlabelled[self.unlabelled_order(self.update)])
        passes = self.ladder.encode_apart(parts, noise, random)
        loss = functional.cross_entropy(passes[0].logits, self.answers[rows])
        figures = {"cross_entropy": loss.detach()}
        if len(parts) > 1:
            energy = self.ladder.energy_of(passes[1], parts[1]).mean()
            figures["energy"] = energy.detach()
            loss = loss + energy
        loss.backward()
        if self.generator is not None:
            figures |= self._contrast(random)
        self.optimizer.step()
        self.update += 1
        return figures

    def _contrast(self, random: torch.Generator) -> dict[str, Tensor]:
        """Add the samples' part to the ladder network's gradient and step the generator."""
        assert self.generator is not None and self.generator_optimizer is not None
        settings = self.config.contrast
        margin = settings.margin_at(self.update, self.updates)
        if margin == 0:
            return {"margin": torch.tensor(0.0)}
        latent = torch.empty(settings.batch, settings.latent, device=self.device).normal_(generator=random)
        samples = self.generator(latent)
        found = contrast(self.ladder, samples, margin, random)
        (settings.weight * found.loss).backward()
        self.generator_optimizer.zero_grad()
        samples.backward(found.pull)
        self.generator_optimizer.step()
        return {
            "margin": torch.tensor(margin),
            "sample_energy": found.energy.mean(),
            "hinge": found.loss.detach(),
        }

    @torch.no_grad()
    def wrong(self, x: Tensor, labels: Tensor) -> Tensor:
        """Rows of x (N, pixels) that the clean path classifies wrongly; statistics are collected anew."""
        self.ladder.collect_statistics(self.unlabelled[:STATISTICS_ROWS])
        answers = torch.cat([self.ladder(part.to(self.device)).argmax(1) for part in x.split(5000)])
        return torch.nonzero(answers.cpu() != labels)[:, 0]

    def save(self, folder: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        tensors = with_prefix("ladder", self.ladder.state_dict())
        tensors |= with_prefix("adam", optimizer_tensors(self.optimizer))
        if self.generator is not None and self.generator_optimizer is not None:
            tensors |= with_prefix("generator", self.generator.state_dict())
            tensors |= with_prefix("generator_adam", optimizer_tensors(self.generator_optimizer))
        meta = {"cell": self.cell.name, "update": self.update, "cpu_seconds": self.cpu_seconds}
        save_tensors(folder / CHECKPOINT, tensors, meta)

    def restore(self, folder: Path) -> None:
        """Go on from the checkpoint in `folder`; InputError if it is of another cell."""
        tensors, meta = load_tensors(folder / CHECKPOINT, self.device)
        if meta.get("cell") != self.cell.name:
            raise InputError(
                f"checkpoint {folder / CHECKPOINT}: of {meta.get('cell')}, needed is {self.cell.name}"
            )
        self.ladder.load_state_dict(under_prefix("ladder", tensors))
        load_optimizer_tensors(self.optimizer, under_prefix("adam", tensors))
        if self.generator is not None and self.generator_optimizer is not None:
            self.generator.load_state_dict(under_prefix("generator", tensors))
            load_optimizer_tensors(self.generator_optimizer, under_prefix("generator_adam", tensors))
        self.update, self.cpu_seconds = meta["update"], meta["cpu_seconds"]

    def run(self, folder: Path, stop: Callable[[int], bool] = lambda update: False) -> CellResult | None:
        """Train to the end, with checkpoints and metrics.csv in `folder`; goes on from a checkpoint there.

        `stop(update)`, asked after every update, ends the sitting early: None, and the next goes on from the
        last checkpoint. Raises RunError if the loss is not finite.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).is_file():
            self.restore(folder)
        looks = max(1, self.updates // self.config.validations)
        pictures = self.pictures
        progress = tqdm(
            total=self.updates, initial=self.update, unit="it", mininterval=2, desc=self.cell.name
        )
        with MetricLog(folder, self.update) as log, progress as bar:
            while self.update < self.updates:
                began = time.process_time()
                tensors = self.step()
                self.cpu_seconds += time.process_time() - began
                bar.update()
                if self.update % looks == 0 or self.update == self.updates:
                    figures = {name: float(value) for name, value in tensors.items()}
                    if not all(map(math.isfinite, figures.values())):
                        raise RunError(
                            f"{self.cell.name}: not finite after {self.update} updates; lower the rate"
                        )
                    wrong = self.wrong(pictures.validation, pictures.validation_labels)
                    figures["validation_error"] = len(wrong) / len(pictures.validation)
                    log.write(self.update, {**figures, "cpu_seconds": self.cpu_seconds})
                    bar.set_postfix(error=f"{100 * figures['validation_error']:.2f} %", refresh=False)
                if self.update % self.config.checkpoint_every == 0 or self.update == self.updates:
                    self.save(folder)
                if stop(self.update):
                    return None
        return self.result()

    def result(self) -> CellResult:
        """Errors of the weights as they are, on the validation and the test part."""
        pictures, cell = self.pictures, self.cell
        held = self.wrong(pictures.validation, pictures.validation_labels)
        test = self.wrong(pictures.test, pictures.test_labels)
        batch = self.unlabelled_order.batch if cell.method != "supervised" else 0
        return CellResult(
            method=cell.method,
            labels=cell.labels,
            seed=cell.seed,
            updates=self.updates,
            epochs=self.update * batch / len(self.unlabelled),
            cpu_seconds=round(self.cpu_seconds, 1),
            validation_error=len(held) / len(pictures.validation),
            test_error=len(test) / len(pictures.test),
            test_wrong=test.tolist(),
        )


def as_json(result: CellResult) -> dict[str, Any]:
    """For one JSON line; without the list of test pictures."""
    line = dataclasses.asdict(result)
    del line["test_wrong"]
    return line
