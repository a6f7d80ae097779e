"""Train a deep belief net on pictures layer by layer, let it generate, and fine-tune it as a classifier."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from ebm_traj.boltzmann.classifier import FineTuneConfig
from ebm_traj.boltzmann.dbn import DBNConfig
from ebm_traj.boltzmann.dbn_study import DIGITS_DBN, DIGITS_FINE_TUNE
from ebm_traj.cli import pick_device, run

Flat = tyro.conf.arg(name="")  # its fields become options of their own


@dataclasses.dataclass
class Args:
    """Arguments of training; the defaults take about a minute on scikit-learn's digits."""

    data: str = "digits"
    """Labelled pictures: digits, or a path (mnist.npz, a folder of idx files, of classes, ...)."""
    out: Path = Path("runs/dbn")
    """Folder for the net, the classifier, logs, report and figures; must not exist, unless --overwrite or
    --resume."""
    dbn: Annotated[DBNConfig, Flat] = DIGITS_DBN
    fine_tune: FineTuneConfig = DIGITS_FINE_TUNE
    pretrain: bool = True
    """False: the same network and fine-tuning from random weights, for comparison."""
    validation: float = 0.05
    """Share of the training pictures held out, by which the classifier's iteration is chosen."""
    size: int | None = None
    """Resize pictures to this height and width."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    download: bool = False
    """Fetch a named data set that is not there."""
    overwrite: bool = False
    """Replace --out."""
    resume: bool = False
    """Go on with an interrupted run in --out."""


def main(args: Args) -> None:
    """Train a deep belief net on pictures and fine-tune it as a classifier."""
    from ebm_traj.boltzmann.dbn_study import run_dbn

    text = run_dbn(
        args.data,
        args.out,
        args.dbn,
        args.fine_tune,
        pretrain=args.pretrain,
        validation=args.validation,
        size=args.size,
        device=pick_device(args.device),
        download=args.download,
        overwrite=args.overwrite,
        resume=args.resume,
        command="python " + shlex.join(sys.argv),
    )
    print(text)


if __name__ == "__main__":
    run(main, Args)
