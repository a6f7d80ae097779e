"""Distinct ways that models and a planner find to go on, against those of the simulator's branches."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from ebm_traj.cli import require_seed, run
from ebm_traj.core.backends import SamplerBackend, set_backend
from ebm_traj.datasets.branches import BRANCHES_FILE, Branches, require_branches_of
from ebm_traj.datasets.recording import Recording
from ebm_traj.errors import InputError
from ebm_traj.output import require_folder
from ebm_traj.planning.sampling import PlannerConfig

CANDIDATES_AT_ONCE = 512  # of a planner; bounds memory
ROWS_AT_ONCE = 256  # simulators stepped together


@dataclasses.dataclass
class Args:
    """Arguments of the study."""

    data: Path
    """Data set with stored branches (collect.py --branches)."""
    runs: tuple[Path, ...]
    """Folders of trained models. A row is named after its folder."""
    out: Path
    """Folder for ways.md, ways.json and ways.png; must not exist, unless --overwrite."""
    contexts: int = 32
    """Presents, evenly spaced among those of the branches."""
    horizon: int = 48
    """Steps of a future."""
    radius: tuple[float, ...] = (0.3, 0.2, 0.45)
    """Radians within which two paths of rotation are one way; the first is that of the main table."""
    points: int = 8
    """Times at which paths are compared."""
    threshold: float | None = None
    """Radians from the goal that are success. Default: the data's environment's own, else 0.1."""
    near: float = 0.4
    """The same in contexts where no branch succeeds."""
    planner: bool = True
    """A row of the plans that the first run finds for the goal, too, as far as it has actions."""
    afresh: int = 4
    """Another row: as many plans, each made afresh with so many candidates and the best one taken; 0 for
    none. A planner's own candidates end up close together; plans made apart need not."""
    play: bool = True
    """Rows of these plans' actions, too, played in the simulator without looking (needs MuJoCo)."""
    planning: PlannerConfig = dataclasses.field(default_factory=PlannerConfig)
    """Futures and horizon are those of the study."""
    seed: int = 0
    """Seed of every row's samples."""
    sampler_backend: SamplerBackend = "auto"
    """How chains are computed, see `core.backends`."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Group futures into ways, score them against branches, and draw some."""
    set_backend(args.sampler_backend)

    require_folder(args.out, ("ways.json",), overwrite=args.overwrite)
    check(args)

    import torch
    from tqdm import tqdm

    from ebm_traj.planning.ways import WaysConfig, WaysJudge, legend, table, write_report
    from ebm_traj.trajectory.files import load
    from ebm_traj.yardstick.compare import Sampler, check_models, context_frames, past_actions

    recording = Recording(args.data)
    models = {folder.resolve().name: load(folder, "cpu") for folder in args.runs}
    check_models(recording, models)
    frames = context_frames(models)
    branches = find_branches(args, recording, frames)
    past = past_actions(recording, branches, branches.contexts.shape[1])
    count = branches.futures.shape[1] // 2
    futures: dict[str, Any] = {}
    with tqdm(total=len(models) * len(past) * count, unit="futures", file=sys.stderr) as bar:
        for name, model in models.items():
            bar.set_description(name)
            sampler = Sampler(model, args.seed, torch.device("cpu"), bar.update)
            futures[name] = sampler(branches.contexts, past, args.horizon, count, branches.actions[:, 1::2])
    notes = ""
    first = next(iter(models))
    if args.planner and models[first].conditioning != "states" and recording.spec.given_quaternions:
        for label, alone in (("planner", 0), ("plans afresh", args.afresh)):
            if label != "planner" and not alone:
                continue
            planned = f"{first}, {label}"
            futures[planned], actions = plans(args, models[first], branches, past, count, alone)
            if args.play:
                futures[f"{planned}, played"] = play(recording, branches, past, actions)
        notes = (
            " Row 'planner': the candidates that a planner for the goal ends with, as its model predicts "
            "them; 'plans afresh': the best candidates of so many planners, of "
            f"{args.afresh} candidates each; 'played': what the simulator makes of their actions, played "
            "without looking."
        )
    judges = []
    for radius in args.radius:
        threshold = args.threshold or float(recording.env_kwargs.get("rotation_threshold", 0.1))
        config = WaysConfig(radius, args.points, threshold, args.near)
        judge = WaysJudge(recording.spec, branches.contexts, branches.futures, config, args.seed)
        judge.rows += [judge.row(name, found) for name, found in futures.items()]
        judges.append(judge)
    print(legend(judges[0]) + notes + "\n\n" + table(judges[0]))
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str))
    page = write_report(judges, args.out, futures, settings, "python " + shlex.join(sys.argv), notes)
    print(f"\n{page}")


