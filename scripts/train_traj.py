"""Train a trajectory model: an energy model or the fully connected baseline."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ebm_traj.cli import run
from ebm_traj.core.objectives import ContrastiveConfig
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.datasets.recording import Recording
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import DEFAULT_CONTRASTIVE, EBMConfig
from ebm_traj.trajectory.fc import FCConfig
from ebm_traj.trajectory.model import NetworkConfig
from ebm_traj.trajectory.presets import PAPER_ITERATIONS, paper_ebm, paper_fc, paper_trainer
from ebm_traj.trajectory.training import TrainSettings, make_fabric, train

Flat = tyro.conf.arg(name="")  # its fields become options of their own


@dataclasses.dataclass
class Args:
    """Train a model of robot trajectories on a data set of collect.py."""

    data: Path
    """Data set folder."""
    out: Path
    """Folder of the run; it must not exist yet, unless --resume."""
    model: Literal["ebm", "fc"] = "ebm"
    """Energy model, or the fully connected baseline trained by squared error."""
    actions: bool = False
    """Condition on the actions (default: states only)."""
    goal: bool | None = None
    """Give the model the `given` dimensions (the goal pose); by default if the recorded policy saw them."""
    paper: bool = False
    """The literature's network, sampler and optimiser (--iterations and --seed still count)."""
    resume: bool = False
    """Go on with an interrupted run in --out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    inverse_iterations: int = 2000
    """Optimiser steps of the inverse dynamics, which lets a rollout act; 0 for none."""
    budget_gb: float = 4.0
    """Data up to this size are held on the device; larger sets are streamed."""
    proposal: Literal["gaussian", "noise"] = "gaussian"
    """Where chains start: a learned Gaussian, or the last frame plus uniform noise."""
    network: Annotated[NetworkConfig, Flat] = dataclasses.field(default_factory=NetworkConfig)
    contrastive: Annotated[ContrastiveConfig, Flat] = DEFAULT_CONTRASTIVE
    trainer: Annotated[TrainerConfig, Flat] = dataclasses.field(default_factory=TrainerConfig)


def configs(args: Args) -> tuple[EBMConfig | FCConfig, TrainerConfig]:
    """The model's and the trainer's settings that the arguments ask for."""
    if args.paper:
        defaults = Args(data=args.data, out=args.out)
        for name in ("network", "contrastive", "proposal"):
            if getattr(args, name) != getattr(defaults, name):
                raise InputError(f"--paper fixes the {name} settings; leave them out, or leave out --paper")
        trainer = paper_trainer(args.trainer)
        if args.trainer.iterations == defaults.trainer.iterations:
            trainer = dataclasses.replace(trainer, iterations=PAPER_ITERATIONS)
        return (paper_ebm() if args.model == "ebm" else paper_fc()), trainer
    if args.model == "fc":
        return FCConfig(network=args.network, batch_size=args.contrastive.batch_size), args.trainer
    return EBMConfig(args.network, args.contrastive, args.proposal), args.trainer


def main(args: Args) -> None:
    """Train a model of robot trajectories on a data set of collect.py."""
    config, trainer = configs(args)
    settings = TrainSettings(
        trainer=trainer,
        conditioning="actions" if args.actions else "states",
        use_given=args.goal,
        inverse_iterations=args.inverse_iterations,
        budget_gb=args.budget_gb,
    )
    recording = Recording(args.data)
    fabric = make_fabric(args.device)
    model = train(recording, args.model, config, settings, args.out, fabric=fabric, resume=args.resume)
    card = model.card
    print(
        f"{args.out}: {args.model}, {card['iterations']} iterations of {card['batch_size']} in "
        f"{card['train_seconds']:.0f} s, {card['parameters']:,} parameters, {card['restarts']} restarts"
    )
    print(f"next: python scripts/compare.py --data {args.data} --runs {args.out} --out report")


if __name__ == "__main__":
    run(main, Args)
