"""The small classifier: it learns, resumes, is saved and read, and its script says what is wrong."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ebm_traj.core.objectives import Batch
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.datasets.pictures import PictureSet, open_pictures
from ebm_traj.errors import InputError
from ebm_traj.image.classifier import Classifier, ClassifierConfig, load_classifier
from ebm_traj.image.classifier_training import TRAINER, CrossEntropy, accuracy, augmentation, train_classifier
from ebm_traj.image.pictures import to_tensor

SMALL = ClassifierConfig(width=8, features=32, batch_size=64)


def loop(iterations: int, **changes) -> TrainerConfig:
    return dataclasses.replace(TRAINER, iterations=iterations, validate_every=iterations, **changes)


@pytest.fixture(scope="module")
def digits() -> dict[str, PictureSet]:
    return {split: open_pictures("digits", split) for split in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def trained(digits) -> Classifier:
    return train_classifier(digits["train"], digits["validation"], SMALL, loop(160, warmup=20))[0]


def test_it_learns_to_read_digits(trained: Classifier, digits) -> None:
    assert accuracy(trained, digits["test"]) > 0.9
    assert not trained.training and not any(p.requires_grad for p in trained.parameters())


def test_features_are_the_values_before_the_last_layer(trained: Classifier, digits) -> None:
    x = to_tensor(digits["test"].x[:7])
    features = trained.features(x)
    assert features.shape == (7, 32)
    torch.testing.assert_close(trained.to_classes(features), trained(x))
    read, probabilities = trained.read(x)
    assert read.dtype == probabilities.dtype == torch.float64
    torch.testing.assert_close(probabilities, trained(x).double().softmax(1))
    x.requires_grad_()
    trained(x).sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0  # attacks go through it


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 36), (1, 7, 7)])
def test_any_size_of_picture(shape: tuple[int, int, int]) -> None:
    model = Classifier(shape, 5, SMALL)
    assert model(torch.zeros(2, *shape)).shape == (2, 5)


def test_saved_and_read(trained: Classifier, digits, tmp_path: Path) -> None:
    trained.save(tmp_path / "c", {"note": "x"})
    again = load_classifier(tmp_path / "c")
    x = to_tensor(digits["test"].x[:20])
    assert torch.equal(again(x), trained(x))
    assert again.class_names == tuple("0123456789") and again.config == SMALL
    assert json.loads((tmp_path / "c" / "classifier.json").read_text())["note"] == "x"


def test_a_resumed_run_ends_with_the_same_weights(digits, tmp_path: Path) -> None:
    config = dataclasses.replace(TRAINER, iterations=12, validate_every=6, checkpoint_every=5, log_every=3)

    def run(folder: str, stop: bool = False, resume: bool = False) -> Classifier:
        def stopping(network, x, y, generator):
            if stop and (seen := len(calls)) == 8:
                raise KeyboardInterrupt(seen)
            calls.append(1)
            return x

        calls: list[int] = []
        return train_classifier(
            *(digits["train"], digits["validation"], SMALL, config, tmp_path / folder),
            adversarial=stopping,
            resume=resume,
        )[0]

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("part", stop=True)
    resumed = run("part", resume=True)
    for mine, theirs in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_attacked_batches_are_what_is_learnt_from(digits) -> None:
    modes = []

    def attack(network, x, y, generator):
        modes.append(network.training)
        return torch.full_like(x, 0.25)

    network = Classifier((1, 8, 8), 10, SMALL)
    batch = Batch(to_tensor(digits["train"].x[:8]), {"label": torch.from_numpy(digits["train"].y[:8])})
    objective = CrossEntropy(network, 8, attack).train()
    loss, figures = objective(batch, torch.Generator())
    expected = nn.functional.cross_entropy(network(torch.full((8, 1, 8, 8), 0.25)), batch.condition["label"])
    torch.testing.assert_close(loss, expected)
    assert modes == [False] and network.training and set(figures) == {"cross_entropy", "accuracy"}


def test_another_network_can_be_trained(digits) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    trained, report = train_classifier(
        *(digits["train"], digits["validation"], SMALL, loop(150, warmup=1, learning_rate=0.01)),
        network=network,
    )
    assert isinstance(trained, nn.Sequential) and accuracy(trained, digits["test"]) > 0.8
    assert report.kept_score == pytest.approx(1 - accuracy(trained, digits["validation"]), abs=1e-6)


def test_augmentation_by_name() -> None:
    assert augmentation("none", (1, 8, 8)) is None
    x, generator = torch.randn(4, 1, 8, 8), torch.Generator().manual_seed(1)
    for name in ("shift", "shift-flip"):
        moves = augmentation(name, (1, 8, 8))  # type: ignore[arg-type]
        assert moves is not None and not torch.equal(moves(x, generator), x)


def test_bad_sets_and_files(digits, tmp_path: Path) -> None:
    unknown = dataclasses.replace(digits["train"], y=np.full(len(digits["train"]), -1))
    with pytest.raises(InputError, match="needs the class of every picture"):
        train_classifier(unknown, digits["validation"], SMALL, loop(1))
    with pytest.raises(InputError, match=r"validation digits: \(1, 4, 4\)"):
        train_classifier(digits["train"], open_pictures("digits", "validation", size=4), SMALL, loop(1))
    with pytest.raises(InputError, match=r"no classifier.safetensors there"):
        load_classifier(tmp_path)
    with pytest.raises(InputError, match="trained on"):
        Classifier((1, 8, 8), 10, SMALL)(torch.zeros(1, 1, 9, 9))
    with pytest.raises(InputError, match="1 classes"):
        Classifier((1, 8, 8), 1, SMALL)
    with pytest.raises(InputError, match="classifier width: 0"):
        ClassifierConfig(width=0)


TINY = ["--iterations", "3", "--width", "2", "--features", "8", "--validate-every", "3", "--device", "cpu"]


def test_script_trains_and_refuses_what_is_there(call_script, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    call_script("train_classifier", "--out", str(out), *TINY)
    assert "of 359 test pictures" in capsys.readouterr().out
    card = json.loads((out / "classifier.json").read_text())
    model = load_classifier(out)
    assert card["test_accuracy"] == accuracy(model, open_pictures("digits", "test"))
    assert card["iterations"] == 3 and card["settings"]["data"] == "digits"
    for extra, words in (
        ([], "already; give another, --resume"),
        (["--resume", "--width", "3"], "width|other settings"),
    ):
        with pytest.raises(SystemExit) as stopped:
            call_script("train_classifier", "--out", str(out), *TINY, *extra)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert any(word in error for word in words.split("|")) and error.count("\n") == 1
    call_script("train_classifier", "--out", str(out), *TINY, "--overwrite", "--bfloat16")
