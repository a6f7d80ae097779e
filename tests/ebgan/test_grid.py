"""The grid: its points, balanced samples, a restart that repeats nothing, engines and the report."""

import collections
import json
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ebm_traj.ebgan.class_scores import inception_score, log_probabilities, reversed_score
from ebm_traj.ebgan.grid import LEARNING_RATES, GridPoint, grid, part, stratified
from ebm_traj.ebgan.grid_engine import run_tasks
from ebm_traj.ebgan.grid_report import write_report
from ebm_traj.ebgan.grid_run import Budget, Judge, run_point, unpacked
from ebm_traj.ebgan.grid_store import GridStore, read_runs
from ebm_traj.ebgan.grid_study import Plan, left_to_run, study
from ebm_traj.errors import InputError, RunError
from ebm_traj.image.classifier import Classifier, ClassifierConfig
from ebm_traj.intervals import bootstrap, difference, mean_with_t, wilson

TINY = GridPoint("ebgan-pt", 2, 400, 2, 128, False)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, of digits: the study does not care."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    Classifier((1, 8, 8), 10, ClassifierConfig(width=2, features=8)).save(folder)
    return folder


@pytest.fixture
def budget(classifier: Path) -> Budget:
    return Budget(data="digits", classifier=str(classifier), updates=2, batch_size=4, samples=20, kept=4)


def test_the_published_counts():
    for family, count in (("ebgan", 512), ("ebgan-pt", 512), ("gan", 6144), ("gan-adam", 512)):
        points = grid(family)  # type: ignore[arg-type]
        assert len(points) == count == len({point.key for point in points})
    gan = grid("gan")
    assert {p.learning_rate for p in gan} == set(LEARNING_RATES)
    assert len({(p.optimiser_generator, p.optimiser_discriminator, p.learning_rate) for p in gan}) == 12
    assert {p.architecture for p in gan} == {p.architecture for p in grid("ebgan")}
    assert all(p.model_config().pull_away == 0 and p.model_config().margin == 10 for p in grid("ebgan"))
    assert all(p.model_config().pull_away == 0.1 for p in grid("ebgan-pt"))
    assert all(p.model_config().loss == "gan" for p in gan)
    with pytest.raises(InputError, match="family: 'vae'"):
        grid("vae")  # type: ignore[arg-type]


