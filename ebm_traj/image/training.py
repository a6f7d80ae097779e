"""Training an image model on a set of pictures: the parts put together."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebm_traj.core.checkpoint import save_json
from ebm_traj.core.distributed import from_first, make_fabric
from ebm_traj.core.objectives import Batch
from ebm_traj.core.trainer import TRAINING_FILE, Trainer, TrainerConfig
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.errors import InputError
from ebm_traj.image import pictures
from ebm_traj.image.model import CONFIG_FILE, KEPT_CHAINS, ImageConfig, ImageModel, load_image_model
from ebm_traj.image.objectives import Augment, contrastive_part, make_objective
from ebm_traj.image.presets import Change
from ebm_traj.image.sampling import TRAINED_CLASSES
from ebm_traj.image.snapshots import Snapshots, draw_curves
from ebm_traj.image.validation import blurred, make_validation
from ebm_traj.output import require_new

SETTINGS_FILE = "settings.json"
MOMENT_ROWS = 10_000
SHIFT = 2  # pixels


def train_image(
    config: ImageConfig,
    train: PictureSet,
    validation: PictureSet | None,
    settings: TrainerConfig,
    out: str | Path,
    *,
    augment: tuple[Change, ...] = (),
    transitions: tuple[Change, ...] = ("shift",),
    dequantise: bool = False,
    snapshots: int = 40,
    begin: str | Path | None = None,
    fabric: Any = None,
    resume: bool = False,
) -> ImageModel:
    """Train an image model and save it in `out`, with curves, grids of samples and chains on their way.

    `validation` is looked at every `settings.validate_every` iterations and chooses the weights to keep;
    None: the last ones. `augment` names what is done to data, `transitions` what is done to a share
    `config.augment` of the replayed chains. `snapshots` is the number of samples drawn at each look. From
    `begin`, the folder of a trained model of the same network, training may go on. With
    `resume` an interrupted run goes on from its last checkpoint to the same weights as an uninterrupted one.

    Raises InputError, before anything is written, if `out` exists (without `resume`), if the pictures do not
    fit the settings, or if the run to resume had other ones.
    """
    out = Path(out)
    fabric = fabric or make_fabric()
    if fabric.world_size > 1:
        raise InputError(f"devices: {fabric.world_size}; accepted here is 1")
    require_folder(out, resume)
    if not len(train):
        raise InputError(f"{train.name}: no pictures in the {train.split} split")
    if validation is not None and validation.shape != train.shape:
        raise InputError(f"validation pictures: shape {validation.shape}; of training: {train.shape}")
    torch.manual_seed(settings.seed)  # of the initial weights
    mean, std = moments_of(train)
    model = ImageModel(
        config, train.shape, train.num_classes, mean=mean, std=std, class_names=train.class_names
    )
    if begin is not None:
        begin_at(model, begin)
    model.to(fabric.device)
    objective = make_objective(model, _changes(transitions))
    draw = pictures.batches(
        train, objective.new_rows, fabric.device, augment=_changes(augment), dequantise=dequantise
    )
    batches = draw if config.conditional else lambda i, g: Batch(draw(i, g).x, {})
    identity = {
        "config": dataclasses.asdict(config),
        "settings": dataclasses.asdict(settings),
        "data": [train.name, train.split, len(train), *train.shape],
        "augment": [list(augment), list(transitions), dequantise],
        "begin": None if begin is None else str(begin),
    }
    identity = json.loads(json.dumps(identity))  # tuples become lists, as they are when read back
    classes = [c for c in range(train.num_classes) if (train.y == c).any()]  # --classes may leave some out
    draws = Snapshots(out, snapshots, seed=settings.seed, classes=classes)
    validate = None
    trainer: Trainer

    def seen(averaged: ImageModel, figures: dict[str, float]) -> None:
        chains = contrastive_part(trainer.raw)
        averaged.chains = {} if chains is None else chains_of(chains.buffer.state(), config.conditional)
        draws(averaged, trainer.iteration)
        draw_curves(out)

    if validation is not None and settings.validate_every:
        x = pictures.to_tensor(validation.x, fabric.device)
        labels = torch.from_numpy(validation.y).to(fabric.device)
        validate = make_validation(model, x, labels, seen=seen, seed=settings.seed)
    trainer = Trainer(objective, batches, settings, out, fabric, identity, validate=validate, score="score")
    # a run killed before its first checkpoint starts anew
    if resume and from_first(fabric, (out / TRAINING_FILE).is_file):
        trainer.resume()
    out.mkdir(parents=True, exist_ok=True)
    save_json(out / SETTINGS_FILE, identity)
    report = trainer.fit()
    trainer.raw.load_state_dict(trainer.ema.module.state_dict())
    chains = contrastive_part(trainer.raw)
    if chains is not None and not config.has_levels:
        model.chains = chains_of(chains.buffer.state(), config.conditional)
    model.card = {
        "iterations": report.iterations,
        "batch_size": objective.batch_size,
        "gradients_per_iteration": objective.gradients,
        "train_seconds": round(report.seconds, 1),
        "cpu_seconds": report.cpu_seconds,
        "validation_seconds": round(report.validation_seconds, 1),
        "kept_iteration": report.kept_iteration,
        "validation_score": report.kept_score,
        "restarts": report.restarts,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "cpu",
        "seed": settings.seed,
        "data": train.name,
        "pictures": len(train),
        TRAINED_CLASSES: classes,
        "torch": str(torch.__version__),
        **({} if begin is None else {"begun_at": model.card}),
    }
    model.eval().requires_grad_(False)
    draws(model, report.iterations)
    draw_curves(out)
    model.save(out)
    return model


def require_folder(out: Path, resume: bool) -> None:
    """InputError unless a run can be started, or resumed, in this folder."""
    require_new(out, resume)
    if resume and (out / CONFIG_FILE).is_file():
        raise InputError(f"{out}: this run is finished ({CONFIG_FILE} is there); nothing to resume")
    if resume and not (out / SETTINGS_FILE).is_file():
        raise InputError(f"{out}: no run to resume ({SETTINGS_FILE} is missing); start without --resume")


def begin_at(model: ImageModel, folder: str | Path) -> None:
    """Give a model the weights, and the moments of the data, of a trained one; its card as well.

    Raises InputError if the two do not have the same network, picture shape and classes.
    """
    known = load_image_model(folder)
    for name, mine, theirs in (
        ("network", model.config.network, known.config.network),
        ("shape", model.shape, known.shape),
        ("classes", model.num_classes, known.num_classes),
    ):
        if mine != theirs:
            raise InputError(f"begin {folder}: its {name} is {theirs}; here it is {mine}")
    model.load_state_dict(known.state_dict())
    model.card = known.card


def moments_of(train: PictureSet) -> tuple[Tensor, float]:
    """Mean picture (C, H, W) and standard deviation around it, over about `MOMENT_ROWS` pictures."""
    x = pictures.to_tensor(train.x[:: max(1, len(train) // MOMENT_ROWS)])
    mean = x.mean(0)
    return mean, max(float((x - mean).square().mean().sqrt()), 1e-3)


def chains_of(state: dict[str, Tensor], conditional: bool) -> dict[str, Tensor]:
    """Filled rows of a buffer's state, as a model keeps them."""
    size = min(int(state["counters"][0]), KEPT_CHAINS)
    if not size:
        return {}
    kept = {"chain": state["row.chain"][:size].clone()}
    if conditional:
        kept["label"] = state["row.label"][:size].clone()
    return kept


def _changes(names: tuple[Change, ...]) -> Augment | None:
    made: dict[str, Augment] = {
        "shift": pictures.shift(SHIFT),
        "flip": pictures.flip,
        "blur": lambda x, generator: blurred(x),
    }
    unknown = [name for name in names if name not in made]
    if unknown:
        raise InputError(f"augmentation: '{unknown[0]}'; accepted are {', '.join(made)}")
    return pictures.chain(*(made[name] for name in names)) if names else None
