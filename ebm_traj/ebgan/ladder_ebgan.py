"""EBGAN-LN: the ladder network's denoising cost as the energy of an EBGAN, for semi-supervised learning.

Zhao, Mathieu & LeCun 2016, 1609.03126, section 4.2: the discriminator is a ladder network whose energy E(x)
is the denoising cost of its input. It learns from labels and unlabelled pictures as ever, and a generator G
gives contrastive samples, whose energy is to be above a margin m:

    L_D = cross-entropy + E(x) + max(0, m - E(G(z)))  per sample,     L_G = E(G(z)).

The margin falls to 0 during training: a good generator's samples lie on the data, and must not be pushed off
it. From there on the ladder network is trained alone.
"""

import dataclasses
import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm_traj.ebgan.ladder import LadderNetwork, normalise
from ebm_traj.errors import InputError


@dataclasses.dataclass(frozen=True)
class ContrastConfig:
    """The generator and what its samples teach the ladder network."""

    margin: float = 20.0
    """Energy that samples are to have at the start, in units of the denoising cost (1000 x the mean squared
    error of a pixel); it falls linearly."""
    until: float = 1.0
    """Share of the updates after which the margin is 0 and the generator is no longer used."""
    weight: float = 0.01
    """Of the samples' term in the ladder network's loss. With .1 the samples cost accuracy on MNIST with 100
    labels, see RESULTS.md."""
    batch: int = 100
    """Samples an update."""
    latent: int = 50
    """Numbers, standard normal, that a sample is made of."""
    hidden: tuple[int, ...] = (500, 500)
    """Units of the generator's hidden layers."""
    learning_rate: float = 1e-3
    """Of the generator's Adam, with betas 0.5 and 0.999."""

    def __post_init__(self) -> None:
        for name in ("margin", "weight", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"EBGAN-LN {name}: {getattr(self, name)}; it must be above 0")
        if not 0 < self.until <= 1:
            raise InputError(f"EBGAN-LN until: {self.until}; accepted are shares above 0 up to 1")
        if self.batch < 2 or self.latent < 1:
            raise InputError(
                f"EBGAN-LN batch {self.batch}, latent {self.latent}; accepted are 2 and 1 and more"
            )
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"EBGAN-LN hidden: {self.hidden}; needed are one layer and one unit or more")

    def margin_at(self, update: int, updates: int) -> float:
        """The margin of an update, counted from 0, of a run of `updates`: linear from `margin` to 0."""
        return self.margin * max(0.0, 1 - update / (self.until * updates))


class LadderGenerator(nn.Module):
    """Latents (B, latent) to rows (B, pixels) in [0, 1]: batch-normalised ReLU layers, then a sigmoid."""

    def __init__(self, pixels: int, config: ContrastConfig = ContrastConfig()) -> None:
        super().__init__()
        sizes = [config.latent, *config.hidden, pixels]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])
        for layer in self._linear()[:-1]:
            nn.init.kaiming_normal_(layer.weight)

    def _linear(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, latent: Tensor) -> Tensor:
        """Samples (B, pixels) of latents (B, latent), two or more, which share batch statistics."""
        *hidden, last = self._linear()
        h = latent
        for layer in hidden:
            h = normalise(functional.linear(h, layer.weight))[0].add(layer.bias).relu()
        return last(h).sigmoid()


@dataclasses.dataclass
class Contrast:
    """What one batch of samples gives; see `contrast`."""

    loss: Tensor
    """() the ladder network's hinge loss; its gradient does not reach the generator."""
    energy: Tensor
    """(B,) of the samples, detached."""
    pull: Tensor
    """(B, pixels) gradient of the mean energy in the samples: what the generator descends along."""


def contrast(
    ladder: LadderNetwork, samples: Tensor, margin: float, generator: torch.Generator | None = None
) -> Contrast:
    """The two losses of samples (B, pixels) from one run of the ladder network.

    The hinge is each sample's own. The energy's target is the sample itself, with its gradient: the generator
    is drawn to samples that the network restores, not to what it restores them to.
    """
    x = samples.detach().requires_grad_()
    energy = ladder.energy(x, generator)
    (pull,) = torch.autograd.grad(energy.mean(), x, retain_graph=True)
    return Contrast((margin - energy).relu().mean(), energy.detach(), pull)
