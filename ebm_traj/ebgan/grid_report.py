"""The report of a grid study: shares of failed runs, best and usual scores with intervals, histograms."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebm_traj.atomic import write_atomically
from ebm_traj.core.checkpoint import load_json, without_nan
from ebm_traj.ebgan.grid import Family
from ebm_traj.ebgan.grid_run import SMALLEST_SCORE
from ebm_traj.ebgan.grid_store import SETTINGS, read_runs
from ebm_traj.ebgan.grid_study import REPEATED, Plan, best_of
from ebm_traj.errors import InputError
from ebm_traj.intervals import Interval, bootstrap, difference, mean_with_t, wilson

PAGE, FIGURES, FIGURE = "grid.md", "figures.json", "grid.png"
Runs = list[dict[str, Any]]

PAIRS: tuple[tuple[Family, Family], ...] = (
    ("ebgan-pt", "ebgan"),
    ("ebgan", "gan"),
    ("ebgan-pt", "gan"),
    ("ebgan", "gan-adam"),
    ("ebgan-pt", "gan-adam"),
)


@dataclasses.dataclass
class FamilyResult:
    """What one family's runs scored."""

    family: Family
    runs: Runs
    planned: int
    again: list[float]
    """I' of the best configuration with other seeds."""

    @property
    def scores(self) -> list[float]:
        """I' of all runs."""
        return [run["reversed_score"] for run in self.runs]

    @property
    def failed(self) -> Interval:
        """Share of failed runs."""
        return wilson(sum(run["failed"] for run in self.runs), len(self.runs))

    @property
    def best(self) -> dict[str, Any] | None:
        """The run with the highest I'."""
        return best_of(self.runs)


def collect(plan: Plan, out: Path) -> list[FamilyResult]:
    """The finished runs of the plan, by family; InputError if there are none."""
    finished = read_runs(out)
    results = []
    for family in plan.families:
        points = plan.of(family)
        runs = [finished[point.key] for point in points if point.key in finished]
        best = best_of(runs)
        again = [
            run["reversed_score"]
            for key, run in finished.items()
            if best is not None and key.startswith(best["key"] + REPEATED)
        ]
        results.append(FamilyResult(family, runs, len(points), again))
    if not any(result.runs for result in results):
        raise InputError(f"{out}: no finished runs of the plan; run without --report-only first")
    return results


def write_report(plan: Plan, out: Path, command: str) -> str:
    """Write grid.md, figures.json and grid.png into `out`; return the tables."""
    results = collect(plan, out)
    settings = load_json(out / SETTINGS)
    text = tables(results, settings)
    content = {"command": command, "settings": settings, "families": [_json(r) for r in results]}
    content["comparisons"] = [
        {"of": one, "less": other, **{name: list(value) for name, value in found.items()}}
        for one, other, found in comparisons(results)
    ]
    write_atomically(out / FIGURES, json.dumps(without_nan(content), indent=1, allow_nan=False) + "\n")
    from ebm_traj.ebgan.grid_figure import picture

    write_atomically(out / FIGURE, picture(results, settings.get("reference", {})))
    page = f"# The grid\n\n`{command}`\n\n{text}\n\n![Histograms of I' and samples]({FIGURE})\n"
    write_atomically(out / PAGE, page)
    return f"{text}\n\n{out / PAGE}"


def comparisons(results: Sequence[FamilyResult]) -> list[tuple[Family, Family, dict[str, Interval]]]:
    """Differences between families, with intervals; `paired` where they share networks."""
    known = {result.family: result for result in results}
    found: list[tuple[Family, Family, dict[str, Interval]]] = []
    for one, other in PAIRS:
        if one not in known or other not in known or not known[one].runs or not known[other].runs:
            continue
        a, b = known[one], known[other]
        row = {
            "failed": difference(a.failed, b.failed),
            "best": bootstrap(lambda x, y: float(x.max() - y.max()), a.scores, b.scores),
            "median": bootstrap(lambda x, y: float(np.median(x) - np.median(y)), a.scores, b.scores),
        }
        if other != "gan":
            mine, theirs = (
                {_architecture(run): run["reversed_score"] for run in result.runs} for result in (a, b)
            )
            gains = [score - theirs[key] for key, score in mine.items() if key in theirs]
            row["same networks"] = bootstrap(lambda x: float(x.mean()), gains)
        if a.again and b.again:
            row["best again"] = _welch(a.again, b.again)
        found.append((one, other, row))
    return found


