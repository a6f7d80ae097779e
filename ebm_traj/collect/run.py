"""A whole collection: settings, the folder it goes to, and the engines that make its shards."""

import dataclasses
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
from tqdm import tqdm

from ebm_traj.collect.engine_ray import collect_with_ray
from ebm_traj.collect.engines import collect_locally
from ebm_traj.collect.environment import action_box, has_lockstep, open_environment, state_spec
from ebm_traj.collect.share import ALL, Share
from ebm_traj.datasets.manifest import Manifest, Storage
from ebm_traj.datasets.shard import open_hdf5, read_manifest, shard_number, shard_path, temporary_files
from ebm_traj.datasets.splits import split_codes
from ebm_traj.envs.behaviour import NoiseSettings, RandomSettings, identified, make_policy, policy_record
from ebm_traj.envs.workers import usable_cores
from ebm_traj.errors import InputError
from ebm_traj.output import require_writable
from ebm_traj.ray_cluster import require_cluster

# Another version of any of these may give other numbers, so a run is not resumed across them.
RECORDED_VERSIONS = ("ebm_traj", "gymnasium", "gymnasium-robotics", "h5py", "mujoco", "numpy")
Engine = Literal["local", "ray"]
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
        if self.seed >= 2**63:
            raise InputError(f"seed: {self.seed}; needs less than 2^63")


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


def make_manifest(settings: CollectSettings, env: gymnasium.Env) -> Manifest:
    """The manifest of a collection in `env`, opened by its settings. InputError if anything does not fit."""
    split_codes(0, [], settings.test_fraction, settings.validation_fraction)
    low, high = action_box(env)
    spec, can_store_states = state_spec(env), hasattr(env.unwrapped, "get_state")
    record = policy_record(settings.policy, settings.policy_settings, settings.noise)
    record = identified(record, make_policy(record, low, high, settings.env, settings.env_kwargs))
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
    share: Share = ALL,
    engine: Engine = "local",
    ray_address: str | None = None,
) -> Collected:
    """Collect a data set, or one share of it, into the folder `out`.

    The engine `local` runs hand environments in lock step in `workers` threads of one process, other
    environments one by one in `workers` processes; by default as many as there are cores. The engine `ray`
    makes each shard as a task of one core, in a cluster (`ray_address`) or in `workers` processes here.
    The files depend neither on the engine nor on the number.
    When interrupted, at most the shards in flight are lost; `resume=True` makes the missing ones.

    Raises InputError, before anything is written, if `out` exists (without `resume`; with a share: if shards
    of this share are there), if it holds a data set made with other settings, or if settings do not fit the
    environment.
    """
    out = Path(out)
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise InputError(f"workers: {workers}; needs 1 or more")
    _require_engine(engine, ray_address)
    _require_free(out, resume, share)
    env = open_environment(settings.env, settings.env_kwargs, settings.steps)
    manifest, lockstep = make_manifest(settings, env), has_lockstep(env)
    env.close()
    missing = [shard for shard in missing_shards(out, manifest) if shard in share]
    out.mkdir(parents=True, exist_ok=True)
    for leftover in temporary_files(out):
        if shard_number(leftover) in share:  # others may be writing theirs
            leftover.unlink(missing_ok=True)
    mine = sum(len(manifest.episodes_of(shard)) for shard in range(manifest.num_shards) if shard in share)
    to_make = sum(len(manifest.episodes_of(shard)) for shard in missing)
    steps, begin = 0, time.perf_counter()
    with tqdm(
        total=mine,
        initial=mine - to_make,
        desc=out.name if share == ALL else f"{out.name} {share.number}/{share.of}",
        disable=not progress,
        file=sys.stderr,
        bar_format=BAR,
    ) as bar:

        def report(episodes: float, new_steps: int) -> None:
            nonlocal steps
            steps += new_steps
            bar.set_postfix_str(f"{steps / (time.perf_counter() - begin):,.0f} steps/s", refresh=False)
            bar.update(min(episodes, bar.total - bar.n))  # shares of episodes do not add up to the bit

        if engine == "ray" and missing:
            collect_with_ray(out, manifest, missing, lockstep, workers, ray_address, report)
        else:
            collect_locally(out, manifest, missing, lockstep, workers, report)
    return Collected(to_make, steps, time.perf_counter() - begin)


def _require_engine(engine: str, ray_address: str | None) -> None:
    """Raise InputError for an engine that is unknown, not installed or out of reach."""
    if engine not in get_args(Engine):
        raise InputError(f"engine '{engine}' is unknown; known: {', '.join(get_args(Engine))}")
    if engine == "ray":
        require_cluster(ray_address)
    elif ray_address is not None:
        raise InputError(f"ray address '{ray_address}' given; it needs --engine ray")


def _require_free(out: Path, resume: bool, share: Share) -> None:
    """Raise InputError if `out` is no place to begin, or to go on."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is not a folder")
    require_writable(out, "--out")
    if resume or not out.exists() or not any(out.iterdir()):
        return
    found = out
    if share != ALL:  # the folder may have been made by those who make the other shares
        mine = [path for path in sorted(out.glob("shard-*.h5")) if shard_number(path) in share]
        if not mine:
            return
        found = mine[0]
    raise InputError(f"{found}: exists; give a new folder, or --resume to go on with an interrupted run")


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


def _versions() -> dict[str, str]:
    found = {}
    for package in RECORDED_VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
