"""Training an EBGAN or a GAN on a set of pictures, in a folder of its own."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from ebm_traj.core.seeding import seeded_generator
from ebm_traj.core.trainer import TRAINING_FILE
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.ebgan.class_scores import inception_score, log_probabilities, reversed_score
from ebm_traj.ebgan.model import CONFIG_FILE, WEIGHTS_FILE, AdversarialConfig, AdversarialModel
from ebm_traj.ebgan.step import OptimiserConfig
from ebm_traj.ebgan.trainer import GRIDS, AdversarialSettings, AdversarialTrainer
from ebm_traj.errors import InputError
from ebm_traj.image.classifier import Classifier
from ebm_traj.image.pictures import batches, to_tensor
from ebm_traj.output import OF_TRAINER, require_folder, take_folder

PROGRAM = "train_ebgan"
SETTINGS_FILE = f"{PROGRAM}.json"
LEAVES = (CONFIG_FILE, WEIGHTS_FILE, GRIDS, *OF_TRAINER)
SETTLED_ON = 1024  # pictures for the discriminator's batch norm


def require_run_folder(out: Path, resume: bool, overwrite: bool = False) -> None:
    """InputError unless a run can be started, resumed or replaced in this folder."""
    require_folder(out, (SETTINGS_FILE, CONFIG_FILE), overwrite=overwrite, resume=resume)
    if resume:
        if (out / CONFIG_FILE).is_file():
            raise InputError(f"{out}: this run is finished ({CONFIG_FILE} is there); nothing to resume")
        if not (out / SETTINGS_FILE).is_file():
            raise InputError(f"{out}: no run to resume ({SETTINGS_FILE} is missing); start without --resume")


def train_adversarial(
    train: PictureSet,
    config: AdversarialConfig,
    optimiser: OptimiserConfig,
    settings: AdversarialSettings,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    classifier: Classifier | None = None,
) -> AdversarialModel:
    """The trained model, in evaluation mode, saved in `out` with its log, pictures and checkpoint.

    `classifier` scores samples on the way if `settings.score_every` says when; `overwrite` replaces the run
    there was. Raises InputError if a run is there, or cannot be resumed, RunError if it diverges too often.
    """
    if settings.score_every and classifier is None:
        raise InputError(f"score every: {settings.score_every}; needs a classifier")
    if classifier is not None and tuple(classifier.shape) != train.shape:
        raise InputError(f"classifier: of pictures {tuple(classifier.shape)}; {train.name} has {train.shape}")
    identity: dict[str, Any] = {
        "config": dataclasses.asdict(config),
        "optimiser": dataclasses.asdict(optimiser),
        "settings": dataclasses.asdict(settings),
        "data": train.name,
        "pictures": len(train),
        "shape": list(train.shape),
    }
    identity = json.loads(json.dumps(identity))  # tuples become lists, as they are when read back
    model = AdversarialModel(config, train.shape, settings.seed).to(device)
    draw = batches(train, settings.batch_size, device)

    def score(x: torch.Tensor) -> dict[str, float]:
        assert classifier is not None
        log_p = log_probabilities(classifier, x)
        return {"reversed_score": reversed_score(log_p), "inception_score": inception_score(log_p)}

    take_folder(out, PROGRAM, LEAVES, identity, overwrite=overwrite, resume=resume)
    trainer = AdversarialTrainer(
        model, draw, optimiser, settings, out, identity, None if classifier is None else score
    )
    if resume and (out / TRAINING_FILE).is_file():  # a run killed before its first checkpoint starts anew
        trainer.resume()
    figures = trainer.fit()
    settled = to_tensor(train.x[:: max(1, len(train) // SETTLED_ON)][:SETTLED_ON], device)
    model.settle(settled, seeded_generator(device, settings.seed, "settle"))
    model.card = {
        "iterations": trainer.iteration,
        "train_seconds": round(trainer.seconds, 1),
        "restarts": trainer.guard.restarts,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": train.name,
        "pictures": len(train),
        "seed": settings.seed,
        "torch": str(torch.__version__),
        "last": figures,
    }
    model.save(out)
    return model.eval().requires_grad_(False)
