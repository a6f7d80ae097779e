"""One update of discriminator and generator, each by its own optimiser."""

import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ebm_traj.ebgan.layers import draw_masks_from
from ebm_traj.ebgan.model import AdversarialModel
from ebm_traj.errors import InputError

Optimiser = Literal["adam", "sgd"]


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """How both networks are updated; as published for MNIST by default, beta 1 excepted."""

    learning_rate: float = 1e-3
    """Of both networks."""
    generator: Optimiser = "adam"
    """Of the generator: adam, or sgd without momentum."""
    discriminator: Optimiser = "adam"
    """Of the discriminator."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay rates of the two moments; .5 as in DCGAN, the paper does not say."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise InputError(f"learning rate: {self.learning_rate}; it must be above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            found = " ".join(map(str, self.betas))
            raise InputError(f"betas: {found}; accepted are 0 and more, below 1")
        for name in (self.generator, self.discriminator):
            if name not in get_args(Optimiser):
                raise InputError(f"optimiser: '{name}'; accepted are {', '.join(get_args(Optimiser))}")

    def make(self, name: Optimiser, network: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a network."""
        if name == "sgd":
            return torch.optim.SGD(network.parameters(), lr=self.learning_rate)
        # fused: one pass over the weights, on a CPU eight times faster
        return torch.optim.Adam(network.parameters(), lr=self.learning_rate, betas=self.betas, fused=True)


class AdversarialStep:
    """Updates the discriminator, then the generator against the updated one, on the same samples."""

    def __init__(self, model: AdversarialModel, config: OptimiserConfig) -> None:
        self.model = model
        self.generator = config.make(config.generator, model.generator)
        self.discriminator = config.make(config.discriminator, model.energy)

    def __call__(self, real: Tensor, margin: float, generator: torch.Generator) -> dict[str, Tensor]:
        """Update on data (B, C, H, W); figures as 0-d tensors, not waited for."""
        model = self.model
        draw_masks_from(model.energy, generator)
        fake = model.generator(model.noise(len(real), generator))
        loss, figures = model.discriminator_loss(real, fake.detach(), margin)
        self.discriminator.zero_grad()
        loss.backward()
        self.discriminator.step()

        model.energy.requires_grad_(False)  # its own gradients are not wanted, those of the samples are
        try:
            loss_generator, more = model.generator_loss(fake)
            self.generator.zero_grad()
            loss_generator.backward()
            self.generator.step()
        finally:
            model.energy.requires_grad_(True)
        losses = {"loss_discriminator": loss.detach(), "loss_generator": loss_generator.detach()}
        return losses | figures | more
