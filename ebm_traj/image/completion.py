"""Completion: many ways to go on from the part of a picture that is seen, and how unlike they are."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.core.hmc import ChainConfig
from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.image.measurements import masked
from ebm_traj.image.posterior import PosteriorConfig, draw_in_batches
from ebm_traj.image.sampling import PictureModel, device_of

Mask = Literal["left", "right", "upper", "lower", "centre"]
"""The part that is masked: a half, or a square of half the side."""

NEIGHBOURS = 20
AMBIGUOUS = 0.1  # share of the neighbours that a second class must have
CONFIDENT = 0.9
REFERENCE = 5000  # pictures of the training set to compare with


@dataclasses.dataclass(frozen=True)
class Completions:
    """M completions of each of N pictures."""

    truth: Tensor
    """(N, C, H, W)."""
    known: Tensor
    """(H, W) boolean, true where the picture is seen."""
    drawn: Tensor
    """(N, M, C, H, W); on what is seen they are the truth."""
    misfit: Tensor
    """(N, M) root mean square on what is seen, before the truth was put there."""
    gradients: int
    """Of the energy, for each completion; 0 where no model made them."""


def known_part(mask: Mask, height: int, width: int) -> Tensor:
    """(H, W) boolean, true where a picture is seen under a mask of this name."""
    if mask not in get_args(Mask):
        raise InputError(f"mask: '{mask}'; accepted are {', '.join(get_args(Mask))}")
    known = torch.ones(height, width, dtype=torch.bool)
    part = {
        "left": (slice(None), slice(0, width // 2)),
        "right": (slice(None), slice(width - width // 2, None)),
        "upper": (slice(0, height // 2), slice(None)),
        "lower": (slice(height - height // 2, None), slice(None)),
        "centre": (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)),
    }[mask]
    known[part] = False
    return known


def complete(
    model: PictureModel,
    x: Tensor,
    known: Tensor,
    count: int = 16,
    config: PosteriorConfig | ChainConfig | None = None,
    *,
    labels: Tensor | None = None,
    batch: int = 128,
    seed: int = 0,
    progress: str | None = None,
) -> Completions:
    """`count` completions of each picture x (N, C, H, W) from its pixels `known` (H, W).

    The mask is an energy added to the model's at each noise level, or pixels held, see `image.posterior`.
    `labels` (N,) are classes to complete to, of a conditional model; else its energy without a class.
    """
    if count < 1:
        raise InputError(f"completions: {count} of each picture; accepted are 1 and more")
    if known.shape != x.shape[-2:] or bool(known.all()):
        raise InputError(f"mask of {tuple(known.shape)}; it must go with {tuple(x.shape)} and hide a pixel")
    device = device_of(model)
    measurement = masked(x.to(device), known.to(device)).repeat(count)
    given = None if labels is None else labels.to(device).repeat_interleave(count)
    found = draw_in_batches(
        model,
        measurement,
        config or PosteriorConfig(),
        labels=given,
        batch=batch,
        generator=seeded_generator(device, seed, "completion"),
        progress=progress,
    )
    shape = (len(x), count, *x.shape[1:])
    misfit = measurement.residual(found.raw).view(len(x), count)
    return Completions(x.cpu(), known.cpu(), found.x.cpu().view(shape), misfit.cpu(), found.gradients)


def copied(x: Tensor, known: Tensor, train: Tensor, count: int = 16) -> Completions:
    """What to compare with: the masked part of the `count` training pictures nearest in what is seen."""
    near = _distance(x, train, known).topk(count, largest=False).indices
    drawn = torch.where(known, x[:, None], train[near])
    return Completions(x, known, drawn, _distance(x, train, known).gather(1, near), 0)


@dataclasses.dataclass(frozen=True)
class Reference:
    """What training pictures say of a mask: how far apart are two pictures alike, and what is ambiguous."""

    train: Tensor
    """(R, C, H, W)."""
    labels: Tensor
    """(R,)."""
    apart: float
    """Median distance, in the masked part, of two training pictures of one class: what lies farther apart
    differs in shape as two pictures of a class do."""

    @classmethod
    def of(
        cls, train: Tensor, labels: Tensor, known: Tensor, count: int = REFERENCE, seed: int = 0
    ) -> "Reference":
        """From `count` training pictures (N, C, H, W) in [-1, 1] and their classes (N,)."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "reference"))
        rows = torch.randperm(len(train), generator=generator)[:count]
        train, labels = train[rows], labels[rows]
        some = slice(0, 1000)
        distance = _distance(train[some], train, ~known)
        alike = labels[some, None] == labels
        alike.fill_diagonal_(False)
        return cls(train, labels, float(distance[alike].median()))

    def ambiguous(self, x: Tensor, known: Tensor) -> Tensor:
        """(N,) whether two classes and more have a tenth of the 20 training pictures nearest there."""
        near = _distance(x, self.train, known).topk(NEIGHBOURS, largest=False).indices
        classes = int(self.labels.max()) + 1
        votes = torch.nn.functional.one_hot(self.labels[near], classes).sum(1)
        return (votes >= AMBIGUOUS * NEIGHBOURS).sum(1) >= 2


