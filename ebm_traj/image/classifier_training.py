"""Training a classifier of pictures by cross-entropy, on clean pictures or on attacked ones."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm_traj.core.checkpoint import save_json
from ebm_traj.core.distributed import make_fabric
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.seeding import derive_seed
from ebm_traj.core.trainer import TRAINING_FILE, Trainer, TrainerConfig, TrainReport
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.errors import InputError
from ebm_traj.image.classifier import CHUNK, Augmentation, Classifier, ClassifierConfig
from ebm_traj.image.pictures import LABEL, Augment, batches, chain, flip, shift, to_tensor

Attack = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""(network, x (B, C, H, W), classes (B,), generator) to attacked pictures of the same shape."""

TRAINER = TrainerConfig(
    iterations=3000, learning_rate=3e-3, warmup=200, final_learning_rate=0.01, ema_decay=0.995,
    checkpoint_every=1000, validate_every=500, keep_margin=0.0,
)  # fmt: skip
"""The loop of `train_classifier`, if nothing else is said."""


class CrossEntropy(Objective):
    """- log p(y | x), of attacked pictures where there is an attack (Madry et al. 2018, 1706.06083)."""

    def __init__(
        self,
        network: nn.Module,
        batch_size: int,
        adversarial: Attack | None = None,
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.adversarial = adversarial
        self.low_precision = bfloat16
        self.new_rows = self.batch_size = batch_size

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch.x, batch.condition[LABEL]
        if self.adversarial is not None:
            self.network.eval()  # the statistics of batch norm are of pictures trained on, not of the search
            x = self.adversarial(self.network, x, y, generator).detach()
            self.network.train()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.low_precision):
            logits = self.network(x).float()
        loss = functional.cross_entropy(logits, y)
        right = (logits.detach().argmax(1) == y).float().mean()
        return loss, {"cross_entropy": loss.detach(), "accuracy": right}


def augmentation(name: Augmentation, shape: tuple[int, int, int]) -> Augment | None:
    """The function of `batches` for an augmentation's name."""
    moves = shift(max(1, round(min(shape[1:]) / 16)))
    return {"none": None, "shift": moves, "shift-flip": chain(moves, flip)}[name]


@torch.no_grad()
def accuracy(network: nn.Module, pictures: PictureSet, device: torch.device | str = "cpu") -> float:
    """Share of pictures whose class the network (x to logits) names."""
    right = 0
    was, labels = network.training, torch.from_numpy(pictures.y)
    network.eval()
    for start in range(0, len(pictures), CHUNK):
        logits = network(to_tensor(pictures.x[start : start + CHUNK], device))
        right += int((logits.argmax(1).cpu() == labels[start : start + CHUNK]).sum())
    network.train(was)
    return right / len(pictures)


def train_classifier(
    train: PictureSet,
    validation: PictureSet,
    config: ClassifierConfig | None = None,
    trainer: TrainerConfig = TRAINER,
    out: Path | None = None,
    *,
    network: nn.Module | None = None,
    adversarial: Attack | None = None,
    identity: dict[str, Any] | None = None,
    device: str = "cpu",
    bfloat16: bool = False,
    resume: bool = False,
) -> tuple[Any, TrainReport]:
    """A classifier of the training set's classes, with the averaged weights of the best held-out accuracy.

    `network` is any other module from pictures to logits to train instead, such as one of the size of an
    energy. `adversarial` attacks each batch before the step. Log and checkpoint go to `out` (a temporary
    folder by default); `resume` goes on from there, and `identity` is what must be the same for that.
    `bfloat16` multiplies in that precision, which nearly halves the time on a recent CPU.

    Raises InputError if a class has no number, or the sets do not fit each other.
    """
    config = config or ClassifierConfig()
    _check(train, validation)
    if out is None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            return train_classifier(
                *(train, validation, config, trainer, Path(folder)),
                network=network, adversarial=adversarial, device=device, bfloat16=bfloat16,
            )  # fmt: skip
    if network is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(trainer.seed, "classifier"))
            network = Classifier(train.shape, train.num_classes, config, train.class_names)
    objective = CrossEntropy(network, config.batch_size, adversarial, bfloat16)
    draw = batches(train, config.batch_size, device, augment=augmentation(config.augmentation, train.shape))

    def validate(average: nn.Module) -> dict[str, float]:
        found = accuracy(average.network, validation, device)  # type: ignore[arg-type]
        return {"energy_score": 1 - found, "accuracy": found}  # the trainer keeps the lowest score

    out.mkdir(parents=True, exist_ok=True)
    said: dict[str, Any] = {
        "config": dataclasses.asdict(config),
        "trainer": dataclasses.asdict(trainer),
        "data": [train.name, len(train), len(validation)],
        "bfloat16": bfloat16,
        **(identity or {}),
    }
    said = json.loads(json.dumps(said))  # as a checkpoint gives it back
    loop = Trainer(objective, draw, trainer, out, make_fabric(device), said, validate)
    if resume and (out / TRAINING_FILE).is_file():
        loop.resume()
    report = loop.fit()
    chosen = loop.ema.module.get_submodule("network")
    return chosen.eval().requires_grad_(False), report


def _check(train: PictureSet, validation: PictureSet) -> None:
    if train.num_classes < 2 or (train.y < 0).any():
        raise InputError(f"data {train.name}: a classifier needs the class of every picture")
    if train.shape != validation.shape or train.class_names != validation.class_names:
        raise InputError(
            f"validation {validation.name}: {validation.shape}, {validation.num_classes} classes; "
            f"training has {train.shape}, {train.num_classes}"
        )


def save_classifier(
    model: Classifier, report: TrainReport, test: PictureSet, out: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write the model into `out` with its card and give the card back: accuracy on test, cost, settings."""
    card = {
        "data": test.name,
        "test_accuracy": accuracy(model, test),
        "test_pictures": len(test),
        "validation_accuracy": None if report.kept_score is None else 1 - report.kept_score,
        "kept_iteration": report.kept_iteration,
        "iterations": report.iterations,
        "seconds": report.seconds,
        "settings": settings,
    }
    model.save(out, card)
    save_json(out / "report.json", card)
    return card
