"""A Minari data set as a recording."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ebm_traj.atomic import creating_folder
from ebm_traj.collect.environment import open_environment, space_problem, space_size, state_spec
from ebm_traj.collect.minari_format import (
    EPISODE_KEYS,
    SIM_STATES,
    SIM_STEPS,
    manifest_from_metadata,
    one_line,
    require_minari,
    source_path,
)
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.shard import ShardData, write_shard
from ebm_traj.datasets.splits import split_code, split_codes
from ebm_traj.envs.success import SUCCESS_NAMES
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec, flatten_observation

NO_SEED = -1
VERSIONS = ("ebm_traj", "gymnasium", "h5py", "minari", "numpy")

Metadata = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ImportSettings:
    """How an imported data set is laid out and split."""

    seed: int = 0
    """Decides which episodes are held out."""
    test_fraction: float = 0.1
    """Share of the episodes kept for tests."""
    validation_fraction: float = 0.05
    """Share of the episodes kept to choose models by."""
    episodes_per_shard: int = 128
    """Episodes in a file."""

    def __post_init__(self) -> None:
        split_codes(0, [], self.test_fraction, self.validation_fraction)
        for name, least in (("seed", 0), ("episodes_per_shard", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; needs {least} or more")


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import wrote."""

    dataset_id: str
    episodes: int
    steps: int
    rounded: tuple[str, ...]
    """What lost bits (`observations`, `actions`, `rewards`): recordings hold float32."""


@dataclasses.dataclass
class _Episode:
    """One episode on its way into a shard; T steps."""

    states: NDArray[np.float32]
    """(T + 1, D)."""
    actions: NDArray[np.float32]
    """(T, A)."""
    rewards: NDArray[np.float32]
    """(T,)."""
    number: int
    seed: int
    split: int
    terminated: bool
    success: bool
    sim_states: NDArray[np.float64]
    """(K, Z)."""
    sim_steps: NDArray[np.int64]
    """(K,)."""
    rounded: set[str] = dataclasses.field(default_factory=set)
    """Which of the arrays lost bits."""


