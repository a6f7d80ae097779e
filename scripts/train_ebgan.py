"""Train an energy-based GAN, an auto-encoder energy against a generator; or a binary GAN."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ebm_traj.cli import pick_device, run
from ebm_traj.ebgan.model import AdversarialConfig
from ebm_traj.ebgan.step import OptimiserConfig
from ebm_traj.ebgan.trainer import AdversarialSettings

Flat = tyro.conf.arg(name="")  # its fields become options of their own


@dataclasses.dataclass
class Args:
    """Arguments of training."""

    out: Path
    """Folder of the run; must not exist, unless --resume or --overwrite."""
    data: str = "digits"
    """Pictures: digits, sprites, mnist, cifar10, or the path of an .npz, idx files, a folder or zip."""
    size: int | None = None
    """Pixels across that pictures are resized to; convolutional networks need 8, 16, 32, 64, 128 or 256."""
    download: bool = False
    """Fetch a set that is known by name."""
    classifier: Path | None = None
    """Folder of train_classifier.py, for --score-every."""
    resume: bool = False
    """Go on with an interrupted run in --out."""
    overwrite: bool = False
    """Replace the run in --out."""
    device: str | None = None
    """cpu or cuda; default: a GPU if there is one."""
    model: Annotated[AdversarialConfig, Flat] = dataclasses.field(default_factory=AdversarialConfig)
    optimiser: OptimiserConfig = dataclasses.field(default_factory=OptimiserConfig)
    trainer: Annotated[AdversarialSettings, Flat] = dataclasses.field(default_factory=AdversarialSettings)


def main(args: Args) -> None:
    """Train a generator against an auto-encoder energy (EBGAN) or a classifier (GAN)."""
    from ebm_traj.datasets.pictures import open_pictures
    from ebm_traj.ebgan.training import require_run_folder, train_adversarial
    from ebm_traj.image.classifier import load_classifier

    require_run_folder(args.out, args.resume, args.overwrite)
    device = pick_device(args.device)
    train = open_pictures(args.data, "train", size=args.size, download=args.download)
    classifier = None if args.classifier is None else load_classifier(args.classifier, device)
    model = train_adversarial(
        train,
        args.model,
        args.optimiser,
        args.trainer,
        args.out,
        device=device,
        resume=args.resume,
        overwrite=args.overwrite,
        classifier=classifier,
    )
    card = model.card
    print(
        f"{args.out}: {args.model.loss}, {card['iterations']} iterations of {args.trainer.batch_size} "
        f"pictures in {card['train_seconds']:.0f} s, {card['parameters']:,} parameters, "
        f"{card['restarts']} restarts"
    )


if __name__ == "__main__":
    run(main, Args)
