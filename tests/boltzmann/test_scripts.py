"""train_rbm.py, train_dbn.py and benchmark.py boltzmann at tiny sizes, and what they refuse."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_traj.boltzmann.files import load_rbm
from ebm_traj.core.checkpoint import load_json

RBM = (
    "--hidden 6 --updates 20 --batch-size 10 --learning.chains 10 --log-every 10 --evaluate-every 10 "
    "--evaluation.counts 5 --evaluation.ends 1 --evaluation.chains 4 --ais.counts 20 --ais.ends 1 "
    "--ais.chains 6 --reverse-steps 3 --device cpu"
)
DBN = (
    "--hidden 6 5 --layer.updates 10 --layer.batch-size 10 --fine-tune.trainer.iterations 10 "
    "--fine-tune.trainer.validate-every 5 --device cpu"
)
PNG = b"\x89PNG"


def test_an_rbm_is_trained_measured_and_drawn(call_script, tmp_path, capsys):
    out = tmp_path / "rbm"
    call_script("train_rbm", "--out", str(out), *RBM.split())
    page = (out / "report.md").read_text()
    assert page in capsys.readouterr().out and "| exact |" in page and "| reverse AIS |" in page
    found = json.loads((out / "report.json").read_text())
    assert abs(found["log_z"]["forward"][0] - found["log_z"]["exact"][0]) < 3
    test = found["log_likelihood"]["exact"]["test"]
    assert test[1] < test[0] < test[2] < 0
    for name in ("filters", "chains", "reconstructions", "likelihood"):
        assert (out / f"{name}.png").read_bytes().startswith(PNG)
    assert (out / "rbm.safetensors").is_file()
    # the same seed gives the same figures; a second run is drawn beside the first
    call_script("train_rbm", "--out", str(tmp_path / "two"), "--beside", str(out), *RBM.split())
    assert json.loads((tmp_path / "two" / "report.json").read_text())["log_z"] == found["log_z"]
    # killed before its first checkpoint it starts anew
    (tmp_path / "two" / "training.safetensors").unlink()
    call_script("train_rbm", "--out", str(tmp_path / "two"), "--resume", *RBM.split())
    assert json.loads((tmp_path / "two" / "report.json").read_text())["log_z"] == found["log_z"]
    # a finished run resumed goes straight to its report
    call_script("train_rbm", "--out", str(out), "--resume", *RBM.split())
    assert json.loads((out / "report.json").read_text())["log_z"] == found["log_z"]


def test_black_and_white_are_exchanged(call_script, tmp_path):
    bases = []
    for name, more in (("as_is", ()), ("inverted", ("--inverted",))):
        call_script("train_rbm", "--out", str(tmp_path / name), *more, *RBM.split())
        bases.append(load_rbm(tmp_path / name)[1])
    torch.testing.assert_close(bases[0], -bases[1], rtol=1e-3, atol=1e-3)


def test_gaussian_units_learn_standardised_grey_levels(call_script, tmp_path):
    out = tmp_path / "rbm"
    more = "--units gaussian --binarisation none --updates 1500 --learning-rate 0.02 --hidden 16"
    call_script("train_rbm", "--out", str(out), *RBM.split(), *more.split())
    found = json.loads((out / "report.json").read_text())
    assert (
        0.1 < found["scale"] < 0.5
        and "less their mean in the training part" in (out / "report.md").read_text()
    )
    alone = -32 * (1 + math.log(2 * math.pi))  # of 64 independent standard normal pixels, on average
    assert found["log_likelihood"]["exact"]["test"][0] > alone + 3
    assert (out / "reconstructions.png").read_bytes().startswith(PNG)


def test_a_net_is_trained_and_fine_tuned(call_script, tmp_path, capsys):
    out = tmp_path / "dbn"
    call_script("train_dbn", "--out", str(out), *DBN.split())
    assert "test error" in capsys.readouterr().out
    found = json.loads((out / "report.json").read_text())
    assert 0 <= found["test_error"] <= 1 and found["kept_iteration"] in (5, 10)
    # a finished net resumed says what all sittings took
    call_script("train_dbn", "--out", str(out), "--resume", *DBN.split())
    again = json.loads((out / "report.json").read_text())
    for part in ("pretraining_cpu_seconds", "fine_tuning_cpu_seconds"):
        assert again[part] == pytest.approx(found[part], rel=0.05)
    assert (out / "samples.png").read_bytes().startswith(PNG)
    last = ["--fine-tune.trainer.keep", "last"]  # nothing is chosen
    call_script("train_dbn", "--out", str(tmp_path / "plain"), "--no-pretrain", *DBN.split(), *last)
    assert "Last weights" in (tmp_path / "plain" / "report.md").read_text()
    assert not (tmp_path / "plain" / "samples.png").exists()


def test_the_benchmark_names_its_peers(call_script, tmp_path, capsys):
    out = tmp_path / "table.md"
    argv = "boltzmann --batch 4 --visible 6 --hidden 5 --batches 2 --rounds 1 --threads 1 --device cpu"
    call_script("benchmark", *argv.split(), "--out", str(out))
    found = json.loads(out.with_suffix(".json").read_text())
    names = [row["name"] for row in found["rows"]]
    assert names[0] == "ebm_traj" and "scikit-learn, float32" in names
    assert all(row["beside"]["rows/s"] > 0 for row in found["rows"])


@pytest.mark.parametrize(
    "argv, message",
    [
        ("train_rbm --hidden 0", "hidden: 0"),
        ("train_rbm --data no/such/file.npz", "no/such/file.npz"),
        ("train_rbm --overwrite --resume", "--overwrite and --resume"),
        ("train_rbm --resume", "no folder"),
        ("train_rbm --ais.counts 1 --ais.ends .5", "AIS ends"),
        ("train_rbm --beside nowhere", "--beside nowhere"),
        ("train_rbm --reverse-steps -1", "reverse steps: -1"),
        ("train_dbn --layer.units gaussian --layer.binarisation none", "its layers are binary"),
        ("train_dbn --data unlabelled", "needs the class"),
        ("benchmark boltzmann --hidden 0", "--hidden 0"),
    ],
)
def test_bad_input_is_one_line_before_any_work(argv, message, call_script, tmp_path, capsys):
    name, *words = argv.split()
    if "unlabelled" in words:
        np.savez(tmp_path / "unlabelled.npz", x=np.zeros((40, 8, 8, 1), np.uint8))
        words[words.index("unlabelled")] = str(tmp_path / "unlabelled.npz")
    if name != "benchmark":
        words += ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as exit_info:
        call_script(name, *words)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert exit_info.value.code == 2 and len(lines) == 1 and message in lines[0], lines
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_not_touched(call_script, tmp_path, capsys):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(SystemExit):
        call_script("train_rbm", "--out", str(tmp_path), *RBM.split())
    assert "exists already" in capsys.readouterr().err and (tmp_path / "kept").read_text() == "mine"


@pytest.mark.parametrize("name", ["train_rbm", "train_dbn", "train_classifier", "train_ebgan"])
def test_overwrite_deletes_nothing_but_a_run_of_its_own(call_script, tmp_path, monkeypatch, name):
    for kept in ("data/shard-00000.h5", "ebm/training.safetensors", "ebm/metrics.csv", "home/notes/page.txt"):
        (tmp_path / kept).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / kept).write_text("mine")
    monkeypatch.chdir(tmp_path / "home")
    for out in (tmp_path / "data", tmp_path / "ebm", Path()):
        with pytest.raises(SystemExit):
            call_script(name, "--out", str(out), "--overwrite")
    assert all(path.read_text() == "mine" for path in tmp_path.rglob("*") if path.is_file())
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4


def test_overwrite_begins_anew_and_keeps_what_is_not_its_own(call_script, tmp_path):
    out = tmp_path / "rbm"
    call_script("train_rbm", "--out", str(out), *RBM.split())
    (out / "notes.txt").write_text("mine")
    (out / "restarts.log").write_text("of the run before")
    call_script("train_rbm", "--out", str(out), "--overwrite", *RBM.split())
    assert (out / "notes.txt").read_text() == "mine" and not (out / "restarts.log").exists()
    assert load_json(out / "train_rbm.json")["config"]["hidden"] == 6
