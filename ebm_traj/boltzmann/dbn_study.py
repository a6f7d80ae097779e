"""What scripts/train_dbn.py does: stack, generate, fine-tune, report."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebm_traj.atomic import write_atomically
from ebm_traj.boltzmann.classifier import (
    CLASSIFIER_FILE,
    DBNClassifier,
    FineTuneConfig,
    error_rate,
    fine_tune,
    save_classifier,
)
from ebm_traj.boltzmann.data import intensities
from ebm_traj.boltzmann.dbn import DBN_FILE, LAYER, DBNConfig, train_dbn
from ebm_traj.boltzmann.figures import draw_samples
from ebm_traj.boltzmann.learning import LearningConfig
from ebm_traj.boltzmann.training import RBMConfig
from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.datasets.pictures import PictureSet, open_pictures
from ebm_traj.errors import InputError
from ebm_traj.intervals import Z_95
from ebm_traj.output import take_folder

DIGITS_DBN = DBNConfig(
    hidden=(200, 400),
    layer=RBMConfig(
        binarisation="none",
        learning=LearningConfig(algorithm="cd", weight_decay=2e-4),
        updates=4000,
        learning_rate=0.2,
    ),
)
DIGITS_FINE_TUNE = FineTuneConfig(
    visible_dropout=0.1,
    hidden_dropout=0.2,
    batch_size=128,
    trainer=TrainerConfig(
        iterations=2000,
        learning_rate=3e-3,
        warmup=100,
        final_learning_rate=0.01,
        ema_decay=0.99,
        validate_every=250,
        keep_margin=0.0,
    ),
)
FINE_TUNING = "fine-tuning"
LEAVES = (
    *(f"{CLASSIFIER_FILE}.safetensors", f"{CLASSIFIER_FILE}.json", DBN_FILE, LAYER.format("*"), FINE_TUNING),
    *("report.md", "report.json", "samples.png"),
)
SAMPLES = 60
TOP_STEPS = 1000


def run_dbn(
    data: str,
    out: Path,
    config: DBNConfig,
    tuning: FineTuneConfig,
    *,
    pretrain: bool = True,
    validation: float = 0.05,
    size: int | None = None,
    device: str = "cpu",
    download: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "",
) -> str:
    """Train on the pictures of `data`; write the net, the classifier, report.md, report.json, samples.png.

    Returns the report. Raises InputError on bad settings, pictures without classes, or an `out` that exists.
    """
    options: dict[str, Any] = {"size": size, "validation": validation}
    parts = {
        name: open_pictures(data, name, download=download, **options)
        for name in ("train", "validation", "test")
    }
    for part in parts.values():
        if part.num_classes < 2 or (part.y < 0).any():
            raise InputError(f"data {part.name}: a classifier needs the class of every picture")
    record = {
        "command": command,
        "dbn": dataclasses.asdict(config),
        "fine_tune": dataclasses.asdict(tuning),
        "pretrain": pretrain,
        "data": data,
    }
    take_folder(out, "train_dbn", LEAVES, record | options, overwrite=overwrite, resume=resume)
    train, held, test = (_rows(parts[name], device) for name in ("train", "validation", "test"))
    identity = {"data": data, "rows": len(train[0]), "size": size, "validation": validation}
    classes = parts["train"].num_classes
    if pretrain:
        dbn = train_dbn(config, train[0], out, validation=held[0], identity=identity, resume=resume)
        dbn.save(out, {"command": command, **identity})
        network = DBNClassifier.of(dbn, classes, tuning).to(device)
        generator = seeded_generator(device, config.layer.seed, "generation")
        drawn = dbn.generate(SAMPLES, TOP_STEPS, generator, start=held[0][:SAMPLES])
        title = f"{TOP_STEPS:,} Gibbs steps in the top RBM from held-out pictures, then one way down"
        write_atomically(out / "samples.png", draw_samples(drawn, parts["train"].shape, title))
    else:
        network = random_classifier([train[0].shape[1], *config.hidden], classes, tuning, config.layer.seed)
        network = network.to(device)
    identity |= {"pretrain": pretrain, "dbn": dataclasses.asdict(config)}
    network, report = fine_tune(
        network, train, held, tuning, out / FINE_TUNING, identity=identity, device=device, resume=resume
    )
    found = {
        "command": command,
        "test_error": error_rate(network, *test),
        "validation_error": error_rate(network, *held),
        "test_rows": len(test[1]),
        "kept_iteration": report.kept_iteration,
        "kept_score": report.kept_score,
        "pretraining_cpu_seconds": dbn.cpu_seconds if pretrain else 0.0,
        "fine_tuning_cpu_seconds": report.cpu_seconds,
        "dbn": dataclasses.asdict(config),
        "fine_tune": dataclasses.asdict(tuning),
    }
    save_classifier(network, out, found)
    write_atomically(out / "report.json", json.dumps(found, indent=1) + "\n")
    text = _report(found, network.sizes, pretrain, command)
    write_atomically(out / "report.md", text)
    return text


def _rows(pictures: PictureSet, device: str) -> tuple[Tensor, Tensor]:
    return intensities(pictures).to(device), torch.from_numpy(pictures.y).to(device)


def random_classifier(sizes: list[int], classes: int, tuning: FineTuneConfig, seed: int) -> DBNClassifier:
    """The same network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "classifier"))
        return DBNClassifier(sizes, classes, tuning.visible_dropout, tuning.hidden_dropout)


def _report(found: dict[str, Any], sizes: list[int], pretrain: bool, command: str) -> str:
    error, rows = found["test_error"], found["test_rows"]
    spread = Z_95 * math.sqrt(max(error * (1 - error), 1 / rows) / rows)
    chosen = "Last weights; errors" if found["kept_score"] is None else "The iteration was chosen"
    kind = "pretrained layer by layer, then fine-tuned" if pretrain else "from random weights"
    lines = [
        "# Deep belief net as a classifier\n",
        f"`{command}`\n" if command else "",
        f"Layers {' - '.join(map(str, sizes))}, {kind}. {chosen} on a part of the training "
        "pictures that was held out.\n",
        "| test error (95 %) | held-out error | pretraining, CPU s | fine-tuning, CPU s |",
        "|---:|---:|---:|---:|",
        f"| {100 * error:.2f} % (± {100 * spread:.2f}) | {100 * found['validation_error']:.2f} % | "
        f"{found['pretraining_cpu_seconds']:.0f} | {found['fine_tuning_cpu_seconds']:.0f} |",
    ]
    return "\n".join(lines) + "\n"
