"""Accuracy of energy classifiers under adversarial attack, through their refinement steps and around them.

An attack on a classifier that refines its input must go through the refinement (Athalye et al. 2018; Croce et
al. 2022, 2202.13711). The figure of an attack that does not is printed beside it under its own name:
published figures of energies were made so (Du & Mordatch 2019).
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.image.attacks import Logits, PGDConfig, accuracy, pgd
from ebm_traj.image.model import ImageModel
from ebm_traj.image.refinement import RefinementConfig, refine
from ebm_traj.image.same_network import class_logits
from ebm_traj.intervals import wilson

ENERGY = "energy classifier"
REFINED = "refined, adaptive attack"
AROUND = "refined, non-adaptive attack"
ORDINARY = "ordinary classifier"
TRAINED = "adversarially trained classifier"


@dataclasses.dataclass(frozen=True)
class Arm:
    """A classifier, and how it is attacked."""

    logits: Logits
    """The whole pipeline, as it is used and as it is attacked."""
    random: bool = False
    """Whether its answers are random: then attack and accuracy average over draws."""
    around: str | None = None
    """Name of an arm whose adversarial pictures are shown to this one instead of any of its own (a
    non-adaptive attack)."""
    starts: tuple[str, ...] = ()
    """Names of arms whose adversarial pictures the attack starts from, too."""


@dataclasses.dataclass(frozen=True)
class RobustnessConfig:
    """Radii, attacks and how accuracies are counted."""

    linf: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
    """Radii of the l-inf attack, in units of pixels in [0, 1]; rising."""
    l2: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
    """Radii of the l-2 attack, in the same units; rising."""
    attack: PGDConfig = dataclasses.field(default_factory=lambda: PGDConfig(steps=40, restarts=3))
    """Of classifiers whose answers are not random."""
    adaptive: PGDConfig = dataclasses.field(
        default_factory=lambda: PGDConfig(steps=20, restarts=1, eot=4, momentum=0.75, recheck=32)
    )
    """Of those whose answers are: through all refinement steps; the pictures found around them are among its
    starts. Its norm, like that of `attack`, is ignored."""
    draws: int = 5
    """Answers that a random classifier's accuracy is averaged over; drawn anew, not the attack's."""
    batch: int = 100
    """Pictures attacked at once."""

    def __post_init__(self) -> None:
        for name in ("linf", "l2"):
            radii = getattr(self, name)
            if any(b <= a for a, b in itertools.pairwise(radii)) or any(r < 0 for r in radii):
                raise InputError(f"{name} radii: {radii}; accepted are rising ones of 0 and more")
        if not self.linf and not self.l2:
            raise InputError("radii: none given, neither linf nor l2")
        for name in ("draws", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}; accepted are 1 and more")


@dataclasses.dataclass(frozen=True)
class Point:
    """Accuracy at one radius."""

    radius: float
    accuracy: float
    low: float
    """Ends of the 95 % interval (Wilson) over pictures."""
    high: float


Curves = dict[str, dict[str, list[Point]]]
"""Norm -> arm -> points by rising radius."""


def energy_logits(model: ImageModel, level: float | None = None) -> Logits:
    """-E(x | y, level) as a classifier, without refinement."""
    at = model.lowest_level if level is None else level
    return lambda x, generator: class_logits(model.energy, x, at)


def refined_logits(model: ImageModel, refinement: RefinementConfig, level: float | None = None) -> Logits:
    """The same after refinement by the model's own energy without a class."""
    read, refined = energy_logits(model, level), refinement_of(model, refinement)
    return lambda x, generator: read(refined(x, generator), generator)


def refinement_of(
    model: ImageModel, refinement: RefinementConfig
) -> Callable[[Tensor, torch.Generator | None], Tensor]:
    """Pictures and a generator to refined pictures."""
    return lambda x, generator: refine(model.energy_at, x, refinement, generator, levels=model.has_levels)


def plain_logits(module: Callable[[Tensor], Tensor]) -> Logits:
    """An ordinary classifier of pictures as an attack sees it."""
    return lambda x, generator: module(x)


