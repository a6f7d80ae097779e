"""Class-incremental learning: classes come two by two, no picture is stored, all classes compete at the end.

The protocol. The classes are split, in their order, into tasks. In a task the learner is given batches of
that task's pictures and labels, and never sees them again; nor is it told, at test time, which task a picture
is of: it chooses among all classes met so far. After each task it is tested on the test pictures of all
classes met so far; the figure compared is the accuracy on the whole test set after the last task.
- `one pass`: each picture of a task is in exactly one batch.
- `iterations`: a fixed number of batches per task, drawn with replacement (van de Ven & Tolias 2019 take 2000
  batches of 128 for split-MNIST).
Settings are chosen on a validation part of the training set, by validation pictures.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ebm_traj.core.objectives import Batch
from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.errors import InputError
from ebm_traj.image.class_energy import ClassEnergies, ClassEnergyConfig
from ebm_traj.image.label_energy import LabelContrast, LabelEnergy, LabelEnergyConfig


class Learner(Protocol):
    """What learns from a stream of batches."""

    @property
    def parameters(self) -> int:
        """Numbers learnt."""
        ...

    @property
    def kept(self) -> int:
        """Numbers kept beside them from task to task."""
        ...

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Learn from one batch, rows x (B, D) of classes y (B,)."""
        ...

    def end_task(self, x: Tensor, y: Tensor) -> None:
        """A task is over; its pictures once more, for EWC alone."""
        ...

    def predict(self, x: Tensor, classes: Tensor) -> Tensor:
        """(B,) one of the classes (K,) for each row."""
        ...


@dataclasses.dataclass(frozen=True)
class ContinualProtocol:
    """How the pictures of a task come."""

    classes_per_task: int = 2
    """Classes of a task."""
    batch_size: int = 32
    """Pictures in a batch."""
    iterations: int = 0
    """Batches of a task, drawn with replacement; 0: one pass, each picture in exactly one batch."""

    def __post_init__(self) -> None:
        if self.classes_per_task < 1:
            raise InputError(f"classes per task: {self.classes_per_task}; accepted are 1 and more")
        if self.batch_size < 2:
            raise InputError(f"batch size: {self.batch_size}; accepted are 2 and more")
        if self.iterations < 0:
            raise InputError(f"iterations: {self.iterations}; accepted are 0 (one pass) and more")

    @property
    def name(self) -> str:
        """In words."""
        if self.iterations:
            return f"{self.iterations} batches of {self.batch_size} per task"
        return f"one pass in batches of {self.batch_size}"


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Rows of pictures, scaled by numbers known beforehand, and their classes."""

    x: Tensor
    """(N, D) float32."""
    y: Tensor
    """(N,) int64."""

    def of(self, classes: Sequence[int]) -> "Pixels":
        """The rows of some classes."""
        rows = torch.isin(self.y, torch.tensor(list(classes)))
        return Pixels(self.x[rows], self.y[rows])


GREY = 0.5
"""Pixels are divided by this after being brought to -1..1: a fixed scale, as statistics of classes to come
are not known."""


def read_pixels(pictures: PictureSet) -> Pixels:
    """Rows in units of `GREY`. Raises InputError if classes are unknown."""
    if not pictures.num_classes or (pictures.y < 0).any():
        raise InputError(f"{pictures.name}: has no classes; continual learning needs them")
    flat = torch.from_numpy(pictures.x.reshape(len(pictures), -1).astype(np.float32))
    return Pixels((flat / 127.5 - 1) / GREY, torch.from_numpy(pictures.y.astype(np.int64)))


def tasks_of(num_classes: int, per_task: int) -> list[list[int]]:
    """Classes of each task, in order. Raises InputError if they do not divide, or one task is all."""
    if num_classes % per_task or num_classes == per_task:
        raise InputError(f"classes per task: {per_task}; accepted are parts of the {num_classes} classes")
    return [list(range(start, start + per_task)) for start in range(0, num_classes, per_task)]


def batches_of(rows: Pixels, protocol: ContinualProtocol, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one task."""
    generator = seeded_generator("cpu", seed, "stream")
    if protocol.iterations:
        for _ in range(protocol.iterations):
            pick = torch.randint(len(rows.x), (protocol.batch_size,), generator=generator)
            yield rows.x[pick], rows.y[pick]
        return
    order = torch.randperm(len(rows.x), generator=generator)
    for pick in order.split(protocol.batch_size):
        yield rows.x[pick], rows.y[pick]


def run_stream(
    learner: Learner,
    train: Pixels,
    test: Pixels,
    tasks: Sequence[Sequence[int]],
    protocol: ContinualProtocol,
    seed: int,
    *,
    look: Literal["each", "last"] = "each",
) -> list[float]:
    """Feed one task after another; accuracy after each, or the last alone, on the classes met so far."""
    found, met = [], []
    for number, classes in enumerate(tasks):
        rows = train.of(classes)
        for x, y in batches_of(rows, protocol, derive_seed(seed, "task", number)):
            learner.observe(x, y)
        learner.end_task(rows.x, rows.y)
        met += list(classes)
        if look == "each" or number == len(tasks) - 1:
            found.append(accuracy(learner, test.of(met), met))
    return found


def accuracy(learner: Learner, rows: Pixels, classes: Sequence[int], chunk: int = 2000) -> float:
    """Share of rows whose class is predicted, among these classes."""
    among = torch.tensor(list(classes))
    hits = [
        (learner.predict(x, among) == y).sum()
        for x, y in zip(rows.x.split(chunk), rows.y.split(chunk), strict=True)
    ]
    return float(torch.stack(hits).sum()) / len(rows.y)


class LabelEnergyLearner:
    """E(x, y) by contrast within the batch (Li et al. 2020); predicts the class of lowest energy."""

    kept = 0

    def __init__(
        self, size: int, num_classes: int, config: LabelEnergyConfig, seed: int, learning_rate: float = 1e-3
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "label energy"))
            self.energy = LabelEnergy(size, num_classes, config)
        self.objective = LabelContrast(self.energy, config, 1)
        self.optimizer = torch.optim.Adam(self.energy.parameters(), lr=learning_rate)
        self._generator = seeded_generator("cpu", seed, "negatives")

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.energy.parameters())

    def observe(self, x: Tensor, y: Tensor) -> None:
        loss, _ = self.objective(Batch(x, {"label": y}), self._generator)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def end_task(self, x: Tensor, y: Tensor) -> None:
        """Nothing to do."""

    def predict(self, x: Tensor, classes: Tensor) -> Tensor:
        with torch.no_grad():
            return classes[self.energy.of_classes(x, classes).argmin(1)]


class ClassEnergyLearner:
    """An energy for each class; predicts the class of the highest evidence."""

    def __init__(self, size: int, num_classes: int, config: ClassEnergyConfig, seed: int) -> None:
        self.energies = ClassEnergies(size, num_classes, config, seed)
        self.observe = self.energies.observe

    @property
    def parameters(self) -> int:
        return self.energies.parameters

    @property
    def kept(self) -> int:
        """Moments of each class's optimiser, which goes on if its class comes again."""
        return 2 * self.energies.parameters

    def end_task(self, x: Tensor, y: Tensor) -> None:
        """Nothing to do."""

    def predict(self, x: Tensor, classes: Tensor) -> Tensor:
        return classes[self.energies.log_evidence(x, classes.tolist()).argmax(1)]