def check(args: Args) -> None:
    """InputError for numbers that do not fit, before any work."""
    require_seed("--seed", args.seed)
    for name, least in (("contexts", 2), ("horizon", 1), ("points", 1), ("afresh", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}: accepted are {least} and more")
    if not args.radius or not args.runs:
        raise InputError("--radius and --runs: accepted are one and more")
    names = [folder.resolve().name for folder in args.runs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--runs: two folders are named '{name}'; rows need names of their own")


def find_branches(args: Args, recording: Recording, frames: int) -> Branches:
    """The branches stored with the data set, cut to the contexts and steps of the study."""
    import numpy as np

    stored = args.data / BRANCHES_FILE
    if not stored.is_file():
        raise InputError(f"{stored}: no such file; make it with collect.py --branches")
    found = Branches.load(stored)
    if (found.settings["run_seed"], found.settings["split"]) != (recording.manifest.run_seed, "test"):
        raise InputError(f"{stored}: not from test episodes of this data set; remove it or make it again")
    require_branches_of(found, recording, "test")
    contexts, many, steps = found.futures.shape[:3]
    if args.horizon > steps or args.contexts > contexts or many < 4 or found.contexts.shape[1] < frames:
        raise InputError(
            f"{stored}: {many} futures of {steps} steps from {contexts} contexts of "
            f"{found.contexts.shape[1]} frames; needed are 4 of {args.horizon} from {args.contexts} of "
            f"{frames}"
        )
    rows = np.linspace(0, contexts - 1, args.contexts).round().astype(int)
    even = many - many % 2
    return dataclasses.replace(
        found,
        contexts=found.contexts[rows],
        futures=found.futures[rows, :even, : args.horizon],
        actions=found.actions[rows, :even, : args.horizon],
        episode=found.episode[rows],
        t=found.t[rows],
    )


def plans(args: Args, model: Any, branches: Branches, past: Any, count: int, afresh: int) -> tuple[Any, Any]:
    """Plans for the goal: states (B, M, H, D) and actions (B, M, H, A).

    All M candidates of one planner, or, with `afresh`, the best of so many candidates of M planners.
    """
    import torch
    from tqdm import tqdm

    from ebm_traj.planning.energies import goal
    from ebm_traj.planning.sampling import SamplingPlanner

    config = dataclasses.replace(args.planning, futures=afresh or count, horizon=args.horizon)
    planner = SamplingPlanner(model, config, {"goal": goal(model.spec)})
    generator = torch.Generator().manual_seed(args.seed)
    copies = count if afresh else 1
    contexts = torch.as_tensor(branches.contexts[:, -model.context_frames :]).repeat_interleave(copies, 0)
    seen = torch.as_tensor(past).repeat_interleave(copies, 0)
    at_once = max(1, CANDIDATES_AT_ONCE // config.futures)
    states, actions = [], []
    for at in tqdm(range(0, len(seen), at_once), desc="plans", file=sys.stderr):
        planner.reset()
        plan = planner.plan(contexts[at : at + at_once], seen[at : at + at_once], generator)
        assert plan.actions is not None
        taken = plan.chosen_actions()
        assert taken is not None
        states.append(plan.chosen_states() if afresh else plan.states)
        actions.append(taken if afresh else plan.actions)
    shape = (len(past), count, args.horizon, -1)
    return torch.cat(states).reshape(shape).numpy(), torch.cat(actions).reshape(shape).numpy()


def play(recording: Recording, branches: Branches, past: Any, actions: Any) -> Any:
    """What the simulator makes of actions (B, M, H, A) from the stored states: frames (B, M, H, D)."""
    import numpy as np

    from ebm_traj.branches import continue_from
    from ebm_traj.collect.environment import open_lockstep

    known = {(int(recording.episode[row]), int(t)): i for i, (row, t) in enumerate(recording.sim_index)}
    moments = [known[int(e), int(t)] for e, t in zip(branches.episode, branches.t, strict=True)]
    count, many, horizon = actions.shape[:3]
    states = recording.read_sim_states(np.array(moments))
    futures = np.empty((count, many, horizon, recording.spec.size), np.float32)
    step = max(1, ROWS_AT_ONCE // many)
    for at in range(0, count, step):
        part = slice(at, min(at + step, count))
        rows = np.repeat(np.arange(part.start, part.stop), many)
        envs = open_lockstep(recording.env_id, recording.env_kwargs, len(rows), None)
        found, _ = continue_from(
            envs,
            Playback(actions[part].reshape(len(rows), horizon, -1)),
            recording.manifest,
            states[rows],
            branches.contexts[rows, -1],
            past[rows, -1],
            branches.t[rows],
            [0] * len(rows),
            horizon,
        )
        envs.close()
        futures[part] = found.reshape(-1, many, horizon, found.shape[-1])
    return futures


class Playback:
    """A policy that takes actions (N, H, A) one after the other, whatever it sees."""

    goal_conditioned = needs_simulator = markov = False

    def __init__(self, actions: Any) -> None:
        self.actions, self.step = actions, 0

    def reset(self, seeds: Any, steps: Any = 0) -> None:
        self.step = 0

    def act(self, observations: Any, previous_actions: Any, simulator_states: Any = None) -> Any:
        self.step += 1
        return self.actions[:, self.step - 1]


if __name__ == "__main__":
    run(main, Args)
