"""A generator as the sampler of any energy of the core: contrastive divergence with amortised negatives.

The energy is trained by contrastive divergence against what the generator makes, the generator to minimise
E(G(z)) less an entropy: it approximates argmin KL(q || exp(-E)), so that no chain need be walked (Kim &
Bengio 2016, 1606.03439; Kumar et al. 2019, 1901.08508). EBGAN is the member of this family with an
auto-encoder as energy, a hinge for its loss and the pull-away term for the entropy.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.energy import Condition, Energy, energy_and_gradient
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.proposal import Proposal
from ebm_traj.ebgan.losses import pull_away
from ebm_traj.errors import InputError

Entropy = Literal["nearest", "pull-away", "none"]
DISTANCE_FLOOR = 1e-3  # of a number of x; bounds the push on samples that coincide


@dataclasses.dataclass(frozen=True)
class AmortisedConfig:
    """How the generator is trained, and how the energy is."""

    batch_size: int = 64
    """Rows of data, and samples, in a step."""
    entropy: Entropy = "nearest"
    """Of the generator's samples: mean log distance to the nearest other one of the batch (the estimate of
    Kozachenko & Leonenko up to a factor); pull-away: less the mean squared cosine of pairs; or none."""
    weight: float = 1.0
    """Of the entropy in the generator's loss."""
    steps: int = 0
    """Langevin steps from the generator's samples to the negatives; 0: they are the negatives."""
    step_size: float = 0.1
    """Of these steps."""
    noise: float | None = 0.005
    """Of these steps; None for that of a chain at temperature 1."""
    energy_regularisation: float = 0.1
    """Weight of mean(E+^2 + E-^2), as in contrastive divergence with replay."""

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise InputError(f"batch size: {self.batch_size}; an entropy compares 2 samples and more")
        if self.entropy not in get_args(Entropy):
            raise InputError(f"entropy: '{self.entropy}'; accepted are {', '.join(get_args(Entropy))}")
        if not self.weight >= 0:
            raise InputError(f"entropy weight: {self.weight}; accepted are 0 and more")

    @property
    def langevin(self) -> LangevinConfig:
        """The steps from the generator's samples."""
        return LangevinConfig(steps=self.steps, step_size=self.step_size, noise=self.noise)


def nearest_entropy(x: Tensor) -> Tensor:
    """Mean log distance of each sample (B, ...) to its nearest other one, per root of the dimensions."""
    flat = x.flatten(1)
    with torch.no_grad():  # only the distance to the nearest one is differentiated
        apart = torch.cdist(flat, flat)
        apart.fill_diagonal_(torch.inf)
        nearest = apart.argmin(1)
    squared = (flat - flat[nearest]).square().mean(1)
    return 0.5 * (squared + DISTANCE_FLOOR**2).log().mean()


class GeneratorProposal(Proposal):
    """Starts of chains made by a generator, whose loss makes it the sampler of an energy.

    The loss is E*(G(z)) - weight * entropy on the samples last drawn, E* being the energy with its parameters
    held fixed: it sends no gradient to them. What was drawn as starts is kept for it, so that a step of
    training makes each sample once.
    """

    def __init__(
        self,
        generator: nn.Module,
        latent: int,
        energy: Energy,
        *,
        entropy: Entropy = "nearest",
        weight: float = 1.0,
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`generator` maps noise (B, latent) to x (B, ...). `features` of x are what the entropy is of, by
        default x itself; for the cosines of pull-away, less its mean over the batch."""
        super().__init__()
        self.generator, self.latent = generator, latent
        self.entropy, self.weight, self.features = entropy, weight, features
        self._energy = (energy,)  # not a sub-module: its parameters belong to whoever trains it
        self._live: Tensor | None = None

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, ...) samples, with a graph to the generator's weights."""
        device = next(self.generator.parameters()).device
        z = torch.empty(count, self.latent, device=device).normal_(generator=generator)
        return cast(Tensor, self.generator(z))

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        if not condition:
            raise InputError("generator proposal: needs a condition, of which it makes a sample for each row")
        rows = len(next(iter(condition.values())))
        if not (self.training and torch.is_grad_enabled()):
            with torch.no_grad():
                return self.draw(rows, generator)
        self._live = self.draw(rows, generator)
        return self._live.detach()

    def loss(self, x: Tensor, condition: Condition) -> Tensor | None:
        """E*(G(z)) - weight * entropy, a scalar; None where nothing was drawn for training."""
        live, self._live = self._live, None
        if live is None:
            return None
        # dE/dx as a constant: its product with x has the gradient of E*(x)
        values, slope = energy_and_gradient(self._energy[0].bind(condition), live)
        loss = (values + (slope * (live - live.detach())).flatten(1).sum(1)).mean()
        if self.entropy == "none" or not self.weight:
            return loss
        seen = live if self.features is None else self.features(live)
        if self.entropy == "nearest":
            return loss - self.weight * nearest_entropy(seen)
        if self.features is None:
            seen = seen - seen.mean(0).detach()
        return loss + self.weight * pull_away(seen)

    def __deepcopy__(self, memo: dict[int, Any]) -> "GeneratorProposal":
        self._live = None  # a graph cannot be copied
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        for name, value in self.__dict__.items():
            object.__setattr__(twin, name, copy.deepcopy(value, memo))
        return twin


class AmortisedContrastive(ContrastiveDivergence):
    """The core's contrastive divergence, its chains started by a generator and of few steps or none.

    The loss of energy and generator is one sum, whose gradients do not meet: one optimiser trains both.
    """

    def __init__(
        self,
        energy: Energy,
        generator: nn.Module,
        latent: int,
        config: AmortisedConfig,
        *,
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`energy`: any; `generator`: noise (B, latent) to x (B, ...)."""
        proposal = GeneratorProposal(
            generator, latent, energy, entropy=config.entropy, weight=config.weight, features=features
        )
        contrastive = ContrastiveConfig(
            batch_size=config.batch_size,
            langevin=config.langevin,
            buffer_size=config.batch_size,
            replay_fraction=0.0,
            energy_regularisation=config.energy_regularisation,
        )
        super().__init__(energy, proposal, contrastive)
        self.amortised = config

    @property
    def gradients(self) -> int:
        """Of the energy in a step: its own, that of the generator's samples, those of the chain."""
        return super().gradients + 1
