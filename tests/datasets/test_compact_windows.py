"""Random windows of compact storage are those of the whole recording in memory."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from ebm_traj.datasets import Recording, compact_windows
from ebm_traj.datasets.episodes import WindowPlaces
from ebm_traj.errors import InputError


@pytest.mark.parametrize("length", [1, 2, 5])
def test_every_window_equals_the_one_in_memory(compact_folder: Path, length: int):
    recording = Recording(compact_folder)
    everything = recording.load()
    starts = np.random.default_rng(0).permutation(recording.window_starts(length))
    states, actions = recording.read_windows(starts, length)
    rows = starts[:, None] + np.arange(length)
    assert states.tobytes() == everything.states[rows].tobytes()
    np.testing.assert_array_equal(actions, everything.actions[rows])
    again, _ = pickle.loads(pickle.dumps(recording)).read_windows(starts[:3], length)
    np.testing.assert_array_equal(again, states[:3])


def open_files() -> int:
    handles = Path("/proc/self/fd")
    return len(list(handles.iterdir())) if handles.is_dir() else 0


def test_few_files_are_open_at_once(compact_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compact_windows, "BLOCK", 2)
    monkeypatch.setattr(compact_windows, "most_open_files", lambda: 2)
    recording = Recording(compact_folder)
    everything, before = recording.load(), open_files()
    rng = np.random.default_rng(0)
    for _ in range(5):
        starts = rng.choice(recording.window_starts(3), 20)
        states, _ = recording.read_windows(starts, 3)
        np.testing.assert_array_equal(states, everything.states[starts[:, None] + np.arange(3)])
        assert open_files() <= before + 2
    recording.close()
    assert open_files() == before


def test_no_windows_are_no_windows(compact_folder: Path):
    states, actions = Recording(compact_folder).read_windows([], 4)
    assert states.shape == (0, 4, 9) and actions.shape == (0, 4, 2)


def test_a_shard_that_became_shorter_or_is_gone_is_named(compact_folder: Path):
    recording = Recording(compact_folder)
    starts = recording.window_starts(3)
    os.truncate(compact_folder / "shard-00001.h5", 3000)
    with pytest.raises(InputError, match=r"shard-00001\.h5: became shorter"):
        recording.read_windows(starts, 3)
    (compact_folder / "shard-00002.h5").unlink()
    with pytest.raises(InputError, match=r"shard-00002\.h5: No such file"):
        recording.read_windows(starts[-1:], 3)


@pytest.mark.parametrize(("length", "first"), [(1, 0), (4, 0), (3, 2)])
def test_windows_are_numbered_in_the_order_of_their_starts(folder: Path, length: int, first: int):
    recording = Recording(folder)
    rows = recording.episode_rows("train")
    places = WindowPlaces(recording.offsets[rows], recording.lengths[rows] + 1, length, first)
    expected = recording.window_starts(length, first, "train")
    assert len(places) == len(expected) > 0
    numbers = np.random.default_rng(0).permutation(len(places))
    np.testing.assert_array_equal(places.at(numbers), expected[numbers])
    assert np.all(np.diff(expected) > 0)
