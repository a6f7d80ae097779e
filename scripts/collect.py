"""Collect a data set, resume, describe or check one, add simulator branches, or trade with Minari."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Literal

from ebm_traj.cli import json_object, next_step, run
from ebm_traj.envs.behaviour import NoiseSettings, RandomSettings, policy_class
from ebm_traj.envs.custom_policies import named_policy
from ebm_traj.envs.expert import ExpertSettings
from ebm_traj.envs.trained import TrainedSettings
from ebm_traj.errors import InputError
from ebm_traj.output import require_writable
from ebm_traj.planning.planned import PlannedSettings


@dataclasses.dataclass
class Args:
    """Arguments of the collector."""

    out: Path | None = None
    """Folder of the data set to collect; with --branches and --export-minari: of the one to read."""
    describe: Path | None = None
    """Instead of collecting, print what this data set holds and draw a contact sheet of it."""
    figure: Path | None = None
    """With --describe: where the contact sheet goes (PNG); default description.png in the data set."""
    check: Path | None = None
    """Instead of collecting, verify every shard of this data set."""
    import_minari: str | None = None
    """Instead of collecting, make --out from this Minari data set: an id (fetched if need be) or a folder."""
    export_minari: str | None = None
    """Instead of collecting, write the data set --out for Minari: under this id, or to a path as ./NAME."""
    preset: Literal["paper"] | None = None
    """Other defaults, shown by --help with it. paper: 200,000 episodes of the trained policy, compact."""
    env: str = "ebm_traj/HandBlock-v0"
    """Gymnasium id, also as module:id; observations Box or Dict of Box, actions Box."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment as JSON, such as '{"target_rotation": "z"}'."""
    goal_every: int | None = None
    """Hand environments: draw a new goal after every so many steps of an episode."""
    episodes: int = 1000
    """Episodes in all."""
    steps: int = 100
    """Steps of an episode; some environments end earlier."""
    policy: str = "random"
    """random, expert (plans in the simulator), trained (a network), planner (plans in a learned model),
    module:function, or an SB3 model.zip."""
    random: RandomSettings = RandomSettings()
    expert: ExpertSettings = ExpertSettings()
    trained: TrainedSettings = TrainedSettings()
    planner: PlannedSettings = PlannedSettings()
    noise_every: int | None = None
    """Every so many steps the action is uniformly random; 0 for never. Default 4 for random and paper."""
    noise_probability: float = 0.0
    """Instead, a uniformly random action at each step with this probability."""
    seed: int = 0
    """Seed of the run, from which every episode has its own."""
    workers: int | None = None
    """Threads (hand environments) or processes (others); default: one per core. Files do not depend on it."""
    resume: bool = False
    """Go on with an interrupted run: make the shards that are missing."""
    shard: str = "1/1"
    """i/n (i from 1 to n): make only the shards k with k % n == i - 1, so that n machines share the work."""
    engine: Literal["local", "ray"] = "local"
    """local: the cores of this machine. ray: tasks of Ray; a lost worker loses nothing."""
    ray_address: str | None = None
    """With --engine ray: the cluster to use (auto, host:port); default: one of --workers processes here."""
    test_fraction: float = 0.1
    """Share of the episodes kept for tests."""
    validation_fraction: float = 0.05
    """Share of the episodes kept to choose models by."""
    episodes_per_shard: int = 128
    """Episodes in a file; with hand environments also those stepped together."""
    sim_state_every: int = 10
    """Keep full simulator states of held-out episodes at every so many steps, to branch from; 0 for none."""
    storage: Literal["exact", "compact"] = "exact"
    """exact: float32 to the bit. compact: rounded to a fine grid, under half the size, fast random reads."""
    branches: int | None = None
    """Re-run the simulator of an existing data set (--out) so many times from each context."""
    contexts: int = 64
    """Contexts to branch from, in mid-episode of test episodes."""
    horizon: int = 50
    """Steps of each branch."""
    context_frames: int = 4
    """Frames of each context."""

    @staticmethod
    def defaults(argv: list[str]) -> "Args":
        """The defaults of the preset that the command line names: what else it gives overrides them."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        parser.add_argument("--preset", nargs="?")
        return preset_args(parser.parse_known_args(argv)[0].preset)


def main(args: Args) -> None:
    """Collect MuJoCo (or any Gymnasium) rollouts as a folder of HDF5 shards."""
    require_one_task(args)
    if args.describe is not None:
        from ebm_traj.describing import describe

        print(describe(args.describe, args.figure))
    elif args.check is not None:
        from ebm_traj.datasets.check import check

        print(check(args.check))
    elif args.import_minari is not None:
        import_data(args, args.import_minari)
    elif args.export_minari is not None:
        export_data(args, args.export_minari)
    elif args.branches is not None:
        add_branches(args)
    else:
        collect(args)


def require_one_task(args: Args) -> None:
    """Raise InputError unless the arguments ask for one thing."""
    instead = {"import_minari": args.import_minari, "export_minari": args.export_minari}
    wanted = [name for name, value in (instead | {"branches": args.branches}).items() if value is not None]
    if len(wanted) > 1 or (wanted and args.out is None):
        raise InputError(f"{' and '.join(wanted)} given; needed is one at a time, with --out")
    given = [name for name in ("out", "describe", "check") if getattr(args, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "nothing"
        raise InputError(f"{found} given; needed is one of --out, --describe, --check")
    if args.branches is not None and args.branches < 1:
        raise InputError(f"branches: {args.branches}; needs 1 or more; data are collected without it")
    if args.figure is not None and args.describe is None:
        raise InputError("figure given; it needs --describe")
    task, usual = next((name for name in READ_BY if getattr(args, name) is not None), None), Args()
    for field in dataclasses.fields(Args):
        if getattr(args, field.name) == getattr(usual, field.name):
            continue
        if task is not None and field.name not in READ_BY[task]:
            raise InputError(f"{option(field.name)} given; {option(task)} takes no notice of it")
        if task is None and field.name in ("contexts", "horizon", "context_frames"):
            raise InputError(f"{option(field.name)} given; it needs --branches")


READ_BY: dict[str, tuple[str, ...]] = {
    "describe": ("describe", "figure"),
    "check": ("check",),
    "import_minari": (
        *("import_minari", "out", "seed", "test_fraction", "validation_fraction", "episodes_per_shard"),
    ),
    "export_minari": ("export_minari", "out"),
    "branches": ("branches", "out", "contexts", "horizon", "context_frames", "seed", "workers"),
}
"""What the tasks in place of collecting read."""


def option(name: str) -> str:
    """A field of the arguments as it is given."""
    return "--" + name.replace("_", "-")


def preset_args(name: str | None) -> Args:
    """Arguments of a preset; without, or with a name that there is none of, the ordinary ones."""
    if name is None:
        return Args()
    from ebm_traj.collect.presets import PRESETS

    if name not in PRESETS:
        return Args()
    preset = PRESETS[name]
    values = {field: getattr(preset, field) for field in ("env", *SAME_NAMES)}
    values |= {"policy": preset.policy, preset.policy: preset.policy_settings}
    return Args(env_kwargs=json.dumps(preset.env_kwargs), **values)


def noise_settings(args: Args) -> NoiseSettings:
    """Exploration noise as given, or the preset's, or that of random behaviour."""
    every = args.noise_every
    if every is None and args.noise_probability:
        every = 0
    elif every is None and args.preset:
        from ebm_traj.collect.presets import PRESETS

        every = PRESETS[args.preset].noise.every
    elif every is None:
        every = 4 if args.policy == "random" else 0
    return NoiseSettings(every, args.noise_probability)


