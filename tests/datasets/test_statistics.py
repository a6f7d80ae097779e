import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ebm_traj.datasets import Recording, with_training_statistics
from ebm_traj.datasets.shard import write_shard
from ebm_traj.datasets.statistics import Moments
from ebm_traj.errors import InputError
from ebm_traj.trajectory.codec import WindowCodec


def test_statistics_are_those_of_the_training_split_alone(folder: Path):
    recording = Recording(folder)
    spec = with_training_statistics(recording)
    train = recording.load("train")
    changes = np.concatenate(
        [np.diff(train.states[a:b], axis=0) for a, b in zip(train.offsets, train.offsets[1:], strict=False)]
    )
    np.testing.assert_allclose(spec.mean, train.states.mean(0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(spec.std, train.states.std(0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(spec.change_std, changes.std(0, dtype=np.float64), rtol=1e-6)


def test_other_splits_do_not_enter(folder: Path):
    before = with_training_statistics(Recording(folder))
    recording = Recording(folder)
    row = int(recording.episode_rows("test")[0])
    with h5py.File(folder / "shard-00000.h5", "a") as file:
        assert row < 20
        file["states"][recording.offsets[row] : recording.offsets[row + 1]] = 1000.0
    after = with_training_statistics(Recording(folder))
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.change_std, after.change_std)


def test_a_large_mean_does_not_swallow_a_small_scale():
    rows = 1e8 + np.random.default_rng(0).normal(size=(1000, 1))
    moments = Moments(1)
    for part in np.array_split(rows, 7):
        moments.add(part)
    assert moments.std == pytest.approx(rows.std(0), rel=1e-6)


def written(folder: Path, manifest, data) -> Recording:
    write_shard(folder, 0, manifest, data)
    return Recording(folder)


@pytest.mark.parametrize("shake", [0.0, 1e-4])
def test_what_rises_steadily_moves_by_its_rate(tmp_path: Path, make_manifest, make_shard, shake):
    """A clock: the standard deviation of its change is none, and its change is not none."""
    manifest = make_manifest()
    data = make_shard(manifest, 0)
    lengths = np.diff(data.offsets)
    steps = np.concatenate([np.arange(length) for length in lengths])
    noise = shake * np.random.default_rng(0).normal(size=len(steps))
    data.states[:, 1] = 0.04 * steps + noise
    spec = with_training_statistics(written(tmp_path, manifest, data))
    assert 1 in spec.moving and spec.change_std[1] == pytest.approx(0.04, rel=1e-3)
    context = torch.from_numpy(data.states[None, :2])
    future = torch.from_numpy(data.states[None, 2:3])
    codec = WindowCodec(spec, 2, 1)
    again = codec.decode(context, codec.encode(context, future))
    assert float(again[0, 0, 1]) == pytest.approx(0.08, abs=1e-3)


def test_an_angle_that_wraps_is_refused(tmp_path: Path, make_manifest, make_shard):
    plain = make_manifest()
    kinds = ("angle", *plain.spec.kinds[1:])
    manifest = make_manifest(spec=dataclasses.replace(plain.spec, kinds=kinds))
    data = make_shard(manifest, 0)
    data.states[:, 0] = np.linspace(-3, 3, len(data.states))
    write_shard(tmp_path, 0, manifest, data)
    with_training_statistics(Recording(tmp_path))
    turning = np.arange(len(data.states)) * 0.5
    data.states[:, 0] = (turning + np.pi) % (2 * np.pi) - np.pi
    (tmp_path / "again").mkdir()
    write_shard(tmp_path / "again", 0, manifest, data)
    name = plain.spec.names[0]
    with pytest.raises(InputError, match=rf"the angle '{name}' changes by 5\.\d+ rad in one step, it wraps"):
        with_training_statistics(Recording(tmp_path / "again"))


def test_no_training_episode_is_an_error(tmp_path: Path, make_manifest, make_shard):
    manifest = make_manifest(test_fraction=0.5, validation_fraction=0.49)
    data = make_shard(manifest, 0)
    data.split[:] = 2
    write_shard(tmp_path, 0, manifest, data)
    with pytest.raises(InputError, match="train split"):
        with_training_statistics(Recording(tmp_path))
