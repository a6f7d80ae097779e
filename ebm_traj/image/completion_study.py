"""A study of completion: random pictures under several masks, measured and drawn."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ebm_traj.core.hmc import ChainConfig
from ebm_traj.core.seeding import derive_seed
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.image.classifier import Classifier
from ebm_traj.image.completion import (
    REFERENCE,
    Mask,
    Reference,
    complete,
    copied,
    known_part,
    most_diverse,
    score,
    summary,
)
from ebm_traj.image.completion_report import LEGEND, chosen_rows, picture, read_classes, table
from ebm_traj.image.pictures import to_tensor
from ebm_traj.image.posterior import PosteriorConfig
from ebm_traj.image.sampling import PictureModel


def study(
    model: PictureModel,
    test: PictureSet,
    train: PictureSet,
    classifier: Classifier | None,
    config: PosteriorConfig | ChainConfig,
    *,
    masks: Sequence[Mask] = ("left", "upper", "lower"),
    pictures: int = 100,
    completions: int = 16,
    rows: int = 8,
    batch: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> tuple[str, dict[str, Any], dict[str, bytes]]:
    """Complete random pictures of `test` under each mask: Markdown, figures as numbers, and PNGs by name.

    Without a classifier only pictures are made. Rows of the tables: the model over all pictures and over the
    ambiguous ones, and copies from the training pictures over all.
    """
    rng = np.random.default_rng(derive_seed(seed, "completion pictures"))
    chosen = test.take(rng.permutation(len(test))[:pictures])
    x, labels = to_tensor(chosen.x), torch.from_numpy(chosen.y)
    labelled = rng.permutation(np.flatnonzero(train.y >= 0))[:REFERENCE]
    near, near_labels = to_tensor(train.x[labelled]), torch.from_numpy(train.y[labelled])
    text = [LEGEND] if classifier else []
    content: dict[str, Any] = {}
    figures: dict[str, bytes] = {}
    for mask in masks:
        part = known_part(mask, *x.shape[-2:])
        began = time.process_time()
        bar = f"{mask} masked" if progress else None
        found = complete(
            model, x, part, completions, config, batch=batch, seed=derive_seed(seed, mask), progress=bar
        )
        found = dataclasses.replace(found, drawn=found.drawn.clamp(-1, 1))
        seconds = time.process_time() - began
        content[mask] = {"gradients": found.gradients, "cpu_seconds": round(seconds, 1)}
        name = f"complete_{mask}"
        if classifier is None:
            figures[name] = picture(found, range(min(rows, len(x))))
            continue
        reference = Reference.of(near, near_labels, part, seed=seed)
        ambiguous = reference.ambiguous(x, part)
        table_rows = {}
        for title, made in {
            "model": found,
            "copies": copied(x, part, reference.train, completions),
        }.items():
            probabilities = classifier.read(made.drawn.flatten(0, 1))[1].view(*made.drawn.shape[:2], -1)
            scores = score(made, probabilities, labels, reference.apart)
            table_rows[title] = summary(scores)
            if bool(ambiguous.any()):
                table_rows[f"{title}, {int(ambiguous.sum())} ambiguous"] = summary(scores, ambiguous)
            if title == "model":
                best = most_diverse(scores, -(-rows // 2))
                read = read_classes(probabilities)
                figures[name] = picture(
                    found, chosen_rows(best, len(x), rows), read, short(classifier.class_names)
                )
                content[mask]["pictures"] = [
                    {"index": int(i), "class": int(c), "classes": int(k), "kinds": int(q)}
                    for i, c, k, q in zip(
                        chosen.index, labels, scores["classes"], scores["kinds"], strict=True
                    )
                ]
        content[mask] |= {"apart": reference.apart, "rows": table_rows}
        text.append(
            f"## {mask} masked\n\n{len(x)} {test.split} pictures, {found.drawn.shape[1]} completions each, "
            f"{found.gradients} gradients a completion, {seconds:.0f} CPU seconds; unit of distance "
            f"{reference.apart:.3f}.\n\n{table(table_rows)}"
        )
    return "\n\n".join(text) or "Completions.", content, figures


def short(names: Sequence[str]) -> list[str]:
    """Class names that fit below a small picture."""
    return [name if len(name) <= 7 else name[:6] + "." for name in names]
