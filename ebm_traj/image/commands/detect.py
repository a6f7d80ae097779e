"""`image.py detect`: AUROC of the energy for pictures of other sets."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

from ebm_traj.cli import pick_device
from ebm_traj.errors import InputError
from ebm_traj.image.detection import DetectionConfig
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of the detection study."""

    model: Path
    """Folder of an image model."""
    out: Path
    """Folder for detection.md, .json and .png; must not exist, unless --overwrite."""
    data: str = "digits"
    """The model's own data: digits, sprites, or a path. Its test part is held against the other sets."""
    others: tuple[str, ...] = ("interpolations", "monochrome", "uniform")
    """Other sets: paths, NAME=PATH, or these three, which are made."""
    count: int = 2000
    """At most so many pictures of each set, drawn at random."""
    validation: float = 0.05
    """Share of the training pictures held out when the model was trained."""
    split_seed: int = 0
    """Seed by which they were drawn."""
    detection: DetectionConfig = dataclasses.field(default_factory=DetectionConfig)
    device: str | None = None
    """cpu, cuda, ...; by default a GPU if there is one."""
    seed: int = 0
    """Seed of made sets, drawn pictures, fits and bootstrap."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Score test pictures of the model's own set and of others by its energy; draw the line between them."""
    from ebm_traj.image.other_sets import named_sets

    require_folder(args.out, ("detection.json",), overwrite=args.overwrite)
    if args.count < 2:
        raise InputError(f"--count {args.count}: accepted are 2 and more")
    sets = named_sets(args.others)
    device = pick_device(args.device)

    from ebm_traj.datasets.pictures import open_pictures
    from ebm_traj.image.detection import detect
    from ebm_traj.image.detection_report import LEGEND, table, write_report
    from ebm_traj.image.model import load_image_model
    from ebm_traj.image.other_sets import first_rows, other_pictures
    from ebm_traj.image.typicality import spaced_levels

    model = load_image_model(args.model, device)
    channels, size, width = model.shape
    shape = (channels, size, width)
    opened = {
        split: open_pictures(
            args.data, split, size=size, channels=channels, validation=args.validation, seed=args.split_seed
        ).x
        for split in ("validation", "test")
    }
    held_out, own = (first_rows(opened[s], args.count, args.seed, s) for s in ("validation", "test"))
    others = {
        name: other_pictures(source, own, shape, args.count, args.seed) for name, source in sets.items()
    }
    sigmas: tuple[float, ...] = (0.0,)
    if model.lowest_level is not None:
        sigmas = spaced_levels(model.lowest_level, args.detection.highest, args.detection.levels)
    found = detect(
        model, sigmas, held_out, own, others, args.detection, seed=args.seed, device=device, progress=True
    )
    print(f"{LEGEND}\n\n{table(found)}")
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str), parse_constant=str)
    page = write_report(found, args.out, settings, "python " + shlex.join(sys.argv))
    print(f"\n{page}")
