"""`image.py morph`: chains from pictures of one class under the energy of another."""

import dataclasses
from pathlib import Path
from typing import Literal

from ebm_traj.cli import pick_device
from ebm_traj.errors import InputError
from ebm_traj.image.morphing import MorphConfig
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of morphing."""

    model: Path
    """Folder of a conditional image model."""
    out: Path
    """Folder for morph.md, .json and pictures; must not exist, unless --overwrite."""
    data: str = "digits"
    """Pictures to start from: digits, sprites, or a path."""
    split: Literal["validation", "test"] = "test"
    """Their part: validation to choose settings by, test to report them."""
    classifier: Path | None = None
    """Folder of a classifier (train_classifier.py), to read the chains with."""
    each: int = 1
    """Random pictures of every class, each walked to every other class."""
    rows: int = 8
    """Chains shown."""
    walk: MorphConfig = dataclasses.field(default_factory=MorphConfig)
    """The chain; models without levels take their own."""
    guidance: float = 1.0
    """Weight of what a class adds to the energy; above 1 pictures are more plainly of their class, and each
    gradient costs two."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    seed: int = 0
    """Of the choice of pictures and of all draws."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Walk from pictures of every class to every other class."""

    require_folder(args.out, ("morph.json",), overwrite=args.overwrite)
    for name in ("each", "rows"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: accepted are 1 and more")
    device = pick_device(args.device)

    from ebm_traj.image.guidance import guided
    from ebm_traj.image.morphing_report import LEGEND, chains_picture, content, matrix_picture, study, table
    from ebm_traj.image.studies import opened, write

    given = opened(args.model, args.data, device, args.classifier, split=args.split)
    if not given.model.num_classes:
        raise InputError(f"--model {args.model}: unconditional; morphing needs a model with classes")
    model = guided(given.model, args.guidance)
    config = args.walk if given.model.has_levels else given.chain
    found, come, along, fresh = study(
        model, given.test, given.classifier, config, each=args.each, seed=args.seed
    )
    names = given.test.class_names
    text = f"{LEGEND} {len(come)} chains, {found.gradients} gradients each.\n\n{table(along, fresh)}"
    figures = {
        "morph_chains": chains_picture(found, come, names, args.rows),
        "morph_matrix": matrix_picture(found, come, names),
    }
    write(args, "morph", "Morphing", text, content(found, along, fresh), figures)
