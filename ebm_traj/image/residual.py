"""The residual energy networks of the literature, for pictures of 32 and 128 pixels and their neighbours."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm_traj.core.energy import UNCONDITIONAL, Condition
from ebm_traj.errors import InputError
from ebm_traj.image.networks import ClassGain, ImageEnergy, NetworkConfig, Shape, activation_of, label_of
from ebm_traj.image.spectral import SpectralConv2d


class ResidualNetEnergy(ImageEnergy):
    """A convolution, residual blocks some of which halve the resolution, the sum over pixels, a number.

    Du & Mordatch 2019 (1903.08689, appendix A.4) and its released code: no batch normalisation, spectral
    norm on all convolutions, classes as a gain and a bias in each block. With `scales` above 1, towers of the
    same blocks on pictures of half, a quarter, ... the size are added (Du et al. 2021, 2012.01316).
    """

    def __init__(self, config: NetworkConfig, shape: Shape, num_classes: int = 0) -> None:
        super().__init__()
        self.shape, self.num_classes = shape, num_classes
        smallest = min(shape[1:]) // 2 ** (config.scales - 1 + len(config.downsample))
        if smallest < 1:
            raise InputError(
                f"pictures of {shape[1]}x{shape[2]}: too small for {len(config.downsample)} halvings and "
                f"{config.scales} scales"
            )
        self.towers = nn.ModuleList(Tower(config, shape[0], num_classes) for _ in range(config.scales))

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        """x (B, C, H, W)."""
        label = label_of(x, condition, self.num_classes)
        energy = self.towers[0](x, label)
        for tower in self.towers[1:]:
            x = functional.avg_pool2d(x, 2)
            energy = energy + tower(x, label)
        return cast(Tensor, energy)


class Tower(nn.Module):
    """The network at one scale."""

    def __init__(self, config: NetworkConfig, channels: int, num_classes: int) -> None:
        super().__init__()
        make = SpectralConv2d if config.spectral_norm else nn.Conv2d
        before = config.stem or config.channels[0]
        self.first = make(channels, before, 3, padding=1)
        self.blocks, self.attention = nn.ModuleList(), nn.ModuleDict()
        for number, size in enumerate(config.channels):
            halve = number in config.downsample
            self.blocks.append(Block(config, before, size, num_classes, halve))
            if number in config.attention:
                self.attention[str(number)] = SelfAttention(size, config.spectral_norm)
            before = size
        self.activation = activation_of(config.activation)
        self.last = nn.Linear(before, 1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """x (B, C, h, w), label (B,) with -1 for none; to (B,)."""
        h = self.activation(self.first(x))
        for number, block in enumerate(self.blocks):
            h = block(h, label)
            if str(number) in self.attention:
                h = self.attention[str(number)](h)
        # the sum over pixels, as published: an energy adds up over a picture
        return cast(Tensor, self.last(self.activation(h).sum((2, 3)))).squeeze(1)


class Block(nn.Module):
    """h' = shortcut(h) + conv(act(gain_y * conv(act(h)) + bias_y)), then perhaps a mean over 2x2 pixels."""

    def __init__(self, config: NetworkConfig, before: int, size: int, num_classes: int, halve: bool) -> None:
        super().__init__()
        make = SpectralConv2d if config.spectral_norm else nn.Conv2d
        self.inner = make(before, size, 3, padding=1)
        self.outer = make(size, size, 3, padding=1)
        self.shortcut = make(before, size, 1) if before != size else None
        self.gain = ClassGain(num_classes, before) if num_classes else None
        self.inner_gain = ClassGain(num_classes, size) if num_classes else None
        self.activation = activation_of(config.activation)
        self.halve = halve

    def forward(self, h: Tensor, label: Tensor) -> Tensor:
        """h (B, before, h, w)."""
        z = h if self.gain is None else self.gain(h, label)
        z = self.inner(self.activation(z))
        if self.inner_gain is not None:
            z = self.inner_gain(z, label)
        z = self.outer(self.activation(z))
        z = z + (h if self.shortcut is None else self.shortcut(h))
        return functional.avg_pool2d(z, 2) if self.halve else z


class SelfAttention(nn.Module):
    """h + gamma * attention over all pixels, gamma 0 at first (Zhang et al. 2019, 1805.08318)."""

    def __init__(self, channels: int, spectral: bool = False) -> None:
        super().__init__()
        make = SpectralConv2d if spectral else nn.Conv2d
        inner = max(1, channels // 8)
        self.query, self.key = make(channels, inner, 1), make(channels, inner, 1)
        self.value = make(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        """h (B, channels, h, w)."""
        query, key, value = (layer(h).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (query.transpose(1, 2) @ key / math.sqrt(query.shape[1])).softmax(-1)  # (B, to, from)
        return h + self.gamma * (value @ weights.transpose(1, 2)).view_as(h)
