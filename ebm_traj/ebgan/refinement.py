"""The energy as an energy: a generator's samples walked on by the core's Langevin on its discriminator.

Does exp(-E / T), with E the auto-encoder's error or the classifier's negative logit, hold better samples than
the generator it was trained against? What is chosen (steps, step size, temperature) is chosen on validation
pictures and scored on test pictures from other starts.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ebm_traj.core.energy import Energy
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.ebgan.class_scores import log_probabilities, reversed_score
from ebm_traj.ebgan.model import AdversarialModel
from ebm_traj.errors import InputError
from ebm_traj.image.classifier import Classifier
from ebm_traj.image.pictures import to_tensor
from ebm_traj.image.scores import Reference

KEPT = ("classifier_fd", "precision", "recall", "density", "coverage", "classifier_is")
CHOSEN_BY = "classifier_fd"
AT_ONCE = 500


@dataclasses.dataclass(frozen=True)
class RefinementConfig:
    """The chains that are tried."""

    steps: tuple[int, ...] = (5, 20, 80)
    """Langevin steps from the generator's samples."""
    step_sizes: tuple[float, ...] = (0.1, 0.5)
    """Factors of the gradient; that of a Euclidean distance has about unit length."""
    temperatures: tuple[float, ...] = (0.0, 1e-4, 1e-3)
    """Of the chain's noise, sqrt(2 * step size * temperature); 0 for gradient descent."""
    samples: int = 2000
    """Walked and scored."""
    seed: int = 0
    """Of noise and starts."""

    def __post_init__(self) -> None:
        for name in ("steps", "step_sizes", "temperatures"):
            if not getattr(self, name):
                raise InputError(f"{name.replace('_', ' ')}: none; accepted are one and more")
        if min(self.temperatures) < 0:
            raise InputError(f"temperatures: {self.temperatures}; accepted are 0 and more")
        if self.samples < 2:
            raise InputError(f"samples: {self.samples}; accepted are 2 and more")
        for size in self.step_sizes:
            self.chain(min(self.steps), size, 0.0)

    @staticmethod
    def chain(steps: int, step_size: float, temperature: float) -> LangevinConfig:
        """The core's settings of one chain."""
        if temperature == 0:
            return LangevinConfig(steps, step_size, noise=0.0)
        return LangevinConfig(steps, step_size, temperature=temperature)


def refine(
    energy: Energy, start: Tensor, config: LangevinConfig, generator: torch.Generator | None = None
) -> Tensor:
    """Pictures (B, C, H, W) walked on the energy, and cut to [-1, 1] at the end."""
    asked = [p for p in energy.parameters() if p.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        bound = energy.bind({})
        parts = [langevin(bound, x, config, generator=generator).x for x in start.split(AT_ONCE)]
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
    return torch.cat(parts).clamp(-1, 1)


@dataclasses.dataclass
class RefinementStudy:
    """What refinement did."""

    tried: list[dict[str, Any]]
    """On validation pictures: the generator first, then every chain."""
    chosen: dict[str, Any]
    """The one of these with the lowest distance, the generator left out."""
    test: list[dict[str, Any]]
    """On test pictures: generator, chosen chain, the pictures themselves."""
    pictures: dict[str, Tensor]
    """Some of the test's samples before and after."""


def study(
    model: AdversarialModel,
    validation: PictureSet,
    test: PictureSet,
    classifier: Classifier,
    config: RefinementConfig,
) -> RefinementStudy:
    """Try all chains on validation pictures, and the best of them on test pictures from other starts."""
    seed = config.seed
    reference = Reference.of(validation, classifier, config.samples, seed)
    start = model.sample(config.samples, seeded_generator(model.device, seed, "validation starts"))
    tried = [_row("generator", start, 0.0, None, model, reference, classifier)]
    for steps in config.steps:
        for size in config.step_sizes:
            for temperature in config.temperatures:
                chain = config.chain(steps, size, temperature)
                x, spent = _walk(model, start, chain, seed)
                tried.append(
                    _row("chain", x, spent, (steps, size, temperature), model, reference, classifier)
                )
    chosen = min(tried[1:], key=lambda row: (math.isnan(row[CHOSEN_BY]), row[CHOSEN_BY]))
    reference = Reference.of(test, classifier, config.samples, seed + 1)
    start = model.sample(config.samples, seeded_generator(model.device, seed, "test starts"))
    chain = config.chain(chosen["steps"], chosen["step_size"], chosen["temperature"])
    x, spent = _walk(model, start, chain, seed + 1)
    settings = chosen["steps"], chosen["step_size"], chosen["temperature"]
    floor, others = reference.floor(), to_tensor(reference.others.x)
    score = reversed_score(log_probabilities(classifier, others))
    rows = [
        _row("generator", start, 0.0, None, model, reference, classifier),
        _row("chain", x, spent, settings, model, reference, classifier),
        {"samples": "test pictures", **{name: float(floor[name]) for name in KEPT}, "reversed_score": score},
    ]
    return RefinementStudy(tried, chosen, rows, {"generator": start[:40], "refined": x[:40]})


def _walk(model: AdversarialModel, start: Tensor, chain: LangevinConfig, seed: int) -> tuple[Tensor, float]:
    began = time.process_time()
    x = refine(model.energy, start, chain, seeded_generator(model.device, seed, "chain"))
    return x, time.process_time() - began


@torch.no_grad()
def _row(
    name: str,
    x: Tensor,
    seconds: float,
    settings: Sequence[float] | None,
    model: AdversarialModel,
    reference: Reference,
    classifier: Classifier,
) -> dict[str, Any]:
    steps, size, temperature = settings or (0, None, None)
    found = reference.score(x)
    log_p = log_probabilities(classifier, x[: reference.count])
    energy = torch.cat([model.energy(part) for part in x.split(AT_ONCE)])
    return {
        "samples": name,
        "steps": steps,
        "step_size": size,
        "temperature": temperature,
        "energy": float(energy.mean()),
        "cpu_ms": 1000 * seconds / len(x),
        **{key: float(found[key]) for key in KEPT},
        "reversed_score": reversed_score(log_p),
    }
