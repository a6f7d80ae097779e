"""`image.py complete`: many completions of pictures with a part masked."""

import dataclasses
from pathlib import Path
from typing import Literal

from ebm_traj.cli import pick_device
from ebm_traj.errors import InputError
from ebm_traj.image.completion import Mask
from ebm_traj.image.posterior import PosteriorConfig
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of completion."""

    model: Path
    """Folder of an image model."""
    out: Path
    """Folder for complete.md, .json and a picture for each mask; must not exist, unless --overwrite."""
    data: str = "digits"
    """Pictures to complete: digits, sprites, or a path; training pictures are compared
    with."""
    split: Literal["validation", "test"] = "test"
    """Their part: validation to choose settings by, test to report them."""
    classifier: Path | None = None
    """Folder of a classifier (train_classifier.py), which reads the completions; without it only pictures
    are drawn."""
    masks: tuple[Mask, ...] = ("left", "upper", "lower")
    """What is hidden: left, right, upper or lower half, or the centre."""
    pictures: int = 100
    """So many of them, drawn at random."""
    completions: int = 16
    """Of each picture under each mask."""
    rows: int = 8
    """Pictures shown: half of them those with the most classes among the completions, half the first ones."""
    posterior: PosteriorConfig = dataclasses.field(default_factory=PosteriorConfig)
    """How pictures are drawn given what is seen; models without levels take their own chain."""
    batch: int = 128
    """Completions at a time."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    seed: int = 0
    """Of the choice of pictures and of all draws."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Complete masked pictures many times each, and measure how unlike and how likely the completions are."""

    require_folder(args.out, ("complete.json",), overwrite=args.overwrite)
    for name in ("pictures", "completions", "rows", "batch"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: accepted are 1 and more")
    if not args.masks:
        raise InputError("--masks: none; accepted are one and more")
    device = pick_device(args.device)

    from ebm_traj.image.completion_study import study
    from ebm_traj.image.studies import opened, write

    given = opened(args.model, args.data, device, args.classifier, split=args.split)
    config = args.posterior if given.model.has_levels else given.chain
    text, content, figures = study(
        given.model,
        given.test,
        given.train,
        given.classifier,
        config,
        masks=args.masks,
        pictures=args.pictures,
        completions=args.completions,
        rows=args.rows,
        batch=args.batch,
        seed=args.seed,
    )
    write(args, "complete", "Completion", text, content, figures)
