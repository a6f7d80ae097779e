"""Compare trained models on the test episodes of a data set: a table, scores.json and a page."""

import dataclasses
import shlex
import sys
from pathlib import Path

from ebm_traj.cli import pick_device, require_seed, run
from ebm_traj.core.backends import SamplerBackend, set_backend
from ebm_traj.datasets.branches import BRANCHES_FILE, Branches
from ebm_traj.datasets.recording import Recording
from ebm_traj.errors import InputError
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of the comparison."""

    data: Path
    """Data set; its test episodes are what is predicted."""
    runs: tuple[Path, ...]
    """Folders of trained models. A row is named after its folder."""
    out: Path
    """Folder of the report; must not exist, unless --overwrite."""
    horizon: int | None = None
    """Steps to predict. Default: as many as the shortest test episode allows, at most 96."""
    rollouts: int | None = None
    """At most so many test episodes for the Frechet distances. Default: all."""
    contexts: int = 32
    """Moments from which many futures are drawn, for diversity and energy score."""
    futures: int = 16
    """Futures of each of these moments, for every row."""
    branches: bool = True
    """Re-run the simulator from these moments as the truth about them. Branches that are stored with the data
    set (collect.py --branches) are used instead, with their own number of contexts and futures."""
    branch_steps: int = 50
    """Steps of each re-run, at most the horizon."""
    told_actions: bool = False
    """Joint models do not draw their actions but are told those taken, as action-conditional models are."""
    seed: int = 0
    """Seed of the branches and of every row's samples."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    sampler_backend: SamplerBackend = "auto"
    """How chains are computed, see `core.backends`; auto: the fastest here, autograd: the reference."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Score models on test episodes against truth, floor and baselines, and draw a page."""
    set_backend(args.sampler_backend)

    require_folder(args.out, ("scores.json",), overwrite=args.overwrite)
    require_seed("--seed", args.seed)
    for name in ("contexts", "futures", "rollouts", "branch_steps"):
        value = getattr(args, name)
        if value is not None and value < 2:
            raise InputError(f"--{name.replace('_', '-')} {value}: accepted are 2 and more")
    names = [folder.resolve().name for folder in args.runs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--runs: two folders are named '{name}'; rows need names of their own")

    from ebm_traj.trajectory.files import load
    from ebm_traj.yardstick.columns import text_table
    from ebm_traj.yardstick.compare import check_models, compare, context_frames, plan_horizon
    from ebm_traj.yardstick.report import write_report

    recording = Recording(args.data)
    device = pick_device(args.device)
    models = {name: load(folder, device) for name, folder in zip(names, args.runs, strict=True)}
    check_models(recording, models)
    horizon = plan_horizon(recording, models, args.horizon)
    branches, why = find_branches(args, recording, context_frames(models), horizon)
    comparison = compare(
        recording,
        models,
        branches=branches,
        horizon=horizon,
        rollouts=args.rollouts,
        contexts=args.contexts,
        futures=args.futures,
        seed=args.seed,
        device=device,
        told_actions=args.told_actions,
    )
    print(text_table(comparison))
    if why:
        comparison.settings["branches"] = f"none ({why})"
        print(f"\nNo simulator branches, so no diversity ratio and no energy score: {why}")
    validity = str(comparison.settings["validity"])
    if validity.startswith("none"):
        print(f"\nNo column of validity: {validity[6:-1]}")
    page = write_report(comparison, args.out, "python " + shlex.join(sys.argv), args.overwrite)
    print(f"\n{page}")


def find_branches(args: Args, recording: Recording, frames: int, horizon: int) -> tuple[Branches | None, str]:
    """Branches stored with the data set or simulated now; or None, and why."""
    if not args.branches:
        return None, "--no-branches"
    stored = args.data / BRANCHES_FILE
    if stored.is_file():
        branches = Branches.load(stored)
        of = (branches.settings["run_seed"], branches.settings["split"])
        if of != (recording.manifest.run_seed, "test"):
            raise InputError(f"{stored}: not from test episodes of this data set; remove it or make it again")
        return branches, ""
    from ebm_traj.branches import simulate_branches

    try:
        return simulate_branches(
            recording,
            contexts=args.contexts,
            branches=2 * args.futures,
            horizon=min(args.branch_steps, horizon),
            context_frames=frames,
            seed=args.seed,
            progress=True,
        ), ""
    except InputError as error:  # not every environment can be set to a state; the rest can be compared
        return None, str(error)


if __name__ == "__main__":
    run(main, Args)