def _architecture(run: dict[str, Any]) -> tuple[Any, ...]:
    names = ("layers_generator", "width_generator", "layers_discriminator", "width_discriminator", "dropout")
    return tuple(run[name] for name in names)


def _welch(one: Sequence[float], other: Sequence[float]) -> Interval:
    """Difference of two means with Welch's interval (1947)."""
    from scipy.stats import t

    x, y = np.asarray(one), np.asarray(other)
    gap = float(x.mean() - y.mean())
    if min(len(x), len(y)) < 2:
        return Interval(gap, math.nan, math.nan)
    u, v = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    if u + v == 0:
        return Interval(gap, gap, gap)
    freedom = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
    half = float(t.ppf(0.975, freedom) * np.sqrt(u + v))
    return Interval(gap, gap - half, gap + half)


def tables(results: Sequence[FamilyResult], settings: dict[str, Any]) -> str:
    """Two tables in Markdown, and how to read them."""
    budget, reference = settings["budget"], settings.get("reference", {})
    head = ["family", "runs", "failed, %", "best I'", "upper quartile", "median", "IS of the best"]
    head += ["best again, other seeds", "best configuration"]
    rows = []
    for result in results:
        best = result.best
        if best is None:
            rows.append([result.family, f"0 of {result.planned}", *["-"] * 7])
            continue
        rows.append(
            [
                result.family,
                f"{len(result.runs)} of {result.planned}",
                _cell(result.failed, 100, ".0f"),
                _cell(bootstrap(lambda x: float(x.max()), result.scores)),
                _cell(bootstrap(lambda x: float(np.percentile(x, 75)), result.scores)),
                _cell(bootstrap(lambda x: float(np.median(x)), result.scores)),
                f"{best['inception_score']:.2f}",
                _cell(mean_with_t(result.again)) if result.again else "-",
                best["key"],
            ]
        )
    other = []
    for one, less, found in comparisons(results):
        failed = _cell(found["failed"], 100, "+.0f")
        cells = [_cell(found[name], 1, "+.2f") if name in found else "-" for name in COMPARED]
        other.append([f"{one} - {less}", failed, *cells])
    real, usual = (reference.get(name, math.nan) for name in ("reversed_score", "inception_score"))
    seconds = sum(run["cpu_seconds"] for result in results for run in result.runs)
    text = (
        f"Every run: {budget['updates']} updates of each network with batches of {budget['batch_size']}, "
        f"{budget['samples']} samples scored; {seconds / 60:.0f} CPU minutes in all. I' = "
        f"E_x KL(p(y) || p(y|x)); as many test pictures score I' {real:.2f} and inception score {usual:.2f} "
        f"with this classifier. Failed: not finite, or an inception score below {SMALLEST_SCORE:g}. In "
        "brackets 95 % intervals: Wilson's of "
        "shares, bootstrap over configurations (of a best one it says how much it hangs on single runs: it "
        "cannot exceed the best seen), Student's over seeds of 'best again'."
    )
    parts = [text, "", _markdown(head, rows)]
    if other:
        heads = [
            "difference",
            "failed, points",
            "best I'",
            "median I'",
            "mean I', same networks",
            "best again",
        ]
        parts += ["", _markdown(heads, other)]
    return "\n".join(parts)


COMPARED = ("best", "median", "same networks", "best again")


def _cell(found: Interval, times: float = 1.0, form: str = ".2f") -> str:
    value, low, high = (format(times * x, form) if math.isfinite(x) else "-" for x in found)
    return f"{value} ({low} to {high})"


def _markdown(head: list[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def _json(result: FamilyResult) -> dict[str, Any]:
    best = result.best
    return {
        "family": result.family,
        "runs": len(result.runs),
        "planned": result.planned,
        "failed": list(result.failed),
        "best": None if best is None else {k: v for k, v in best.items() if k != "pixels"},
        "best_again": result.again,
        "scores": result.scores,
        "inception_scores": [run["inception_score"] for run in result.runs],
    }
