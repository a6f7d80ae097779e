"""A recording as a Minari data set."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ebm_traj.atomic import creating_folder
from ebm_traj.collect.environment import open_environment
from ebm_traj.collect.minari_format import (
    KEY,
    SIM_STATES,
    SIM_STEPS,
    manifest_to_json,
    require_minari,
    target_path,
)
from ebm_traj.datasets.hdf5 import open_hdf5, read_array
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import SPLITS
from ebm_traj.errors import InputError

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec
    from minari.data_collector import EpisodeBuffer

Metadata = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    dataset_id: str
    path: Path
    """Folder of the data set; Minari opens `path / "data"`."""
    episodes: int
    steps: int


def export_minari(folder: str | Path, target: str, *, progress: bool = True) -> Exported:
    """Write a recording as a Minari data set: an id in Minari's own folder, or a path.

    Observations are the recorded states, a Box of (D,) float32; of an environment whose state is a part of
    its observation they are that part, with names in the metadata. `import_minari` restores the same
    recording from it, to the bit. Episodes go to Minari a shard at a time; one at a time, writing takes a
    time quadratic in their number. Until all are written the target does not exist.

    Raises InputError if the target exists or the recording cannot be read.
    """
    minari = require_minari()
    from gymnasium.spaces import Box
    from minari.dataset.minari_storage import MinariStorage

    recording = Recording(folder)
    dataset_id, path = target_path(target)
    manifest = recording.manifest
    _make_namespace(dataset_id, target)
    with creating_folder(path) as temporary:
        storage = MinariStorage.new(
            temporary / "data",
            observation_space=Box(-np.inf, np.inf, (manifest.spec.size,), np.float32),
            action_space=Box(manifest.action_low, manifest.action_high, dtype=np.float32),
            env_spec=_env_spec(manifest),
            data_format="hdf5",
        )
        storage.update_metadata(_metadata(dataset_id, manifest) | {"minari_version": minari.__version__})
        with tqdm(
            total=recording.num_episodes,
            desc=dataset_id,
            unit=" episodes",
            disable=not progress,
            file=sys.stderr,
        ) as bar:
            done = 0
            for shard in range(len(recording.paths)):
                buffers, metadata = _episodes(recording, shard, done)
                storage.update_episodes(buffers)
                storage.update_episode_metadata(metadata, range(done, done + len(buffers)))
                done += len(buffers)
                bar.update(len(buffers))
    return Exported(dataset_id, path, recording.num_episodes, recording.num_steps)


def _episodes(
    recording: Recording, shard: int, first_id: int
) -> "tuple[list[EpisodeBuffer], list[Metadata]]":
    """The episodes of a shard as Minari takes them, and what else is known of each."""
    from minari.data_collector import EpisodeBuffer

    begin, end = (int(bound) for bound in recording.shard_episodes[shard : shard + 2])
    states, actions = recording.read_shard(shard)
    with open_hdf5(recording.paths[shard]) as file:
        rewards, sim_states, sim_index = (
            read_array(file, name) for name in ("rewards", "sim_states", "sim_index")
        )
    frames = recording.offsets[begin : end + 1] - recording.offsets[begin]
    buffers, metadata = [], []
    for i, row in enumerate(range(begin, end)):
        first, length = int(frames[i]), int(recording.lengths[row])
        ended = np.zeros(length, dtype=bool)
        ended[-1] = True
        kept = sim_index[:, 0] == i
        infos = {SIM_STATES: sim_states[kept], SIM_STEPS: sim_index[kept, 1]} if kept.any() else {}
        terminated = bool(recording.terminated[row])
        buffers.append(
            EpisodeBuffer(
                id=first_id + i,
                seed=int(recording.seed[row]) if recording.seed[row] >= 0 else None,
                observations=states[first : first + length + 1],
                actions=actions[first : first + length],
                rewards=rewards[first - i : first - i + length],
                terminations=ended & terminated,
                truncations=ended & (not terminated),
                infos=infos,
            )
        )
        metadata.append(
            {
                "episode": int(recording.episode[row]),
                "split": SPLITS[recording.split[row]],
                "success": bool(recording.success[row]),
            }
        )
    return buffers, metadata


def _metadata(dataset_id: str, manifest: Manifest) -> Metadata:
    spec = manifest.spec
    return {
        "dataset_id": dataset_id,
        "algorithm_name": str(manifest.policy["name"]),
        "description": (
            f"Rollouts of {manifest.env_id} recorded by ebm_traj. Observations are the states it keeps "
            f"({spec.size} of the {spec.observation_size} numbers of the flattened observation); their names "
            f"stand in the metadata under '{KEY}'."
        ),
        "requirements": [f"{name}=={v}" for name, v in manifest.versions.items() if v != "absent"],
        KEY: {
            "state_names": list(spec.names),
            "state_kinds": list(spec.kinds),
            "manifest": manifest_to_json(manifest),
        },
    }


def _env_spec(manifest: Manifest) -> "EnvSpec | None":
    """The environment as Gymnasium makes it, so that Minari can; None where it is not installed."""
    try:
        env = open_environment(manifest.env_id, manifest.env_kwargs, manifest.steps)
    except InputError:
        return None
    spec = env.spec
    env.close()
    return spec


def _make_namespace(dataset_id: str, target: str) -> None:
    """Tell Minari of the folders above a data set in its own folder."""
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = dataset_id.rpartition("/")[0]
    if dataset_id == target and namespace and namespace not in list_local_namespaces():
        create_namespace(namespace)
