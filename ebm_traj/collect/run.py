"""A whole collection: settings, the folder it goes to, and the engines that make its shards."""

import dataclasses
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ebm_traj.collect.environment import action_box, has_lockstep, open_environment, open_lockstep, state_spec
from ebm_traj.collect.shards import Report, collect_lockstep, collect_one_by_one, policy_of
from ebm_traj.collect.workers import collect_in_processes
from ebm_traj.datasets.manifest import Manifest, Storage
from ebm_traj.datasets.shard import (
    ShardData,
    open_hdf5,
    read_manifest,
    shard_path,
    temporary_files,
    write_shard,
)
from ebm_traj.datasets.splits import split_codes
from ebm_traj.envs.behaviour import NoiseSettings, RandomSettings, make_policy, policy_record
from ebm_traj.envs.workers import usable_cores
from ebm_traj.errors import InputError

# Another version of any of these may give other numbers, so a run is not resumed across them.
RECORDED_VERSIONS = ("ebm_traj", "gymnasium", "gymnasium-robotics", "h5py", "mujoco", "numpy")
BAR = "{desc}: {percentage:3.0f}% |{bar}| {n:.0f}/{total} episodes, {elapsed}<{remaining}{postfix}"


@dataclasses.dataclass(frozen=True)
class CollectSettings:
    """What a data set is a function of."""

    env: str = "ebm_traj/HandBlock-v0"
    """Gymnasium id."""
    env_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of the environment."""
    episodes: int = 1000
    """Episodes in all."""
    steps: int = 100
    """Steps of an episode; some environments end earlier."""
    policy: str = "random"
    """Name of the behaviour policy."""
    policy_settings: Any = dataclasses.field(default_factory=RandomSettings)
    """Settings of that policy."""
    noise: NoiseSettings = NoiseSettings(every=4)
    """Random actions in between."""
    seed: int = 0
    """Seed of the run, from which every episode has its own."""
    test_fraction: float = 0.1
    """Share of the episodes kept for tests."""
    validation_fraction: float = 0.05
    """Share of the episodes kept to choose models by."""
    episodes_per_shard: int = 128
    """Episodes in a file; with hand environments also those stepped together."""
    sim_state_every: int = 10
    """Keep full simulator states of validation and test episodes at every so many steps; 0 for none."""
    storage: Storage = "exact"
    """exact: float32 to the bit. compact: rounded to a fine grid, under half the size, fast random reads."""

    def __post_init__(self) -> None:
        for name, least in (
            ("episodes", 1),
            ("steps", 1),
            ("seed", 0),
            ("episodes_per_shard", 1),
            ("sim_state_every", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; needs {least} or more")


@dataclasses.dataclass(frozen=True)
class Collected:
    """What a call of `collect` did."""

    episodes: int
    """Episodes made by this call."""
    steps: int
    """Steps made by this call."""
    seconds: float
    """Wall time spent on them."""

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second, resets and writing included."""
        return self.steps / self.seconds if self.seconds else 0.0


def make_manifest(settings: CollectSettings) -> Manifest:
    """The manifest of a collection; opens the environment once. InputError if anything does not fit."""
    split_codes(0, [], settings.test_fraction, settings.validation_fraction)
    env = open_environment(settings.env, settings.env_kwargs, settings.steps)
    low, high = action_box(env)
    spec, can_store_states = state_spec(env), hasattr(env.unwrapped, "get_state")
    env.close()
    record = policy_record(settings.policy, settings.policy_settings, settings.noise)
    make_policy(record, low, high, settings.env, settings.env_kwargs)
    return Manifest(
        env_id=settings.env,
        env_kwargs=settings.env_kwargs,
        policy=record,
        spec=spec,
        action_low=low,
        action_high=high,
        run_seed=settings.seed,
        episodes=settings.episodes,
        steps=settings.steps,
        episodes_per_shard=min(settings.episodes_per_shard, settings.episodes),
        test_fraction=settings.test_fraction,
        validation_fraction=settings.validation_fraction,
        sim_state_every=settings.sim_state_every if can_store_states else 0,
        versions=_versions(),
        storage=settings.storage,
    )


