"""The study of composition: every way draws the same held-out combinations, a probe reads all factors."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.atomic import write_atomically
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.image.composition import SpriteModel
from ebm_traj.image.composition_sampling import CompositionSampling, Way, sample_sprites
from ebm_traj.image.factor_energy import FACTORS
from ebm_traj.image.probe import SpriteProbe
from ebm_traj.image.sprite_world import Kind, draw_factors, draw_pictures, read_right
from ebm_traj.intervals import wilson
from ebm_traj.theme import LIGHT, Theme, save, style

PAGE, FIGURES, FIGURE = "composition.md", "composition.json", "composition.png"
KINDS: tuple[Kind, ...] = ("triple", "pair", "seen")
HELD_OUT: tuple[Kind, ...] = ("triple", "pair")
SHOWN = 8  # pictures of a row of the figure

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class StudyWay:
    """A row of the study."""

    name: str
    way: Way
    sampling: CompositionSampling


def ways_of(sampling: CompositionSampling) -> list[StudyWay]:
    """The sum, what is left when a part of it is taken away, and the ways to compare it with."""
    plain = dataclasses.replace(sampling, weight=1.0)
    exact = dataclasses.replace(plain, corrector=dataclasses.replace(sampling.corrector, temperature=1.0))
    # four E(x) are four times as steep
    fine = dataclasses.replace(sampling.corrector, step_size=sampling.corrector.step_size / len(FACTORS))
    still = dataclasses.replace(sampling, corrector=LangevinConfig(steps=0))
    steep = dataclasses.replace(plain, corrector=fine)
    name = f"sum of single-factor energies, w = {sampling.weight:g}, temperature "
    name += f"{sampling.corrector.temperature:g}"
    return [
        StudyWay(name, "sum", sampling),
        StudyWay("the same, w = 1, temperature 1", "sum", exact),
        StudyWay("the same without Langevin steps", "sum", still),
        StudyWay("product of the four, E(x) not taken off", "product", steep),
        StudyWay("stepping through the four in turn (released code)", "in turn", plain),
        StudyWay("one energy told all factors", "joint", plain),
    ]


@dataclasses.dataclass
class StudyRow:
    """What was read in the pictures of one way and one kind of combinations."""

    name: str
    kind: Kind
    count: int
    shares: dict[str, float]
    """Read as asked: each factor, and all."""
    low: float
    """95 % Wilson interval of the share of all."""
    high: float
    overlap: float
    """Median over pictures of the intersection over union with the sprite that was asked for, as drawn."""
    gradients: int
    """Of the network, for one picture."""
    pictures: Tensor
    """(SHOWN, 1, H, W) the first ones."""
    asked: Array
    """(SHOWN, 5)."""


def overlap(pictures: Tensor, drawn: Tensor) -> Array:
    """(N,) intersection over union of what is brighter than grey, of two sets of pictures (N, 1, H, W)."""
    a, b = (pictures > 0).flatten(1), (drawn > 0).flatten(1)
    return ((a & b).sum(1) / (a | b).sum(1).clamp_min(1)).double().numpy()


def study(
    model: SpriteModel,
    probe: SpriteProbe,
    ways: Sequence[StudyWay],
    counts: Mapping[Kind, int],
    seed: int,
) -> list[StudyRow]:
    """Draw with every way the same combinations of each kind, as many as `counts` says, and read them."""
    if not counts or min(counts.values()) < 2:
        raise InputError(f"samples: {dict(counts)}; accepted are 2 and more of each kind")
    rows = []
    for kind, count in counts.items():
        asked = draw_factors(count, np.random.default_rng(derive_seed(seed, "asked", kind)), kind)
        drawn = torch.from_numpy(draw_pictures(asked, model.energy.config.pixels))
        for way in ways:
            generator = seeded_generator("cpu", seed, "compose", kind)  # every way starts from the same noise
            x, _ = sample_sprites(model, torch.from_numpy(asked), way.way, way.sampling, generator=generator)
            rows.append(_row(way, kind, x, drawn, asked, probe))
            print(f"{kind}: {way.name}: all right {rows[-1].shares['all']:.3f}", flush=True)
    return rows


def _row(way: StudyWay, kind: Kind, x: Tensor, drawn: Tensor, asked: Array, probe: SpriteProbe) -> StudyRow:
    right = read_right(probe.read(x), asked)
    _, low, high = wilson(int(right.all.sum()), len(x))
    return StudyRow(
        name=way.name,
        kind=kind,
        count=len(x),
        shares=right.shares(),
        low=low,
        high=high,
        overlap=float(np.median(overlap(x, drawn))),
        gradients=way.sampling.gradients(way.way),
        pictures=x[:SHOWN],
        asked=asked[:SHOWN],
    )


def table(rows: Sequence[StudyRow]) -> str:
    """The rows in Markdown."""
    head = ["combinations", "way", "n", "shape", "size", "position", "rotation"]
    lines = [[*head, "all four (95 %)", "overlap", "gradients"], ["---"] * 10]
    for row in rows:
        each = [f"{100 * row.shares[name]:.0f} %" for name in head[3:]]
        whole = f"{100 * row.shares['all']:.1f} % ({100 * row.low:.0f} to {100 * row.high:.0f})"
        tail = [whole, f"{row.overlap:.2f}", str(row.gradients)]
        lines.append([row.kind, row.name, str(row.count), *each, *tail])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


LEGEND = (
    "Sprites of 16 x 16: three shapes, three sizes, any position and rotation. Never shown in training: "
    "*triples*, a third of the cells of shape x size x third of the picture across, in a Latin square, so "
    "that each pair of these is seen; and a *pair*, hearts of the largest size. Read by a probe trained on "
    "all combinations: right are the shape, the nearest of three sizes, the position within 3/4 of a pixel "
    "across and down, the rotation within 15 degrees modulo the shape's symmetry. Overlap: median "
    "intersection over union with the sprite asked for. Gradients: of a network, per picture; "
    "the sum has two networks, E(x) and the posteriors of single factors."
)


def write_report(
    rows: Sequence[StudyRow],
    ceiling: Mapping[str, float],
    path: Tensor,
    out: Path,
    settings: Mapping[str, Any],
    command: str,
) -> Path:
    """Write composition.md, .json and .png into `out`; return the page's path.

    `ceiling` is what the probe reads rightly in real pictures, `path` (T, n, 1, H, W) some walks.
    """
    dropped = ("pictures", "asked")
    kept = [{k: v for k, v in vars(row).items() if k not in dropped} for row in rows]
    content = {"command": command, "settings": dict(settings), "probe": dict(ceiling), "rows": kept}
    write_atomically(out / FIGURES, json.dumps(content, indent=1, allow_nan=False, default=str) + "\n")
    write_atomically(out / FIGURE, picture(rows, path))
    said = ", ".join(f"{name} {100 * share:.1f} %" for name, share in ceiling.items())
    page = [f"# Composition\n\n`{command}`\n\n{LEGEND}", f"The probe on real pictures: {said}.", table(rows)]
    page.append(f"![Pictures of held-out combinations]({FIGURE})")
    write_atomically(out / PAGE, "\n\n".join(page) + "\n")
    return out / PAGE


def picture(rows: Sequence[StudyRow], path: Tensor, theme: Theme = LIGHT) -> bytes:
    """PNG: what was asked for, what every way drew, and walks down the levels."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in HELD_OUT if any(row.kind == kind for row in rows)]
    names = list(dict.fromkeys(row.name for row in rows))
    with style(theme), matplotlib.rc_context({"font.size": 8.5, "axes.grid": False}):
        lines = len(names) + 1
        figure = Figure(figsize=(1.6 + 4.4 * len(kinds), 0.56 * (lines + 0.6) + 1.0), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[lines + 0.6, 1.5])
        upper, lower = parts
        panels = upper.subplots(lines, max(len(kinds), 1), squeeze=False)
        for column, kind in enumerate(kinds):
            some = {row.name: row for row in rows if row.kind == kind}
            side = path.shape[-1]
            asked = draw_pictures(next(iter(some.values())).asked, side)
            _strip(panels[0, column], torch.from_numpy(asked), f"{kind} never shown: asked for")
            for line, name in enumerate(names, 1):
                share = 100 * some[name].shares["all"]
                _strip(panels[line, column], some[name].pictures, f"{name}: {share:.0f} % right")
        axis = lower.subplots()
        picked = np.linspace(0, len(path) - 1, min(len(path), SHOWN * max(len(kinds), 1))).round().astype(int)
        strip = torch.cat([path[picked, walk] for walk in range(min(2, path.shape[1]))])
        _strip(axis, strip, "two walks down the noise levels, denoised", columns=len(picked))
        return save(figure, "png")


def _strip(axis: Any, x: Tensor, title: str, columns: int | None = None) -> None:
    columns = columns or len(x)
    side = x.shape[-1]
    padded = torch.nn.functional.pad(x[:, 0], (1, 1, 1, 1), value=0.0)
    tiles = padded.view(-1, columns, side + 2, side + 2).permute(0, 2, 1, 3)
    image = tiles.reshape(-1, columns * (side + 2))
    axis.imshow(image.numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_title(title, fontsize=7.5, fontweight="normal", pad=2)
    axis.axis("off")
