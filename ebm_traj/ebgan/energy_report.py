"""Pages of the two studies of the energy as an energy: refinement of samples, and generators as samplers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from torch import Tensor

from ebm_traj.core.checkpoint import without_nan
from ebm_traj.ebgan.refinement import RefinementStudy
from ebm_traj.image.drawing import inked, show, tiles
from ebm_traj.image.reports import write_report
from ebm_traj.tables import markdown
from ebm_traj.theme import LIGHT, save, style

FIGURES = (
    ("classifier_fd", "FD", ".2f"),
    ("reversed_score", "I'", ".2f"),
    ("classifier_is", "IS", ".2f"),
    ("precision", "precision", ".3f"),
    ("recall", "recall", ".3f"),
    ("coverage", "coverage", ".3f"),
)
LEGEND = (
    "FD: Frechet distance in the classifier's features (lower is better); I' = E_x KL(p(y) || p(y|x)) and "
    "IS: by the classifier (higher is better)."
)


def refinement_page(found: RefinementStudy, out: Path, settings: Mapping[str, Any]) -> tuple[str, Path]:
    """Write refinement.md, .json and .png; the text and the page's path."""
    columns = [("energy", "energy", ".2f"), *FIGURES, ("cpu_ms", "ms a sample", ".2f")]
    text = (
        "Samples of the generator, and the same after Langevin steps of the core on the discriminator's "
        f"energy. {LEGEND} The chain was chosen by FD on validation pictures, and scored on test pictures "
        f"from other starts.\n\n## Test pictures\n\n{_table(found.test, columns)}\n\n"
        f"## All chains, validation pictures\n\n{_table(found.tried, columns)}"
    )
    content = {"test": found.test, "validation": found.tried, "chosen": found.chosen}
    picture = _strips(found.pictures)
    page = write_report(
        out,
        "refinement",
        "Samples refined by the energy",
        text,
        without_nan(content),
        {"refinement": picture},
        settings,
    )
    return text, page


def sampler_page(
    rows: Sequence[Mapping[str, Any]], out: Path, settings: Mapping[str, Any], seconds: float
) -> tuple[str, Path]:
    """Write samplers.md, .json and .png; the text and the page's path."""
    head = ["trained with", "samples", "steps of training", "CPU s", *(label for _, label, _ in FIGURES)]
    head += ["gradients a sample", "ms a sample"]
    lines = []
    for row in rows:
        cells = [row["way"], row["samples"], _cell(row.get("iterations"), ",d")]
        cells.append(_cell(row.get("train_cpu_seconds"), ".0f"))
        cells += [_cell(row.get(key), form) for key, _, form in FIGURES]
        cells += [_cell(row.get("sample_gradients"), "d"), _cell(row.get("sample_cpu_ms"), ".2f")]
        lines.append(cells)
    text = (
        f"The same energy, trained by contrastive divergence for {seconds:g} CPU seconds each, negatives "
        f"from a replay buffer of Langevin chains or from a generator trained beside it. {LEGEND}\n\n"
        f"{markdown(head, lines)}"
    )
    pictures = {
        f"{row['way']}: {row['samples']}": row["pictures"] for row in rows if row.get("pictures") is not None
    }
    content = {"rows": [{k: v for k, v in row.items() if k != "pictures"} for row in rows]}
    page = write_report(
        out,
        "samplers",
        "Samplers of an energy",
        text,
        without_nan(content),
        {"samplers": _strips(pictures)},
        settings,
    )
    return text, page


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str, str]]) -> str:
    head = ["samples", *(label for _, label, _ in columns)]
    lines = []
    for row in rows:
        name = row["samples"]
        if row.get("steps"):
            name = f"{row['steps']} steps of {row['step_size']:g}, T {row['temperature']:g}"
        lines.append([name, *(_cell(row.get(key), form) for key, _, form in columns)])
    return markdown(head, lines)


def _cell(value: Any, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def _strips(pictures: Mapping[str, Tensor], columns: int = 20) -> bytes:
    """PNG: a strip of samples for each name."""
    from matplotlib.figure import Figure

    with style(LIGHT), matplotlib.rc_context({"font.size": 8.5}):
        figure = Figure(figsize=(8.2, 1.15 * len(pictures) + 0.1), layout="constrained")
        axes = figure.subplots(len(pictures), 1, squeeze=False)[:, 0]
        for panel, (name, x) in zip(axes, pictures.items(), strict=True):
            show(panel, tiles(inked(x), columns), name)
        return save(figure, "png")
