"""The study: which labels, schedules, resumption to the bit, sharing of cells, the table and the command."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_traj.core.checkpoint import load_json
from ebm_traj.ebgan.ladder import LadderConfig
from ebm_traj.ebgan.ladder_ebgan import ContrastConfig
from ebm_traj.ebgan.semi_supervised import (
    CHECKPOINT,
    METHODS,
    Cell,
    CellResult,
    CellTraining,
    EpochOrder,
    SemiSupervisedConfig,
    learning_rate_at,
)
from ebm_traj.ebgan.semi_supervised_data import SplitPictures, balanced_rows, open_split
from ebm_traj.ebgan.semi_supervised_report import mean_and_half_width, summarise, table
from ebm_traj.ebgan.semi_supervised_study import LOCK, holding, prepare, results_in, run_cells
from ebm_traj.errors import InputError

CONFIG = SemiSupervisedConfig(
    updates=12,
    labelled_batch=20,
    unlabelled_batch=30,
    ladder=LadderConfig(hidden=(16, 12), costs=(1000.0, 1.0, 0.1, 0.1)),
    contrast=ContrastConfig(margin=1e4, until=0.75, batch=10, latent=4, hidden=(12,)),
    validations=3,
    checkpoint_every=5,
)


@pytest.fixture(scope="module")
def digits() -> SplitPictures:
    return open_split("digits", 0.2)


def test_parts_are_apart_and_scaled(digits: SplitPictures) -> None:
    assert digits.train.shape[1] == 64 and digits.classes == 10
    assert digits.train.min() >= 0 and 0.9 < digits.train.max() <= 1
    held = {tuple(row) for row in digits.validation.tolist()}
    assert not held & {tuple(row) for row in digits.train.tolist()}
    assert len(digits.validation) == pytest.approx(0.2 * (len(digits.train) + len(digits.validation)), abs=1)


def test_labels_are_balanced_and_by_seed(digits: SplitPictures) -> None:
    rows = balanced_rows(digits.train_labels, 50, 10, 0)
    assert np.bincount(digits.train_labels[rows]).tolist() == [5] * 10
    assert len(set(rows.tolist())) == 50
    assert (rows == balanced_rows(digits.train_labels, 50, 10, 0)).all()
    assert (rows != balanced_rows(digits.train_labels, 50, 10, 1)).any()


def test_bad_labels(digits: SplitPictures) -> None:
    with pytest.raises(InputError, match="labels: 25; needed is a multiple of the 10 classes"):
        balanced_rows(digits.train_labels, 25, 10, 0)
    with pytest.raises(InputError, match="need 500 pictures of class"):
        balanced_rows(digits.train_labels, 5000, 10, 0)


def test_learning_rate_is_constant_then_linear_to_zero() -> None:
    config = SemiSupervisedConfig(learning_rate=0.002, decay_from=2 / 3)
    rates = [learning_rate_at(update, 150, config) for update in range(150)]
    assert rates[:101] == pytest.approx([0.002] * 101)
    assert rates[125] == pytest.approx(0.001)
    assert rates[149] == pytest.approx(0.002 / 50)
    assert learning_rate_at(150, 150, config) == 0


def test_an_epoch_shows_every_picture_once() -> None:
    order = EpochOrder(12, 4, "x", 0)
    first = torch.cat([order(update) for update in range(3)])
    second = torch.cat([order(update) for update in range(3, 6)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()
    assert EpochOrder(12, 4, "x", 0)(4).tolist() == second[4:8].tolist()  # no state
    assert sorted(EpochOrder(3, 100, "x")(7).tolist()) == [0, 1, 2]  # a batch of all there are


@pytest.mark.parametrize("method", ["supervised", "ebgan-ln"])
def test_resumed_equals_uninterrupted(method: str, digits: SplitPictures, tmp_path: Path) -> None:
    cell = Cell(method, 20, 0)
    whole = CellTraining(cell, digits, CONFIG)
    result = whole.run(tmp_path / "whole")
    assert CellTraining(cell, digits, CONFIG).run(tmp_path / "parts", stop=lambda u: u == 7) is None
    later = CellTraining(cell, digits, CONFIG)
    again = later.run(tmp_path / "parts")  # from the checkpoint of update 5
    assert result is not None and again is not None
    for name, value in whole.ladder.state_dict().items():
        assert torch.equal(value, later.ladder.state_dict()[name]), name
    if whole.generator is not None and later.generator is not None:
        assert torch.equal(whole.generator.layers[0].weight, later.generator.layers[0].weight)
    assert dataclasses.replace(again, cpu_seconds=result.cpu_seconds) == result
    assert (tmp_path / "whole/metrics.csv").read_text().count("\n") == 4  # header and 3 looks


def test_a_checkpoint_of_another_cell_is_refused(digits: SplitPictures, tmp_path: Path) -> None:
    CellTraining(Cell("supervised", 20, 0), digits, CONFIG).run(tmp_path)
    with pytest.raises(InputError, match="of supervised-20-0, needed is supervised-20-1"):
        CellTraining(Cell("supervised", 20, 1), digits, CONFIG).run(tmp_path)


def test_methods_differ_in_what_they_say_they_do(digits: SplitPictures) -> None:
    """EBGAN-LN whose hinge never acts is the ladder network to the bit; with one that acts it is not."""

    def weights(method: str, margin: float = 1e4) -> torch.Tensor:
        contrast = dataclasses.replace(CONFIG.contrast, margin=margin)
        training = CellTraining(Cell(method, 20, 0), digits, dataclasses.replace(CONFIG, contrast=contrast))
        for _ in range(CONFIG.updates):
            training.step()
        return training.ladder.up[0].detach()

    ladder = weights("ladder")
    assert torch.equal(weights("ebgan-ln", margin=1e-6), ladder)
    assert not torch.equal(weights("ebgan-ln"), ladder)
    assert not torch.equal(weights("supervised"), ladder)


def test_the_ladder_network_learns(digits: SplitPictures, tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG, updates=300, labelled_batch=50, unlabelled_batch=50, learning_rate=5e-3, validations=1
    )
    result = CellTraining(Cell("ladder", 50, 0), digits, config).run(tmp_path)
    assert result is not None and result.test_error < 0.25  # chance is .9
    assert len(result.test_wrong) == round(result.test_error * len(digits.test))
    assert result.epochs == pytest.approx(300 * 50 / len(digits.train))


def test_longer_takes_more_updates(digits: SplitPictures) -> None:
    config = dataclasses.replace(CONFIG, longer=1.5)
    assert CellTraining(Cell("ladder-longer", 20, 0), digits, config).updates == 18
    assert CellTraining(Cell("ladder", 20, 0), digits, config).updates == 12


def test_cells_are_shared_and_done_once(digits: SplitPictures, tmp_path: Path) -> None:
    cells = [Cell("supervised", 20, seed) for seed in range(3)]
    prepare(tmp_path / "out", {"data": "digits"}, resume=False, overwrite=False)
    seen: list[list[int]] = []

    def note(results: list[CellResult]) -> None:
        seen.append([r.seed for r in results])

    with holding(tmp_path / "out/cells" / cells[1].name / LOCK, wait=False) as mine:
        assert mine
        run_cells(cells, digits, CONFIG, tmp_path / "out", finished=note)
    assert seen == [[0], [0, 2]]  # another process is at 1
    run_cells(cells, digits, CONFIG, tmp_path / "out", finished=note)
    assert seen == [[0], [0, 2], [0, 1, 2]]
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [(line["method"], line["labels"], line["seed"]) for line in lines] == [
        ("supervised", 20, seed) for seed in range(3)
    ]
    assert [r.seed for r in results_in(tmp_path / "out")] == [0, 1, 2]
    assert not list((tmp_path / "out").rglob(CHECKPOINT))


def test_a_study_is_not_lost_or_mixed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(out, {"updates": 5}, resume=False, overwrite=False)
    with pytest.raises(InputError, match="--resume goes on"):
        prepare(out, {"updates": 5}, resume=False, overwrite=False)
    with pytest.raises(InputError, match="updates was 5, now 6"):
        prepare(out, {"updates": 6}, resume=True, overwrite=False)
    prepare(out, {"updates": 6}, resume=False, overwrite=True)
    assert load_json(out / "settings.json") == {"updates": 6}
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        prepare(other, {}, resume=False, overwrite=True)
    assert (other / "thesis.txt").read_text() == "mine"


def result(method: str, seed: int, wrong: list[int], labels: int = 100) -> CellResult:
    return CellResult(method, labels, seed, 10, 1.0, 2.0, len(wrong) / 200, len(wrong) / 100, wrong)


def test_intervals_are_students() -> None:
    assert mean_and_half_width([2.0]) == (2.0, None)
    mean, half = mean_and_half_width([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.3027 * 1.0 / np.sqrt(3), rel=1e-4)
    assert mean_and_half_width([1.5] * 4)[1] == 0


def test_differences_are_taken_seed_by_seed() -> None:
    results = [
        *(result("ladder", seed, list(range(seed + 3))) for seed in range(3)),
        *(result("ebgan-ln", seed, [*range(seed + 1), 50]) for seed in range(2)),
    ]
    summary = summarise(results)
    ladder, ebgan = summary["rows"]
    assert ladder["method"] == "ladder" and ladder["test_errors"] == pytest.approx([3, 4, 5])
    assert ladder["published"] == 1.36 and ebgan["published"] == 1.04
    (difference,) = summary["differences"]  # of the seeds that both have: 2 - 3 and 3 - 4
    assert difference["difference"] == pytest.approx(-1) and difference["seeds"] == [0, 1]
    assert difference["half_width"] == pytest.approx(0, abs=1e-9)
    assert (difference["only_ebgan_wrong"], difference["only_other_wrong"]) == (2, 4)
    text = table(summary)
    assert "| 100 | ladder network | 3 | 4.00 ± 2.48 |" in text
    assert "| 100 | ladder network | -1.00 ± 0.00 | 2 | 4 |" in text


TINY = [
    *("--labels", "20", "--seeds", "2", "--training.updates", "6", "--training.unlabelled-batch", "20"),
    *("--training.ladder.hidden", "12", "8", "--training.ladder.costs", "1000", "0", "0", "0"),
]


def test_the_command(tmp_path: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    call_script("semi_supervised", "--out", str(out), *TINY, "--methods", *METHODS)
    assert "EBGAN-LN minus" in capsys.readouterr().out
    summary = json.loads((out / "semi_supervised.json").read_text())
    assert [row["method"] for row in summary["rows"]] == list(METHODS)
    assert all(len(row["seeds"]) == 2 for row in summary["rows"])
    assert (out / "semi_supervised.png").read_bytes()[:4] == b"\x89PNG"
    lines = (out / "results.jsonl").read_text()
    assert lines.count("\n") == 8
    page = (out / "semi_supervised.md").read_text()
    assert "Denoising costs of the input alone" in page and "20 | EBGAN-LN" in page
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("result.json")}
    call_script("semi_supervised", "--out", str(out), *TINY, "--seeds", "3", "--resume")  # one more seed
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert (out / "results.jsonl").read_text().count("\n") == 11
    other = tmp_path / "other"  # the third seed of a study, made elsewhere
    alone = ["--seeds", "1", "--first-seed", "2", "--methods", "ladder"]
    call_script("semi_supervised", "--out", str(other), *TINY, *alone)
    mine, all_there = (
        [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        for folder in (other, out)
    )
    (same,) = [row for row in all_there if (row["method"], row["seed"]) == ("ladder", 2)]
    assert [(row["seed"], row["test_error"]) for row in mine] == [(2, same["test_error"])]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--seeds", "0"], "--seeds 0"),
        (["--first-seed", "-1"], "--first-seed -1"),
        (["--labels", "25"], "labels: 25; needed is a multiple of the 10 classes"),
        (["--data", "no/such.npz"], "no/such.npz"),
        (["--validation", "1.5"], "validation"),
        (["--training.updates", "0"], "updates: 0"),
        (["--training.decay-from", "1"], "decay from"),
        (["--training.ladder.costs", "1"], "needed are 7"),
    ],
)
def test_bad_input(
    argv: list[str],
    words: str,
    tmp_path: Path,
    call_script: Callable[..., None],
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit) as left:
        call_script("semi_supervised", "--out", str(tmp_path / "out"), *argv)
    assert left.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