def collect(args: Args) -> None:
    """Collect, and say where the data are."""
    from ebm_traj.collect import CollectSettings
    from ebm_traj.collect import collect as collect_data
    from ebm_traj.collect.share import Share

    assert args.out is not None
    env_kwargs = json_object("--env-kwargs", args.env_kwargs)
    if args.goal_every is not None:
        env_kwargs["goal_every"] = args.goal_every
    policy, policy_settings = policy_of(args)
    settings = CollectSettings(
        env=args.env,
        env_kwargs=env_kwargs,
        policy=policy,
        policy_settings=policy_settings,
        noise=noise_settings(args),
        **{name: getattr(args, name) for name in SAME_NAMES},
    )
    made = collect_data(
        args.out,
        settings,
        workers=args.workers,
        resume=args.resume,
        share=Share.parse(args.shard),
        engine=args.engine,
        ray_address=args.ray_address,
    )
    megabytes = sum(path.stat().st_size for path in args.out.glob("shard-*.h5")) / 1e6
    print(
        f"{args.out}: {made.episodes:,} episodes made, {made.steps:,} steps "
        f"at {made.steps_per_second:,.0f} steps/s; {megabytes:.1f} MB in all\n"
        f"{next_step('python', 'scripts/train_traj.py', '--data', args.out, '--out', 'runs/ebm')}"
    )


