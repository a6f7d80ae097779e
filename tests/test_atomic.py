"""A file is replaced whole, or stays what it was; a folder is there whole, or not at all."""

import pytest

from ebm_traj.atomic import creating_folder, replacing


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


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
