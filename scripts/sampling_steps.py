"""Score one energy model with samplers of many lengths, and with one that stops when it has converged."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ebm_traj.cli import pick_device, require_seed, run
from ebm_traj.datasets.branches import BRANCHES_FILE, Branches
from ebm_traj.datasets.recording import Recording
from ebm_traj.errors import InputError
from ebm_traj.output import require_new


@dataclasses.dataclass
class Args:
    """Arguments of the sweep."""

    data: Path
    """Data set."""
    run: Annotated[Path, tyro.conf.arg(aliases=["--model"])]
    """Folder, or shipped name, of an energy model."""
    out: Path
    """Folder for sweep.json and sweep.png; must not exist."""
    steps: tuple[int, ...] | None = None
    """Noise levels, or steps of the chain of an energy without. Default: 3 4 6 8 12 24, or 0 2 4 8 16 32."""
    solvers: tuple[Literal["heun", "euler", "multistep", "langevin"], ...] | None = None
    """How to go through noise levels; each with each number of steps. Default: heun multistep."""
    corrector_steps: int = 0
    """MALA steps at the lowest noise level after each of these."""
    converged: bool = True
    """Score a sampler that stops by itself, too; see the options of drift."""
    max_steps: int = 200
    """Its most steps."""
    check_every: int = 4
    """Steps between its looks at the drift."""
    tolerance: float = 2.0
    """Drift, in standard errors over the batch, that counts as none."""
    split: Literal["validation", "test"] = "validation"
    """Episodes to score on: validation to choose a sampler by, test to report it."""
    horizon: int | None = None
    """Steps to predict. Default: as many as the shortest of these episodes allows, at most 96."""
    rollouts: int | None = 200
    """At most so many episodes for the Frechet distances."""
    contexts: int = 32
    """Moments from which many futures are drawn, for diversity and energy score."""
    futures: int = 16
    """Futures of each of these moments, for every row."""
    branch_steps: int = 50
    """Steps of each re-run of the simulator, at most the horizon."""
    branches: Path | None = None
    """File of branches of this split. Default: those stored with the data set if they are of this split, else
    the simulator is re-run now."""
    seed: int = 0
    """Seed of the branches and of every row's samples."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""


def main(args: Args) -> None:
    """Draw every score of an energy model against the gradients that its sampler takes."""
    require_new(args.out, resumable=False)
    require_seed("--seed", args.seed)
    for name in ("contexts", "futures", "rollouts", "branch_steps"):
        value = getattr(args, name)
        if value is not None and value < 2:
            raise InputError(f"--{name.replace('_', '-')} {value}: accepted are 2 and more")

    from ebm_traj.atomic import write_atomically
    from ebm_traj.core.convergence import UntilConverged
    from ebm_traj.trajectory.ebm import TrajectoryEBM
    from ebm_traj.trajectory.files import load
    from ebm_traj.yardstick.compare import check_models, plan_horizon
    from ebm_traj.yardstick.sweep import chain_of, picture, settings_of, sweep, text_table

    recording = Recording(args.data)
    device = pick_device(args.device)
    model = load(args.run, device)
    if not isinstance(model, TrajectoryEBM):
        raise InputError(f"{args.run}: a model of kind '{model.kind}'; accepted are energy models")
    models = {args.run.name: model}
    check_models(recording, models)
    until = None
    if args.converged:
        until = UntilConverged(chain_of(model), args.max_steps, args.check_every, args.tolerance)
    settings = settings_of(
        model, args.steps, args.solvers, corrector_steps=args.corrector_steps, converged=until
    )
    horizon = plan_horizon(recording, models, args.horizon, args.split)
    branches, why = find_branches(args, recording, model.context_frames, horizon)
    found = sweep(
        recording,
        settings,
        branches=branches,
        split=args.split,
        horizon=horizon,
        rollouts=args.rollouts,
        contexts=args.contexts,
        futures=args.futures,
        seed=args.seed,
        device=device,
    )
    print(text_table(found))
    if why:
        print(f"\nNo simulator branches, so no diversity ratio and no energy score: {why}")
    for setting in settings:
        if setting.stopped is not None:
            print(f"\n{setting.name}: {100 * setting.stopped:.0f} % of windows before {args.max_steps} steps")
    comparison = found.comparison
    title = f"{args.run.resolve().name}: {comparison.n} {args.split} episodes of {comparison.steps} steps"
    if branches is not None:
        contexts, futures, steps = branches.futures.shape[:3]
        title += f", {futures // 2} futures of {steps} steps from {contexts} moments"
    content = found.to_json() | {"run": str(args.run), "command": "python " + shlex.join(sys.argv)}
    write_atomically(args.out / "sweep.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_atomically(args.out / "sweep.png", picture(found, title))
    print(f"\n{args.out / 'sweep.png'}")


def find_branches(args: Args, recording: Recording, frames: int, horizon: int) -> tuple[Branches | None, str]:
    """Branches of the split: of a file, stored with the data set, or simulated now; or None, and why."""
    stored = args.branches or args.data / BRANCHES_FILE
    if args.branches or stored.is_file():
        branches = Branches.load(stored)
        of = (branches.settings["run_seed"], branches.settings["split"])
        if of == (recording.manifest.run_seed, args.split):
            return branches, ""
        if args.branches:
            raise InputError(f"{stored}: not from {args.split} episodes of this data set")
    from ebm_traj.branches import simulate_branches

    try:
        return simulate_branches(
            recording,
            contexts=args.contexts,
            branches=2 * args.futures,
            horizon=min(args.branch_steps, horizon),
            context_frames=frames,
            seed=args.seed,
            split=args.split,
            progress=True,
        ), ""
    except InputError as error:  # not every environment can be set to a state; the rest can be scored
        return None, str(error)


if __name__ == "__main__":
    run(main, Args)