@pytest.mark.parametrize(("family", "count"), [("ebgan", 48), ("gan", 48), ("gan", 24), ("ebgan", 512)])
def test_a_stratified_sample_is_balanced_and_has_no_point_twice(family: Any, count: int):
    points = stratified(grid(family), count, seed=3)
    assert len({point.key for point in points}) == count
    names = ["layers_generator", "width_generator", "layers_discriminator", "width_discriminator", "dropout"]
    if family == "gan":
        names += ["optimiser_generator", "optimiser_discriminator", "learning_rate"]
    for name in names:
        counts = collections.Counter(getattr(point, name) for point in points)
        assert max(counts.values()) - min(counts.values()) <= 1, name
        first = collections.Counter(getattr(point, name) for point in points[: count // 2])
        assert max(first.values()) - min(first.values()) <= 2, name
    assert points == stratified(grid(family), count, seed=3) != stratified(grid(family), count, seed=4)


def test_families_share_networks_and_parts_make_up_the_whole():
    ebgan, pt = (stratified(grid(family), 48, 0) for family in ("ebgan", "ebgan-pt"))  # type: ignore[arg-type]
    assert [p.architecture for p in ebgan] == [p.architecture for p in pt]
    points = grid("ebgan")
    parts = [part(points, f"{i}/5") for i in range(1, 6)]
    assert sorted(p.key for piece in parts for p in piece) == sorted(p.key for p in points)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for bad in ("0/5", "6/5", "1", "a/b"):
        with pytest.raises(InputError, match="needed is i/n"):
            part(points, bad)
    with pytest.raises(InputError, match="sample 513"):
        stratified(points, 513)


def test_scores_have_their_closed_forms():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
    q = p.mean(0)
    kl = lambda a, b: float((a * (a / b).log()).sum())  # noqa: E731
    assert reversed_score(p.log()) == pytest.approx((kl(q, p[0]) + kl(q, p[1])) / 2, rel=1e-12)
    assert inception_score(p.log()) == pytest.approx(math.exp((kl(p[0], q) + kl(p[1], q)) / 2), rel=1e-12)
    # all alike: nothing to tell them apart; all sure of one of K equally frequent classes, with e outside it
    assert reversed_score(p[:1].expand(5, 3).log()) == pytest.approx(0, abs=1e-12)
    e, k = 1e-4, 4
    sure = torch.full((k, k), e, dtype=torch.float64).fill_diagonal_(1 - (k - 1) * e)
    expected = -math.log(k) - (math.log(1 - (k - 1) * e) + (k - 1) * math.log(e)) / k
    assert reversed_score(sure.log()) == pytest.approx(expected, rel=1e-10)
    logits = torch.tensor([[0.0, 1000.0], [1000.0, 0.0]])  # probabilities would round to 0 and 1
    log_p = log_probabilities(torch.nn.Identity(), logits)
    assert reversed_score(log_p) == pytest.approx(500 - math.log(2), rel=1e-9)


def test_intervals():
    assert wilson(0, 48)[1] == 0 and wilson(0, 48)[2] == pytest.approx(0.0741, abs=1e-3)
    assert wilson(48, 48)[2] == 1 and math.isnan(wilson(0, 0).value)
    found = wilson(15, 50)
    assert (found.low, found.high) == pytest.approx((0.1910, 0.4375), abs=5e-4)  # Newcombe 1998
    gap = difference(wilson(56, 70), wilson(48, 80))
    assert gap == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-4)  # Newcombe 1998, table II (a), method 10
    mean = bootstrap(lambda x: float(x.mean()), list(range(100)))
    assert mean.low < 49.5 < mean.high and mean.low > 43 and mean.high < 56
    assert mean_with_t([1.0, 2.0, 3.0]) == pytest.approx((2, 2 - 2.484, 2 + 2.484), abs=1e-3)


def test_a_run_is_scored_and_the_same_by_seed(budget: Budget):
    judge = Judge(budget)
    run, again = run_point(TINY, judge), run_point(TINY, judge)
    different = {"cpu_seconds", "wall_seconds"}
    assert {k: v for k, v in run.items() if k not in different} == {
        k: v for k, v in again.items() if k not in different
    }
    assert run["updates"] == 2 and unpacked(run["pixels"]).shape == (4, 8, 8, 1)
    assert run_point(TINY, judge, repeat=1)["reversed_score"] != run["reversed_score"]
    wild = GridPoint("gan", 2, 400, 2, 128, False, "sgd", "sgd", 1e30)
    failed = run_point(wild, judge)
    assert failed["failed"] and not failed["finite"] and failed["reversed_score"] == 0


def test_a_restart_repeats_nothing_and_survives_a_torn_line(
    tmp_path: Path, budget: Budget, monkeypatch: pytest.MonkeyPatch
):
    from ebm_traj.ebgan import grid_engine

    ran: list[str] = []

    def fake(point: GridPoint, judge: Judge, repeat: int = 0) -> dict[str, Any]:
        if len(ran) == 5:
            ran.append("stop")
            raise KeyboardInterrupt
        ran.append(point.key)
        return {"key": point.key, "repeat": repeat, "reversed_score": 1.0}

    monkeypatch.setattr(grid_engine, "run_point", fake)
    plan, out = Plan(("ebgan", "gan"), sample=4), tmp_path / "grid"
    with pytest.raises(KeyboardInterrupt):
        study(plan, budget, out)
    assert len(read_runs(out)) == 5
    path = out / "runs.jsonl"
    path.write_text(path.read_text()[:-9])  # the last line as a crash would leave it
    assert len(read_runs(out)) == 4
    study(plan, budget, out)
    assert len(read_runs(out)) == 8 and len(ran) == 6 + 4
    assert collections.Counter(ran).most_common(1)[0][1] == 2  # the torn one
    study(plan, budget, out)
    assert len(ran) == 10
    for line in path.read_text().splitlines():
        assert line == "" or line.startswith("{")
    with pytest.raises(InputError, match="updates is 3 now and was 2"):
        GridStore(out, Budget(**{**budget.__dict__, "updates": 3}))
    points = plan.points()
    assert left_to_run(points, [p.key for p in points[1:]]) == [(points[0], 0)]
    assert [p.family for p in points[:4]] == ["ebgan", "gan", "ebgan", "gan"]


def test_parts_write_files_of_their_own_that_count_together(tmp_path: Path, budget: Budget):
    for number in (1, 2):
        store = GridStore(tmp_path, budget, f"{number}/2")
        store.add({"key": f"run {number}", "repeat": 0})
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "runs-1-of-2.jsonl",
        "runs-2-of-2.jsonl",
    ]
    assert set(GridStore(tmp_path, budget, "1/2").runs()) == {"run 1", "run 2"}


