"""Train the small classifier of pictures that scores samples and whose features measure distances."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ebm_traj.cli import pick_device, run
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.image.classifier import CARD, WEIGHTS, ClassifierConfig
from ebm_traj.image.classifier_training import TRAINER
from ebm_traj.output import OF_TRAINER, require_folder, take_folder

PROGRAM = "train_classifier"
LEAVES = (WEIGHTS, CARD, "report.json", *OF_TRAINER)
Flat = tyro.conf.arg(name="")  # its fields become options of their own


@dataclasses.dataclass
class Args:
    """Arguments of training."""

    out: Path
    """Folder of the classifier; must not exist, unless --resume or --overwrite."""
    data: str = "digits"
    """digits, sprites, mnist, fashion, cifar10, or a path (.npz, .zip, idx, CIFAR batches, class folders)."""
    size: int | None = None
    """Side in pixels to cut and resize to."""
    channels: int | None = None
    """1: grey. 3: colour."""
    validation: float = 0.05
    """Share of the training part on which the weights are chosen."""
    download: bool = False
    """Fetch mnist, fashion or cifar10 if it is not there."""
    cache: Path | None = None
    """An .npz for the decoded pictures of a folder or .zip, written if it is not there."""
    classifier: Annotated[ClassifierConfig, Flat] = dataclasses.field(default_factory=ClassifierConfig)
    trainer: Annotated[TrainerConfig, Flat] = dataclasses.field(default_factory=lambda: TRAINER)
    device: str | None = None
    """cpu or cuda; by default a GPU if there is one."""
    bfloat16: bool = False
    """Multiply in bfloat16: nearly half the time on a recent CPU."""
    resume: bool = False
    """Go on with an interrupted run in --out."""
    overwrite: bool = False
    """Replace what is in --out."""


def main(args: Args) -> None:
    """Train a classifier of pictures; print and write its accuracy on the test part."""
    require_folder(args.out, (f"{PROGRAM}.json", *LEAVES), overwrite=args.overwrite, resume=args.resume)
    device = pick_device(args.device)

    from ebm_traj.datasets.pictures import PictureSet, open_pictures
    from ebm_traj.image.classifier_training import save_classifier, train_classifier

    def part(split: Literal["train", "validation", "test"]) -> PictureSet:
        return open_pictures(
            *(args.data, split),
            size=args.size, channels=args.channels, validation=args.validation, download=args.download,
            cache=args.cache,
        )  # fmt: skip

    train, validation, test = part("train"), part("validation"), part("test")
    settings = dataclasses.asdict(args)
    take_folder(args.out, PROGRAM, LEAVES, settings, overwrite=args.overwrite, resume=args.resume)
    model, report = train_classifier(
        *(train, validation, args.classifier, args.trainer, args.out),
        device=device, bfloat16=args.bfloat16, resume=args.resume,
    )  # fmt: skip
    settings = {name: settings[name] for name in ("data", "size", "channels", "bfloat16", "trainer")}
    card = save_classifier(model.cpu(), report, test, args.out, settings)
    print(
        f"{test.name}: {100 * card['test_accuracy']:.2f} % of {len(test)} test pictures, "
        f"{report.seconds:.0f} s; {args.out / CARD}"
    )


if __name__ == "__main__":
    run(main, Args)
