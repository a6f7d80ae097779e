"""Generation: a grid of samples, how chains come to them, and what a classifier reads in them."""

import dataclasses
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.image.classifier import Classifier
from ebm_traj.image.drawing import inked, show, tiles
from ebm_traj.image.sampling import PictureModel, Sampler, Samples, even_labels, sample
from ebm_traj.theme import LIGHT, Theme, save, style

CHAINS = 6
SNAPSHOTS = 13


@dataclasses.dataclass(frozen=True)
class Generated:
    """Samples and what was measured of them."""

    samples: Samples
    read: Tensor | None
    """(N,) the classes that a classifier reads."""
    report: dict[str, Any] | None
    """Scores, see `image.scores`."""


def generate(
    model: PictureModel,
    count: int = 100,
    labels: Tensor | None = None,
    *,
    sampler: Sampler | None = None,
    batch: int = 128,
    seed: int = 0,
    classifier: Classifier | None = None,
    real: PictureSet | None = None,
    train: PictureSet | None = None,
    progress: bool = False,
) -> Generated:
    """`count` pictures, of classes in turn where the model has them (or `labels` (count,)).

    With a classifier and real pictures they are scored, with training pictures also held against the nearest
    of them; see `image.scores`.
    """
    if labels is None:
        labels = even_labels(model, count)
    made = sample(
        model,
        count,
        labels,
        sampler=sampler,
        batch=batch,
        seed=seed,
        shown=CHAINS,
        progress="samples" if progress else None,
    )
    if not bool(made.x.isfinite().all()):
        from ebm_traj.errors import RunError

        raise RunError("samples are not finite: the chains have diverged")
    made = dataclasses.replace(made, x=made.x.clamp(-1, 1))
    if classifier is None:
        return Generated(made, None, None)
    read = classifier.read(made.x)[1].argmax(1)
    report = None
    if real is not None:
        from ebm_traj.image.scores import FEWEST, score_samples

        if count >= FEWEST:
            report = score_samples(made.x, real, classifier, labels=labels, train=train)
    return Generated(made, read, report)


def picture(found: Generated, columns: int = 10, rows: int = 10, theme: Theme = LIGHT) -> bytes:
    """PNG: samples in a grid, a class to a column where classes were asked for; below, chains from noise."""
    from matplotlib.figure import Figure

    made = found.samples
    grid = tiles(inked(made.x[: columns * rows], theme=theme), columns, gap=2, theme=theme)
    snapshots = None if made.trace is None else snapshots_of(made.trace)
    with style(theme), matplotlib.rc_context({"axes.grid": False}):
        width = 6.4
        high = width * grid.shape[0] / grid.shape[1]
        if snapshots is None:
            figure = Figure(figsize=(width, high))
            show(figure.add_axes((0, 0, 1, 1)), grid)
            return save(figure, "png")
        times = len(snapshots)
        ordered = snapshots.transpose(0, 1).reshape(-1, *snapshots.shape[2:])
        strip = tiles(inked(ordered, theme=theme), times, gap=2, theme=theme)
        low = width * strip.shape[0] / strip.shape[1]
        total = high + low + 0.62
        figure = Figure(figsize=(width, total))
        show(figure.add_axes((0, 1 - (high + 0.24) / total, 1, high / total)), grid)
        show(figure.add_axes((0, 0, 1, low / total)), strip)
        title = f"samples, {made.gradients} gradients of the energy each"
        figure.text(0, 1 - 0.05 / total, title, va="top", weight="bold", color=theme.ink)
        figure.text(
            0, (low + 0.14) / total, "from noise to picture", va="center", weight="bold", color=theme.ink
        )
        return save(figure, "png")


def snapshots_of(trace: Tensor, most: int = SNAPSHOTS) -> Tensor:
    """(t, n, C, H, W) at most so many states, evenly spaced, each scaled to be seen where it is noisy."""
    kept = torch.from_numpy(np.linspace(0, len(trace) - 1, min(most, len(trace))).round()).long()
    states = trace[kept]
    widest = states.abs().flatten(2).quantile(0.98, dim=2).clamp_min(1.0)
    return states / widest[..., None, None, None]
