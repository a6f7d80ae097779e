"""Train a restricted Boltzmann machine on pictures, estimate its log-likelihood and draw it."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from ebm_traj.boltzmann.ais import AISConfig
from ebm_traj.boltzmann.study import DIGITS_AIS, DIGITS_RBM, REVERSE_STEPS
from ebm_traj.boltzmann.training import RBMConfig
from ebm_traj.cli import pick_device, run


@dataclasses.dataclass
class Args:
    """Arguments of training; the defaults take about a minute on scikit-learn's digits."""

    data: str = "digits"
    """Pictures: digits, or a path (mnist.npz, a folder of idx files, of classes, ...)."""
    out: Path = Path("runs/rbm")
    """Folder for the machine, log, report and figures; must not exist, unless --overwrite or --resume."""
    config: Annotated[RBMConfig, tyro.conf.arg(name="")] = DIGITS_RBM
    ais: AISConfig = DIGITS_AIS
    """Annealing schedule of the final log-likelihood."""
    reverse_steps: int = REVERSE_STEPS
    """Steps of parallel tempering (20 temperatures) that make the samples reverse AIS starts from; 0 for no
    reverse AIS."""
    validation: float = 0.05
    """Share of the training pictures held out from training."""
    size: int | None = None
    """Resize pictures to this height and width."""
    inverted: bool = False
    """Exchange black and white, which plain machines learn badly and centred ones as well as before."""
    beside: tuple[Path, ...] = ()
    """Other runs whose held-out log-likelihoods are drawn beside, if all have --evaluate-every."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    download: bool = False
    """Fetch a named data set that is not there."""
    overwrite: bool = False
    """Replace --out."""
    resume: bool = False
    """Go on with an interrupted run in --out."""


def main(args: Args) -> None:
    """Train an RBM on pictures; AIS log-likelihood, filters, chains and reconstructions."""
    from ebm_traj.boltzmann.study import run_rbm

    text = run_rbm(
        args.data,
        args.out,
        args.config,
        args.ais,
        reverse_steps=args.reverse_steps,
        validation=args.validation,
        size=args.size,
        inverted=args.inverted,
        beside=args.beside,
        device=pick_device(args.device),
        download=args.download,
        overwrite=args.overwrite,
        resume=args.resume,
        command="python " + shlex.join(sys.argv),
    )
    print(text)


if __name__ == "__main__":
    run(main, Args)
