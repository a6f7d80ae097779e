"""`image.py detect` and `image.py attack` end to end at a tiny size, and their bad inputs."""

import json

import pytest
import torch

from ebm_traj.cli import run
from ebm_traj.image.commands import attack, detect
from ebm_traj.image.model import ImageConfig, ImageModel
from ebm_traj.image.networks import NetworkConfig

SMALL = NetworkConfig(channels=(4, 8), embedding=8, patch=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, conditional in (("plain", False), ("classes", True)):
        config = ImageConfig(network=SMALL, conditional=conditional)
        ImageModel(config, (1, 8, 8), 10, std=0.5).save(folder / name)
    return folder


def refused(command, argv, capsys):
    with pytest.raises(SystemExit) as error:
        run(command.main, command.Args, [str(part) for part in argv])
    assert error.value.code == 2
    return capsys.readouterr().err


def test_detect(models, tmp_path, capsys):
    argv = ["--model", models / "plain", "--out", tmp_path / "out", "--count", "60", "--validation", "0.1"]
    argv += ["--detection.levels", "3", "--detection.resamples", "5"]
    run(detect.main, detect.Args, [str(part) for part in argv])
    found = json.loads((tmp_path / "out" / "detection.json").read_text())
    assert found["counts"] == {
        "held out": 60,
        "own": 60,
        "interpolations": 60,
        "monochrome": 60,
        "uniform": 60,
    }
    assert len(found["sigmas"]) == 3
    assert found["auroc"]["energy"]["uniform"]["low"] <= found["auroc"]["energy"]["uniform"]["auroc"]
    assert "| energy |" in capsys.readouterr().out
    first = (tmp_path / "out" / "detection.md").read_text()
    run(detect.main, detect.Args, [str(part) for part in [*argv, "--overwrite"]])
    again = (tmp_path / "out" / "detection.md").read_text()
    assert first.splitlines()[4:] == again.splitlines()[4:]  # same seed, same figures
    assert "exists already; give another" in refused(detect, argv, capsys)


def test_detect_refuses_bad_input_before_any_work(models, tmp_path, capsys):
    out = ["--out", tmp_path / "new"]
    assert "no image model" in refused(detect, ["--model", tmp_path, *out], capsys)
    model = ["--model", models / "plain"]
    assert "no such path" in refused(detect, [*model, *out, "--others", "nowhere"], capsys)
    assert "--count 1" in refused(detect, [*model, *out, "--count", "1"], capsys)
    assert "levels: 0" in refused(detect, [*model, *out, "--detection.levels", "0"], capsys)
    assert not (tmp_path / "new").exists()


def test_attack(models, tmp_path, capsys):
    argv = ["--model", models / "classes", "--out", tmp_path / "out", "--count", "8"]
    argv += ["--ordinary", tmp_path / "ordinary", "--baselines.iterations", "5"]
    argv += ["--adversarial", tmp_path / "trained", "--baselines.adversarial-iterations", "3"]
    argv += ["--robustness.linf", "0", "0.1", "--robustness.l2", "1", "--robustness.attack.steps", "2"]
    argv += ["--robustness.adaptive.steps", "1", "--robustness.adaptive.eot", "1", "--refinement.steps", "2"]
    run(attack.main, attack.Args, [str(part) for part in argv])
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert list(found["accuracy"]["linf"]) == [
        "ordinary classifier",
        "adversarially trained classifier",
        "energy classifier",
        "refined, non-adaptive attack",
        "refined, adaptive attack",
    ]
    assert [point["radius"] for point in found["accuracy"]["linf"]["energy classifier"]] == [0, 0.1]
    run(attack.main, attack.Args, [str(part) for part in [*argv, "--overwrite"]])  # trained ones are read
    again = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert again["accuracy"] == found["accuracy"]


def test_checks_of_the_attack_alone(models, tmp_path, capsys):
    argv = ["--model", models / "classes", "--out", tmp_path / "out", "--count", "0"]
    argv += ["--checks.count", "4", "--checks.queries", "3", "--refinement.steps", "2"]
    argv += ["--robustness.attack.steps", "2", "--robustness.adaptive.steps", "1"]
    argv += ["--robustness.adaptive.recheck", "1", "--robustness.adaptive.eot", "1"]
    run(attack.main, attack.Args, [str(part) for part in argv])
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    names = [check["name"] for check in found["checks"]]
    assert "the attack" in names and "gradient of refinement taken for the identity" in names
    assert "found against: energy classifier" in names and found["accuracy"] == {}
    page = (tmp_path / "out" / "attack.md").read_text()
    assert "4 validation pictures" in page and "which read the class" in page
    assert "twice the steps" in capsys.readouterr().out
    assert not (tmp_path / "out" / "attack.png").exists()


def test_attack_refuses_bad_input(models, tmp_path, capsys):
    out = ["--out", tmp_path / "new"]
    assert "energy without classes" in refused(attack, ["--model", models / "plain", *out], capsys)
    model = ["--model", models / "classes"]
    assert "--split train" in refused(attack, [*model, *out, "--split", "train"], capsys)
    assert "--count 0" in refused(attack, [*model, *out, "--count", "0"], capsys)
    assert "rising" in refused(attack, [*model, *out, "--robustness.linf", "1", "0"], capsys)
    (tmp_path / "old").mkdir()
    assert "exists" in refused(attack, [*model, "--out", tmp_path / "old"], capsys)
    assert not (tmp_path / "new").exists()
