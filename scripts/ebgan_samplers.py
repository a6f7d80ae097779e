"""Contrastive divergence with a generator as the sampler, against a replay buffer, at equal CPU time."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ebm_traj.cli import run
from ebm_traj.ebgan.sampler_study import SamplerStudyConfig
from ebm_traj.output import require_folder

Flat = tyro.conf.arg(name="")  # its fields become options of their own


@dataclasses.dataclass
class Args:
    """Arguments of the study."""

    classifier: Path
    """Folder of train_classifier.py, of the same pictures."""
    out: Path
    """Folder for samplers.md, .json and .png and the runs; must not exist, unless --overwrite."""
    data: str = "digits"
    """Pictures to learn."""
    size: int | None = None
    """Pixels across that pictures are resized to."""
    ways: tuple[Literal["replay", "generator", "generator + chain"], ...] = (
        "replay",
        "generator",
        "generator + chain",
    )
    """What negatives come from."""
    split: Literal["validation", "test"] = "test"
    """Pictures that samples are scored against; settings are chosen on validation."""
    config: Annotated[SamplerStudyConfig, Flat] = dataclasses.field(default_factory=SamplerStudyConfig)
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Train the same energy with negatives from each source for the same CPU time; score their samples."""
    from ebm_traj.datasets.pictures import open_pictures
    from ebm_traj.ebgan.energy_report import sampler_page
    from ebm_traj.ebgan.sampler_study import compare
    from ebm_traj.errors import InputError
    from ebm_traj.image.classifier import load_classifier

    require_folder(args.out, ("samplers.json", "rows.json"), overwrite=args.overwrite)
    if not args.ways or len(set(args.ways)) != len(args.ways):
        raise InputError(f"--ways {' '.join(args.ways)}: accepted are one or more different ones")
    classifier = load_classifier(args.classifier)
    train = open_pictures(args.data, "train", size=args.size)
    real = open_pictures(args.data, args.split, size=args.size)
    rows = compare(args.ways, train, real, classifier, args.config, args.out)
    text, page = sampler_page(rows, args.out, dataclasses.asdict(args), args.config.cpu_seconds)
    print(f"{text}\n\n{page}")


if __name__ == "__main__":
    run(main, Args)
