"""Where a command writes: its own place alone, and one that can be written."""

import os

import pytest

from ebm_traj.errors import InputError
from ebm_traj.output import require_file, require_folder, require_new, require_writable, take_folder


def test_a_report_replaces_its_own_alone(tmp_path):
    require_folder(tmp_path / "new" / "deeper", ("scores.json",))
    with pytest.raises(InputError, match="exists already; give another, or --overwrite"):
        require_folder(tmp_path, ("scores.json",))
    require_folder(tmp_path, ("scores.json",), overwrite=True)  # an empty folder
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"holds something else \(no scores.json\)"):
        require_folder(tmp_path, ("scores.json",), overwrite=True)
    (tmp_path / "scores.json").write_text("{}")
    require_folder(tmp_path, ("scores.json",), overwrite=True)
    (tmp_path / "shard-00000.h5").write_bytes(b"")
    with pytest.raises(InputError, match="a data set is there"):
        require_folder(tmp_path, ("scores.json",), overwrite=True)


def test_a_run_takes_a_folder_and_leaves_what_is_not_its_own(tmp_path):
    out = tmp_path / "run"
    leaves = ("done.json", "metrics.csv", "part-*")
    take_folder(out, "train_it", leaves, {"seed": 1})
    with pytest.raises(InputError, match="--resume to go on, or --overwrite"):
        take_folder(out, "train_it", leaves, {"seed": 2}, resume=False)
    for name in ("metrics.csv", "part-1/weights", "mine.txt"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(name)
    take_folder(out, "train_it", leaves, {"seed": 1}, resume=True)
    assert (out / "part-1" / "weights").is_file()
    take_folder(out, "train_it", leaves, {"seed": 3}, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["mine.txt", "train_it.json"]
    with pytest.raises(InputError, match="accepted is one of them"):
        take_folder(out, "train_it", leaves, {}, overwrite=True, resume=True)
    with pytest.raises(InputError, match=r"no run of other\.py"):
        take_folder(out, "other", leaves, {}, resume=True)
    with pytest.raises(InputError, match="no folder"):
        take_folder(tmp_path / "none", "train_it", leaves, {}, resume=True)


def test_places_that_cannot_be_written_are_seen_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for require in (require_new, lambda out: require_folder(out, ("a",)), lambda p: require_file(p, "--out")):
        with pytest.raises(InputError, match="file is a file; needed is a folder"):
            require(tmp_path / "file" / "below" / "it")
    with pytest.raises(InputError, match="is a folder; needed is the name of a file"):
        require_file(tmp_path, "--json")
    with pytest.raises(InputError, match=r"accepted are names that end in \.png"):
        require_file(tmp_path / "a.foo", "--plot", endings=(".png",))
    with pytest.raises(InputError, match="exists already"):
        require_file(tmp_path / "file", "--json")
    require_file(tmp_path / "file", "--json", overwrite=True)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match=r"--out .*: .* cannot be written"):
        require_writable(tmp_path / "new" / "run", "--out")
