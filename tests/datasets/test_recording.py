from pathlib import Path

import h5py
import numpy as np
import pytest

from ebm_traj.datasets import Recording
from ebm_traj.datasets.shard import write_shard
from ebm_traj.errors import InputError


def test_opens_with_what_was_recorded(folder: Path):
    recording = Recording(folder)
    assert recording.env_id == "Made/Up-v0" and recording.env_kwargs == {"size": 3}
    assert recording.spec.size == 3 and recording.action_size == 2
    assert recording.policy["name"] == "random"
    assert recording.num_episodes == 50 and recording.num_steps == recording.lengths.sum()
    np.testing.assert_array_equal(recording.episode, np.arange(50))
    np.testing.assert_array_equal(recording.action_low, [-1, -1])


def test_load_gives_whole_episodes(folder: Path, make_manifest, make_shard):
    episodes = Recording(folder).load()
    assert len(episodes) == 50
    data = make_shard(make_manifest(), 1)  # holds the episodes 20 to 39
    rows = slice(episodes.offsets[23], episodes.offsets[24])
    np.testing.assert_array_equal(episodes.states[rows], data.states[data.offsets[3] : data.offsets[4]])
    first = data.offsets[3] - 3
    np.testing.assert_array_equal(
        episodes.actions[rows][:-1], data.actions[first : first + episodes.lengths[23]]
    )


def test_only_the_last_frame_of_an_episode_has_no_action(folder: Path):
    episodes = Recording(folder).load()
    missing = np.flatnonzero(np.isnan(episodes.actions).any(axis=1))
    np.testing.assert_array_equal(missing, episodes.offsets[1:] - 1)


def test_splits_are_disjoint_and_together_everything(folder: Path):
    recording = Recording(folder)
    parts = [recording.load(split) for split in ("train", "validation", "test")]
    assert sorted(np.concatenate([part.episode for part in parts])) == list(range(50))
    everything = recording.load()
    for part in parts:
        assert part.offsets[-1] == len(part.states)
        i = 1 if len(part) > 1 else 0
        number = part.episode[i]
        np.testing.assert_array_equal(
            part.states[part.offsets[i] : part.offsets[i + 1]],
            everything.states[everything.offsets[number] : everything.offsets[number + 1]],
        )


@pytest.mark.parametrize(("length", "first"), [(1, 0), (4, 0), (3, 2), (10, 0), (99, 0)])
def test_windows_start_exactly_where_they_fit(folder: Path, length: int, first: int):
    episodes = Recording(folder).load("train")
    expected = [
        row
        for begin, end in zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True)
        for row in range(begin + first, end - length + 1)
    ]
    assert episodes.window_starts(length, first).tolist() == expected


@pytest.mark.parametrize("count", [1, 3, 400])  # few: window by window; many: shards read whole
@pytest.mark.parametrize("length", [1, 2, 5])
def test_windows_from_the_files_equal_those_in_memory(folder: Path, count: int, length: int):
    recording = Recording(folder)
    everything = recording.load()
    starts = np.random.default_rng(0).choice(recording.window_starts(length), count)
    states, actions = recording.read_windows(starts, length)
    rows = starts[:, None] + np.arange(length)
    np.testing.assert_array_equal(states, everything.states[rows])
    np.testing.assert_array_equal(actions, everything.actions[rows])
    recording.close()


def test_window_starts_of_a_split_stay_in_its_episodes(folder: Path):
    recording = Recording(folder)
    starts = recording.window_starts(3, split="test")
    rows = np.searchsorted(recording.offsets, starts, side="right") - 1
    assert set(rows) <= set(recording.episode_rows("test"))
    assert len(starts) == len(recording.load("test").window_starts(3))


@pytest.mark.parametrize("start", [-1, 10**9])
def test_a_window_outside_is_refused(folder: Path, start: int):
    with pytest.raises(InputError, match="does not lie inside one episode"):
        Recording(folder).read_windows([start], 2)


def test_a_window_across_episodes_is_refused(folder: Path):
    recording = Recording(folder)
    with pytest.raises(InputError, match="does not lie inside one episode"):
        recording.read_windows([recording.offsets[1] - 1], 2)


def test_simulator_states_belong_to_their_episodes(folder: Path):
    recording = Recording(folder)
    assert recording.sim_index[25].tolist() == [25, 0]
    states = recording.read_sim_states([45, 25, 0])  # made as (row in the shard, shard)
    np.testing.assert_array_equal(states, [[5, 2], [5, 1], [0, 0]])


def test_a_missing_shard_in_the_middle_does_not_shift_the_others(folder: Path):
    whole = Recording(folder).load()
    (folder / "shard-00001.h5").unlink()
    part = Recording(folder).load()
    assert part.episode.tolist() == [*range(20), *range(40, 50)]
    np.testing.assert_array_equal(part.states[part.offsets[20] :], whole.states[whole.offsets[40] :])


def test_missing_folder_and_empty_folder(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        Recording(tmp_path / "nothing")
    with pytest.raises(InputError, match="no shards"):
        Recording(tmp_path)


def test_a_truncated_shard_is_named(folder: Path):
    path = folder / "shard-00001.h5"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"shard-00001\.h5: not a whole HDF5 file"):
        Recording(folder)


def test_what_cannot_be_read_is_told_apart_from_what_is_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("h5py.File", denied)
    with pytest.raises(InputError, match=r"shard-00000\.h5: cannot be read \(.*denied"):
        Recording(folder)


def test_what_is_not_hdf5_is_named(folder: Path):
    (folder / "shard-00002.h5").write_text("hello")
    with pytest.raises(InputError, match=r"shard-00002\.h5: not a whole HDF5 file"):
        Recording(folder)


def test_a_foreign_hdf5_file_is_named(folder: Path):
    with h5py.File(folder / "shard-00002.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match=r"shard-00002\.h5: an HDF5 file, but not a shard"):
        Recording(folder)


def test_mixed_specs_are_refused(folder: Path, make_manifest, make_shard):
    from ebm_traj.spec import StateSpec

    other = make_manifest(spec=StateSpec.from_size(4))
    write_shard(folder, 2, other, make_shard(other, 2))
    with pytest.raises(InputError, match=r"shard-00002\.h5: differs from shard-00000\.h5 in state spec"):
        Recording(folder)


def test_other_package_versions_are_kept_not_refused(folder: Path, make_manifest, make_shard):
    other = make_manifest(versions={"numpy": "2"})
    write_shard(folder, 2, other, make_shard(other, 2))
    assert Recording(folder).versions == [{"numpy": "1"}, {"numpy": "2"}]


@pytest.mark.parametrize("name", ["states", "actions"])
def test_nan_in_the_file_is_found_on_loading(folder: Path, name: str):
    with h5py.File(folder / "shard-00000.h5", "a") as file:
        file[name][0, 0] = np.nan
    with pytest.raises(InputError, match=rf"shard-00000\.h5: {name} of episode 0 at step 0"):
        Recording(folder).load()


def test_an_empty_split_and_an_unknown_one_are_named(tmp_path: Path, make_manifest, make_shard):
    manifest = make_manifest(test_fraction=0.0)
    write_shard(tmp_path, 0, manifest, make_shard(manifest, 0))
    with pytest.raises(InputError, match="none of its 20 episodes is in the test split"):
        Recording(tmp_path).load("test")
    with pytest.raises(InputError, match="known: train, validation, test"):
        Recording(tmp_path).load("dev")  # type: ignore[arg-type]
