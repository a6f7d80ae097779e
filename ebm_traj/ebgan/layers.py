"""What the networks of both GANs are built of: seeded dropout, weights as published, batch norm set anew."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

GENERATOR_STD = 0.02
"""Of the generator's first weights; biases are 0 (1609.03126, appendix)."""
DISCRIMINATOR_STD = 0.002
"""Of the discriminator's."""


class Dropout(nn.Module):
    """Dropout whose masks come from a generator that is set from outside, so that a run can be resumed."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.source: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return x
        keep = torch.empty_like(x).uniform_(generator=self.source) >= self.share
        return x * keep / (1 - self.share)

    def __deepcopy__(self, memo: dict) -> "Dropout":
        copy = Dropout(self.share)  # a generator is not copied
        copy.train(self.training)
        return copy


def draw_masks_from(network: nn.Module, generator: torch.Generator | None) -> None:
    """Have every dropout layer of the network draw its masks from `generator`."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.source = generator


def first_weights(network: nn.Module, std: float, generator: torch.Generator) -> None:
    """Weights ~ N(0, std^2), biases 0, batch norm with gain 1: as published."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            with torch.no_grad():
                module.weight.normal_(std=std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()


@torch.no_grad()
def calibrate(network: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Set the running statistics of batch norm to those of the given batches, and nothing else.

    While training they lag behind the weights, the discriminator's are of data and samples mixed, and
    averaged weights have none of their own.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms:
        return
    before = [module.momentum for module in norms]
    training = network.training
    network.eval()
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # a plain average over batches
        module.train()
    for batch in inputs:
        network(batch)
    for module, momentum in zip(norms, before, strict=True):
        module.momentum = momentum
    network.train(training)
