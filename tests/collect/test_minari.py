"""Minari data sets as recordings, and recordings as Minari data sets."""

import filecmp
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from ebm_traj.collect import CollectSettings, collect
from ebm_traj.collect.minari_export import export_minari
from ebm_traj.collect.minari_import import NO_SEED, ImportSettings, import_minari
from ebm_traj.datasets import Recording
from ebm_traj.datasets.check import check
from ebm_traj.datasets.splits import split_codes
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

minari = pytest.importorskip("minari")
EpisodeBuffer = minari.data_collector.EpisodeBuffer
pytestmark = pytest.mark.filterwarnings("ignore:.*(is set to None|env_spec is None):UserWarning:minari")

HAND = {"env_kwargs": {"target_rotation": "z"}, "validation_fraction": 0.2, "sim_state_every": 4}
ENDING = {"env": "InvertedPendulum-v5", "steps": 60}  # falls over at its own time


@pytest.fixture(autouse=True)
def minari_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Minari keeps data sets by their id."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def recorded(folder: Path, **settings: Any) -> Recording:
    settings = {"episodes": 10, "steps": 6, "episodes_per_shard": 4, **settings}
    collect(folder, CollectSettings(**settings), workers=1, progress=False)
    return Recording(folder)


def buffer(observations: Any, actions: Any, rewards: Any = None, **more: Any) -> Any:
    steps = len(actions)
    last = np.arange(steps) == steps - 1
    rewards = np.zeros(steps, np.float32) if rewards is None else rewards
    return EpisodeBuffer(
        **{"observations": observations, "actions": actions, "rewards": rewards, "infos": {}}
        | {"terminations": last & False, "truncations": last}
        | more
    )


def pendulum(dataset_id: str = "pendulum/random-v0", episodes: int = 12) -> list[Any]:
    """A data set of Pendulum-v1 under random actions, with seeds, as Minari's users make them."""
    env = gymnasium.make("Pendulum-v1", max_episode_steps=9)
    buffers = []
    for seed in range(episodes):
        observations, actions, rewards = [env.reset(seed=seed)[0]], [], []
        env.action_space.seed(seed)
        for _ in range(9):
            actions.append(env.action_space.sample())
            observation, reward, *_ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(reward)
        infos = {"success": np.arange(10) == (9 if seed == 3 else 5)}
        buffers.append(buffer(np.array(observations), np.array(actions), rewards, seed=seed, infos=infos))
    minari.create_dataset_from_buffers(dataset_id, buffers, env=env, algorithm_name="uniform")
    env.close()
    return buffers


@pytest.mark.parametrize(
    "settings", [HAND, HAND | {"storage": "compact"}, ENDING], ids=["exact", "compact", "ending"]
)
def test_there_and_back_is_the_same_recording_byte_by_byte(tmp_path: Path, settings: dict[str, Any]):
    recording = recorded(tmp_path / "data", **settings)
    assert recording.terminated.any() or len(recording.sim_index)  # there is more than the frames to restore
    exported = export_minari(tmp_path / "data", str(tmp_path / "for_others"), progress=False)
    made = import_minari(str(exported.path), tmp_path / "back", progress=False)
    assert made.episodes == exported.episodes == 10 and made.rounded == ()
    names = [path.name for path in sorted((tmp_path / "data").iterdir())]
    assert names == [path.name for path in sorted((tmp_path / "back").iterdir())]
    for name in names:
        assert filecmp.cmp(tmp_path / "data" / name, tmp_path / "back" / name, shallow=False), name


