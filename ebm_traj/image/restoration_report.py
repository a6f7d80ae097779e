"""A study of restoration: random pictures under several kinds of damage, measured and drawn."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebm_traj.core.hmc import ChainConfig
from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.image.classifier import Classifier
from ebm_traj.image.drawing import GAP, SIDE, Board, Bytes, inked
from ebm_traj.image.pictures import to_tensor
from ebm_traj.image.posterior import PosteriorConfig, require_way
from ebm_traj.image.restoration import FILTER_ROWS, Damage, calibration, psnr, restore, tweedie, wiener
from ebm_traj.image.sampling import PictureModel
from ebm_traj.tables import markdown
from ebm_traj.theme import LIGHT, Theme

LEGEND = (
    "PSNR in dB of a range of 2, mean over pictures. The mean of the draws is the estimate of least squared "
    "error, a single draw is a likely picture: it is sharper and at most 3 dB worse. Linear: the best "
    "linear estimate by mean and covariance of the training pictures (the Wiener filter of a Gaussian). "
    "One gradient: the model's denoised picture at the level of the noise. Calibration: error of the mean "
    "against what the spread of the draws says it is; 1 is right, above 1 is too sure."
)
ORDER = ("seen", "linear", "one gradient", "mean of draws", "one draw")


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of damage."""

    damage: Damage
    pictures: dict[str, Tensor]
    """Estimates (N, C, H, W) by name, `ORDER`."""
    figures: dict[str, dict[str, float]]
    """Of each estimate: psnr, and with a classifier the share read as the true class."""
    calibration: float
    gradients: int
    seconds: float
    spread: Tensor
    """(N, C, H, W)."""


def study(
    model: PictureModel,
    test: PictureSet,
    train: PictureSet,
    classifier: Classifier | None,
    config: PosteriorConfig | ChainConfig,
    damages: Sequence[Damage],
    *,
    pictures: int = 64,
    draws: int = 8,
    batch: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Tensor, list[Row], float | None]:
    """Pictures (N, C, H, W), a row for each damage, and the share of the pictures as such read right."""
    rng = np.random.default_rng(derive_seed(seed, "restoration pictures"))
    chosen = test.take(rng.permutation(len(test))[:pictures])
    x, labels = to_tensor(chosen.x), torch.from_numpy(chosen.y)
    real = to_tensor(train.x[:FILTER_ROWS])

    def read_right(pictures_: Tensor) -> dict[str, float]:
        if classifier is None:
            return {}
        read = classifier.read(pictures_)[1].argmax(1)
        return {"read_right": float((read == labels).double().mean())}

    measured = [damage.of(x, seeded_generator("cpu", seed, damage.title)) for damage in damages]
    for measurement in measured:  # before any of them is restored
        require_way(model, measurement, config)
    rows = []
    for damage, measurement in zip(damages, measured, strict=True):
        began = time.process_time()
        bar = damage.title if progress else None
        own = derive_seed(seed, damage.title, "draws")
        found = restore(model, measurement, draws, config, batch=batch, seed=own, progress=bar)
        found = dataclasses.replace(found, drawn=found.drawn.cpu())
        seconds = time.process_time() - began
        made = {"seen": measurement.picture(), "linear": wiener(measurement, real)}
        if measurement.whole and model.has_levels:
            made["one gradient"] = tweedie(model, measurement).cpu()
        made |= {"mean of draws": found.mean, "one draw": found.drawn[:, 0]}
        made = {name: values.clamp(-1, 1) for name, values in made.items()}
        figures = {
            name: {"psnr": float(psnr(values, x).mean()), **read_right(values)}
            for name, values in made.items()
        }
        rows.append(Row(damage, made, figures, calibration(found, x), found.gradients, seconds, found.spread))
    return x, rows, read_right(x).get("read_right")


def table(rows: Sequence[Row], truth: float | None) -> str:
    """Every estimate of every damage in Markdown."""
    head = ["damage", "estimate", "PSNR", *(["read right"] if truth is not None else []), "gradients"]
    lines = []
    for row in rows:
        for name in ORDER:
            if name not in row.figures:
                continue
            figures = row.figures[name]
            first = row.damage.title if name == "seen" else ""
            cost = {"one gradient": "1", "mean of draws": f"{row.gradients} a draw"}.get(name, "")
            share = [f"{100 * figures['read_right']:.0f} %"] if truth is not None else []
            lines.append([first, name, f"{figures['psnr']:.2f}", *share, cost])
        lines.append(["", f"calibration {row.calibration:.2f}", "", *([""] if truth is not None else []), ""])
    if truth is not None:
        lines.append(["none", "truth", "", f"{100 * truth:.0f} %", ""])
    return markdown(head, lines)


def content(rows: Sequence[Row], truth: float | None) -> dict[str, Any]:
    """The same as numbers."""
    return {
        "truth_read_right": truth,
        "damages": [
            {
                **dataclasses.asdict(row.damage),
                "figures": row.figures,
                "calibration": row.calibration,
                "gradients": row.gradients,
                "cpu_seconds": round(row.seconds, 1),
            }
            for row in rows
        ],
    }


def picture(x: Tensor, rows: Sequence[Row], columns: int = 10, theme: Theme = LIGHT) -> bytes:
    """PNG: for each damage what was seen, the linear estimate, the mean of the draws, a draw, the spread."""
    columns = min(columns, len(x))
    board, left, top = Board(theme), 1.05, 0.02

    def line(name: str, pixels: Bytes) -> None:
        nonlocal top
        board.words(left - 0.08, top + SIDE / 2, name, ha="right", color=theme.muted)
        for column in range(columns):
            board.picture(left + column * (SIDE + GAP), top, pixels[column])
        top += SIDE + GAP

    line("truth", inked(x[:columns], theme=theme))
    everywhere = np.ones((1, *x.shape[-2:]), bool)
    for row in rows:
        top += 0.26
        board.words(0.02, top - 0.11, row.damage.title, weight="bold")
        for name in ("seen", "linear", "mean of draws", "one draw"):
            line(name, inked(row.pictures[name][:columns], theme=theme))
        # on one scale in all blocks, so that they can be compared
        spread = (2 * row.spread[:columns] / 0.6 - 1).clamp(-1, 1).mean(1, keepdim=True)
        line("uncertainty", inked(spread, everywhere, theme))
    return board.png(left + columns * (SIDE + GAP), top)
