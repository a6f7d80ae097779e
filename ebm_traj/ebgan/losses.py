"""Losses of the energy-based GAN (Zhao, Mathieu & LeCun 2016, 1609.03126), and those of the binary GAN."""

import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ebm_traj.errors import InputError

Decay = Literal["constant", "linear"]


@dataclasses.dataclass(frozen=True)
class MarginSchedule:
    """The margin m below which the energies of generated samples are pushed up, over the training."""

    margin: float = 10.0
    """At the start, in units of the energy."""
    decay: Decay = "constant"
    """constant, or linear: on a straight line to `final`."""
    over: float = 1.0
    """Share of the iterations after which `final` is reached."""
    final: float = 0.0
    """Where the linear decay ends; 0 in the paper's semi-supervised experiment (section 4.2)."""

    def __post_init__(self) -> None:
        if self.decay not in get_args(Decay):
            raise InputError(f"margin decay: '{self.decay}'; accepted are {', '.join(get_args(Decay))}")
        if not self.margin > 0:
            raise InputError(f"margin: {self.margin}; it must be above 0")
        if not 0 < self.over <= 1:
            raise InputError(f"margin over: {self.over}; accepted is a share above 0, at most 1")
        if not 0 <= self.final <= self.margin:
            raise InputError(f"margin final: {self.final}; accepted is 0 to the margin, {self.margin:g}")

    def at(self, iteration: int, iterations: int) -> float:
        """The margin in force at an iteration (from 0) of so many in all."""
        if self.decay == "constant":
            return self.margin
        done = min(1.0, iteration / max(1.0, self.over * iterations))
        return self.margin + (self.final - self.margin) * done


def margin_loss(real: Tensor, fake: Tensor, margin: float) -> Tensor:
    """L_D = D(x) + max(0, m - D(G(z))), eq. 1: energies (B,) of data and of samples to a scalar.

    The hinge is of each sample: one that is at the margin already is not pushed further, however low the
    others are.
    """
    return real.mean() + F.relu(margin - fake).mean()


def pull_away(codes: Tensor) -> Tensor:
    """Mean squared cosine of the pairs i != j of the encoder's outputs (B, ...), eq. 5; 0 if orthogonal.

    A term of the generator's loss alone: it keeps a batch of samples from being alike. Needs B >= 2.
    """
    if len(codes) < 2:
        raise InputError(f"pull-away term: {len(codes)} sample(s); it compares 2 and more")
    unit = F.normalize(codes.flatten(1), dim=1)
    cosines = unit @ unit.T
    off = cosines - torch.diag_embed(cosines.diagonal())
    return off.square().sum() / (len(codes) * (len(codes) - 1))


def binary_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(-E(x)) - log(1 - s(-E(G(z)))): energies (B,) are the negative logits of being data."""
    return F.softplus(real).mean() + F.softplus(-fake).mean()


def binary_generator_loss(fake: Tensor) -> Tensor:
    """-log s(-E(G(z))), the loss that does not saturate (Goodfellow et al. 2014, section 3)."""
    return F.softplus(fake).mean()
