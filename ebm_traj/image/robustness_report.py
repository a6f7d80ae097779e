"""The report of an attack: tables in Markdown, attack.json and a figure of accuracy against radius."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from torch import nn

from ebm_traj.atomic import write_atomically
from ebm_traj.errors import InputError
from ebm_traj.image.denoiser import DenoiserEnergy
from ebm_traj.image.robustness import AROUND, ENERGY, ORDINARY, REFINED, TRAINED, Curves, Point, areas
from ebm_traj.image.same_network import SameNetwork
from ebm_traj.theme import LIGHT, Theme, save, style

PAGE, FIGURES, FIGURE = "attack.md", "attack.json", "attack.png"

LEGEND = (
    "Share of test pictures read rightly under PGD of each radius (pixels in [0, 1]), with 95 % limits over "
    f"pictures. `{REFINED}`: the gradient goes through all refinement steps, averaged over their noise, and "
    f"the pictures of the attack around them are among its starts. `{AROUND}`: the pictures found against "
    "the energy classifier without its refinement are shown to it with it; this flatters, and is printed for "
    "comparison with figures that were made so."
)
NORMS = {"linf": "l-inf", "l2": "l-2"}


def write_report(
    found: Curves,
    facts: dict[str, Any],
    out: Path,
    settings: dict[str, Any],
    command: str,
    checked: str = "",
    checks: Sequence[Any] = (),
) -> Path:
    """Write attack.md, attack.json and attack.png (of curves) into `out`; return the page's path.

    `facts` are what is to be said of the pictures and the classifiers (counts, parameters, trainings);
    `checked` is the table of the `checks` of the attack.
    """
    content = {
        "command": command,
        "settings": settings,
        "facts": facts,
        "mean_accuracy": areas(found),
        "accuracy": {
            norm: {name: [dataclasses.asdict(p) for p in points] for name, points in arms.items()}
            for norm, arms in found.items()
        },
        "checks": [dataclasses.asdict(check) for check in checks],
    }
    write_atomically(out / FIGURES, json.dumps(content, indent=1, allow_nan=False) + "\n")
    parts = ["# Energy classifier under attack", f"`{command}`"]
    if found:
        parts += [LEGEND, tables(found)]
    parts += [checked] if checked else []
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    if found:
        write_atomically(out / FIGURE, picture(found))
        parts.append(f"![Accuracy against radius]({FIGURE})")
    write_atomically(out / PAGE, "\n\n".join(parts) + "\n")
    return out / PAGE


def tables(found: Curves) -> str:
    """A table for each norm, a row for each classifier; last the mean accuracy over the radii."""
    parts = []
    for norm, arms in found.items():
        radii = [point.radius for point in next(iter(arms.values()))]
        lines = [
            ["", *(f"{radius:.3g}" for radius in radii), "mean"],
            ["---", *["---:"] * (len(radii) + 1)],
            *(
                [
                    name,
                    *(f"{100 * p.accuracy:.1f} [{100 * p.low:.0f}, {100 * p.high:.0f}]" for p in points),
                    f"{100 * areas(found)[norm][name]:.1f}",
                ]
                for name, points in arms.items()
            ),
        ]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"{NORMS[norm]}, accuracy in %:\n\n{body}")
    return "\n\n".join(parts)


def picture(found: Curves, theme: Theme = LIGHT) -> bytes:
    """PNG: accuracy against radius, a panel for each norm."""
    return picture_of_studies({"": found}, theme)


def picture_of_studies(studies: Mapping[str, Curves], theme: Theme = LIGHT) -> bytes:
    """PNG: the panels of several studies below each other, each under its name."""
    from matplotlib.figure import Figure

    wide = max(len(found) for found in studies.values())
    with style(theme):
        height = 2.75 * len(studies) + 0.55
        figure = Figure(figsize=(4.1 * wide + 0.4, height))
        rows = figure.subplots(len(studies), wide, squeeze=False, sharey=True)
        for panels, (name, found) in zip(rows, studies.items(), strict=True):
            for at, (norm, arms) in zip(panels, found.items(), strict=False):
                _panel(at, arms, theme)
                at.set_title(name)
                at.set_xlabel(f"radius, {NORMS[norm]}, pixels in [0, 1]")
            for empty in panels[len(found) :]:
                empty.set_axis_off()
            panels[0].set_ylabel("read rightly, %")
        rows[0][0].set_ylim(-2, 102)
        handles, labels = rows[0][0].get_legend_handles_labels()
        figure.tight_layout(rect=(0, 0.43 / height, 1, 1))
        figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=8.5)
        return save(figure, "png")


def read_curves(folder: Path) -> Curves:
    """The curves of a report that `write_report` wrote into the folder."""
    path = folder / FIGURES
    if not path.is_file():
        raise InputError(f"report {folder}: {FIGURES} is missing; needed is a folder of `image.py attack`")
    found = json.loads(path.read_text())["accuracy"]
    return {
        norm: {name: [Point(**point) for point in points] for name, points in arms.items()}
        for norm, arms in found.items()
    }


def _panel(at: matplotlib.axes.Axes, arms: dict[str, Any], theme: Theme) -> None:
    looks: dict[str, dict[str, Any]] = {
        ENERGY: {"color": theme.energy, "linestyle": "--"},
        REFINED: {"color": theme.energy},
        AROUND: {"color": theme.energy, "linestyle": ":", "alpha": 0.7},
        ORDINARY: {"color": theme.muted},
        TRAINED: {"color": theme.baseline},
    }
    others = iter(theme.others)
    for name, points in arms.items():
        look = looks.get(name) or {"color": next(others)}
        radii = [p.radius for p in points]
        at.plot(radii, [100 * p.accuracy for p in points], marker="o", markersize=3, label=name, **look)
        at.fill_between(
            radii, [100 * p.low for p in points], [100 * p.high for p in points],
            color=look["color"], alpha=0.1, linewidth=0,
        )  # fmt: skip


def described(module: nn.Module, card: dict[str, Any]) -> str:
    """What is to be said of a classifier: its parameters, those that read the class, and its training."""
    count, reading = parameters(module), parameters(module)
    energy = module.energy if isinstance(module, SameNetwork) else module
    if isinstance(energy, DenoiserEnergy):
        reading -= sum(parameters(part) for part in (energy.net.grow, energy.net.up, energy.net.last))
    said = f"{count:,} parameters, {reading:,} of which read the class"
    if "iterations" in card and "cpu_seconds" in card:
        said += f"; {card['iterations']:,} iterations in {card['cpu_seconds']:.0f} CPU seconds"
    return said


def parameters(module: nn.Module) -> int:
    """Number of weights that are trained or were."""
    return sum(p.numel() for p in module.parameters())
