"""The sub-commands of tasks on pictures, at a tiny size, with what they write and what they refuse."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ebm_traj.cli import BAD_INPUT, run

SCRIPT = Path(__file__).parents[2] / "scripts" / "image.py"
FAST = ["--posterior.levels", "3", "--posterior.repeats", "2"]


def call(command, *argv):
    module = importlib.import_module(f"ebm_traj.image.commands.{command}")
    run(module.main, module.Args, [str(arg) for arg in argv])


def figures(out, name, *pictures):
    for picture in pictures:
        assert (out / f"{picture}.png").read_bytes()[:4] == b"\x89PNG"
        assert f"({picture}.png)" in (out / f"{name}.md").read_text()
    found = json.loads((out / f"{name}.json").read_text())
    assert found["command"].startswith("python") and found["settings"]["seed"] == 0
    return found


def test_generate_through_the_script(tiny_models, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, SCRIPT, "generate", "--model", tiny_models["conditional"], "--out", out]
    command += ["--count", "20", "--steps", "3"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = figures(out, "generate", "generate")
    assert found["gradients"] == 3
    arrays = np.load(out / "samples.npz")
    assert arrays["x"].shape == (20, 8, 8, 1) and arrays["x"].dtype == np.uint8
    assert arrays["y"].tolist() == [*range(10), *range(10)]
    again = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert again.returncode == BAD_INPUT and "--overwrite" in again.stderr
    assert len(again.stderr.strip().splitlines()) == 1


def test_generate_scores_with_a_classifier_and_asks_for_classes(tiny_models, tmp_path):
    call(
        *("generate", "--model", tiny_models["conditional"], "--out", tmp_path / "a", "--count", 16),
        *("--classifier", tiny_models["classifier"], "--classes", 3, 5),
    )
    found = figures(tmp_path / "a", "generate", "generate")
    assert found["scores"]["count"] == 16 and "read_right" in found["scores"]["samples"]
    assert np.load(tmp_path / "a" / "samples.npz")["y"].tolist() == [3, 5] * 8
    call("generate", "--model", tiny_models["chain"], "--out", tmp_path / "b", "--count", 12)
    assert "y" not in np.load(tmp_path / "b" / "samples.npz")


@pytest.mark.parametrize("model", ["conditional", "chain"])
def test_complete_measures_every_mask(model, tiny_models, tmp_path):
    out = tmp_path / "out"
    call(
        *("complete", "--model", tiny_models[model], "--classifier", tiny_models["classifier"], "--out", out),
        *("--pictures", 4, "--completions", 5, "--masks", "left", "centre", "--rows", 3, *FAST),
    )
    found = figures(out, "complete", "complete_left", "complete_centre")
    for mask in ("left", "centre"):
        assert {"model", "copies"} <= set(found[mask]["rows"]) and len(found[mask]["pictures"]) == 4
        assert found[mask]["gradients"] == (5 if model == "conditional" else 4)
    call("complete", "--model", tiny_models[model], "--out", tmp_path / "b", "--pictures", 2, *FAST)
    figures(tmp_path / "b", "complete", "complete_left", "complete_upper", "complete_lower")


@pytest.mark.parametrize("model", ["unconditional", "chain"])
def test_restore_measures_every_damage(model, tiny_models, tmp_path):
    out = tmp_path / "out"
    call(
        *("restore", "--model", tiny_models[model], "--classifier", tiny_models["classifier"], "--out", out),
        *("--pictures", 3, "--draws", 2, "--damages", "noise:0.5", "blur:1", "missing:0.5:0.1", *FAST),
    )
    found = figures(out, "restore", "restore")
    assert [row["kind"] for row in found["damages"]] == ["noise", "blur", "missing"]
    names = set(found["damages"][0]["figures"])
    assert ("one gradient" in names) == (model == "unconditional") and "linear" in names


def test_no_picture_is_restored_before_all_damages_are_known_to_fit(tiny_models, tmp_path, monkeypatch):
    monkeypatch.setattr("ebm_traj.image.restoration_report.restore", lambda *_, **__: pytest.fail("restored"))
    for options in (("--posterior.way", "replace"), ("--damages", "noise:0.5", "coarse:3:0.05")):
        with pytest.raises(SystemExit):
            call("restore", "--model", tiny_models["conditional"], "--out", tmp_path / "out", *options)


def test_morph_walks_between_all_classes(tiny_models, tmp_path):
    out = tmp_path / "out"
    call(
        *("morph", "--model", tiny_models["conditional"], "--classifier", tiny_models["classifier"]),
        *("--out", out, "--walk.turns", 2, "--walk.steps", 2, "--rows", 3),
    )
    found = figures(out, "morph", "morph_chains", "morph_matrix")
    assert len(found["frames"]) == 3 and found["frames"][0]["distance"] == 0
    assert "read_new" in found["fresh_samples"]


def test_ensemble_scores_each_and_all(tiny_models, tmp_path):
    out = tmp_path / "out"
    call(
        *("ensemble", "--models", tiny_models["conditional"], tiny_models["other"], "--out", out),
        *("--classifier", tiny_models["classifier"], "--count", 14, "--steps", 3),
    )
    found = figures(out, "ensemble", "ensemble")
    names = [row["name"] for row in found["rows"]]
    assert names == ["1: conditional", "2: other", "mean", "sum", "mixture", "alternate"]
    assert [row["gradients"] for row in found["rows"]] == [3, 3, 6, 6, 6, 3]


@pytest.mark.parametrize("model", ["conditional", "chain"])
def test_steps_draws_curves(model, tiny_models, tmp_path):
    out = tmp_path / "out"
    call(
        *("steps", "--model", tiny_models[model], "--classifier", tiny_models["classifier"], "--out", out),
        *("--count", 14, "--gradients", 3, 5, "--chain-gradients", 30, "--levels", 2, "--leapfrog", 3),
        *("--mixing-levels", 0.5),
    )
    found = figures(out, "steps", "steps")
    lines = {point["line"] for point in found["points"]}
    chains = {"Langevin", "Langevin, adapted", "HMC, adapted"}
    assert lines == chains | ({"euler", "heun", "multistep"} if model == "conditional" else set())
    assert ("mixing" in found) == (model == "conditional")


@pytest.mark.parametrize(
    ("command", "model", "options", "says"),
    [
        ("generate", "unconditional", ["--classes", "1"], "unconditional"),
        ("generate", "chain", ["--solver", "heun"], "no noise levels"),
        ("generate", "conditional", ["--count", "0"], "--count 0"),
        ("generate", "conditional", ["--classes", "11"], "0 to 9"),
        ("complete", "conditional", ["--pictures", "0"], "--pictures 0"),
        ("complete", "conditional", ["--posterior.levels", "1"], "levels"),
        ("restore", "conditional", ["--damages", "rain:1"], "damage 'rain:1'"),
        ("restore", "conditional", ["--draws", "1"], "--draws 1"),
        ("restore", "conditional", ["--posterior.way", "replace"], "gibbs or measure"),
        ("restore", "conditional", ["--damages", "noise:0.5", "coarse:3:0.05"], "cannot be cut"),
        ("restore", "conditional", ["--damages", "noise:0.5", "blur:1.5:0"], "it must be above 0"),
        ("morph", "unconditional", [], "unconditional"),
        ("morph", "conditional", ["--walk.level", "0.01"], "morph level"),
        ("morph", "conditional", ["--each", "0"], "--each 0"),
    ],
)
def test_bad_input_is_told_in_a_line(command, model, options, says, tiny_models, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(command, "--model", tiny_models[model], "--out", tmp_path / "out", *options)
    assert stopped.value.code == BAD_INPUT and says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_files_are_told_in_a_line(tiny_models, tmp_path, capsys):
    def refused(*argv):
        with pytest.raises(SystemExit) as stopped:
            call(*argv)
        assert stopped.value.code == BAD_INPUT
        return capsys.readouterr().err

    out = ["--out", tmp_path / "out"]
    assert "no image model" in refused("complete", "--model", tmp_path, *out)
    assert "two and more" in refused("ensemble", "--models", tiny_models["chain"], *out)
    mixed = ["--models", tiny_models["chain"], tiny_models["conditional"]]
    assert "all models must agree" in refused("ensemble", *mixed, *out)
    (tmp_path / "file").write_text("")
    taken = ["--model", tiny_models["chain"], "--out", tmp_path / "file"]
    assert "is a file" in refused("generate", *taken)
    steps = ["--model", tiny_models["chain"], "--classifier", tmp_path, *out]
    assert "no classifier" in refused("steps", *steps)