def import_minari(
    source: str, out: str | Path, settings: ImportSettings | None = None, *, progress: bool = True
) -> Imported:
    """Write a Minari data set, given by a folder or an id, as a recording in the new folder `out`.

    A recording exported by `export_minari` comes back as it was, to the bit, its splits, seeds and simulator
    states included; `settings` then have no say. Of any other data set the states are read by the state spec
    of its environment where that can be made and has one, otherwise they are all numbers of the flattened
    observation; success is the last value of `is_success` or `success` in its infos.

    Raises InputError, before anything is written, if `out` exists, the data set is not there, or its spaces
    are not Box (or Dict of Box) observations and Box actions of one dimension; later if its data are damaged
    or not finite, and then nothing is left of `out`.
    """
    minari = require_minari()
    out, settings = Path(out), settings or ImportSettings()
    if out.exists():
        raise InputError(f"{out}: exists; give a new folder")
    path = source_path(source)
    with one_line(f"{path}: cannot be read by Minari {minari.__version__}"):
        dataset = minari.MinariDataset(path)
        known = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
    if not known:
        raise InputError(f"{path}: holds no episodes")
    manifest = _own_manifest(dataset, known)
    read: Callable[..., _Episode] = _restored
    if manifest is None:
        manifest = _manifest(dataset, known, settings)
        splits = split_codes(
            settings.seed, range(len(known)), settings.test_fraction, settings.validation_fraction
        )
        read = partial(_converted, spec=manifest.spec, splits=splits)
    rounded: set[str] = set()
    with (
        creating_folder(out) as temporary,
        tqdm(
            total=len(known), desc=dataset.id, unit=" episodes", disable=not progress, file=sys.stderr
        ) as bar,
    ):
        episodes = (read(data, note) for data, note in zip(_stream(dataset, path), known, strict=True))
        for shard, part in itertools.groupby(episodes, lambda e: e.number // manifest.episodes_per_shard):
            taken = []
            for episode in part:
                _require_shapes(path, episode, manifest)
                rounded |= episode.rounded
                taken.append(episode)
                bar.update()
            write_shard(temporary, shard, manifest, _joined(taken))
    return Imported(dataset.id, len(known), int(dataset.total_steps), tuple(sorted(rounded)))


def _stream(dataset: Any, path: Path) -> Iterator[Metadata]:
    """The episodes in order; InputError naming the first that is damaged."""
    stream = iter(dataset.storage.get_episodes(dataset.episode_indices))
    for i in range(dataset.total_episodes):
        with one_line(f"{path}: episode {i} is damaged"):
            data = next(stream)
        yield data


def _own_manifest(dataset: Any, known: list[Metadata]) -> Manifest | None:
    """The manifest of an exported recording that is still whole; None for any other data set."""
    manifest = manifest_from_metadata(dataset.storage.metadata)
    if manifest is None or not all(name in note for note in known for name in EPISODE_KEYS):
        return None
    numbers = np.array([note["episode"] for note in known])
    shards = np.unique(numbers // manifest.episodes_per_shard)
    whole = [number for shard in shards for number in manifest.episodes_of(int(shard))]
    return manifest if numbers.tolist() == whole else None


def _manifest(dataset: Any, known: list[Metadata], settings: ImportSettings) -> Manifest:
    """The manifest of a foreign data set; InputError if its spaces cannot be recorded."""
    for what, space in (("observation", dataset.observation_space), ("action", dataset.action_space)):
        problem = space_problem(space, what)
        if problem:
            raise InputError(f"Minari data set '{dataset.id}': {problem}")
    env_id, env_kwargs, steps = dataset.id, {}, max(int(note["total_steps"]) for note in known)
    if dataset.env_spec is not None:
        env_id, env_kwargs = dataset.env_spec.id, _own_kwargs(dataset.env_spec)
    spec = _spec(env_id, env_kwargs, steps, space_size(dataset.observation_space))
    metadata = dataset.storage.metadata
    return Manifest(
        env_id=env_id,
        env_kwargs=env_kwargs,
        policy={
            "name": "minari",
            "settings": {"dataset": dataset.id, "algorithm": metadata.get("algorithm_name")},
            # whoever acted saw the goal
            "goal_conditioned": bool(len(spec.given)),
        },
        spec=spec,
        action_low=dataset.action_space.low.astype(np.float32),
        action_high=dataset.action_space.high.astype(np.float32),
        run_seed=settings.seed,
        episodes=len(known),
        steps=steps,
        episodes_per_shard=min(settings.episodes_per_shard, len(known)),
        test_fraction=settings.test_fraction,
        validation_fraction=settings.validation_fraction,
        sim_state_every=0,
        versions={name: version(name) for name in VERSIONS} | {"minari_data": dataset.minari_version},
    )


def _own_kwargs(env_spec: Any) -> dict[str, Any]:
    """Keyword arguments beyond those the environment is registered with."""
    import gymnasium

    registered = gymnasium.registry.get(env_spec.id)
    defaults = registered.kwargs if registered is not None else {}
    kwargs = {name: value for name, value in env_spec.kwargs.items() if defaults.get(name) != value}
    return json.loads(json.dumps(kwargs))


def _spec(env_id: str, env_kwargs: dict[str, Any], steps: int, size: int) -> StateSpec:
    """The environment's state spec, or a plain one if it cannot be made or has not `size` numbers."""
    try:
        env = open_environment(env_id, env_kwargs, steps)
        spec = state_spec(env)
        env.close()
    except Exception:  # an environment may fail in any way; its data can be read without it
        return StateSpec.from_size(size)
    return spec if spec.observation_size == size else StateSpec.from_size(size)


def _converted(data: Metadata, note: Metadata, *, spec: StateSpec, splits: NDArray[np.uint8]) -> _Episode:
    """An episode of a foreign data set."""
    number = int(data["id"])
    flat = flatten_observation(data["observations"])
    states = flat[..., list(spec.indices)] if flat.shape[-1] == spec.observation_size else flat
    infos = data["infos"] or {}
    success = next((np.asarray(infos[name]) for name in SUCCESS_NAMES if name in infos), np.zeros(1))
    terminations = np.asarray(data["terminations"], dtype=bool)
    arrays = {
        "observations": states,
        "actions": np.asarray(data["actions"]),
        "rewards": np.asarray(data["rewards"]),
    }
    narrow = {name: array.astype(np.float32) for name, array in arrays.items()}
    return _Episode(
        states=spec.align(narrow["observations"]) if spec.quaternions else narrow["observations"],
        actions=narrow["actions"],
        rewards=narrow["rewards"],
        number=number,
        seed=NO_SEED if note.get("seed") is None else int(note["seed"]),
        split=int(splits[number]),
        terminated=bool(terminations[-1:].any()),
        success=bool(success.ravel()[-1:].any()),
        sim_states=np.empty((0, 0)),
        sim_steps=np.empty(0, np.int64),
        rounded={name for name in arrays if not np.array_equal(narrow[name], arrays[name], equal_nan=True)},
    )


def _restored(data: Metadata, note: Metadata) -> _Episode:
    """An episode of an exported recording, as it was."""
    infos = data["infos"] or {}
    return _Episode(
        states=data["observations"],
        actions=data["actions"],
        rewards=data["rewards"],
        number=int(note["episode"]),
        seed=int(note.get("seed", NO_SEED)),
        split=split_code(str(note["split"])),
        terminated=bool(data["terminations"][-1]),
        success=bool(note["success"]),
        sim_states=infos.get(SIM_STATES, np.empty((0, 0))),
        sim_steps=infos.get(SIM_STEPS, np.empty(0, np.int64)),
    )


def _require_shapes(path: Path, episode: _Episode, manifest: Manifest) -> None:
    """Raise InputError if the arrays of an episode do not fit each other and the spaces."""
    steps = len(episode.rewards)
    wanted = {
        "observations": (episode.states, (steps + 1, manifest.spec.size)),
        "actions": (episode.actions, (steps, len(manifest.action_low))),
        "rewards": (episode.rewards, (steps,)),
    }
    for name, (array, shape) in wanted.items():
        if array.shape != shape or not steps:
            raise InputError(
                f"{path}: {name} of episode {episode.number} have shape {array.shape}; "
                f"needed is {shape} with at least one step"
            )


def _joined(episodes: list[_Episode]) -> ShardData:
    """The arrays of a shard."""
    kept = [episode for episode in episodes if len(episode.sim_steps)]
    sim_index = [(row, step) for row, e in enumerate(episodes) for step in e.sim_steps]
    return ShardData(
        states=np.concatenate([e.states for e in episodes]),
        actions=np.concatenate([e.actions for e in episodes]),
        rewards=np.concatenate([e.rewards for e in episodes]),
        offsets=np.cumsum([0] + [len(e.states) for e in episodes]),
        episode=np.array([e.number for e in episodes]),
        seed=np.array([e.seed for e in episodes]),
        split=np.array([e.split for e in episodes], np.uint8),
        terminated=np.array([e.terminated for e in episodes]),
        success=np.array([e.success for e in episodes]),
        sim_states=np.concatenate([e.sim_states for e in kept]) if kept else np.empty((0, 0)),
        sim_index=np.array(sim_index, np.int64).reshape(-1, 2),
    )
