"""Scores of samples: closed forms, published cases, floors; the command writes its report."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.datasets.pictures import PictureSet, open_pictures
from ebm_traj.errors import InputError, RunError
from ebm_traj.image import inception
from ebm_traj.image.classifier import Classifier, ClassifierConfig
from ebm_traj.image.classifier_training import train_classifier
from ebm_traj.image.commands import score
from ebm_traj.image.distances import frechet, inception_score, kernel_distance, manifolds, nearest_distances
from ebm_traj.image.neighbours import find_neighbours, memorising, nearest_rows
from ebm_traj.image.pictures import to_tensor
from ebm_traj.image.score_report import save_samples
from ebm_traj.image.scores import Reference, class_scores, matching, score_samples, table


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(x: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """x moved so that its sample moments are these, exactly."""
    x = x - x.mean(0)
    have = torch.linalg.cholesky(x.T @ x / (len(x) - 1))
    return (
        mean + torch.linalg.solve_triangular(have, x.T, upper=False).T @ torch.linalg.cholesky(covariance).T
    )


def test_frechet_is_the_closed_form() -> None:
    d = 6
    a, b = (0.5 * normal(d, d, seed=i) for i in (1, 2))
    one, other = a @ a.T + torch.eye(d), b @ b.T + torch.eye(d)
    shift = normal(d, seed=3)
    x = with_moments(normal(200, d, seed=4), torch.zeros(d, dtype=torch.float64), one)
    y = with_moments(normal(150, d, seed=5), shift, other)
    root = torch.linalg.eigvals(one @ other).real.sqrt().sum()
    expected = shift.square().sum() + one.trace() + other.trace() - 2 * root
    assert frechet(x, y) == pytest.approx(float(expected), rel=1e-10)
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-10)


def test_frechet_of_singular_sets_is_exact() -> None:
    x = normal(5, 40)  # fewer pictures than features
    assert frechet(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet(x, x + 2) == pytest.approx(160, rel=1e-12)
    assert frechet(x, 3 * x) == pytest.approx(
        float(4 * (x.mean(0).square().sum() + x.var(0).sum())), rel=1e-12
    )
    dead = torch.cat([x, torch.zeros(5, 3)], 1).float() * 1e4  # features that never fire, float32
    assert frechet(dead, dead) < 1e-9 * float(dead.var(0).sum())


def test_kernel_distance_is_unbiased_and_sees_a_shift() -> None:
    values = [
        kernel_distance(normal(60, 4, seed=2 * i), normal(60, 4, seed=2 * i + 1), subsets=1)[0]
        for i in range(200)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(200)
    x, y = normal(3, 2, seed=1), normal(3, 2, seed=2) + 1
    kernel = lambda a, b: (float(a @ b) / 2 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(3) for j in range(3)]
    expected = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j) / 6
    expected -= 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 9
    assert kernel_distance(x, y, subsets=3)[0] == pytest.approx(expected, rel=1e-12)
    far, error = kernel_distance(normal(300, 4), normal(300, 4, seed=1) + 1, size=100)
    assert far > 10 * error > 0


def test_manifolds_by_hand() -> None:
    real = torch.tensor([[0.0], [1], [2], [3], [10], [11], [12], [13]])
    samples = torch.tensor([[0.4], [1.6], [2.2], [2.9], [50], [51], [52], [53]])
    found = manifolds(real, samples, k=1, coverage_k=1)
    assert found.precision == 0.5  # half are in no ball of radius 1
    assert found.recall == pytest.approx(4 / 8)
    # 0.4 in balls of 0 and 1; 1.6 of 1 and 2; 2.2 of 2 and 3; 2.9 of 2 and 3
    assert found.density == pytest.approx(8 / 8)
    assert found.coverage == pytest.approx(4 / 8)
    assert nearest_distances(real, 2).tolist() == [2, 1, 1, 2, 2, 1, 1, 2]


def test_manifolds_tell_lack_of_quality_from_lack_of_diversity() -> None:
    real, truth = normal(300, 3, seed=1), normal(300, 3, seed=2)
    collapsed, wide = 0.1 * truth, 4 * truth
    right = manifolds(real, truth)
    assert right.precision > 0.85 and right.recall > 0.85 and 0.8 < right.density < 1.2
    assert manifolds(real, collapsed).precision > 0.95 and manifolds(real, collapsed).recall < 0.2
    assert manifolds(real, wide).precision < 0.5 and manifolds(real, collapsed).coverage < 0.4


def test_inception_score_of_known_cases() -> None:
    certain = torch.eye(5, dtype=torch.float64).repeat(20, 1)
    assert inception_score(certain)[0] == pytest.approx(5)
    assert inception_score(torch.full((30, 5), 0.2))[0] == pytest.approx(1)
    assert inception_score(certain[::5])[0] == pytest.approx(1)
    p = normal(40, 5).softmax(1)
    kl = (p * (p / p.mean(0)).log()).sum(1).mean()
    assert inception_score(p)[0] == pytest.approx(float(kl.exp()), rel=1e-12)


def test_class_scores() -> None:
    p = torch.tensor([[0.95, 0.05], [0.6, 0.4], [0.02, 0.98], [0.99, 0.01]])
    found = class_scores(p, torch.tensor([0, 1, 1, 0]))
    assert found["confident"] == 0.75 and found["class_shares"] == [0.75, 0.25]
    assert found["read_right"] == 0.75 and found["classes_lowest"] == 0.25


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frechet(normal(5, 3), normal(5, 4)), r"features \(5, 3\) and \(5, 4\)"),
        (lambda: frechet(normal(1, 3), normal(5, 3)), "needed are 2"),
        (lambda: frechet(normal(5, 3) / 0, normal(5, 3)), "not all are finite"),
        (lambda: manifolds(normal(5, 3), normal(9, 3)), "needed are 6"),
        (lambda: nearest_distances(normal(5, 3), 5), "the 5-th of 5"),
        (lambda: nearest_rows(normal(5, 3), normal(5, 2)), "needed are"),
        (lambda: inception_score(normal(5)), "probabilities"),
    ],
)
def test_bad_features(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_nearest_rows_are_those_of_a_full_search() -> None:
    queries, rows = normal(20, 5).float(), normal(70, 5, seed=1).float()
    distance, number = nearest_rows(queries, rows, chunk=16)
    full = torch.cdist(queries.double(), rows.double())
    assert torch.equal(number, full.argmin(1))
    torch.testing.assert_close(distance, full.min(1).values, rtol=1e-6, atol=0)
    assert float(nearest_rows(rows[5:6], rows)[0]) == 0


@pytest.fixture(scope="module")
def digits() -> dict[str, PictureSet]:
    return {split: open_pictures("digits", split) for split in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def classifier(digits) -> Classifier:
    trainer = TrainerConfig(iterations=120, warmup=20, learning_rate=3e-3, validate_every=120)
    config = ClassifierConfig(width=8, features=32, batch_size=64)
    return train_classifier(digits["train"], digits["validation"], config, trainer)[0]


def test_truth_scores_as_the_floor_and_noise_far_from_it(digits, classifier: Classifier) -> None:
    truth, train = to_tensor(digits["train"].x[:400]), digits["train"].take(slice(400, None))
    right = score_samples(truth, digits["test"], classifier, train=train)
    noisy = score_samples(truth + normal(*truth.shape).float(), digits["test"], classifier, train=train)
    assert right["count"] == len(digits["test"]) // 2 and right["floor"] == noisy["floor"]
    assert right["samples"]["classifier_fd"] < 2 * right["floor"]["classifier_fd"]
    assert noisy["samples"]["classifier_fd"] > 3 * noisy["floor"]["classifier_fd"]
    assert noisy["samples"]["confident"] < right["samples"]["confident"]
    assert noisy["samples"]["precision"] < right["samples"]["precision"]
    assert json.loads(json.dumps(noisy)) == noisy and "rarest class" in table(noisy)


def test_copies_of_training_are_seen(digits, classifier: Classifier) -> None:
    train, count = digits["train"], 150
    copies = score_samples(to_tensor(train.x[:count]), digits["test"], classifier, train=train)["memory"]
    assert copies["copies_pixel"] == copies["copies_feature"] == 1 and copies["pixel_distance"] == 0
    # against training pictures themselves there is no telling
    assert "memory" not in score_samples(to_tensor(train.x[:count]), train, classifier, train=train)
    others = find_neighbours(to_tensor(digits["test"].x[:count]), train, classifier)
    held = find_neighbours(to_tensor(digits["validation"].x), train, classifier)
    fresh = memorising(others, held)
    assert fresh["copies_pixel"] < 0.1 and fresh["pixel_distance"] > 0.05
    row = int(others.pixel_row[3])
    full = np.square(train.x.astype(float) - digits["test"].x[3]).mean((1, 2, 3))
    assert row == full.argmin()
    assert float(others.pixel_distance[3]) == pytest.approx(math.sqrt(full.min()) / 255, rel=1e-5)


def test_what_does_not_fit_is_refused(digits, classifier: Classifier) -> None:
    with pytest.raises(InputError, match=r"samples \(20, 1, 9, 9\)"):
        score_samples(torch.zeros(20, 1, 9, 9), digits["test"], classifier)
    with pytest.raises(InputError, match="3; needed are 12"):
        score_samples(torch.zeros(3, 1, 8, 8), digits["test"], classifier)
    with pytest.raises(InputError, match="chains have diverged"):
        score_samples(torch.full((20, 1, 8, 8), torch.nan), digits["test"], classifier)
    with pytest.raises(InputError, match="labels: 3 for 20"):
        score_samples(torch.zeros(20, 1, 8, 8), digits["test"], classifier, labels=torch.zeros(3))
    with pytest.raises(InputError, match="trained on"):
        Reference.of(open_pictures("digits", "test", size=4), classifier)
    with pytest.raises(InputError, match="10 real pictures"):
        Reference.of(digits["test"].take(slice(10)), classifier)
    with pytest.raises(InputError, match="50 pictures a side"):
        Reference.of(digits["test"], classifier, 50).score(torch.zeros(40, 1, 8, 8))


@pytest.fixture
def folder(classifier: Classifier, tmp_path: Path) -> Path:
    classifier.save(tmp_path / "classifier")
    return tmp_path


def arguments(folder: Path, **changes) -> score.Args:
    return score.Args(classifier=folder / "classifier", out=folder / "out", device="cpu", **changes)


def test_classes_of_samples_are_matched_by_their_names():
    digits = tuple(map(str, range(10)))
    assert matching(("3", "7"), digits) == [3, 7]
    assert matching(("dog", "2"), ("cat", "dog", "fox")) == [1, 2]
    with pytest.raises(InputError, match="samples of class 'wolf': the classifier knows cat, dog"):
        matching(("cat", "wolf"), ("cat", "dog"))
    with pytest.raises(InputError, match="class '2'"):
        matching(("2",), ("cat", "dog"))


def test_command_scores_given_samples(folder: Path, digits, capsys) -> None:
    test = digits["test"].take(slice(60))
    save_samples(folder / "given.npz", to_tensor(test.x), torch.from_numpy(test.y))
    args = arguments(folder, samples=folder / "given.npz")
    score.main(args)
    report = json.loads((folder / "out" / "score.json").read_text())
    assert report["count"] == 60 and report["samples"]["read_right"] > 0.8
    assert report["settings"]["seed"] == "0"
    assert {path.name for path in (folder / "out").iterdir()} == {
        *("score.json", "score.md", "score.png", "samples.png"),
    }
    assert "recall" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"exists already; .*--overwrite"):
        score.main(args)


@pytest.mark.parametrize("name", ["conditional", "unconditional", "chain"])
def test_command_draws_from_a_model(folder: Path, tiny_models: dict[str, Path], name: str) -> None:
    args = arguments(folder, model=tiny_models[name], count=30, batch=20, steps=2)
    score.main(args)
    report = json.loads((folder / "out" / "score.json").read_text())
    kept = open_pictures(folder / "out" / "samples.npz", "all")
    assert len(kept) == 30 and ("read_right" in report["samples"]) == (name == "conditional")
    assert kept.y.tolist() == ([i % 10 for i in range(30)] if name == "conditional" else [-1] * 30)
    given = arguments(folder, samples=folder / "out" / "samples.npz", count=30)
    score.main(dataclasses.replace(given, out=folder / "again"))
    again = json.loads((folder / "again" / "score.json").read_text())
    assert again["samples"] == report["samples"] and again["memory"] == report["memory"]
    assert report["gradients_per_sample"] >= 2


def test_command_from_the_command_line(folder: Path, tiny_models: dict[str, Path]) -> None:
    script = [sys.executable, str(Path(__file__).parents[2] / "scripts" / "image.py"), "score"]
    classifier = ["--classifier", str(folder / "classifier"), "--out", str(folder / "out")]
    wrong = ["--model", str(tiny_models["conditional"]), "--size", "9", "--device", "cpu"]
    done = subprocess.run([*script, *classifier, *wrong], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "trained on (1, 8, 8); digits has (1, 9, 9)" in done.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "either --model or --samples"),
        ({"samples": Path("a"), "model": Path("b")}, "either --model or --samples"),
        ({"samples": Path("a"), "count": 0}, "--count 0"),
        ({"samples": Path("nowhere.npz")}, "no such file"),
        ({"samples": Path("a"), "inception": Path("nowhere.pth")}, "nowhere.pth|torch-fidelity"),
    ],
)
def test_command_names_what_is_wrong(folder: Path, changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        score.main(arguments(folder, **changes))
    assert not (folder / "out").exists()


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> dict:
    """A stand-in for torch-fidelity that keeps what it was given."""
    given: dict = {}

    def calculate_metrics(**kwargs):
        given.update(kwargs)
        if kwargs.get("batch_fail"):
            raise RuntimeError("out of memory")
        return {"frechet_inception_distance": 12.5, "inception_score_mean": 3.0, "inception_score_std": 0.1}

    module = ModuleType("torch_fidelity")
    module.calculate_metrics = calculate_metrics  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    return given


def test_inception_network_of_the_user(fidelity: dict, tmp_path: Path, digits) -> None:
    weights = tmp_path / "inception.pth"
    torch.save({"Mixed_7c.branch1x1.conv.weight": torch.zeros(1)}, weights)
    x = digits["test"].x[:20]
    found = inception.inception_scores(to_tensor(x), x, weights)
    assert found == {"fid": 12.5, "is": 3.0, "is_std": 0.1}
    assert fidelity["feature_extractor_weights_path"] == str(weights) and fidelity["kid_subset_size"] == 20
    one = fidelity["input1"][4]
    assert one.shape == (3, 8, 8) and one.dtype == torch.uint8 and len(fidelity["input2"]) == 20
    np.testing.assert_array_equal(one[1].numpy(), x[4, ..., 0])


def test_inception_weights_are_looked_at_first(fidelity: dict, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return print, ("code of a stranger",)

    for name, content, words in (
        ("evil.pth", {"Mixed_7c.branch1x1.conv.weight": Evil()}, "no plain tensors"),
        ("other.pth", {"fc.weight": torch.zeros(1)}, "no Inception network"),
    ):
        torch.save(content, tmp_path / name)
        with pytest.raises(InputError, match=words):
            inception.check_weights(tmp_path / name)
    with pytest.raises(InputError, match="no file"):
        inception.check_weights(tmp_path / "none.pth")


def test_inception_without_torch_fidelity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(InputError, match=r"ebm_traj\[fidelity\]"):
        inception.check_weights(tmp_path)


def test_a_failure_inside_torch_fidelity_is_one_line(
    fidelity: dict, tmp_path: Path, monkeypatch, digits
) -> None:
    torch.save({"Mixed_7c.branch1x1.conv.weight": torch.zeros(1)}, tmp_path / "w.pth")

    def fails(**_):
        raise RuntimeError("size mismatch\nmore lines")

    monkeypatch.setattr(sys.modules["torch_fidelity"], "calculate_metrics", fails)
    with pytest.raises(RunError, match=r"failed \(size mismatch\)$"):
        inception.inception_scores(digits["test"].x[:20], digits["test"].x[:20], tmp_path / "w.pth")
