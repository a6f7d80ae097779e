from pathlib import Path

import pytest

from ebm_traj.datasets.describe import describe
from ebm_traj.datasets.shard import write_shard
from ebm_traj.errors import InputError


def test_describe_tells_what_is_there(folder: Path):
    text = describe(folder)
    for part in ("Made/Up-v0", '"size": 3', "random", "50 in 3 shards", "train 4", "bytes/step", "numpy 1"):
        assert part in text
    assert len([line for line in text.splitlines() if line.split()[:1] == ["obs_1"]]) == 1
    assert "action_1" in text and not any(line.endswith("constant") for line in text.splitlines())


def test_constant_dimensions_and_missing_episodes_are_told(tmp_path: Path, make_manifest, make_shard):
    manifest = make_manifest()
    data = make_shard(manifest, 0)
    data.states[:, 2] = 7
    write_shard(tmp_path, 0, manifest, data)
    lines = describe(tmp_path).splitlines()
    (flagged,) = [line for line in lines if line.endswith("constant")]
    assert flagged.split()[:5] == ["obs_2", "position", "7", "7", "7"]
    assert any("20 of 50 planned" in line for line in lines)


def test_missing_folder(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        describe(tmp_path / "nothing")