def policy_of(args: Args) -> tuple[str, Any]:
    """Name and settings of the policy that the arguments ask for."""
    if custom := named_policy(args.policy):
        return custom
    policy_class(args.policy)
    if args.policy not in BUILT_IN:
        raise InputError(f"policy '{args.policy}': needed is module:function or model.zip in its place")
    return args.policy, getattr(args, args.policy)


BUILT_IN = ("random", "expert", "trained", "planner")
SAME_NAMES = (
    "episodes",
    "steps",
    "seed",
    "test_fraction",
    "validation_fraction",
    "episodes_per_shard",
    "sim_state_every",
    "storage",
)


def add_branches(args: Args) -> None:
    """Simulate branches of a data set and keep them beside its shards."""
    from ebm_traj.branches import BRANCHES_FILE, simulate_branches
    from ebm_traj.datasets import Recording

    assert args.out is not None and args.branches is not None
    path = args.out / BRANCHES_FILE
    if path.exists():
        raise InputError(f"{path}: exists; remove it to make other branches")
    require_writable(path, "--out")
    branches = simulate_branches(
        Recording(args.out),
        contexts=args.contexts,
        branches=args.branches,
        horizon=args.horizon,
        context_frames=args.context_frames,
        seed=args.seed,
        num_threads=args.workers,
        progress=True,
    )
    branches.save(path)
    print(f"{path}: {args.contexts} contexts, {args.branches} branches of {args.horizon} steps each")


def import_data(args: Args, source: str) -> None:
    """Make a data set from one of Minari's."""
    from ebm_traj.collect.minari_import import ImportSettings, import_minari

    assert args.out is not None
    settings = ImportSettings(
        args.seed, args.test_fraction, args.validation_fraction, args.episodes_per_shard
    )
    made = import_minari(source, args.out, settings)
    if made.rounded:
        rounded = ", ".join(made.rounded)
        print(
            f"note: {rounded} of '{made.dataset_id}' rounded to float32, as recordings hold it",
            file=sys.stderr,
        )
    print(
        f"{args.out}: {made.episodes:,} episodes, {made.steps:,} steps of Minari's '{made.dataset_id}'\n"
        f"{next_step('python', 'scripts/train_traj.py', '--data', args.out, '--out', 'runs/ebm')}"
    )


def export_data(args: Args, target: str) -> None:
    """Write a data set for readers of Minari."""
    from ebm_traj.collect.minari_export import export_minari

    assert args.out is not None
    made = export_minari(args.out, target)
    print(
        f"{made.path}: {made.episodes:,} episodes, {made.steps:,} steps\n"
        f"next: minari.MinariDataset('{made.path / 'data'}')"
    )


if __name__ == "__main__":
    run(main, Args)
