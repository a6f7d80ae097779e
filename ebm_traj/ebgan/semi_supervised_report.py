"""The study of semi-supervised learning as a table of errors over seeds, with intervals, and a figure."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from ebm_traj.atomic import write_atomically
from ebm_traj.core.logs import read_metrics
from ebm_traj.ebgan.semi_supervised import CELLS, METHODS, CellResult, Method, SemiSupervisedConfig, cell_of
from ebm_traj.intervals import mean_with_t
from ebm_traj.theme import LIGHT, Theme, save, style

PAGE, FIGURES, FIGURE = "semi_supervised.md", "semi_supervised.json", "semi_supervised.png"
NAMES: dict[Method, str] = {
    "supervised": "labels alone",
    "ladder": "ladder network",
    "ladder-longer": "ladder network, more updates",
    "ebgan-ln": "EBGAN-LN",
}
PUBLISHED = {
    "ladder": {100: 1.36, 200: 1.24, 1000: 1.04},
    "ebgan-ln": {100: 1.04, 200: 0.99, 1000: 0.89},
}
"""Test errors in % of Zhao et al. 2016, table 3 (150 epochs, MNIST)."""


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and half the width of its 95 % interval by Student's t; None for a single value."""
    found = mean_with_t(values)
    return found.value, None if math.isnan(found.high) else found.high - found.value


def summarise(results: Iterable[CellResult]) -> dict[str, Any]:
    """Errors in % by number of labels and method, and the differences to the ladder network seed by seed.

    A difference has an interval of its own, since methods of a seed share labels, weights and batches; beside
    it stands how many test pictures only one of the two gets wrong, over all seeds.
    """
    results = list(results)
    rows = []
    for labels in sorted({one.labels for one in results}):
        for method in METHODS:
            found = [r for r in results if (r.labels, r.method) == (labels, method)]
            cells = sorted(found, key=lambda r: r.seed)
            if not cells:
                continue
            test, test_half = mean_and_half_width([100 * r.test_error for r in cells])
            held, held_half = mean_and_half_width([100 * r.validation_error for r in cells])
            rows.append(
                {
                    "labels": labels,
                    "method": method,
                    "seeds": [r.seed for r in cells],
                    "test_errors": [100 * r.test_error for r in cells],
                    "test_error": test,
                    "test_half_width": test_half,
                    "validation_error": held,
                    "validation_half_width": held_half,
                    "updates": cells[0].updates,
                    "epochs": cells[0].epochs,
                    "cpu_seconds": float(np.mean([r.cpu_seconds for r in cells])),
                    "published": PUBLISHED.get(method, {}).get(labels),
                }
            )
    return {"rows": rows, "differences": _differences(results)}


def _differences(results: Sequence[CellResult]) -> list[dict[str, Any]]:
    found = {(r.labels, r.seed, r.method): r for r in results}
    rows = []
    for labels in sorted({r.labels for r in results}):
        for other in ("ladder", "ladder-longer"):
            pairs = [
                (found[labels, seed, "ebgan-ln"], found[labels, seed, other])
                for seed in sorted({r.seed for r in results})
                if (labels, seed, "ebgan-ln") in found and (labels, seed, other) in found
            ]
            if not pairs:
                continue
            mean, half = mean_and_half_width([100 * (a.test_error - b.test_error) for a, b in pairs])
            rows.append(
                {
                    "labels": labels,
                    "to": other,
                    "seeds": [a.seed for a, _ in pairs],
                    "difference": mean,
                    "half_width": half,
                    "only_ebgan_wrong": sum(len(set(a.test_wrong) - set(b.test_wrong)) for a, b in pairs),
                    "only_other_wrong": sum(len(set(b.test_wrong) - set(a.test_wrong)) for a, b in pairs),
                }
            )
    return rows


def _with_half(value: float, half: float | None, sign: str = "") -> str:
    return format(value, f"{sign}.2f") + ("" if half is None else f" ± {half:.2f}")


