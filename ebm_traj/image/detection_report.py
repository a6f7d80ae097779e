"""The report of a detection study: tables in Markdown, detection.json and a figure."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from ebm_traj.atomic import write_atomically
from ebm_traj.image.detection import Detection, Interval
from ebm_traj.image.typicality import PLAIN
from ebm_traj.theme import LIGHT, Theme, save, style

PAGE, FIGURES, FIGURE = "detection.md", "detection.json", "detection.png"

LEGEND = (
    "AUROC of each score: the chance that a picture of the other set is above a test picture of the own, "
    "with 95 % bootstrap limits over pictures of both. `energy` is the plain E(x) at the lowest level, "
    "the figure the literature quotes; the others are stronger scores of the same energy, but for `PNG "
    "length alone`, a control that reads no energy. What is fitted is fitted on held-out pictures of the "
    "own set; the score marked * has the highest mean over synthetic outliers made of other held-out "
    "pictures, and is the one to be used. No other set had a part in either."
)


def write_report(found: Detection, out: Path, settings: dict[str, Any], command: str) -> Path:
    """Write detection.md, detection.json and detection.png into `out`; return the page's path."""
    content = {"command": command, "settings": settings, **found.to_json()}
    write_atomically(out / FIGURES, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_atomically(out / FIGURE, picture(found))
    page = (
        f"# Pictures of other sets\n\n`{command}`\n\n{LEGEND}\n\n{table(found)}\n\n"
        f"Pictures: {', '.join(f'{count} {name}' for name, count in found.counts.items())}.\n\n"
        f"## AUROC for synthetic outliers of held-out pictures\n\n{synthetic_table(found)}\n\n"
        f"![Scores of the own test pictures and of other sets]({FIGURE})\n"
    )
    write_atomically(out / PAGE, page)
    return out / PAGE


def table(found: Detection) -> str:
    """A row for each score, the plain energy first."""
    sets = list(next(iter(found.found.values())))
    rows = [
        [_marked(name, found), *(_interval(row[other]) for other in sets), _interval(found.means[name])]
        for name, row in found.found.items()
    ]
    return _markdown(["score", *sets, "mean"], rows)


def synthetic_table(found: Detection) -> str:
    """The figures a score is chosen by."""
    sets = list(next(iter(found.synthetic.values())))
    rows = [
        [
            _marked(name, found),
            *(f"{row[other]:.3f}" for other in sets),
            f"{np.mean(list(row.values())):.3f}",
        ]
        for name, row in found.synthetic.items()
    ]
    return _markdown(["score", *sets, "mean"], rows)


def picture(found: Detection, theme: Theme = LIGHT) -> bytes:
    """PNG: how the plain energy and the chosen score are spread over each set."""
    from matplotlib.figure import Figure

    shown = list(dict.fromkeys([PLAIN, found.chosen]))
    with style(theme):
        figure = Figure(figsize=(3.6 * len(shown) + 1.6, 0.42 * (len(found.counts) + 1) + 1.1))
        axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        for at, name in zip(axes, shown, strict=True):
            _spread(at, name, found.own[name], found.outside[name], found.found[name], theme)
        axes[0].set_yticks(range(len(found.outside[shown[0]]) + 1))
        axes[0].set_yticklabels(["own test pictures", *found.outside[shown[0]]][::-1], color=theme.ink)
        figure.tight_layout()
        return save(figure, "png")


def _spread(
    at: matplotlib.axes.Axes,
    name: str,
    own: np.ndarray,
    outside: Mapping[str, np.ndarray],
    figures: Mapping[str, Interval],
    theme: Theme,
) -> None:
    """Box from quartile to quartile and whiskers to the 5th and 95th percentile, a row for each set."""
    middle, width = np.median(own), np.subtract(*np.quantile(own, [0.95, 0.05]))
    rows = {"own test pictures": own, **outside}
    for place, (other, values) in enumerate(reversed(rows.items())):
        colour = theme.ink if other == "own test pictures" else theme.energy
        low, left, centre, right, high = np.quantile((values - middle) / width, [0.05, 0.25, 0.5, 0.75, 0.95])
        at.plot([low, high], [place, place], color=colour, linewidth=1)
        at.plot([left, right], [place, place], color=colour, linewidth=6, alpha=0.6)
        at.plot([centre], [place], "o", color=colour, markersize=4)
        if other in figures:
            label = f"{figures[other][0]:.2f}"
            at.annotate(label, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
    at.set_xscale("symlog", linthresh=1)
    at.grid(axis="y", visible=False)
    at.set_title(name)
    at.set_xlabel("score, own 5-95 % range = 1")


def _marked(name: str, found: Detection) -> str:
    return f"**{name}** \\*" if name == found.chosen else name


def _interval(value: Interval) -> str:
    return f"{value[0]:.3f} [{value[1]:.2f}, {value[2]:.2f}]"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
