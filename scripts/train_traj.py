"""Train a trajectory model: an energy model or one of the baselines."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ebm_traj.cli import next_step, run
from ebm_traj.core.backends import SamplerBackend, set_backend
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.datasets.recording import Recording
from ebm_traj.errors import InputError
from ebm_traj.trajectory.files import load
from ebm_traj.trajectory.hindsight import Hindsight
from ebm_traj.trajectory.model import Conditioning
from ebm_traj.trajectory.presets import CONFIGS, PAPER_CONFIGS, paper_trainer
from ebm_traj.trajectory.rehearsal import Rehearsal, require_same_kind
from ebm_traj.trajectory.training import (
    TrainSettings,
    make_fabric,
    require_folder,
    require_shares,
    start,
    train,
)

Kind = Literal["ebm", "fc", "gaussian", "mixture", "flow", "diffusion", "rbm"]
Flat = tyro.conf.arg(name="")  # its fields become options of their own


@dataclasses.dataclass
class Args:
    """Arguments of training; those of the model itself are added by its kind."""

    data: Path
    """Data set folder."""
    out: Path
    """Folder of the run; it must not exist yet, unless --resume."""
    model: Kind = "ebm"
    """Energy model, or a baseline: fully connected (squared error), ensemble of Gaussians, mixture density,
    flow matching, diffusion, conditional RBM. --help shows the settings of the model named before it."""
    conditioning: Conditioning = "states"
    """states: predict states. actions: told the actions to come. joint: predict states and actions."""
    goal: bool | None = None
    """Give the model the `given` dimensions (the goal pose); by default if the recorded policy saw them."""
    hindsight: Hindsight = dataclasses.field(default_factory=Hindsight)
    paper: bool = False
    """Defaults are the literature's network, sampler and optimiser (ebm and fc)."""
    init: Path | None = None
    """Go on from the weights of this trained run (or shipped model): its kind, settings and conditioning are
    taken over, what it was trained on may be given as --earlier."""
    earlier: tuple[Path, ...] = ()
    """Data sets to rehearse beside --data, so that they are not forgotten."""
    rehearsal: Rehearsal = dataclasses.field(default_factory=Rehearsal)
    resume: bool = False
    """Go on with an interrupted run in --out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    sampler_backend: SamplerBackend = "auto"
    """How chains are computed, see `core.backends`; auto: the fastest here, autograd: the reference."""
    recorded_steps: bool = False
    """On one GPU: replay whole training steps as CUDA graphs, see `core.recorded_step`."""
    devices: int | None = None
    """Devices to train on, on each machine: one process each, which share the rows of every batch and average
    their gradients. Default: 1, or as many as torchrun or fabric run started."""
    num_nodes: int | None = None
    """Machines (1); each is started by torchrun, or with MASTER_ADDR, MASTER_PORT and its NODE_RANK set."""
    inverse_iterations: int = 2000
    """Optimiser steps of the inverse dynamics, with which a model of states acts in a rollout; 0 for none."""
    budget_gb: float = 4.0
    """Data up to this size are held on each device; larger sets are streamed, each device its own part."""
    trainer: Annotated[TrainerConfig, Flat] = dataclasses.field(default_factory=TrainerConfig)

    @staticmethod
    def class_for(argv: list[str]) -> type["Args"]:
        """These arguments and the settings of the model that the command line names."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        parser.add_argument("--model", default="ebm")
        parser.add_argument("--paper", action="store_true")
        parser.add_argument("--init")
        named = parser.parse_known_args(argv)[0]
        if named.init is not None:
            return _going_on(named.init)
        configs = PAPER_CONFIGS if named.paper and named.model in PAPER_CONFIGS else CONFIGS
        default = configs.get(named.model, CONFIGS["ebm"])
        trainer = paper_trainer() if named.paper else TrainerConfig()
        return dataclasses.make_dataclass(
            "TrainArgs",
            [
                ("trainer", Annotated[TrainerConfig, Flat], dataclasses.field(default=trainer)),
                ("config", Annotated[type(default), Flat], dataclasses.field(default=default)),
            ],
            bases=(Args,),
        )


def _going_on(init: str) -> type[Args]:
    """These arguments with the defaults of a trained model."""
    model = load(init)
    config = model.config
    if getattr(config, "energy_start", None):
        config = dataclasses.replace(config, energy_start=None)  # an iteration of the run before
    return dataclasses.make_dataclass(
        "TrainArgs",
        [
            ("model", Kind, dataclasses.field(default=model.kind)),
            ("conditioning", Conditioning, dataclasses.field(default=model.conditioning)),
            # another kind is refused in main, after its settings have been read
            ("config", Annotated[type(config), Flat], dataclasses.field(default=config)),
        ],
        bases=(Args,),
    )


def main(args: Any) -> None:
    """Train a model of robot trajectories on a data set of collect.py."""
    set_backend(args.sampler_backend)
    if args.paper and args.model not in PAPER_CONFIGS:
        accepted = " and ".join(PAPER_CONFIGS)
        raise InputError(
            f"--paper with --model {args.model}: the literature has none; accepted are {accepted}"
        )
    settings = TrainSettings(
        trainer=args.trainer,
        conditioning=args.conditioning,
        use_given=args.goal,
        hindsight=args.hindsight,
        inverse_iterations=args.inverse_iterations,
        budget_gb=args.budget_gb,
    )
    if args.rehearsal != Rehearsal() and not args.earlier:
        raise InputError("--rehearsal: given without --earlier, the data sets to rehearse")
    if args.init is None and args.rehearsal.dreams:
        raise InputError("--rehearsal.dreams: needs the model that dreams, --init")
    recording, earlier = Recording(args.data), [Recording(folder) for folder in args.earlier]
    for found in (recording, *earlier):
        if (there := len(found.paths)) < found.manifest.num_shards:
            print(
                f"note: {found.folder}: {there} of {found.manifest.num_shards} shards are there; "
                f"{found.num_episodes:,} of {found.manifest.episodes:,} episodes are used",
                file=sys.stderr,
            )
    model = load(args.init) if args.init is not None else None
    if model is not None:
        require_same_kind(model, args.model, args.conditioning)
    fabric = make_fabric(args.device, args.devices, num_nodes=args.num_nodes, launch=False)
    require_shares(args.config, settings, fabric.world_size)  # these before further processes are started
    if fabric.global_rank == 0:
        require_folder(args.out, args.resume)
    start(fabric)
    model = train(
        recording,
        args.model,
        args.config,
        settings,
        args.out,
        fabric=fabric,
        resume=args.resume,
        start_from=model,
        earlier=earlier,
        rehearsal=args.rehearsal if earlier else None,
        recorded=args.recorded_steps,
    )
    if fabric.global_rank:
        return
    card = model.card
    print(
        f"{args.out}: {args.model}, {card['iterations']} iterations of {card['batch_size']} windows in "
        f"{card['train_seconds']:.0f} s, {card['parameters']:,} parameters, {card['restarts']} restarts"
    )
    following = ("python", "scripts/compare.py", "--data", args.data, "--runs", args.out, "--out", "report")
    print(next_step(*following))


if __name__ == "__main__":
    run(main, Args)