def kinds(drawn: Tensor, read: Tensor, known: Tensor, apart: float) -> Tensor:
    """(N,) completions (N, M, C, H, W) that differ from each other in class or shape, counted.

    A completion is of a new kind if of every earlier kind it differs in the class read (N, M), or is farther
    than `apart` in the masked part.
    """
    found = []
    for pictures, classes in zip(drawn, read, strict=True):
        distance = _distance(pictures, pictures, ~known)
        unlike = (distance > apart) | (classes[:, None] != classes)
        leaders: list[int] = []
        for i in range(len(pictures)):
            if bool(unlike[i, leaders].all()):
                leaders.append(i)
        found.append(len(leaders))
    return torch.tensor(found)


def score(found: Completions, probabilities: Tensor, labels: Tensor, apart: float) -> dict[str, Tensor]:
    """Figures (N,) of each picture, from a classifier's probabilities (N, M, K) and the true classes (N,).

    `classes`: read among the completions with a probability above 0.5. `kinds`: see there. `confident`: share
    read with more than 0.9. `true_class`: whether the truth's class is among the completions; `read_right`:
    share of them read so. `spread`: mean distance between two completions, in units of `apart`. `far`: share
    of pairs farther apart than that. `energy_score`: mean distance to the truth less half that between two
    completions, in the masked part, a proper score (Gneiting & Raftery 2007). `seam`: mean step over the edge
    of the mask against the truth's. `misfit`: on what is seen, before the truth was put there.
    """
    highest, read = probabilities.max(-1)
    count = found.drawn.shape[1]
    sure = torch.where(highest > 0.5, read, -1)
    hidden = ~found.known
    between = torch.stack([_distance(p, p, hidden) for p in found.drawn])
    pairs = max(count * (count - 1), 1)
    to_truth = torch.stack(
        [_distance(p, t[None], hidden)[:, 0] for p, t in zip(found.drawn, found.truth, strict=True)]
    )
    mean_between = between.sum((1, 2)) / pairs
    right = read == labels[:, None]
    truth_steps = _seam(found.truth, found.known).clamp_min(1e-6)
    return {
        "classes": torch.tensor([len(set(row.tolist()) - {-1}) for row in sure]),
        "kinds": kinds(found.drawn, read, found.known, apart),
        "confident": (highest > CONFIDENT).double().mean(1),
        "true_class": right.any(1).double(),
        "read_right": right.double().mean(1),
        "spread": mean_between / apart,
        "far": (between > apart).double().sum((1, 2)) / pairs,
        "energy_score": to_truth.mean(1) - 0.5 * mean_between,
        "seam": _seam(found.drawn.flatten(0, 1), found.known).view(-1, count).mean(1) / truth_steps.mean(),
        "misfit": found.misfit.mean(1),
    }


def summary(scores: dict[str, Tensor], rows: Tensor | None = None) -> dict[str, float]:
    """Means over pictures, and the share of them with two or three classes or kinds and more."""
    picked = {name: (values if rows is None else values[rows]).double() for name, values in scores.items()}
    means = {name: float(values.mean()) for name, values in picked.items()}
    for name, least in (("classes", 2), ("classes", 3), ("kinds", 3)):
        means[f"{name}_{least}"] = float((picked[name] >= least).double().mean())
    return means


def _distance(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """(A, B) root mean square difference of pictures over the pixels of a mask (H, W)."""
    one, other = a[..., where].flatten(1), b[..., where].flatten(1)
    exact: Literal["donot_use_mm_for_euclid_dist"] = "donot_use_mm_for_euclid_dist"
    mode = exact if max(len(one), len(other)) < 100 else "use_mm_for_euclid_dist_if_necessary"
    return torch.cdist(one, other, compute_mode=mode) / max(one.shape[1], 1) ** 0.5


def _seam(x: Tensor, known: Tensor) -> Tensor:
    """(N,) mean absolute step between neighbours of which one is seen and the other not."""
    total, number = x.new_zeros(len(x)), 0
    for axis in (-2, -1):
        size = known.shape[axis]
        border = known.narrow(axis, 1, size - 1) != known.narrow(axis, 0, size - 1)
        step = (x.narrow(axis, 1, size - 1) - x.narrow(axis, 0, size - 1)).abs()
        total = total + step[..., border].flatten(1).sum(1)
        number += int(border.sum()) * x.shape[1]
    return total / max(number, 1)


def most_diverse(scores: dict[str, Tensor], count: int) -> Sequence[int]:
    """The pictures whose completions have the most classes, of those with as many the most kinds."""
    order = sorted(
        range(len(scores["classes"])), key=lambda i: (-int(scores["classes"][i]), -int(scores["kinds"][i]), i)
    )
    return order[:count]