def test_a_worker_process_finds_the_same(budget: Budget, monkeypatch: pytest.MonkeyPatch):
    tasks = [(TINY, 1)]
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for workers, runs in found.items():
        run_tasks(tasks, budget, runs.append, workers=workers)
    scores = [{run["key"]: run["reversed_score"] for run in runs} for runs in found.values()]
    assert scores[0] == scores[1] and len(scores[0]) == 1
    with pytest.raises(InputError, match="engine: 'slurm'"):
        run_tasks(tasks, budget, print, engine="slurm")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs engine ray"):
        run_tasks(tasks, budget, print, address="auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "ebm_traj\[ray\]"'):
        run_tasks(tasks, budget, print, engine="ray")


def test_the_script_runs_a_part_and_reports(
    tmp_path: Path, classifier: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "grid"
    small = ["--out", str(out), "--sample", "1", "--updates", "1", "--batch-size", "2", "--samples", "12"]
    judged = ["--classifier", str(classifier), "--family", "ebgan", "gan-adam"]
    call_script("ebgan_grid", *small, *judged, "--repeat-best", "1")
    printed = capsys.readouterr().out
    assert "| ebgan | 1 of 1 |" in printed and "ebgan - gan-adam" in printed
    figures = json.loads((out / "figures.json").read_text())
    assert [len(family["best_again"]) for family in figures["families"]] == [1, 1]
    assert figures["comparisons"][0]["of"] == "ebgan" and (out / "grid.png").stat().st_size > 5000
    assert "grid.png" in (out / "grid.md").read_text()
    for arguments, message in (
        (["--family", "ebgan"], "--classifier: needed"),
        ([*judged, "--part", "3/2"], "needed is i/n"),
        ([*judged, "--sample", "0"], "sample 0"),
        (["--classifier", str(tmp_path), "--family", "gan"], "no classifier.safetensors"),
        ([*judged, "--samples", "13"], "samples is 13 now and was 12"),
        (["--report-only", "--family", "gan"], "no finished runs"),
    ):
        with pytest.raises(SystemExit) as stop:
            call_script("ebgan_grid", *small, *arguments)
        assert stop.value.code == 2 and message in capsys.readouterr().err
    with pytest.raises(InputError, match="no finished runs"):
        write_report(Plan(("gan",), 1), out, "")


class FakeRay(types.ModuleType):
    """Runs a task where it is asked for, and fails once by a lost worker if told to."""

    def __init__(self, lost: bool = False) -> None:
        super().__init__("ray")
        task = type("RayTaskError", (Exception,), {})
        self.exceptions = types.SimpleNamespace(
            RayError=type("RayError", (Exception,), {}), RayTaskError=task
        )
        self.lost, self.inits, self.shut = lost, [], 0

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str, **kwargs: Any) -> None:
        if address == "auto":
            raise ConnectionError("no cluster found")
        self.inits.append((address, kwargs["num_cpus"]))

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **kwargs: Any) -> Callable[..., Any]:
        assert kwargs["num_cpus"] == 1
        return lambda function: types.SimpleNamespace(remote=lambda *a: (function, a))

    def put(self, value: Any) -> Any:
        return value

    def wait(
        self, pending: list[Any], num_returns: int, timeout: float | None
    ) -> tuple[list[Any], list[Any]]:
        return pending[:num_returns], pending[num_returns:]

    def get(self, reference: Any) -> Any:
        if self.lost:
            raise self.exceptions.RayError("worker died")
        function, arguments = reference
        return function(*arguments)

    def shutdown(self) -> None:
        self.shut += 1


def test_ray_tasks_find_the_same_and_what_is_lost_is_one_line(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
):
    here: list[dict[str, Any]] = []
    there: list[dict[str, Any]] = []
    run_tasks([(TINY, 0), (TINY, 1)], budget, here.append)
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    run_tasks([(TINY, 0), (TINY, 1)], budget, there.append, engine="ray", workers=8)
    assert [run["reversed_score"] for run in here] == [run["reversed_score"] for run in there]
    assert ray.inits == [("local", 2)] and ray.shut == 1
    with pytest.raises(InputError, match="ray address 'auto': no cluster found"):
        run_tasks([(TINY, 0)], budget, print, engine="ray", address="auto")
    monkeypatch.setitem(sys.modules, "ray", FakeRay(lost=True))
    with pytest.raises(RunError, match=r"given up by Ray \(RayError: worker died\)"):
        run_tasks([(TINY, 0)], budget, print, engine="ray")
