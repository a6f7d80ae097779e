"""The report of a monitor study: tables in Markdown, monitor.json and a figure."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from ebm_traj.atomic import write_atomically
from ebm_traj.planning.fault_study import BEFORE, Found, Row, Study
from ebm_traj.theme import LIGHT, Theme, save, style

PAGE, FIGURES, FIGURE = "monitor.md", "monitor.json", "monitor.png"
STEPS_SHOWN = 20  # after the fault, in the figure


def write_report(study: Study, out: Path, settings: dict[str, Any], command: str) -> Path:
    """Write monitor.md, monitor.json and monitor.png into `out`; return the page's path."""
    content = {"command": command, "settings": settings, **study.to_json()}
    write_atomically(out / FIGURES, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_atomically(out / FIGURE, picture(study))
    page = (
        f"# Faults seen by monitors\n\n`{command}`\n\n{tables(study)}\n\n"
        f"![Levels around the fault, and ROC curves]({FIGURE})\n"
    )
    write_atomically(out / PAGE, page)
    return out / PAGE


def tables(study: Study) -> str:
    """Three tables in Markdown."""
    faults = list(study.effects)
    parts = [
        f"## AUROC within {study.within} steps\n",
        f"{study.episodes} episodes of each fault against their fault-free twins, with 95 % intervals by "
        "bootstrap over episodes.\n",
        _table(
            ["method", *faults, "mean"],
            [
                [
                    row.name,
                    *(_interval(row.found[fault].auroc) for fault in faults),
                    f"{np.mean([row.found[fault].auroc[0] for fault in faults]):.3f}" if faults else "",
                ]
                for row in study.rows
            ],
        ),
        f"\n## Alarms at a stated false alarm rate of {100 * study.false_alarm_rate:g} % of episodes\n",
        f"Median delay in steps (1: at the first faulty step; -: not within {study.watched} steps in half of "
        f"the episodes), and share detected within {study.within} steps. Last: fault-free test episodes "
        "with an alarm.\n",
        _table(
            ["method", *faults, "false alarms"],
            [
                [
                    row.name,
                    *(_delay(row.found[fault]) for fault in faults),
                    f"{100 * row.false_alarms:.0f} %",
                ]
                for row in study.rows
            ],
        ),
        f"\n## What the faults do within {study.within} steps\n",
        "Against the fault-free twin, median over episodes. No episode is left out, whatever the effect.\n",
        _table(
            ["", *faults],
            [
                ["object's place, mm", *(f"{1000 * study.effects[f].position:.1f}" for f in faults)],
                [
                    "largest difference, in one-step changes",
                    *(f"{study.effects[f].change:.1f}" for f in faults),
                ],
                ["no effect", *(f"{100 * study.effects[f].nothing:.0f} %" for f in faults)],
            ],
        ),
    ]
    return "\n".join(parts)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def _interval(values: tuple[float, float, float]) -> str:
    value, low, high = values
    return f"{value:.3f} ({low:.2f} to {high:.2f})"


def _delay(found: Found) -> str:
    if np.isnan(found.delays.median):
        return "-"
    median = f"{found.delays.median:g}" if np.isfinite(found.delays.median) else "-"
    return f"{median}, {100 * found.delays.detected:.0f} %"


def picture(study: Study, theme: Theme = LIGHT) -> bytes:
    """PNG: for each fault surprise and level around it, with and without, and ROC curves of all monitors.

    Surprise and level are the first monitor's, median and quartiles over episodes.
    """
    from matplotlib.figure import Figure

    faults = list(study.effects) or ["none"]
    colours = _colours(study.rows, theme)
    with style(theme), matplotlib.rc_context({"font.size": 8.5}):
        figure = Figure(figsize=(2.5 * len(faults) + 0.6, 7.4), layout="constrained")
        axes = figure.subplots(3, len(faults), squeeze=False, sharex="row", sharey="row")
        first = study.rows[0]
        for column, fault in enumerate(faults):
            top, middle, bottom = axes[:, column]
            top.set_title(fault)
            for panel, what in ((top, "surprise"), (middle, "levels")):
                _around(panel, first, fault, what, min(study.watched, STEPS_SHOWN), theme)
            middle.axhline(1, color=theme.ink, linewidth=0.8, linestyle=":")
            middle.set_xlabel("steps from the fault")
            for row in study.rows:
                bottom.plot(*row.found[fault].roc, color=colours[row.name], label=row.name)
            bottom.plot([0, 1], [0, 1], color=theme.grid, linewidth=0.8)
            bottom.set_xlabel("false alarms")
        axes[0, 0].set_ylabel(f"surprise of '{first.name}', whole\nstate, standard deviations")
        axes[0, -1].legend(loc="upper right")
        axes[1, 0].set_ylabel("level, in units\nof its threshold")
        axes[2, 0].set_ylabel(f"detected within {study.within} steps")
        handles, labels = axes[2, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
        return save(figure, "png")


def _around(panel: Axes, row: Row, fault: str, what: str, shown: int, theme: Theme) -> None:
    """Median and quartiles of `surprise` or `levels`, with the fault and without."""
    steps = np.arange(-BEFORE, shown)
    for name, colour, label in (("none", theme.muted, "fault-free"), (fault, theme.energy, "with the fault")):
        values = getattr(row.found[name], what)[:, : BEFORE + shown]
        known = np.nan_to_num(values)  # before a context is full there is no surprise
        low, middle, high = np.percentile(known, (25, 50, 75), axis=0)
        panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        panel.plot(steps, middle, color=colour, label=label)
    panel.axvline(-0.5, color=theme.ink, linewidth=0.8)
    panel.set_yscale("symlog", linthresh=1)


def _colours(rows: list[Row], theme: Theme) -> dict[str, str]:
    known = [theme.energy, *theme.others]
    return {row.name: known[i % len(known)] for i, row in enumerate(rows)}
