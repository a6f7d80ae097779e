"""A study of morphing: from every class to every other, measured along the chains and drawn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebm_traj.core.hmc import ChainConfig
from ebm_traj.core.seeding import derive_seed
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.errors import InputError
from ebm_traj.image.classifier import Classifier
from ebm_traj.image.drawing import GAP, SIDE, Board, inked
from ebm_traj.image.morphing import Morph, MorphConfig, distance, morph
from ebm_traj.image.pictures import to_tensor
from ebm_traj.image.sampling import PictureModel, sample
from ebm_traj.tables import markdown
from ebm_traj.theme import LIGHT, Theme

LEGEND = (
    "Chains start at pictures of one class and walk on the energy of another. Read as the new class: by "
    "a classifier. Distance to the start: root mean square over pixels; fresh samples of the new class, "
    "which know nothing of the start, stand beside it. A chain that keeps something of its start lies nearer."
)


def all_pairs(test: PictureSet, each: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """`each` random pictures of every class, once for every other: x (N, C, H, W), classes from and to."""
    rng = np.random.default_rng(derive_seed(seed, "morphing pictures"))
    classes = [c for c in range(test.num_classes) if (test.y == c).any()]
    if len(classes) < 2:
        raise InputError(
            f"morphing: {test.name} has pictures of {len(classes)} class; needed are two and more"
        )
    rows: list[int] = []
    to: list[int] = []
    for one in classes:
        chosen = rng.permutation(np.flatnonzero(test.y == one))[:each]
        for other in classes:
            if other != one:
                rows.extend(chosen)
                to.extend([other] * len(chosen))
    picked = test.take(np.array(rows))
    return to_tensor(picked.x), torch.from_numpy(picked.y), torch.tensor(to)


def study(
    model: PictureModel,
    test: PictureSet,
    classifier: Classifier | None,
    config: MorphConfig | ChainConfig | None,
    *,
    each: int = 1,
    seed: int = 0,
) -> tuple[Morph, Tensor, list[dict[str, float]], dict[str, float]]:
    """Morph `each` pictures of every class to every other: the chains, the classes they came from (N,),
    figures of each frame, and those of fresh samples of the same new classes."""
    x, come, to = all_pairs(test, each, seed)
    found = morph(model, x, to, config, seed=seed)
    frames = found.frames.clamp(-1, 1)
    fresh = sample(model, len(to), to, seed=derive_seed(seed, "fresh")).x.clamp(-1, 1)

    def figures(pictures: Tensor) -> dict[str, float]:
        row = {"distance": float(distance(pictures, x).mean())}
        if classifier is not None:
            read = classifier.read(pictures)[1].argmax(1)
            row["read_new"] = float((read == to).double().mean())
            row["read_old"] = float((read == come).double().mean())
        return row

    return Morph(frames, to, found.gradients), come, [figures(f) for f in frames], figures(fresh)


def table(along: Sequence[dict[str, float]], fresh: dict[str, float], rows: int = 9) -> str:
    """Some frames and fresh samples in Markdown."""
    head = ["frame", "distance to the start"]
    if "read_new" in fresh:
        head += ["read as the new class", "as the old one"]
    shown = np.unique(np.linspace(0, len(along) - 1, min(rows, len(along))).round().astype(int))

    def line(name: str, row: dict[str, float]) -> list[str]:
        shares = [f"{100 * row[key]:.0f} %" for key in ("read_new", "read_old") if key in row]
        return [name, f"{row['distance']:.3f}", *shares]

    return markdown(head, [*(line(str(i), along[i]) for i in shown), line("fresh samples", fresh)])


def chains_picture(
    found: Morph, come: Tensor, names: Sequence[str], rows: int = 8, columns: int = 13, theme: Theme = LIGHT
) -> bytes:
    """PNG: some chains from left to right, the old class on the left and the new one on the right."""
    total = found.frames.shape[1]
    chosen = np.unique(np.linspace(0, total - 1, min(rows, total)).round().astype(int))
    last = len(found.frames) - 1
    times = np.unique(np.linspace(0, last, min(columns, last + 1)).round().astype(int))
    board, left, step = Board(theme), margin_of(names), SIDE + GAP
    for line, row in enumerate(chosen):
        top = 0.02 + line * step
        old, new = names[int(come[row])], names[int(found.labels[row])]
        board.words(left - 0.08, top + SIDE / 2, old, ha="right")
        board.words(left + len(times) * step + 0.03, top + SIDE / 2, new, weight="bold", color=theme.energy)
        for column, pixels in enumerate(inked(found.frames[torch.from_numpy(times), row], theme=theme)):
            board.picture(left + column * step, top, pixels)
    return board.png(2 * left + len(times) * step, 0.02 + len(chosen) * step)


def matrix_picture(found: Morph, come: Tensor, names: Sequence[str], theme: Theme = LIGHT) -> bytes:
    """PNG: the start of each class on the diagonal, and where its chain to each other class ended."""
    classes = sorted(set(come.tolist()) | set(found.labels.tolist()))
    board, left, step = Board(theme), margin_of(names), SIDE + GAP
    everywhere = np.ones((1, *found.frames.shape[-2:]), bool)
    for i, old in enumerate(classes):
        top = 0.3 + i * step
        board.words(left - 0.08, top + SIDE / 2, names[old], ha="right")
        board.words(
            left + i * step + SIDE / 2, 0.16, names[old], ha="center", weight="bold", color=theme.energy
        )
        for j, new in enumerate(classes):
            rows = (come == old) & (found.labels == new) if old != new else come == old
            if not bool(rows.any()):
                continue
            row = int(rows.nonzero()[0])
            state = found.frames[-1 if old != new else 0, row : row + 1]
            pixels = inked(state, everywhere if old != new else None, theme)[0]
            board.picture(left + j * step, top, pixels)
    return board.png(left + len(classes) * step, 0.3 + len(classes) * step)


def margin_of(names: Sequence[str]) -> float:
    """Inches that the longest class name takes."""
    return 0.2 + 0.075 * max(map(len, names), default=1)


def content(found: Morph, along: Sequence[dict[str, float]], fresh: dict[str, float]) -> dict[str, Any]:
    """The figures as numbers."""
    return {"gradients": found.gradients, "frames": list(along), "fresh_samples": fresh}
