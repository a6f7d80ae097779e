"""A file is replaced whole, or stays what it was; a folder is there whole, or not at all."""

import os
import time

import pytest
import torch

from ebm_traj.atomic import creating_folder, replacing
from ebm_traj.core.checkpoint import save_tensors


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_whoever_may_read_a_new_file_may_read_ours(tmp_path):
    (tmp_path / "usual").touch()
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.zeros(1)}, {})
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as one:
        one.write_text("one")
        with replacing(path) as other:
            other.write_text("other")
        assert path.read_text() == "other"
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_a_day_later(tmp_path):
    path, old, new = tmp_path / "a.txt", tmp_path / ".a.txt.0123.tmp", tmp_path / ".a.txt.4567.tmp"
    other = tmp_path / ".b.txt.0123.tmp"
    for left in (old, new, other):
        left.write_text("half")
    for left in (old, other):
        os.utime(left, (time.time() - 25 * 3600,) * 2)
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, new, other])


def test_a_folder_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "made" / "data"
    with creating_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a.txt").write_text("a")
        assert not path.exists()
    assert (path / "inner" / "a.txt").read_text() == "a" and list(path.parent.iterdir()) == [path]


def test_of_a_folder_that_failed_nothing_is_left_not_even_by_a_killed_process(tmp_path):
    path = tmp_path / "data"
    (tmp_path / ".data.tmp").mkdir()
    (tmp_path / ".data.tmp" / "old.txt").write_text("left by a killed process")
    with pytest.raises(KeyboardInterrupt), creating_folder(path) as temporary:
        assert list(temporary.iterdir()) == []
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
