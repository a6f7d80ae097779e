"""Train an energy-based model of pictures; with no arguments, of scikit-learn's digits in two minutes."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ebm_traj.cli import next_step, pick_device, run
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.image.model import ImageConfig
from ebm_traj.image.presets import PRESETS, Change, preset

Flat = tyro.conf.arg(name="")  # its fields become options of their own


@dataclasses.dataclass
class Args:
    """Arguments of training; all others have their defaults from the preset."""

    preset: str = "digits"
    """Settings by name: digits, mnist (the project's), mnist-tutorial, cifar10, cifar10-cond,
    cifar10-improved, imagenet32-cond, imagenet128-cond, dsprites (the literature's)."""
    out: Path | None = None
    """Folder of the run, which must not exist yet, unless --resume; default: runs/PRESET."""
    data: str | None = None
    """digits, sprites, mnist, cifar10, or the path of an .npz, of idx files, of CIFAR batches, of a folder or
    .zip of pictures; default: what the preset is for."""
    size: int | None = None
    """Side that pictures are resized to; default: the preset's."""
    channels: Literal[1, 3] | None = None
    """3 repeats grey, 1 takes luma."""
    classes: tuple[int, ...] | None = None
    """Train on these classes only."""
    validation: float = 0.05
    """Share of the training pictures that is held out, to choose weights by."""
    download: bool = False
    """Fetch mnist or cifar10 if they are not here yet."""
    augment: tuple[Change, ...] | None = None
    """What is done to the data; default: the preset's."""
    transitions: tuple[Change, ...] | None = None
    """What is done to a share --config.augment of the replayed chains; default: the preset's."""
    dequantise: bool = False
    """Add uniform noise of one grey level to the data."""
    snapshots: int = 40
    """Samples drawn at each look at held-out pictures; 0 for none."""
    begin: Path | None = None
    """Go on from the weights of this trained model, of the same network."""
    resume: bool = False
    """Go on with an interrupted run in --out."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    trainer: Annotated[TrainerConfig, Flat] = dataclasses.field(default_factory=TrainerConfig)
    config: ImageConfig = dataclasses.field(default_factory=ImageConfig)

    @staticmethod
    def defaults(argv: list[str]) -> "Args":
        """The settings of the preset that the command line names."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        parser.add_argument("--preset", default="digits")
        named = parser.parse_known_args(argv)[0].preset
        chosen = preset(named)
        return Args(preset=named, trainer=chosen.trainer, config=chosen.config)


def main(args: Any) -> None:
    """Train an energy-based model of pictures."""
    chosen = PRESETS[args.preset]
    from ebm_traj.core.distributed import make_fabric
    from ebm_traj.core.memory import keep_freed_memory
    from ebm_traj.datasets.pictures import open_pictures
    from ebm_traj.image.training import require_folder, train_image

    device = pick_device(args.device)
    out = args.out or Path("runs") / args.preset
    require_folder(out, args.resume)
    if not 0 < args.validation < 1:
        raise InputError(f"--validation {args.validation}: accepted is between 0 and 1")
    sets = [
        open_pictures(
            args.data or chosen.data,
            split,
            size=args.size or chosen.size,
            channels=args.channels,
            validation=args.validation,
            download=args.download,
        )
        for split in ("train", "validation")
    ]
    if args.classes is not None:
        sets = [part.of_classes(args.classes) for part in sets]
    config = args.config
    if any(part.num_classes < 2 or (part.y < 0).any() for part in sets) and (
        config.conditional or config.classification
    ):
        print(f"note: {sets[0].name} has no classes: conditional and classification are off", file=sys.stderr)
        config = dataclasses.replace(config, conditional=False, classification=0.0)
    keep_freed_memory()  # a tenth less time on a CPU
    model = train_image(
        config,
        sets[0],
        sets[1],
        args.trainer,
        out,
        augment=chosen.augment if args.augment is None else args.augment,
        transitions=chosen.transitions if args.transitions is None else args.transitions,
        dequantise=args.dequantise,
        snapshots=args.snapshots,
        begin=args.begin,
        fabric=make_fabric(device),
        resume=args.resume,
    )
    card = model.card
    print(
        f"{out}: {card['iterations']} iterations of {card['batch_size']} pictures in "
        f"{card['cpu_seconds']:.0f} CPU "
        f"seconds, {card['parameters']:,} parameters, {card['restarts']} restarts; samples in {out}/samples"
    )
    print(next_step("python", "scripts/image.py", "generate", "--model", out, "--out", out / "generated"))


if __name__ == "__main__":
    run(main, Args)
