"""`image.py restore`: pictures freed of noise, blur or missing pixels."""

import dataclasses
from pathlib import Path
from typing import Literal

from ebm_traj.cli import pick_device
from ebm_traj.errors import InputError
from ebm_traj.image.posterior import PosteriorConfig
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of restoration."""

    model: Path
    """Folder of an image model."""
    out: Path
    """Folder for restore.md, .json and .png; must not exist, unless --overwrite."""
    data: str = "digits"
    """Pictures to damage and restore: digits, sprites, or a path."""
    damages: tuple[str, ...] = ("noise:0.6", "blur:1.5:0.05", "missing:0.75", "coarse:4:0.05")
    """What is done to them: noise:STD, blur:PIXELS[:STD], missing:SHARE[:STD], coarse:PIXELS[:STD]; pixels
    range from -1 to 1."""
    split: Literal["validation", "test"] = "test"
    """Their part: validation to choose settings by, test to report them."""
    classifier: Path | None = None
    """Folder of a classifier (train_classifier.py), to read what was restored."""
    pictures: int = 64
    """So many of them, drawn at random."""
    draws: int = 8
    """Of each picture."""
    posterior: PosteriorConfig = dataclasses.field(
        default_factory=lambda: PosteriorConfig("moments", levels=16, repeats=3)
    )
    """How pictures are drawn given what is seen; models without levels take their own chain."""
    columns: int = 10
    """Pictures shown."""
    batch: int = 128
    """Draws at a time."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    seed: int = 0
    """Of the choice of pictures, the damage and all draws."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Restore damaged pictures by the model's energy and that of the measurement."""

    require_folder(args.out, ("restore.json",), overwrite=args.overwrite)
    for name, least in (("pictures", 1), ("draws", 2), ("columns", 1), ("batch", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}: accepted are {least} and more")
    from ebm_traj.image.restoration import Damage

    damages = [Damage.read(text) for text in args.damages]
    if not damages:
        raise InputError("--damages: none; accepted are one and more")
    device = pick_device(args.device)

    from ebm_traj.image.restoration_report import LEGEND, content, picture, study, table
    from ebm_traj.image.studies import opened, write

    given = opened(args.model, args.data, device, args.classifier, split=args.split)
    x, rows, truth = study(
        given.model,
        given.test,
        given.train,
        given.classifier,
        args.posterior if given.model.has_levels else given.chain,
        damages,
        pictures=args.pictures,
        draws=args.draws,
        batch=args.batch,
        seed=args.seed,
    )
    text = f"{LEGEND} {len(x)} {args.split} pictures, {args.draws} draws of each.\n\n{table(rows, truth)}"
    shown = {"restore": picture(x, rows, args.columns)}
    write(args, "restore", "Restoration", text, content(rows, truth), shown)
