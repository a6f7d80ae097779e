"""`image.py generate`: a grid of samples."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ebm_traj.cli import pick_device
from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.errors import InputError
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of generation."""

    model: Path
    """Folder of an image model."""
    out: Path
    """Folder for samples.npz, generate.md, .json and .png; must not exist, unless --overwrite."""
    count: int = 100
    """Samples."""
    classes: tuple[int, ...] | None = None
    """Classes to ask for, in turn; default: all of a conditional model's."""
    steps: int | None = None
    """Noise levels, or steps of the chain of a model without; default: the model's own."""
    solver: Literal["heun", "euler", "multistep", "langevin"] | None = None
    """heun, euler, multistep or langevin, for models with noise levels; default: the model's own."""
    sharpness: float | None = None
    """Factor on the energy while sampling: above 1 more typical pictures and less varied ones, 1 the model's
    density as it is; default: the model's own."""
    sharp_below: float | None = None
    """Noise level at and below which it holds; default: the model's own."""
    unconditional: bool = False
    """Draw from a conditional model's energy without a class."""
    guidance: float = 1.0
    """Weight of what a class adds to the energy; above 1 pictures are more plainly of their class, and each
    gradient costs two."""
    classifier: Path | None = None
    """Folder of a classifier (train_classifier.py), to score the samples with."""
    data: str = "digits"
    """Real pictures to score against: digits, sprites, or a path; only read with --classifier."""
    batch: int = 128
    """Samples at a time."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    seed: int = 0
    """Of all draws."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Sample an image model: a grid, chains from noise to pictures, scores where there is a classifier."""

    require_folder(args.out, ("generate.json",), overwrite=args.overwrite)
    for name in ("count", "batch"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: accepted are 1 and more")
    device = pick_device(args.device)

    import torch

    from ebm_traj.image.generation import generate, picture
    from ebm_traj.image.guidance import guided
    from ebm_traj.image.model import load_image_model
    from ebm_traj.image.sampling import own_sampler, sharpened
    from ebm_traj.image.scores import table
    from ebm_traj.image.studies import opened, write, write_samples

    given = opened(args.model, args.data, device, args.classifier) if args.classifier else None
    model = given.model if given else load_image_model(args.model, device)
    if args.unconditional:
        model = model.unconditional()
    sampler = sharpened(own_sampler(model), args.sharpness, args.sharp_below)
    if args.solver is not None and not isinstance(sampler, AnnealConfig):
        raise InputError(f"--solver {args.solver}: this model has no noise levels; leave it out")
    if args.steps is not None:
        sampler = dataclasses.replace(sampler, steps=args.steps)
    if args.solver is not None and isinstance(sampler, AnnealConfig):
        sampler = dataclasses.replace(sampler, solver=args.solver)
    labels = None
    if args.classes is not None:
        if not model.num_classes:
            raise InputError(f"--classes {args.classes}: this model is unconditional; leave it out")
        if not args.classes:
            raise InputError("--classes: none given; needed are one or more numbers")
        labels = torch.tensor(args.classes)[torch.arange(args.count) % len(args.classes)]
    found = generate(
        guided(model, args.guidance),
        args.count,
        labels,
        sampler=sampler,
        batch=args.batch,
        seed=args.seed,
        classifier=given.classifier if given else None,
        real=given.test if given else None,
        train=given.train if given else None,
        progress=True,
    )
    made = found.samples
    text = f"{args.count} samples, {made.gradients} gradients each, {made.seconds:.1f} CPU seconds."
    content: dict[str, Any] = {"gradients": made.gradients, "cpu_seconds": round(made.seconds, 2)}
    if found.report is not None:
        text += "\n\n" + table(found.report)
        content["scores"] = found.report
    write_samples(args.out, made)
    columns = len(args.classes) if args.classes else model.num_classes or 10
    write(args, "generate", "Generation", text, content, {"generate": picture(found, min(columns, 20))})