def collect(
    out: str | Path,
    settings: CollectSettings,
    *,
    workers: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Collected:
    """Collect a data set into the folder `out`.

    Hand environments run in lock step in `workers` threads of one process, other environments one by one
    in `workers` processes; by default as many as there are cores. The files do not depend on the number.
    When interrupted, at most the shards in flight are lost; `resume=True` makes the missing ones.

    Raises InputError, before anything is written, if `out` exists (without `resume`), if it holds a data
    set made with other settings, or if settings do not fit the environment.
    """
    out = Path(out)
    threads = usable_cores() if workers is None else workers
    if threads < 1:
        raise InputError(f"workers: {threads}; needs 1 or more")
    if out.exists() and not resume:
        raise InputError(f"{out}: exists; give a new folder, or --resume to go on with an interrupted run")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is not a folder")
    manifest = make_manifest(settings)
    missing = missing_shards(out, manifest)
    out.mkdir(parents=True, exist_ok=True)
    for leftover in temporary_files(out):
        leftover.unlink(missing_ok=True)
    to_make = sum(len(manifest.episodes_of(shard)) for shard in missing)
    steps, begin = 0, time.perf_counter()
    with tqdm(
        total=manifest.episodes,
        initial=manifest.episodes - to_make,
        desc=out.name,
        disable=not progress,
        file=sys.stderr,
        bar_format=BAR,
    ) as bar:

        def report(episodes: float, new_steps: int) -> None:
            nonlocal steps
            steps += new_steps
            bar.set_postfix_str(f"{steps / (time.perf_counter() - begin):,.0f} steps/s", refresh=False)
            bar.update(episodes)

        run_shards(out, manifest, missing, threads, report)
    return Collected(to_make, steps, time.perf_counter() - begin)


def missing_shards(out: Path, manifest: Manifest) -> list[int]:
    """Numbers of the shards still to be made.

    Raises InputError if a shard that is there is damaged or was made with other settings.
    """
    missing = []
    for number in range(manifest.num_shards):
        path = shard_path(out, number)
        if path.exists():
            with open_hdf5(path) as file:
                difference = read_manifest(file, path).difference(manifest)
            if difference:
                raise InputError(f"{path}: made with other settings: {difference} asked for now")
        else:
            missing.append(number)
    known = {shard_path(out, number).name for number in range(manifest.num_shards)}
    for path in sorted(out.glob("shard-*.h5")):
        if path.name not in known:
            raise InputError(f"{path}: no shard of a run of {manifest.episodes} episodes; remove it to go on")
    return missing


def run_shards(out: Path, manifest: Manifest, shards: list[int], workers: int, report: Report) -> None:
    """Make and write shards with the engine that fits the environment."""
    env = open_environment(manifest.env_id, manifest.env_kwargs, manifest.steps)
    lockstep = has_lockstep(env)
    if not lockstep and workers > 1 and len(shards) > 1:
        env.close()
        collect_in_processes(out, manifest, shards, workers, report)
        return
    made = (
        _in_lockstep(manifest, shards, workers, report)
        if lockstep
        else _one_by_one(env, manifest, shards, report)
    )
    for shard, data in made:
        write_shard(out, shard, manifest, data)
    env.close()


def _in_lockstep(
    manifest: Manifest, shards: list[int], threads: int, report: Report
) -> Iterator[tuple[int, ShardData]]:
    policy = policy_of(manifest)
    envs = None
    for shard in shards:
        size = len(manifest.episodes_of(shard))
        if envs is None or envs.num_envs != size:  # only the last shard may be smaller
            if envs is not None:
                envs.close()
            envs = open_lockstep(manifest.env_id, manifest.env_kwargs, size, threads)
        yield shard, collect_lockstep(envs, policy, manifest, shard, report)
    if envs is not None:
        envs.close()


def _one_by_one(
    env: Any, manifest: Manifest, shards: list[int], report: Report
) -> Iterator[tuple[int, ShardData]]:
    policy = policy_of(manifest)
    for shard in shards:
        yield shard, collect_one_by_one(env, policy, manifest, shard, report)


def _versions() -> dict[str, str]:
    found = {}
    for package in RECORDED_VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
