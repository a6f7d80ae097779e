"""`image.py steps`: quality of samples against sampling steps; HMC against Langevin."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

from ebm_traj.cli import pick_device
from ebm_traj.errors import InputError
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of the sampling study."""

    model: Path
    """Folder of an image model."""
    classifier: Path
    """Folder of a classifier (train_classifier.py), in whose features samples are scored."""
    out: Path
    """Folder for steps.md, .json and .png; must not exist, unless --overwrite."""
    data: str = "digits"
    """Real pictures to score against: digits, sprites, or a path."""
    split: Literal["validation", "test"] = "test"
    """Their part: validation to choose a sampler by, test to report it."""
    count: int = 500
    """Samples of each setting; at most half the real pictures."""
    gradients: tuple[int, ...] = (4, 6, 8, 12, 16, 24, 32, 48)
    """Gradients a sample, for the solvers of models with noise levels."""
    solvers: tuple[Literal["heun", "euler", "multistep"], ...] = ("euler", "heun", "multistep")
    """How to follow the flow through noise levels; each with each number of gradients. Not sharpened."""
    chain_gradients: tuple[int, ...] = (60, 120, 240)
    """Gradients a sample, for Langevin and HMC chains; none to leave chains out."""
    levels: int = 10
    """Noise levels that chains walk at."""
    leapfrog: int = 4
    """Leapfrog steps of a Hamiltonian transition."""
    mixing_levels: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Noise levels at which the jumps of adapted chains are measured; none to leave it out."""
    sharpness: tuple[float, ...] = ()
    """Factors on the energy, each sampled by the model's own sampler and scored on a table of its own."""
    sharp_below: tuple[float, ...] = (math.inf,)
    """Noise levels below which the factors hold; each factor with each level."""
    batch: int = 128
    """Samples at a time."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    seed: int = 0
    """Of all draws; every setting has the same."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Score samples of an image model against the gradients of the energy that they cost."""

    require_folder(args.out, ("steps.json",), overwrite=args.overwrite)
    for name in ("count", "batch", "levels", "leapfrog"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: accepted are 1 and more")
    device = pick_device(args.device)

    import torch

    from ebm_traj.image import sharpness_study as sharp
    from ebm_traj.image.pictures import to_tensor
    from ebm_traj.image.sampling_report import LEGEND, mixing_table, picture, table
    from ebm_traj.image.sampling_study import chain_settings, curve, flow_settings, mixing
    from ebm_traj.image.scores import Reference
    from ebm_traj.image.studies import opened, write

    given = opened(args.model, args.data, device, args.classifier, split=args.split)
    assert given.classifier is not None
    model = given.model
    settings = flow_settings(model, args.solvers, args.gradients) if model.has_levels else []
    settings += chain_settings(model, args.chain_gradients, levels=args.levels, leapfrog=args.leapfrog)
    factors = sharp.sharpness_settings(model, args.sharpness, args.sharp_below) if args.sharpness else []
    if not settings and not factors:
        raise InputError("--gradients, --chain-gradients: none that a sampler could keep to; give more")
    reference = Reference.of(given.test, given.classifier, args.count, args.seed)
    points = curve(model, settings, reference, batch=args.batch, seed=args.seed, progress=True)
    floor = reference.floor()
    text = f"{reference.count} samples each, against the {args.split} part."
    figures = {}
    if points:
        text += f" {LEGEND}\n\n{table(points, floor)}"
        figures["steps"] = picture(points, floor)
    content = {
        "count": reference.count,
        "floor": floor,
        "points": [dataclasses.asdict(point) for point in points],
    }
    if factors:
        found = curve(model, factors, reference, batch=args.batch, seed=args.seed, progress=True)
        text += f"\n\n{sharp.LEGEND}\n\n{sharp.table(found, floor)}"
        content["sharpness"] = [dataclasses.asdict(point) for point in found]
        figures["sharpness"] = sharp.picture(found, floor)
    if model.has_levels and args.mixing_levels:
        some = given.test.take(slice(0, 64))
        labels = torch.from_numpy(some.y).to(device) if model.num_classes else None
        jumps = mixing(
            model,
            to_tensor(some.x, device),
            labels,
            args.mixing_levels,
            leapfrog=args.leapfrog,
            seed=args.seed,
        )
        text += f"\n\n{mixing_table(jumps)}"
        content["mixing"] = jumps
    write(args, "steps", "Quality against sampling steps", text, content, figures)
