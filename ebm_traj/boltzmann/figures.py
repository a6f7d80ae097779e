"""Pictures of a Boltzmann machine: filters, chains, reconstructions, log-likelihood along the training."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.boltzmann.rbm import RBM
from ebm_traj.theme import LIGHT, Theme, save, style

FILTERS = 80
Shape = tuple[int, int, int]
"""(C, H, W) of a picture."""


def tile(rows: Tensor, shape: Shape, columns: int, *, each: bool = False) -> NDArray[np.float64]:
    """Pictures (N, C H W) side by side with a line of NaN between, (H', W') or (H', W', 3).

    Values are kept, or with `each` every picture is divided by its own greatest magnitude.
    """
    channels, height, width = shape
    values = rows.detach().cpu().double()
    if each:
        values = values / values.abs().amax(1, keepdim=True).clamp_min(1e-12)
    pictures = values.unflatten(1, shape).movedim(1, -1).numpy()
    lines = -(-len(pictures) // columns)
    found = np.full((lines * (height + 1) - 1, columns * (width + 1) - 1, channels), np.nan)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        found[top : top + height, left : left + width] = picture
    return found[..., 0] if channels == 1 else found


def draw_filters(rbm: RBM, shape: Shape, theme: Theme = LIGHT, count: int = FILTERS) -> bytes:
    """PNG: the weights of the `count` hidden units with the largest ones, each on its own scale."""
    order = rbm.weights.norm(dim=0).argsort(descending=True)[:count]
    columns = min(16, len(order))
    filters = tile(rbm.weights.T[order], shape, columns, each=True)
    if filters.ndim == 3:
        filters = (filters + 1) / 2
    return _panels([(filters, "weights of hidden units, largest first", (-1, 1), "RdBu_r")], theme)


def draw_chains(trace: Tensor, shape: Shape, steps: Sequence[int], theme: Theme = LIGHT) -> bytes:
    """PNG: visible means (T, M, n) of chains, a column each, downwards after so many Gibbs steps (T,)."""
    pictures = tile(trace.flatten(0, 1), shape, trace.shape[1])
    names = [f"{s:,}" for s in steps]
    return _panels([(pictures, "chains (columns) after Gibbs steps", (0, 1), "gray")], theme, names)


def draw_reconstructions(v: Tensor, again: Tensor, shape: Shape, theme: Theme = LIGHT) -> bytes:
    """PNG: held-out rows (N, n) above their reconstructions."""
    pictures = tile(torch.cat([v, again]), shape, len(v))
    title = "held-out pictures, and the mean after one way up and down"
    return _panels([(pictures, title, (0, 1), "gray")], theme)


def draw_samples(means: Tensor, shape: Shape, title: str, theme: Theme = LIGHT) -> bytes:
    """PNG: means of v (N, n) that a machine made."""
    return _panels([(tile(means, shape, 20), title, (0, 1), "gray")], theme)


def draw_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    label: str,
    theme: Theme = LIGHT,
    across: str = "updates",
) -> bytes:
    """PNG: named curves (x, y) in one panel; y is in `label`."""
    from matplotlib.figure import Figure

    with style(theme):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.subplots()
        colours = (theme.energy, theme.baseline, *theme.others)
        for (name, (x, y)), colour in zip(curves.items(), colours, strict=False):
            axes.plot(x, y, color=colour, marker="o", markersize=3, label=name)
        axes.set(xlabel=across, ylabel=label)
        axes.legend()
        return save(figure, "png")


def _panels(
    panels: list[tuple[NDArray[np.float64], str, tuple[float, float], str]],
    theme: Theme,
    rows: Sequence[str] = (),
) -> bytes:
    """Pictures under their titles; `rows` names the lines of tiles of the pictures."""
    from matplotlib.figure import Figure

    with style(theme):
        width = 7.0
        heights = [width * picture.shape[0] / picture.shape[1] for picture, *_ in panels]
        figure = Figure(figsize=(width, sum(heights) + 0.35 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, (picture, title, (low, high), colours) in zip(axes, panels, strict=True):
            shades = matplotlib.colormaps[colours].with_extremes(bad=theme.page)
            panel.imshow(picture, cmap=shades, vmin=low, vmax=high, interpolation="nearest")
            panel.set_title(title)
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
            if rows:
                line = (picture.shape[0] + 1) / len(rows)
                panel.set_yticks([(i + 0.5) * line - 1 for i in range(len(rows))], rows)
                panel.grid(False)
        return save(figure, "png")


@torch.no_grad()
def gibbs_trace(
    rbm: RBM, start: Tensor, steps: Sequence[int], generator: torch.Generator | None = None
) -> Tensor:
    """Visible means (T, M, n) of chains from v (M, n) after rising numbers of Gibbs steps; 0 is the start."""
    v, found, done = start, [], 0
    mean = start
    for wanted in steps:
        for _ in range(wanted - done):
            h = rbm.sample_hidden(v, generator)
            mean = rbm.visible_mean(h)
            v = rbm.sample_visible(h, generator)
        done = wanted
        found.append(mean)
    return torch.stack(found)
