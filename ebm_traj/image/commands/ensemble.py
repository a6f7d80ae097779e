"""`image.py ensemble`: samples of several models, or of one run's last checkpoints, against one model's."""

import dataclasses
from pathlib import Path
from typing import Literal

from ebm_traj.cli import pick_device
from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.errors import InputError
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of the ensemble study."""

    models: tuple[Path, ...]
    """Two and more: folders of image models, or copies of one run's training.safetensors at several times."""
    out: Path
    """Folder for ensemble.md, .json and .png; must not exist, unless --overwrite."""
    ways: tuple[Literal["sum", "mean", "mixture", "alternate"], ...] = ("mean", "sum", "mixture", "alternate")
    """How the models are put together."""
    classifier: Path | None = None
    """Folder of a classifier (train_classifier.py), in whose features samples are scored."""
    data: str = "digits"
    """Real pictures to score against: digits, sprites, or a path."""
    count: int = 500
    """Samples of each; with a classifier at most half the real test pictures."""
    steps: int | None = None
    """Noise levels, or steps of the chain of models without; default: the first model's own."""
    batch: int = 128
    """Samples at a time."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    seed: int = 0
    """Of all draws; the same for all."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Sample models alone and together, by the same sampler."""

    require_folder(args.out, ("ensemble.json",), overwrite=args.overwrite)
    for name in ("count", "batch"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: accepted are 1 and more")
    if len(args.models) < 2:
        raise InputError(f"--models: {len(args.models)}; needed are two and more")
    device = pick_device(args.device)

    from ebm_traj.datasets.pictures import open_pictures
    from ebm_traj.image.classifier import load_classifier
    from ebm_traj.image.ensemble_study import LEGEND, content, picture, study, table
    from ebm_traj.image.ensembles import load_ensemble
    from ebm_traj.image.sampling import own_sampler
    from ebm_traj.image.scores import Reference
    from ebm_traj.image.studies import write

    classifier = None if args.classifier is None else load_classifier(args.classifier, device)
    classes = classifier.num_classes if classifier else open_pictures(args.data, "test").num_classes
    whole = load_ensemble(args.models, "mean", device, num_classes=classes)
    reference = None
    if classifier is not None:
        channels, size, _ = whole.shape
        real = open_pictures(args.data, "test", size=size, channels=channels)
        reference = Reference.of(real, classifier, args.count, args.seed)
    sampler = own_sampler(whole.models[0])
    if isinstance(sampler, AnnealConfig):
        sampler = dataclasses.replace(sampler, sharpness=1.0)  # the densities themselves are compared
    if args.steps is not None:
        sampler = dataclasses.replace(sampler, steps=args.steps)
    rows = study(
        whole.models,
        [f"{i + 1}: {path.stem}" for i, path in enumerate(args.models)],
        args.ways,
        reference,
        count=args.count,
        sampler=sampler,
        batch=args.batch,
        seed=args.seed,
        progress=True,
    )
    floor = reference.floor() if reference else None
    text = f"{LEGEND} {len(rows[0].x)} samples of each.\n\n{table(rows, floor)}"
    write(args, "ensemble", "Ensembles", text, content(rows, floor), {"ensemble": picture(rows)})
