"""Compact storage: near the original, the same for every reader, and refused where it cannot be."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from ebm_traj.datasets import Recording
from ebm_traj.datasets.check import find_faults
from ebm_traj.datasets.compact import STEPS, ActionGrid
from ebm_traj.datasets.shard import verify_shard, write_shard
from ebm_traj.errors import InputError

BOXES = [(-1.0, 1.0), (0.0, 0.3), (-0.1, 7.7), (1e4, 1e4 + 1), (2.0, 2.0)]


def test_states_move_by_half_a_step_at_most_and_then_stay(make_compact_manifest):
    manifest = make_compact_manifest()
    states = np.random.default_rng(0).normal(size=(500, 9)).astype(np.float32)
    states[0] = -1e-9
    rounded = manifest.round_states(states)
    for dim, kind in enumerate(manifest.spec.kinds):
        most = STEPS[kind] / 2 if kind != "given" else 0
        assert np.abs(rounded[:, dim] - states[:, dim]).max() <= most
    assert manifest.round_states(rounded).tobytes() == rounded.tobytes()
    assert not np.signbit(rounded[0, manifest.spec.predicted]).any()


@pytest.mark.parametrize(("low", "high"), BOXES)
def test_actions_have_255_levels_inside_their_box(low: float, high: float):
    grid = ActionGrid(np.full(1, low, np.float32), np.full(1, high, np.float32))
    actions = np.linspace(low, high, 5001)[:, None].astype(np.float32)
    rounded = grid.round(actions)
    assert len(np.unique(rounded)) == (255 if high > low else 1)
    assert rounded.min() >= grid.low and rounded.max() <= grid.high
    np.testing.assert_allclose([rounded.min(), rounded.max()], [low, high], rtol=0 if low == -high else 1e-5)
    assert np.abs(rounded - actions).max() <= (high - low) / 508 + 1e-7 * high
    assert grid.round(rounded).tobytes() == rounded.tobytes()


def test_actions_outside_the_box_go_to_its_bounds_and_nan_stays(make_compact_manifest):
    found = make_compact_manifest().round_actions([[3.0, -3.0], [np.nan, np.inf]])
    np.testing.assert_array_equal(found, np.array([[1, -1], [np.nan, np.nan]], np.float32))


def test_exact_storage_rounds_nothing(make_manifest):
    numbers = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    assert make_manifest().round_states(numbers).tobytes() == numbers.tobytes()
    assert make_manifest().round_actions(numbers[:, :2]).tobytes() == numbers[:, :2].tobytes()


def test_a_recording_gives_the_rounded_states_and_the_actions_to_the_bit(
    compact_folder: Path, make_compact_manifest, make_compact_shard
):
    manifest, recording = make_compact_manifest(), Recording(compact_folder)
    for shard, dtype in enumerate([np.int16, np.int16, np.int32]):
        written = make_compact_shard(manifest, shard)
        states, actions = recording.read_shard(shard)
        assert states.tobytes() == manifest.round_states(written.states).tobytes()
        assert actions[np.isfinite(actions[:, 0])].tobytes() == written.actions.tobytes()
        with h5py.File(recording.paths[shard]) as file:
            assert file["states"].dtype == dtype and file["states"].chunks is None


@pytest.mark.parametrize("far", [0.0, 3.7e5])  # beyond 2^24 steps float32 holds fewer than the grid has
def test_far_from_zero_too(tmp_path: Path, make_compact_manifest, make_compact_shard, far: float):
    manifest = make_compact_manifest()
    data = make_compact_shard(manifest, 0)
    data.states[:, 2] = far + data.states[:, 3]
    write_shard(tmp_path, 0, manifest, data)
    states, _ = Recording(tmp_path).read_shard(0)
    assert states.tobytes() == manifest.round_states(data.states).tobytes()


def test_any_tool_can_read_it(compact_folder: Path):
    recording = Recording(compact_folder)
    states, actions = recording.read_shard(0)
    with h5py.File(recording.paths[0]) as file:
        for name, mine in (
            ("states", states[:, recording.spec.predicted]),
            ("actions", actions[np.isfinite(actions[:, 0])]),
        ):
            array = file[name]
            theirs = array.attrs["offset"] + array.attrs["scale"] * array[...]
            np.testing.assert_allclose(theirs, mine, rtol=1e-6, atol=1e-9)


def test_same_data_give_the_same_bytes(tmp_path: Path, make_compact_manifest, make_compact_shard):
    manifest, written = make_compact_manifest(), []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = write_shard(tmp_path / name, 1, manifest, make_compact_shard(manifest, 1))
        assert verify_shard(path).difference(manifest) is None
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_a_range_beyond_32_bits_is_refused(tmp_path: Path, make_compact_manifest, make_compact_shard):
    manifest = make_compact_manifest()
    data = make_compact_shard(manifest, 0)
    data.states[3, 2] = 1e6
    with pytest.raises(InputError, match=r"state 'x' runs from .* to 1e\+06.*--storage exact"):
        write_shard(tmp_path, 0, manifest, data)
    assert not list(tmp_path.iterdir())


def test_actions_off_the_grid_are_refused(tmp_path: Path, make_compact_manifest, make_compact_shard):
    manifest = make_compact_manifest()
    data = make_compact_shard(manifest, 0)
    data.actions[5, 0] = 0.1
    with pytest.raises(InputError, match="round_actions"):
        write_shard(tmp_path, 0, manifest, data)


def test_what_cannot_be_stored_compactly_is_refused_in_one_line(make_manifest, make_compact_manifest):
    with pytest.raises(InputError, match=r"Made/Up-v0.*does not say what its numbers are.*--storage exact"):
        make_manifest(storage="compact")
    with pytest.raises(InputError, match="action 1 has the bounds -1 and inf, which must be finite"):
        make_compact_manifest(action_high=np.array([1, np.inf], np.float32))
    with pytest.raises(InputError, match="storage 'small' is unknown; known: exact, compact"):
        make_manifest(storage="small")


@pytest.mark.parametrize("name", ["states", "actions", "given", "given_rows"])
def test_a_flipped_byte_is_found_in_reading_and_checking(compact_folder: Path, name: str):
    path = compact_folder / "shard-00001.h5"
    with h5py.File(path) as file:
        place = file[name].id.get_offset() + 5
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"shard-00001\.h5: array '{name}' is damaged"):
        Recording(compact_folder).load()
    (fault,) = find_faults(compact_folder)
    assert "shard-00001.h5" in fault and name in fault


def test_a_changed_grid_is_found(compact_folder: Path):
    with h5py.File(compact_folder / "shard-00001.h5", "a") as file:
        file["states"].attrs["offset"] = file["states"].attrs["offset"] + 1
    (fault,) = find_faults(compact_folder)
    assert "shard-00001.h5" in fault and "sha256" in fault


@pytest.mark.parametrize("kept", [100, 3000, -1])
def test_a_truncated_shard_is_named(compact_folder: Path, kept: int):
    path = compact_folder / "shard-00002.h5"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"shard-00002\.h5: not a whole HDF5 file"):
        Recording(compact_folder)


def test_shards_of_the_first_version_are_read(folder: Path):
    whole = Recording(folder).load()
    for path in folder.iterdir():
        with h5py.File(path, "a") as file:
            del file.attrs["storage"], file.attrs["manifest_sha256"]
            file.attrs["format_version"] = 1
    recording = Recording(folder)
    assert recording.manifest.storage == "exact"
    np.testing.assert_array_equal(recording.load().states, whole.states)
