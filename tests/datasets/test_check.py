from pathlib import Path

import h5py
import pytest

from ebm_traj.datasets.check import check, find_faults
from ebm_traj.datasets.shard import write_shard
from ebm_traj.errors import InputError


def test_a_sound_data_set_gets_one_line(folder: Path):
    assert find_faults(folder) == []
    assert check(folder).count("\n") == 0 and "3 shards" in check(folder)


def test_everything_wrong_is_named_at_once(folder: Path, make_manifest, make_shard):
    truncated = folder / "shard-00000.h5"
    truncated.write_bytes(truncated.read_bytes()[:3000])
    (folder / "shard-00001.h5").unlink()
    with h5py.File(folder / "shard-00007.h5", "w") as file:
        file["x"] = 1
    (folder / ".shard-00005.h5.tmp").write_bytes(b"half a shard")
    faults = find_faults(folder)
    for part in (
        "shard-00000.h5: not a whole HDF5 file",
        ": missing 1 of 3 shards (1)",
        "shard-00007.h5: an HDF5 file, but not a shard",
        ".shard-00005.h5.tmp: left by a killed writer",
    ):
        assert any(part in fault for fault in faults), (part, faults)
    with pytest.raises(InputError, match=r"shard-00000.*shard-00007.*missing"):
        check(folder)


def test_missing_shards_are_named_in_ranges(tmp_path: Path, make_manifest, make_shard):
    manifest = make_manifest(episodes=180)  # nine shards
    for number in (1, 5, 6):
        write_shard(tmp_path, number, manifest, make_shard(manifest, number))
    assert any("missing 6 of 9 shards (0, 2-4, 7-8)" in fault for fault in find_faults(tmp_path))


def test_a_flipped_byte_in_the_data_is_found(folder: Path):
    path = folder / "shard-00002.h5"
    with h5py.File(path) as file:
        place = file["states"].id.get_chunk_info(0).byte_offset + 20
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    faults = find_faults(folder)
    assert len(faults) == 1 and "shard-00002.h5" in faults[0] and "states" in faults[0]


def test_a_changed_value_is_found(folder: Path):
    with h5py.File(folder / "shard-00001.h5", "a") as file:
        file["states"][3, 1] += 1
    (fault,) = find_faults(folder)
    assert "shard-00001.h5" in fault and "sha256" in fault


def test_a_shard_under_another_number_is_found(folder: Path):
    (folder / "shard-00000.h5").write_bytes((folder / "shard-00001.h5").read_bytes())
    assert any("shard-00000.h5: holds shard number 1" in fault for fault in find_faults(folder))


def test_a_shard_of_another_run_is_found(folder: Path, make_manifest, make_shard):
    other = make_manifest(run_seed=5)
    write_shard(folder, 2, other, make_shard(other, 2))
    (fault,) = find_faults(folder)
    assert "shard-00002.h5: differs from shard-00000.h5 in run_seed 0 against 5" in fault


def test_missing_folder(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        check(tmp_path / "nothing")
