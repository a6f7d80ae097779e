"""Telling pictures of other sets from a model's own by its energy: AUROC of each score, with intervals.

The plain energy is the figure the literature quotes (Du & Mordatch 2019, table 3); stronger scores of the
same energy stand beside it under their own names (`image.typicality`). Which of those to use is chosen by
synthetic outliers made from validation pictures, never by the sets that are reported.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from ebm_traj.core.seeding import derive_seed
from ebm_traj.errors import InputError
from ebm_traj.image.other_sets import SYNTHETIC, make
from ebm_traj.image.typicality import CONTROL, PLAIN, EnergyModel, Readings, Score, read_energies, scores

Array = NDArray[np.float64]
Interval = tuple[float, float, float]
"""A figure and the ends of its 95 % interval."""


@dataclasses.dataclass(frozen=True)
class DetectionConfig:
    """What is read and how sure the figures are to be."""

    levels: int = 8
    """Noise levels at which energy and gradient are read, of a model that has them."""
    highest: float = 2.0
    """Highest of them; the lowest is the model's own."""
    resamples: int = 500
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise InputError(f"detection levels: {self.levels}; accepted are 1 and more")
        if self.resamples < 2:
            raise InputError(f"detection resamples: {self.resamples}; accepted are 2 and more")


def auroc(out: ArrayLike, own: ArrayLike) -> float:
    """P(score of a picture from outside > one of the own), ties count one half (Mann-Whitney)."""
    outside, inside = np.asarray(out, np.float64), np.asarray(own, np.float64)
    place, size = _places(outside, inside)
    return _area(place, size, np.ones(len(outside)), np.ones(len(inside)))