def energy_arms(
    model: ImageModel, refinement: RefinementConfig, level: float | None = None
) -> dict[str, Arm]:
    """The energy classifier, the refined one under an attack through it, and under one around it."""
    refined = refined_logits(model, refinement, level)
    return {
        ENERGY: Arm(energy_logits(model, level)),
        AROUND: Arm(refined, random=True, around=ENERGY),
        REFINED: Arm(refined, random=True, starts=(ENERGY,)),
    }


def curves(
    arms: Mapping[str, Arm],
    x: Tensor,
    y: Tensor,
    config: RobustnessConfig,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Curves:
    """Accuracy of every arm on pictures x (N, C, H, W) of classes y under each norm and radius.

    An attack goes on from what it found at the smaller radius, and leaves alone what is misread for certain
    there already; so accuracy falls with the radius up to the noise of random answers. Arms that others refer
    to must stand before them.
    """
    known: list[str] = []
    for name, arm in arms.items():
        for other in (*arm.starts, *([arm.around] if arm.around else [])):
            if other not in known:
                raise InputError(f"arm '{name}' refers to '{other}', which does not stand before it")
        known.append(name)
    norms = {"linf": config.linf, "l2": config.l2}
    found: Curves = {norm: {name: [] for name in arms} for norm, radii in norms.items() if radii}
    right: dict[tuple[str, str, int], list[Tensor]] = {}
    parts = range(0, len(x), config.batch)
    total = len(parts) * sum(len(radii) for radii in norms.values()) * len(arms)
    with tqdm(total=total, unit="attack", disable=not progress, mininterval=1) as bar:
        for first in parts:
            rows = slice(first, first + config.batch)
            for norm in found:
                for key, share in _attack_all(arms, x[rows], y[rows], norm, config, seed, first, bar):
                    right.setdefault((norm, *key), []).append(share)
    for (norm, name, number), values in right.items():
        mean = float(torch.cat(values).mean())
        found[norm][name].append(Point(norms[norm][number], *wilson(mean * len(x), len(x))))
    return found


def _attack_all(
    arms: Mapping[str, Arm],
    x: Tensor,
    y: Tensor,
    norm: Any,
    config: RobustnessConfig,
    seed: int,
    first: int,
    bar: Any,
) -> list[tuple[tuple[str, int], Tensor]]:
    """((arm, number of the radius), share of right answers (B,)) of one batch, radii rising."""
    results: list[tuple[tuple[str, int], Tensor]] = []
    before: dict[str, Tensor] = {}
    lost = {name: torch.zeros(len(x), dtype=torch.bool, device=x.device) for name in arms}
    for number, radius in enumerate(getattr(config, norm)):
        worst: dict[str, Tensor] = {}
        for name, arm in arms.items():
            generator = seeded_generator(x.device, seed, "attack", norm, name, number, first)
            if arm.around:
                worst[name] = worst[arm.around]
            else:
                worst[name] = before.get(name, x).clone()
                open_ = ~lost[name]
                if radius and bool(open_.any()):
                    begun = [before[name][open_]] if name in before else []
                    begun += [worst[other][open_] for other in arm.starts]
                    settings = dataclasses.replace(
                        config.adaptive if arm.random else config.attack, norm=norm
                    )
                    attacked = pgd(arm.logits, x[open_], y[open_], radius, settings, generator, starts=begun)
                    worst[name][open_] = attacked.x
            judge = seeded_generator(x.device, seed, "judge", norm, name, number, first)
            share = accuracy(arm.logits, worst[name], y, judge, config.draws if arm.random else 1)
            lost[name] |= share == 0
            results.append(((name, number), share))
            bar.update(1)
        before = worst
    return results


def areas(found: Curves) -> dict[str, dict[str, float]]:
    """Norm -> arm -> mean accuracy over the radii, by the trapezoid rule: one figure for a curve."""

    def area(points: Sequence[Point]) -> float:
        if len(points) < 2:
            return points[0].accuracy
        pieces = [
            0.5 * (a.accuracy + b.accuracy) * (b.radius - a.radius) for a, b in itertools.pairwise(points)
        ]
        return sum(pieces) / (points[-1].radius - points[0].radius)

    return {norm: {name: area(points) for name, points in arms.items()} for norm, arms in found.items()}
