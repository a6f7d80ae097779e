"""Several machines that share a collection, and presets that the command line overrides."""

import dataclasses
import json
from pathlib import Path

import pytest

from ebm_traj.collect import CollectSettings, collect
from ebm_traj.collect.presets import PAPER
from ebm_traj.collect.share import Share
from ebm_traj.datasets import Recording
from ebm_traj.datasets.check import find_faults
from ebm_traj.errors import InputError

REACHER = CollectSettings(env="Reacher-v5", episodes=14, steps=5, episodes_per_shard=2)  # seven shards
SMALL = ("--episodes", "3", "--steps", "4", "--workers", "1")


def names(folder: Path) -> list[str]:
    return [path.name[6:11] for path in sorted(folder.glob("shard-*.h5"))]


def test_shares_make_each_shard_once_and_the_same_bytes(tmp_path: Path):
    collect(tmp_path / "whole", REACHER, workers=1, progress=False)
    for number in (3, 1, 2):
        made = collect(tmp_path / "a", REACHER, workers=1, progress=False, share=Share(number, 3))
        assert made.episodes == {1: 6, 2: 4, 3: 4}[number]
        if number == 1:
            assert names(tmp_path / "a") == ["00000", "00002", "00003", "00005", "00006"]
            assert any("missing 2 of 7 shards (1, 4)" in fault for fault in find_faults(tmp_path / "a"))
    assert find_faults(tmp_path / "a") == []
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "a" / path.name).read_bytes() == path.read_bytes()


def test_a_share_leaves_alone_what_others_are_writing(tmp_path: Path):
    for number in (1, 2):
        (tmp_path / f".shard-0000{number}.h5.tmp").write_bytes(b"half a shard")
    collect(tmp_path, REACHER, workers=1, progress=False, share=Share(2, 7))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shard-00002.h5.tmp", "shard-00001.h5"]
    with pytest.raises(InputError, match=r"shard-00001\.h5: exists; .*--resume"):
        collect(tmp_path, REACHER, workers=1, progress=False, share=Share(2, 7))
    with pytest.raises(InputError, match="made with other settings"):
        other = dataclasses.replace(REACHER, seed=1)
        collect(tmp_path, other, workers=1, progress=False, share=Share(1, 7))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "a/b", "-1/3", "1/2/3", ""])
def test_what_is_no_share_is_named(text: str):
    with pytest.raises(InputError, match=r"^shard .*: needed is i/n with 1 <= i <= n") as error:
        Share.parse(text)
    assert "\n" not in str(error.value)


def test_the_bar_counts_its_own_share(tmp_path: Path, call_script, capsys: pytest.CaptureFixture[str]):
    given = ("--env", "Reacher-v5", "--episodes", "6", "--episodes-per-shard", "2", "--steps", "4")
    call_script("collect", "--out", str(tmp_path / "data"), *given, "--workers", "1", "--shard", "2/3")
    printed = capsys.readouterr()
    assert "data 2/3: " in printed.err and "/2 episodes" in printed.err and "2 episodes made" in printed.out
    assert names(tmp_path / "data") == ["00001"]


def test_the_paper_preset_is_overridden_by_what_is_given(tmp_path: Path, call_script):
    out = tmp_path / "data"
    call_script("collect", "--preset", "paper", "--policy", "random", *SMALL, "--out", str(out))
    manifest = Recording(out).manifest
    assert (manifest.episodes, manifest.steps, manifest.policy["name"]) == (3, 4, "random")
    assert manifest.env_kwargs == {"target_rotation": "z", "target_position": "ignore"}
    assert (manifest.test_fraction, manifest.validation_fraction) == (0.05, 0)
    assert manifest.storage == "compact" and manifest.policy["noise"]["every"] == 4


def test_a_value_equal_to_the_ordinary_default_overrides_too(tmp_path: Path, call_script):
    out = tmp_path / "data"
    given = ("--storage", "exact", "--noise-probability", "0.25", "--test-fraction", "0.1")
    call_script("collect", "--preset=paper", "--policy", "random", *SMALL, *given, "--out", str(out))
    manifest = Recording(out).manifest
    assert (manifest.storage, manifest.test_fraction) == ("exact", 0.1)
    assert manifest.policy["noise"] == {"every": 0, "probability": 0.25}


def test_the_paper_preset_is_the_literature_s(load_script):
    module = load_script("collect")
    args = module.Args.defaults(["--preset", "paper", "--out", "x"])
    assert (args.policy, args.episodes, args.steps) == ("trained", 200_000, 100)
    assert json.loads(args.env_kwargs) == PAPER.env_kwargs
    assert module.Args.defaults(["--out", "x"]) == module.Args()
