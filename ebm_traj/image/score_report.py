"""The report of a set of samples: JSON, a page with the table, samples beside their nearest neighbours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.atomic import replacing, write_atomically
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.image.grids import grid, write_grid
from ebm_traj.image.neighbours import Library, Neighbours
from ebm_traj.image.pictures import to_uint8
from ebm_traj.image.scores import CONFIDENT, table
from ebm_traj.theme import LIGHT, Theme, save, style

PAGE, FIGURES, FIGURE, GRID = "score.md", "score.json", "score.png", "samples.png"
SHOWN = 40  # samples beside their neighbours
COLUMNS = 20
NAMED = 12  # classes that have room for their names


def save_samples(path: Path, x: Tensor, labels: Tensor | None = None) -> None:
    """Write samples as bytes `x` (N, H, W, C) and classes `y`, the form that `open_pictures` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"x": to_uint8(x)} | ({} if labels is None else {"y": labels.cpu().numpy().astype(np.int64)})
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def legend(report: Mapping[str, Any]) -> str:
    """What the figures mean, in a paragraph."""
    return (
        f"{report['count']} samples against as many pictures of {report['real']}; the floor is as many other "
        "pictures of it. Distances, precision, recall, density and coverage are in the features of a small "
        "classifier trained on the same data set, so that they compare with each other and with no published "
        f"FID. Confident means a probability above {CONFIDENT:g}."
    )


def write_score(report: Mapping[str, Any], samples: Tensor, library: Library, out: Path) -> Path:
    """Write score.json, score.md, score.png and samples.png into `out`; the page's path.

    `samples` (N, C, H, W) in [-1, 1] are those scored; `library` is searched for neighbours of some.
    """
    shown = samples[:SHOWN]
    train, found = library.train, library.nearest(shown)
    write_grid(out / GRID, samples[:100], 10, scale=max(1, 56 // train.shape[1]))
    write_atomically(out / FIGURE, picture(report, to_uint8(shown), train, found))
    write_atomically(out / FIGURES, json.dumps(report, indent=1) + "\n")
    page = [
        "# Scores of samples",
        f"`{report['command']}`" if "command" in report else "",
        legend(report),
        table(report),
        f"![Samples beside their nearest training pictures]({FIGURE})",
        f"![Samples]({GRID})",
    ]
    write_atomically(out / PAGE, "\n\n".join(part for part in page if part) + "\n")
    return out / PAGE


def picture(
    report: Mapping[str, Any],
    samples: NDArray[np.uint8],
    train: PictureSet,
    found: Neighbours,
    theme: Theme = LIGHT,
) -> bytes:
    """PNG: samples (n, H, W, C), under each its nearest training pictures; shares of classes."""
    from matplotlib.figure import Figure

    across = min(COLUMNS, len(samples))
    groups: list[NDArray[np.uint8]] = []
    for start in range(0, len(samples) // across * across, across):
        at = slice(start, start + across)
        rows = (samples[at], train.x[found.pixel_row[at].numpy()], train.x[found.feature_row[at].numpy()])
        group = grid(np.concatenate(rows), across, gap=1)
        groups += [group, np.full((max(2, samples.shape[1] // 4), *group.shape[1:]), 255, np.uint8)]
    image = np.concatenate(groups[:-1])
    tall = 9.5 * image.shape[0] / image.shape[1]
    with style(theme):
        figure = Figure(figsize=(9.5, 2.4 + tall), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(tall, 1.5))
        above.imshow(image, interpolation="nearest")
        above.set_axis_off()
        above.set_title("sample; below it the nearest training picture by pixels, and by features")
        _shares(below, report, theme)
        return save(figure, "png")


def _shares(panel: Any, report: Mapping[str, Any], theme: Theme) -> None:
    """Bars: how often each class is read."""
    names = report["class_names"]
    for name, side, colour in (("samples", -0.2, theme.energy), ("floor", 0.2, theme.muted)):
        shares = report[name]["class_shares"]
        label = "samples" if name == "samples" else "truth"
        panel.bar(np.arange(len(shares)) + side, np.multiply(100, shares), 0.36, color=colour, label=label)
    some = range(len(names)) if len(names) <= NAMED else []
    panel.set_xticks(some, [names[i] for i in some])
    panel.set_title("read as each class, %")
    panel.grid(False, axis="x")
    panel.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
