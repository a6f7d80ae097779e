"""Sharpened samples: how sure a classifier is of them, against how much of the data's variety they keep."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.errors import InputError
from ebm_traj.image.sampling import PictureModel, own_sampler
from ebm_traj.image.sampling_study import Point, Setting, with_sampler
from ebm_traj.tables import markdown
from ebm_traj.theme import LIGHT, Theme, save, style

COLUMNS = {
    "confident": ("read with confidence > 0.9", "{:.1%}"),
    "classes_lowest": ("rarest class", "{:.1%}"),
    "classes_highest": ("most frequent class", "{:.1%}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "coverage": ("coverage", "{:.3f}"),
    "classifier_fd": ("Frechet distance, classifier features", "{:.0f}"),
}
LEGEND = (
    "Sharpened samples: the energy at a level and below it is multiplied with a factor while sampling. Above "
    "1 a classifier is surer of the samples, and they show less of the data's variety, which recall measures."
)


def sharpness_settings(
    model: PictureModel, factors: Sequence[float], levels: Sequence[float]
) -> list[Setting]:
    """The model's own sampler without a factor, and with each factor below each level (`AnnealConfig`)."""
    own = own_sampler(model)
    if not isinstance(own, AnnealConfig):
        raise InputError("sharpness: this model has no noise levels; only the flow through levels has it")
    found = []
    for factor in dict.fromkeys(factors):
        for level in [own.sigma_max] if factor == 1 else dict.fromkeys(levels):
            config = dataclasses.replace(own, sharpness=factor, sharp_below=level)
            where = "" if level >= own.sigma_max else f" below {level:g}"
            found.append(Setting(f"{factor:g}{where}", config.gradients, with_sampler(config)))
    return found


def table(points: Sequence[Point], floor: Mapping[str, Any]) -> str:
    """All factors in Markdown, and truth against other truth."""
    rows = [(point.line, point.figures) for point in points] + [("floor", floor)]
    lines = [
        [name, *(_shown(form, figures.get(key)) for key, (_, form) in COLUMNS.items())]
        for name, figures in rows
    ]
    return markdown(["factor", *(title for title, _ in COLUMNS.values())], lines)


def picture(points: Sequence[Point], floor: Mapping[str, Any], theme: Theme = LIGHT) -> bytes:
    """PNG: confidence against recall, a point for each factor."""
    from matplotlib.figure import Figure

    with style(theme), matplotlib.rc_context({"font.size": 8.5}):
        figure = Figure(figsize=(4.6, 3.6), layout="constrained")
        axes = figure.subplots()
        colors = iter([theme.energy, *theme.others])
        drawn: dict[str, str] = {"": theme.muted}
        for line, figures in [*((p.line, p.figures) for p in points), ("truth", floor)]:
            if not figures:
                continue
            name, _, below = line.partition(" ")
            label = below if below not in drawn else None
            color = (
                theme.ink if name == "truth" else drawn.get(below) or drawn.setdefault(below, next(colors))
            )
            at = (figures["recall"], figures["confident"])
            axes.plot(*at, "o", markersize=4.5, color=color, label=label)
            axes.annotate(name, at, (4, 4), textcoords="offset points", fontsize=7.5)
        if len(drawn) > 1:
            axes.legend(loc="lower left")
        axes.set_xlabel("recall")
        axes.set_ylabel("read with confidence > 0.9")
        axes.margins(0.15)
        return save(figure, "png")


def _shown(form: str, value: Any) -> str:
    return "" if value is None else form.format(value).replace("%", " %")