def table(summary: Mapping[str, Any]) -> str:
    """The errors in Markdown, and below them the differences."""
    lines = [
        "| labels | method | seeds | test error, % | validation error, % | published, % | updates | epochs "
        "| CPU seconds a cell |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in summary["rows"]:
        cells = [
            str(row["labels"]),
            NAMES[row["method"]],
            str(len(row["seeds"])),
            _with_half(row["test_error"], row["test_half_width"]),
            _with_half(row["validation_error"], row["validation_half_width"]),
            "" if row["published"] is None else f"{row['published']:.2f}",
            f"{row['updates']:,}",
            f"{row['epochs']:.1f}",
            f"{row['cpu_seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if summary["differences"]:
        lines += [
            "",
            "| labels | EBGAN-LN minus | test error, points | only EBGAN-LN wrong | only the other wrong |",
            "|---|---|---|---|---|",
        ]
    for row in summary["differences"]:
        difference = _with_half(row["difference"], row["half_width"], "+")
        cells = [str(row["labels"]), NAMES[row["to"]], difference]
        cells += [str(row["only_ebgan_wrong"]), str(row["only_other_wrong"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def legend(config: SemiSupervisedConfig) -> str:
    """What the table shows, in a few sentences."""
    which = "the input alone" if not any(config.ladder.costs[1:]) else "several layers"
    full = SemiSupervisedConfig().updates
    return (
        f"Errors with a few labelled pictures, equally many of every class, and the whole training part "
        f"without labels. Ladder networks 'ladder network' and 'EBGAN-LN' take equally many updates "
        f"({config.updates:,}; the paper's are {full:,}) on the same pictures; 'more updates' is the ladder "
        f"network with {config.longer:g} times as many, for equal time. Denoising costs of {which}. "
        f"± is a 95 % interval of the mean over seeds (Student's t); differences are taken seed by seed. "
        f"The test part is read once a cell, at its end, with the last weights. "
        f"{'Matrix products in bfloat16. ' if config.ladder.half_precision else ''}"
        "Published errors are of Zhao et al. 2016, table 3."
    )


def write_report(
    results: Sequence[CellResult],
    config: SemiSupervisedConfig,
    out: Path,
    settings: Mapping[str, Any],
    command: str,
) -> Path:
    """Write semi_supervised.md, .json and .png into `out`; return the page's path."""
    summary = summarise(results)
    content = {"command": command, "settings": dict(settings), **summary}
    write_atomically(out / FIGURES, json.dumps(content, indent=1, allow_nan=False) + "\n")
    curves: dict[tuple[str, int, int], list[dict[str, float]]] = {
        (r.method, r.labels, r.seed): read_metrics(out / CELLS / cell_of(r).name / "metrics.csv")
        for r in results
    }
    write_atomically(out / FIGURE, picture(summary, curves))
    text = f"# Semi-supervised learning\n\n`{command}`\n\n{legend(config)}\n\n{table(summary)}\n\n"
    write_atomically(out / PAGE, text + f"![Errors by method and during training]({FIGURE})\n")
    return out / PAGE


def colour(method: str, theme: Theme) -> str:
    """Of a method: the energy model's blue for EBGAN-LN, the baseline's orange for the ladder network."""
    return {
        "ebgan-ln": theme.energy,
        "ladder": theme.baseline,
        "ladder-longer": theme.others[2],
        "supervised": theme.muted,
    }[method]


def picture(
    summary: Mapping[str, Any],
    curves: Mapping[tuple[str, int, int], Sequence[Mapping[str, float]]],
    theme: Theme = LIGHT,
) -> bytes:
    """PNG: each seed's test error by method, and validation errors during training; a row for each number of
    labels."""
    counts = sorted({row["labels"] for row in summary["rows"]})
    with style(theme), matplotlib.rc_context({"font.size": 8.5}):
        figure = Figure(figsize=(9.2, 2.7 * len(counts) + 0.3), layout="constrained")
        axes = figure.subplots(len(counts), 2, squeeze=False, width_ratios=(1, 1.3))
        for (left, right), labels in zip(axes, counts, strict=True):
            rows = [row for row in summary["rows"] if row["labels"] == labels]
            best = min(row["test_error"] for row in rows)
            shown = [row for row in rows if row["test_error"] < 4 * best or len(rows) == 1]
            _errors(left, shown, theme)
            away = [row for row in rows if row not in shown]
            note = "".join(f"; {NAMES[row['method']]} {row['test_error']:.1f}" for row in away)
            left.set_title(f"{labels} labels: test error, %{note}")
            for (method, count, _), points in curves.items():
                if count == labels and points:
                    right.plot(
                        [point["cpu_seconds"] for point in points],
                        [100 * point["validation_error"] for point in points],
                        color=colour(method, theme),
                        linewidth=1.2,
                    )
            right.set_yscale("log")
            right.set_title("validation error, %, during training")
            right.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            right.yaxis.set_major_formatter("{x:g}")
            right.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes[-1, 0].set_xlabel("diamonds: mean with 95 % interval; dots: seeds; tick: published")
        axes[-1, 1].set_xlabel("CPU seconds")
        return save(figure, "png")


def _errors(axes: Any, rows: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    """Seeds as dots, the mean with its interval, the published error as a tick."""
    for at, row in enumerate(rows):
        ink = colour(row["method"], theme)
        heights = [at + 0.18] * len(row["test_errors"])
        axes.plot(row["test_errors"], heights, "o", color=ink, markersize=4, alpha=0.6)
        axes.errorbar(row["test_error"], at, xerr=row["test_half_width"], fmt="D", color=ink, markersize=5)
        if row["published"] is not None:
            axes.plot([row["published"]], [at], "|", color=theme.ink, markersize=14)
    axes.set_yticks(range(len(rows)), [NAMES[row["method"]].replace(", ", ",\n") for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
