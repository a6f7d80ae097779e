"""Convolutional generator, auto-encoder and discriminator (1609.03126, appendix; after DCGAN, 1511.06434).

Kernels of 4, stride 2. 64 px: generator 1024-512-256-128, encoder 64-128-256. 128 px: one layer more on both
sides, generator 1024-512-256-128-64, encoder to 512. 256 px: generator from 2048, encoder to 512. Below (8,
16, 28, 32 px, for small data) by the same rule. The tables are as remembered, not checked against the paper.
"""

import itertools
import math

from torch import Tensor, nn

from ebm_traj.ebgan.layers import Dropout
from ebm_traj.errors import InputError

SIZES = (8, 16, 28, 32, 64, 128, 256)

FEWEST = 64  # channels, in units of a base of 64
MOST_ENCODED = 512
ENCODER_LAYERS = {8: 1, 16: 2, 28: 2, 32: 3, 64: 3, 128: 4, 256: 4}
DROPOUT = 0.5


def require_size(shape: tuple[int, int, int]) -> int:
    """Pixels across; InputError unless convolutional networks are made for this shape (C, H, W)."""
    _, height, width = shape
    if height != width or height not in SIZES:
        raise InputError(
            f"convolutional networks: pictures of {height} x {width}; accepted are squares of "
            f"{', '.join(map(str, SIZES))} (--size resizes)"
        )
    return height


def seed_size(size: int) -> int:
    """Pixels across of the generator's first layer."""
    return 7 if size == 28 else 4


def generator_channels(size: int, base: int) -> list[int]:
    """Channels of the generator's layers from the first on, without the picture's own."""
    count = int(math.log2(size // seed_size(size)))
    first = {128: 1024, 256: 2048}.get(size, FEWEST << count)
    return [max(FEWEST, first >> index) * base // FEWEST for index in range(count)]


def encoder_channels(size: int, base: int) -> list[int]:
    """Channels of the encoder's layers."""
    return [min(MOST_ENCODED, FEWEST << index) * base // FEWEST for index in range(ENCODER_LAYERS[size])]


class ConvGenerator(nn.Module):
    """Noise (B, latent) to pictures (B, C, H, W) in [-1, 1]."""

    def __init__(self, shape: tuple[int, int, int], latent: int, base: int) -> None:
        """`base`: channels of the narrowest layers, 64 as published."""
        super().__init__()
        size = require_size(shape)
        channels = generator_channels(size, base)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent, channels[0], seed_size(size), bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
        ]
        for into, out in itertools.pairwise(channels):
            layers += [
                nn.ConvTranspose2d(into, out, 4, 2, 1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers, nn.ConvTranspose2d(channels[-1], shape[0], 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z[:, :, None, None])


def _downward(channels: list[int], index: int) -> nn.Sequential:
    norm = index > 1
    layers: list[nn.Module] = [nn.Conv2d(channels[index - 1], channels[index], 4, 2, 1, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm2d(channels[index]))
    return nn.Sequential(*layers, nn.ReLU())


class ConvAutoEncoder(nn.Module):
    """Strided convolutions down, transposed ones up again."""

    def __init__(self, shape: tuple[int, int, int], base: int, dropout: bool) -> None:
        super().__init__()
        channels = [shape[0], *encoder_channels(require_size(shape), base)]
        self.stages = nn.ModuleList(_downward(channels, index) for index in range(1, len(channels)))
        self.drop = Dropout(DROPOUT if dropout else 0.0)
        upward: list[nn.Module] = []
        for into, out in zip(channels[:1:-1], channels[-2:0:-1], strict=True):
            upward += [nn.ConvTranspose2d(into, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        self.decoder = nn.Sequential(*upward, nn.ConvTranspose2d(channels[1], shape[0], 4, 2, 1))

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to codes (B, c, h, w)."""
        for index, stage in enumerate(self.stages):
            x = stage(self.drop(x) if index else x)
        return x

    def decode(self, code: Tensor) -> Tensor:
        """Codes to pictures."""
        return self.decoder(self.drop(code))


class ConvDiscriminator(nn.Module):
    """Pictures to the logit (B,) of being data: the auto-encoder's encoder and one weight layer."""

    def __init__(self, shape: tuple[int, int, int], base: int, dropout: bool) -> None:
        super().__init__()
        size = require_size(shape)
        channels = [shape[0], *encoder_channels(size, base)]
        stages: list[nn.Module] = []
        for index in range(1, len(channels)):
            stages += [_downward(channels, index), Dropout(DROPOUT if dropout else 0.0)]
        across = size >> (len(channels) - 1)
        self.body = nn.Sequential(*stages, nn.Flatten(), nn.Linear(channels[-1] * across**2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).squeeze(1)
