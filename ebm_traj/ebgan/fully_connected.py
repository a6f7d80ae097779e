"""Fully connected generator, auto-encoder and binary discriminator of the grid on MNIST (1609.03126, 4.1).

Batch normalisation follows every weight layer but the generator's last and the discriminator's first and
last; ReLU between, tanh at the end of the generator. Not stated in the paper and assumed here: noise of 100
normal numbers, dropout of one half after each hidden layer of the discriminator, a decoder without a
non-linearity, encoder outputs taken after theirs.
"""

import itertools
import math

import torch
from torch import Tensor, nn

from ebm_traj.ebgan.layers import Dropout

DROPOUT = 0.5


def _hidden(into: int, out: int, norm: bool, dropout: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Linear(into, out, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm1d(out))
    layers.append(nn.ReLU())
    if dropout:
        layers.append(Dropout(DROPOUT))
    return layers


class FCGenerator(nn.Module):
    """Noise (B, latent) to pictures (B, C, H, W) in [-1, 1], by `layers` weight layers."""

    def __init__(self, shape: tuple[int, int, int], latent: int, layers: int, width: int) -> None:
        super().__init__()
        self.shape = shape
        sizes = [latent, *[width] * (layers - 1)]
        hidden = [m for a, b in itertools.pairwise(sizes) for m in _hidden(a, b, True, False)]
        self.body = nn.Sequential(*hidden, nn.Linear(width, math.prod(shape)), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z).unflatten(1, self.shape)


class FCAutoEncoder(nn.Module):
    """Encoder of `layers` - 1 weight layers, decoder of one (as the paper's grid fixes it)."""

    def __init__(self, shape: tuple[int, int, int], layers: int, width: int, dropout: bool) -> None:
        super().__init__()
        self.shape = shape
        sizes = [math.prod(shape), *[width] * (layers - 1)]
        stages = [
            nn.Sequential(*_hidden(a, b, index > 0, False))
            for index, (a, b) in enumerate(itertools.pairwise(sizes))
        ]
        self.stages = nn.ModuleList(stages)
        self.drop = Dropout(DROPOUT if dropout else 0.0)
        self.decoder = nn.Linear(width, math.prod(shape))

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to codes (B, width), before the dropout of the last layer."""
        code = x.flatten(1)
        for index, stage in enumerate(self.stages):
            code = stage(self.drop(code) if index else code)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Codes to pictures."""
        return self.decoder(self.drop(code)).unflatten(1, self.shape)


class FCDiscriminator(nn.Module):
    """Pictures (B, C, H, W) to the logit (B,) of being data, by `layers` weight layers."""

    def __init__(self, shape: tuple[int, int, int], layers: int, width: int, dropout: bool) -> None:
        super().__init__()
        sizes = [math.prod(shape), *[width] * (layers - 1)]
        pairs = enumerate(itertools.pairwise(sizes))
        hidden = [m for index, (a, b) in pairs for m in _hidden(a, b, index > 0, dropout)]
        self.body = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(torch.flatten(x, 1)).squeeze(1)
