"""A study of ensembles: samples of each model alone and of all together, scored alike."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import matplotlib
import torch
from torch import Tensor

from ebm_traj.errors import InputError
from ebm_traj.image.drawing import inked, show, tiles
from ebm_traj.image.ensembles import Ensemble, Way
from ebm_traj.image.sampling import PictureModel, Sampler, even_labels, sample
from ebm_traj.image.scores import Reference
from ebm_traj.tables import markdown
from ebm_traj.theme import LIGHT, Theme, save, style

FIGURES = {
    "classifier_fd": "Frechet distance, classifier features",
    "precision": "precision",
    "recall": "recall",
    "confident": "read with confidence > 0.9",
    "classifier_is": "classifier IS",
}
LEGEND = (
    "Samples by the same sampler and seed, scored in the features of a classifier trained on the same data. "
    "sum: energies added; mean: averaged; mixture: densities added; alternate: each gradient is of the next "
    "model in turn. Gradients count those of single models: an ensemble that adds them costs one of each "
    "model a step, alternation as much as one model."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """Samples of a model or an ensemble."""

    name: str
    x: Tensor
    gradients: int
    """Of single models, for each sample."""
    seconds: float
    figures: dict[str, Any]


def study(
    models: Sequence[PictureModel],
    names: Sequence[str],
    ways: Sequence[Way],
    reference: Reference | None,
    *,
    count: int = 500,
    sampler: Sampler | None = None,
    batch: int = 128,
    seed: int = 0,
    progress: bool = False,
) -> list[Row]:
    """A row for each model and one for each way to put them together."""
    if len(models) < 2:
        raise InputError(f"ensemble: {len(models)} model; needed are two and more")
    members: list[tuple[str, PictureModel]] = list(zip(names, models, strict=True))
    members += [(way, Ensemble(models, way)) for way in ways]
    count = reference.count if reference else count
    rows = []
    for name, model in members:
        labels = even_labels(model, count)
        bar = name if progress else None
        made = sample(model, count, labels, sampler=sampler, batch=batch, seed=seed, progress=bar)
        x = made.x.clamp(-1, 1)
        figures = reference.score(x, labels) if reference and bool(x.isfinite().all()) else {}
        rows.append(Row(name, x, made.gradients, round(made.seconds, 2), figures))
    return rows


def table(rows: Sequence[Row], floor: dict[str, Any] | None) -> str:
    """All rows in Markdown."""
    lines = [
        [row.name, str(row.gradients), *(_number(row.figures.get(key)) for key in FIGURES)] for row in rows
    ]
    if floor:
        lines.append(["floor", "", *(_number(floor.get(key)) for key in FIGURES)])
    return markdown(["samples of", "gradients", *FIGURES.values()], lines)


def content(rows: Sequence[Row], floor: dict[str, Any] | None) -> dict[str, Any]:
    """The same as numbers."""
    plain = [{name: value for name, value in vars(row).items() if name != "x"} for row in rows]
    return {"rows": plain, "floor": floor}


def picture(rows: Sequence[Row], columns: int = 6, lines: int = 6, theme: Theme = LIGHT) -> bytes:
    """PNG: a block of samples of each row, the same places from the same noise."""
    from matplotlib.figure import Figure

    across = min(4, len(rows))
    down = -(-len(rows) // across)
    with style(theme), matplotlib.rc_context({"axes.grid": False}):
        figure = Figure(figsize=(2.2 * across, 2.45 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).flatten()
        for panel in panels[len(rows) :]:
            panel.set_visible(False)
        for panel, row in zip(panels, rows, strict=False):
            shown = torch.nan_to_num(row.x[: columns * lines])
            show(panel, tiles(inked(shown, theme=theme), columns, theme=theme), row.name)
        return save(figure, "png")


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3g}"