@pytest.mark.parametrize("settings", [HAND | {"storage": "compact"}, ENDING], ids=["hand", "ending"])
def test_a_minari_reader_opens_the_export(tmp_path: Path, settings: dict[str, Any]):
    recording = recorded(tmp_path / "data", **settings)
    export_minari(tmp_path / "data", "ours/some-v0", progress=False)
    assert list(minari.list_local_datasets()) == ["ours/some-v0"]
    dataset = minari.load_dataset("ours/some-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (10, recording.num_steps)
    episodes = recording.load()
    for i, episode in enumerate(dataset):
        rows = slice(episodes.offsets[i], episodes.offsets[i + 1])
        assert episode.observations.tobytes() == episodes.states[rows].tobytes()
        assert episode.actions.tobytes() == episodes.actions[rows][:-1].tobytes()
        assert dataset.observation_space.contains(episode.observations[0])
        assert episode.terminations.tolist()[-1] == recording.terminated[i]
        assert episode.truncations.tolist()[-1] != recording.terminated[i]
        assert not (episode.terminations | episode.truncations)[:-1].any()
        assert "observations" in repr(episode)
    (note,) = dataset.storage.get_episode_metadata([7])
    assert note["seed"] == recording.seed[7] and note["total_steps"] == recording.lengths[7]
    assert dataset.storage.metadata["ebm_traj"]["state_names"] == list(recording.spec.names)
    env = dataset.recover_environment()
    assert env.spec.max_episode_steps == recording.manifest.steps
    assert env.action_space == dataset.action_space
    env.close()


def test_an_unfinished_recording_comes_back_as_unfinished(tmp_path: Path):
    recorded(tmp_path / "data", **ENDING)
    (tmp_path / "data" / "shard-00001.h5").unlink()
    export_minari(tmp_path / "data", "part-v0", progress=False)
    import_minari("part-v0", tmp_path / "back", progress=False)
    assert [path.name for path in Recording(tmp_path / "back").paths] == ["shard-00000.h5", "shard-00002.h5"]
    np.testing.assert_array_equal(Recording(tmp_path / "back").episode, [0, 1, 2, 3, 8, 9])


def test_a_foreign_data_set_becomes_a_sound_recording(tmp_path: Path):
    buffers = pendulum()
    settings = ImportSettings(seed=5, test_fraction=0.3, episodes_per_shard=5)
    made = import_minari("pendulum/random-v0", tmp_path / "data", settings, progress=False)
    assert (made.episodes, made.steps) == (12, 108)
    assert made.rounded == ("rewards",)  # Pendulum's are float64, its observations are not
    assert "3 shards" in check(tmp_path / "data")
    recording = Recording(tmp_path / "data")
    assert (recording.env_id, recording.env_kwargs) == ("Pendulum-v1", {})
    assert recording.policy["settings"] == {"dataset": "pendulum/random-v0", "algorithm": "uniform"}
    episodes = recording.load()
    assert episodes.states.tobytes() == np.concatenate([b.observations for b in buffers]).tobytes()
    assert episodes.actions[:9].tobytes() == buffers[0].actions.tobytes()
    assert recording.seed.tolist() == list(range(12))
    assert np.flatnonzero(recording.success).tolist() == [3]  # at the last step, not on the way
    assert not recording.terminated.any()
    np.testing.assert_array_equal(recording.split, split_codes(5, range(12), 0.3, 0.05))
    assert recording.action_high.tolist() == [2]


def test_dict_observations_are_flattened_and_rounding_is_told(tmp_path: Path):
    rng = np.random.default_rng(0)
    space = Dict({"b": Box(-9, 9, (2,), np.float64), "a": Box(-9, 9, (1,), np.float32)})
    b, a = rng.normal(size=(4, 2)), rng.normal(size=(4, 1)).astype(np.float32)
    actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
    minari.create_dataset_from_buffers(
        "dicts-v0",
        [buffer({"b": b, "a": a}, actions)],
        observation_space=space,
        action_space=Box(-1, 1, (1,), np.float32),
    )
    made = import_minari("dicts-v0", tmp_path / "data", ImportSettings(test_fraction=0), progress=False)
    assert made.rounded == ("observations",)
    recording = Recording(tmp_path / "data")
    np.testing.assert_array_equal(recording.load().states, np.concatenate([a, b], axis=1).astype(np.float32))
    assert recording.env_id == "dicts-v0" and recording.seed.tolist() == [NO_SEED]
    assert recording.spec.difference(StateSpec.from_size(3)) is None


def test_states_are_read_by_the_spec_of_the_environment(tmp_path: Path):
    env = gymnasium.make("ebm_traj/HandBlock-v0", target_rotation="z")
    observations, actions = [env.reset(seed=0)[0]], []
    env.action_space.seed(0)
    for _ in range(3):
        actions.append(env.action_space.sample())
        observations.append(env.step(actions[-1])[0])
    stacked = {key: np.array([o[key] for o in observations]) for key in observations[0]}
    flipped = stacked | {"achieved_goal": stacked["achieved_goal"] * ([1] * 3 + [-1] * 4)}
    minari.create_dataset_from_buffers("hand-v0", [buffer(flipped, np.array(actions))], env=env)
    import_minari("hand-v0", tmp_path / "data", ImportSettings(test_fraction=0), progress=False)
    recording = Recording(tmp_path / "data")
    spec = env.unwrapped.state_spec
    assert recording.spec.difference(spec) is None and recording.env_kwargs == {"target_rotation": "z"}
    np.testing.assert_array_equal(recording.load().states, spec.align(spec.read(stacked)))
    assert recording.policy["goal_conditioned"]
    env.close()


def test_an_imported_data_set_trains(tmp_path: Path, call_script: Callable[..., None]):
    pendulum()
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    call_script("collect", "--import-minari", "pendulum/random-v0", "--out", data)
    tiny = "--iterations 3 --inverse-iterations 3 --network.width 8 --contrastive.langevin.steps 2"
    call_script("train_traj", "--data", data, "--model", "ebm", "--out", run, *tiny.split())
    assert list(Path(run).rglob("*.safetensors"))


def test_the_script_trades_both_ways(tmp_path: Path, call_script: Callable[..., None], capsys):
    recorded(tmp_path / "data", **ENDING)
    call_script("collect", "--out", str(tmp_path / "data"), "--export-minari", str(tmp_path / "there"))
    assert f"{tmp_path / 'there'}: 10 episodes" in capsys.readouterr().out
    call_script("collect", "--out", str(tmp_path / "back"), "--import-minari", str(tmp_path / "there"))
    assert f"{tmp_path / 'back'}: 10 episodes" in capsys.readouterr().out
    pendulum()
    call_script("collect", "--out", str(tmp_path / "p"), "--import-minari", "pendulum/random-v0")
    note = "note: rewards of 'pendulum/random-v0' rounded to float32, as recordings hold it\n"
    assert capsys.readouterr().err.endswith(note)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--import-minari", "some-v0"), "import_minari given; needed is one at a time, with --out"),
        (
            ("--out", "x", "--import-minari", "a-v0", "--export-minari", "b-v0"),
            "and export_minari given; needed is",
        ),
        (("--out", "x", "--figure", "f.png"), "figure given; it needs --describe"),
        (
            ("--out", "x", "--import-minari", "a-v0", "--episodes-per-shard", "0"),
            "episodes per shard: 0; needs 1",
        ),
        (("--out", "/nowhere", "--export-minari", "a-v0"), "/nowhere: no such folder"),
    ],
)
def test_bad_arguments_are_one_line(call_script: Callable[..., None], arguments, message: str, capsys):
    with pytest.raises(SystemExit) as ended:
        call_script("collect", *arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and error.count("\n") == 1


def spaces(observation: Any = None, action: Any = None) -> dict[str, Any]:
    box = Box(-1, 1, (2,), np.float32)
    return {"observation_space": observation or box, "action_space": action or box}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (spaces(observation=Box(0, 1, (2, 3), np.float32)), r"observation space is a Box of shape \(2, 3\)"),
        (spaces(action=Discrete(3)), "action space is a Discrete"),
    ],
)
def test_spaces_that_cannot_be_recorded_are_refused(tmp_path: Path, made: dict[str, Any], message: str):
    observations = np.array([made["observation_space"].sample() for _ in range(3)])
    actions = np.array([made["action_space"].sample() for _ in range(2)])
    minari.create_dataset_from_buffers("odd-v0", [buffer(observations, actions)], **made)
    with pytest.raises(InputError, match=message):
        import_minari("odd-v0", tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()


def no_download(*_: Any, **__: Any) -> None:
    raise ConnectionError("no network\nat all")


def test_what_is_not_there_or_already_there_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("minari.storage.hosting.download_dataset", no_download)
    with pytest.raises(
        InputError, match=r"'none/such-v3': not here, and the download failed \(no network at"
    ):
        import_minari("none/such-v3", tmp_path / "data")
    with pytest.raises(InputError, match="no such folder, and no Minari id"):
        import_minari("./nowhere", tmp_path / "data")
    with pytest.raises(InputError, match=r"not a Minari data set \(metadata.json is missing\)"):
        import_minari(str(tmp_path), tmp_path / "data")
    pendulum()
    with pytest.raises(InputError, match="exists; give a new folder"):
        import_minari("pendulum/random-v0", tmp_path)
    recorded(tmp_path / "data", **ENDING)
    for target in ("pendulum/random-v0", str(tmp_path / "data")):
        with pytest.raises(InputError, match="exists; give another id or path"):
            export_minari(tmp_path / "data", target)


def test_without_minari_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(InputError, match=r'pip install "ebm_traj\[minari\]"'):
        import_minari("pendulum/random-v0", tmp_path / "data")


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minari_folder: Path):
    recorded(tmp_path / "data", **ENDING)
    storage = minari.dataset._storages.hdf5_storage.HDF5Storage
    write, calls = storage.update_episodes, []

    def interrupted(self: Any, episodes: Any) -> None:
        write(self, episodes)
        calls.append(episodes)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage, "update_episodes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_minari(tmp_path / "data", "part-v0", progress=False)
    assert len(calls) == 2 and list(minari_folder.iterdir()) == []


def test_a_failed_import_leaves_nothing(tmp_path: Path):
    observations = np.zeros((3, 2), np.float32)
    bad = observations.copy()
    bad[1] = np.nan
    actions = np.zeros((2, 2), np.float32)
    buffers = [buffer(observations, actions), buffer(bad, actions)]
    minari.create_dataset_from_buffers("bad-v0", buffers, **spaces())
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="states of episode 1 at step 1 are not finite"):
        import_minari("bad-v0", tmp_path / "data", ImportSettings(episodes_per_shard=1), progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_damaged_episode_is_named(tmp_path: Path):
    import h5py

    pendulum()
    path = Path(minari.load_dataset("pendulum/random-v0").storage.data_path)
    with h5py.File(path / "main_data.hdf5", "a") as file:
        del file["episode_4/actions"]
    with pytest.raises(InputError, match="episode 4 is damaged"):
        import_minari("pendulum/random-v0", tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()
