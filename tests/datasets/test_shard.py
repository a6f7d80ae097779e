from pathlib import Path

import h5py
import numpy as np
import pytest

from ebm_traj.datasets.shard import verify_shard, write_shard
from ebm_traj.errors import InputError


def test_same_data_give_the_same_bytes_and_nothing_is_left_beside_them(tmp_path, make_manifest, make_shard):
    manifest = make_manifest()
    written = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        written.append(write_shard(folder, 1, manifest, make_shard(manifest, 1)).read_bytes())
        assert [path.name for path in folder.iterdir()] == ["shard-00001.h5"]
    assert written[0] == written[1]


def test_what_is_written_reads_back(tmp_path, make_manifest, make_shard):
    manifest = make_manifest()
    data = make_shard(manifest, 0)
    path = write_shard(tmp_path, 0, manifest, data)
    assert verify_shard(path).difference(manifest) is None
    with h5py.File(path) as file:
        for name, array in vars(data).items():
            np.testing.assert_array_equal(file[name][...], array)
        assert file["states"].fletcher32 and file["states"].dtype == np.float32


def test_a_difference_of_manifests_is_named(make_manifest):
    assert "run_seed 0 against 7" in make_manifest().difference(make_manifest(run_seed=7))
    assert "env_kwargs" in make_manifest().difference(make_manifest(env_kwargs={}))
    # a file gives lists back for tuples
    asked, stored = make_manifest(env_kwargs={"a": (1, (2,))}), make_manifest(env_kwargs={"a": [1, [2]]})
    assert asked.difference(stored) is None and stored.difference(asked) is None
    assert "env_kwargs.a" in asked.difference(make_manifest(env_kwargs={"a": [1, [3]]}))


@pytest.mark.parametrize("name", ["states", "actions", "rewards", "sim_states"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(tmp_path, make_manifest, make_shard, name, value):
    manifest = make_manifest()
    data = make_shard(manifest, 0)
    getattr(data, name)[3] = value
    with pytest.raises(InputError, match=f"{name}.*not finite"):
        write_shard(tmp_path, 0, manifest, data)
    assert not list(tmp_path.iterdir())


def test_the_episode_and_step_of_a_nan_are_named(tmp_path, make_manifest, make_shard):
    manifest = make_manifest()
    data = make_shard(manifest, 1)
    data.actions[data.offsets[4] - 4 + 0] = np.nan  # first action of row 4, which is episode 24
    with pytest.raises(InputError, match="actions of episode 24 at step 0"):
        write_shard(tmp_path, 1, manifest, data)


def test_a_wrong_shape_is_refused(tmp_path, make_manifest, make_shard):
    manifest = make_manifest()
    data = make_shard(manifest, 0)
    data.actions = data.actions[:, :1]
    with pytest.raises(InputError, match=r"actions has shape .*, 1\); needed is .*, 2\)"):
        write_shard(tmp_path, 0, manifest, data)


def test_a_writer_that_fails_leaves_nothing(tmp_path, make_manifest, make_shard, monkeypatch):
    def full(*_args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    manifest = make_manifest()
    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path, 0, manifest, make_shard(manifest, 0))
    assert not list(tmp_path.iterdir())


def test_changed_attributes_are_found(folder: Path):
    path = folder / "shard-00000.h5"
    with h5py.File(path, "a") as file:
        file.attrs["run_seed"] = 9
    with pytest.raises(InputError, match="sha256"):
        verify_shard(path)