def bootstrap(
    out: ArrayLike,
    own: ArrayLike,
    resamples: int,
    out_rng: np.random.Generator,
    own_rng: np.random.Generator,
) -> Array:
    """(resamples,) AUROCs of both sets drawn anew, each by its own stream.

    Raises InputError if a set is empty or a score is not finite.
    """
    outside, inside = np.asarray(out, np.float64), np.asarray(own, np.float64)
    for name, values in (("outside", outside), ("own", inside)):
        if not len(values):
            raise InputError(f"AUROC: no scores of {name} pictures")
        if not np.isfinite(values).all():
            raise InputError(
                f"AUROC: {(~np.isfinite(values)).sum()} scores of {name} pictures are not finite"
            )

    def draw(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        return rng.multinomial(count, np.full(count, 1 / count), resamples)

    weights = zip(draw(out_rng, len(outside)), draw(own_rng, len(inside)), strict=True)
    place, size = _places(outside, inside)
    return np.array([_area(place, size, a, b) for a, b in weights])


def limits(values: ArrayLike) -> tuple[float, float]:
    """Ends of the 95 % interval of bootstrap values."""
    low, high = np.quantile(np.asarray(values, np.float64), [0.025, 0.975])
    return float(low), float(high)


def _places(outside: Array, inside: Array) -> tuple[NDArray[np.int64], int]:
    """Ranks of all scores, those of outside first; equal scores have one rank; and the number of ranks."""
    distinct, place = np.unique(np.concatenate([outside, inside]), return_inverse=True)
    return place, len(distinct)


def _area(place: NDArray[np.int64], size: int, out_weight: ArrayLike, own_weight: ArrayLike) -> float:
    """AUROC of weighted scores at their ranks."""
    count = len(np.asarray(out_weight))
    out = np.bincount(place[:count], np.asarray(out_weight, np.float64), size)
    own = np.bincount(place[count:], np.asarray(own_weight, np.float64), size)
    below = np.cumsum(own) - own
    return float((out * (below + 0.5 * own)).sum() / (out.sum() * own.sum()))


@dataclasses.dataclass
class Detection:
    """The AUROC of every score for every other set."""

    found: dict[str, dict[str, Interval]]
    """Score -> set -> AUROC with its interval."""
    means: dict[str, Interval]
    """Score -> mean over the sets; the interval is of the mean, from the same bootstrap draws."""
    synthetic: dict[str, dict[str, float]]
    """Score -> synthetic set -> AUROC; what the choice is made by."""
    chosen: str
    """The score with the highest mean over synthetic sets."""
    counts: dict[str, int]
    """Pictures of each set, `own` and `held out` among them."""
    sigmas: tuple[float, ...]
    own: dict[str, Array]
    """(N,) scores of the own test pictures by the plain energy and by the chosen score, for the figure."""
    outside: dict[str, dict[str, Array]]
    """The same of each other set."""

    def to_json(self) -> dict[str, Any]:
        """All figures, without the scores of single pictures."""

        def named(interval: Interval) -> dict[str, float]:
            return dict(zip(("auroc", "low", "high"), interval, strict=True))

        return {
            "chosen": self.chosen,
            "sigmas": self.sigmas,
            "counts": self.counts,
            "auroc": {s: {k: named(v) for k, v in row.items()} for s, row in self.found.items()},
            "mean": {s: named(v) for s, v in self.means.items()},
            "synthetic": self.synthetic,
        }


def detect(
    model: EnergyModel,
    sigmas: tuple[float, ...],
    held_out: NDArray[np.uint8],
    own_test: NDArray[np.uint8],
    others: Mapping[str, NDArray[np.uint8]],
    config: DetectionConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Detection:
    """Fit every score on one half of the held-out pictures, choose one by the other half, test it.

    Pictures are (N, H, W, C); `others` maps names to pictures of the same shape, read in the same way.
    """
    if not others:
        raise InputError("other sets: none given")
    for name, x in others.items():
        if x.shape[1:] != own_test.shape[1:]:
            raise InputError(f"set {name}: pictures of {x.shape[1:]}; accepted here is {own_test.shape[1:]}")
    order = np.random.default_rng(derive_seed(seed, "halves")).permutation(len(held_out))
    fit_rows, choose_rows = held_out[order[::2]], held_out[order[1::2]]
    synthetic = {name: make(name, choose_rows, seed) for name in SYNTHETIC}
    total = len(held_out) + len(own_test) + sum(map(len, [*others.values(), *synthetic.values()]))
    with tqdm(total=total, unit="picture", disable=not progress, mininterval=1) as bar:

        def look(x: NDArray[np.uint8]) -> Readings:
            return read_energies(model, x, sigmas, device=device, progress=bar.update)

        every = scores(look(fit_rows), seed=seed)
        kept = look(choose_rows)
        made = {name: look(x) for name, x in synthetic.items()}
        own = look(own_test)
        read = {name: look(x) for name, x in others.items()}
    guesses = {
        name: {other: auroc(score(r), score(kept)) for other, r in made.items()}
        for name, score in every.items()
    }
    energies = [name for name in guesses if name != CONTROL]
    chosen = max(energies, key=lambda name: float(np.mean(list(guesses[name].values()))))
    found, means = _intervals(every, own, read, config.resamples, seed)
    return Detection(
        found=found,
        means=means,
        synthetic=guesses,
        chosen=chosen,
        counts={"held out": len(held_out), "own": len(own), **{n: len(r) for n, r in read.items()}},
        sigmas=own.sigmas,
        own={name: every[name](own) for name in (PLAIN, chosen)},
        outside={name: {o: every[name](r) for o, r in read.items()} for name in (PLAIN, chosen)},
    )


def _intervals(
    every: Mapping[str, Score], own: Readings, read: Mapping[str, Readings], resamples: int, seed: int
) -> tuple[dict[str, dict[str, Interval]], dict[str, Interval]]:
    found: dict[str, dict[str, Interval]] = {}
    means: dict[str, Interval] = {}
    for name, score in every.items():
        inside = score(own)
        found[name], drawn = {}, []
        for other, readings in read.items():
            # the same draws of own pictures for every set: the mean's interval is then that of the mean
            own_rng = np.random.default_rng(derive_seed(seed, "own"))
            out_rng = np.random.default_rng(derive_seed(seed, "other", other))
            outside = score(readings)
            drawn.append(bootstrap(outside, inside, resamples, out_rng, own_rng))
            found[name][other] = (auroc(outside, inside), *limits(drawn[-1]))
        mean = float(np.mean([value[0] for value in found[name].values()]))
        means[name] = (mean, *limits(np.mean(drawn, 0)))
    return found, means
