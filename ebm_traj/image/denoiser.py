"""A noise-conditional energy of pictures whose gradient is a good denoiser: a small U-Net behind a scalar."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm_traj.core.denoising import LEVEL
from ebm_traj.core.energy import UNCONDITIONAL, Condition
from ebm_traj.errors import InputError
from ebm_traj.image.networks import ImageEnergy, LevelEmbedding, NetworkConfig, Shape, label_of


class DenoiserEnergy(ImageEnergy):
    """E(x, s) = |x - m|^2 / 2 (s^2 + d^2) - d / s (<u, F(u, s)> - |F|^2 / 2), u = (x - m) / sqrt(s^2 + d^2).

    The first term is the energy of Gaussian data of mean m and standard deviation d, blurred with noise of s:
    what is right where noise hides everything else. F is a U-Net as large as the picture; the bracket is
    |u|^2 / 2 - |u - F|^2 / 2, the energy of an auto-encoder (Salimans & Ho 2021), scaled so that its gradient
    has unit size at each level (Karras et al. 2022, table 1).

    With classes E(x, s | y) = E(x, s) - log p(y | x, s) by Bayes' rule, p a classifier on the features of the
    U-Net (Guo et al. 2023): one pass gives the energies of all classes, and without a class it is E(x, s).
    """

    has_levels = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        shape: Shape,
        num_classes: int = 0,
        *,
        mean: Tensor | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        self.shape, self.num_classes = shape, num_classes
        self.register_buffer("mean", torch.zeros(shape) if mean is None else mean.clone().float())
        self.register_buffer("std", torch.tensor(float(std)))
        self.net = UNet(config, shape)
        self.head: ClassHead | None = None
        if num_classes:
            self.head = ClassHead(self.net.deepest, num_classes, config.embedding)

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        """`condition["level"]` is the noise's standard deviation (B,); `condition["label"]` may be there."""
        energy, features, embedding = self._parts(x, condition)
        label = label_of(x, condition, self.num_classes)
        if self.head is None or bool((label < 0).all()):
            return energy
        return energy - self._log_share(self.head(features, embedding), label)

    def with_logits(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """E(x, s | y) (B,) and the classifier's log p(y | x, s) (B, num_classes), from one pass."""
        if self.head is None:
            raise InputError("class logits: this energy was made without classes")
        energy, features, embedding = self._parts(x, condition)
        logits = self.head(features, embedding)
        label = label_of(x, condition, self.num_classes)
        return energy - self._log_share(logits, label), logits.log_softmax(1)

    def class_energies(self, x: Tensor, condition: Condition) -> Tensor:
        bare = {name: values for name, values in condition.items() if name == LEVEL}
        energy, log_shares = self.with_logits(x, bare)
        return energy[:, None] - log_shares

    @staticmethod
    def _log_share(logits: Tensor, label: Tensor) -> Tensor:
        chosen = logits.log_softmax(1).gather(1, label.clamp_min(0)[:, None]).squeeze(1)
        return torch.where(label < 0, 0.0, chosen)

    def _parts(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """Energy without a class (B,), deepest features and the level's embedding."""
        if LEVEL not in condition:
            raise InputError("this energy reads a noise level: condition 'level' is missing; see energy_at")
        sigma = condition[LEVEL]
        variance = sigma.square() + self.std.square()
        away = x - self.mean
        u = away * variance.rsqrt().view(-1, 1, 1, 1)
        embedding = self.net.embed(sigma)
        found, features = self.net(u, embedding)
        bracket = (found * (u - 0.5 * found)).flatten(1).sum(1)
        quadratic = 0.5 * u.square().flatten(1).sum(1)
        return quadratic - self.std / sigma * bracket, features, embedding


class UNet(nn.Module):
    """Convolutions at falling and then rising resolution, with the level as gain and bias in each block."""

    def __init__(self, config: NetworkConfig, shape: Shape) -> None:
        super().__init__()
        channels, height, width = shape
        whole = config.patch * 2 ** (len(config.channels) - 1)
        self.padding = (-height % whole, -width % whole)
        self.patch = config.patch
        inputs = channels * config.patch**2
        self.embed = LevelEmbedding(config.embedding)
        self.first = nn.Conv2d(inputs, config.channels[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        sizes = config.channels
        for i, size in enumerate(sizes):
            self.down.append(Stage(size, config.blocks, config.embedding))
            if i + 1 < len(sizes):
                self.shrink.append(nn.Conv2d(4 * size, sizes[i + 1], 1))
                self.grow.append(nn.Conv2d(sizes[i + 1], 4 * size, 1))
                self.up.append(Stage(size, config.blocks, config.embedding))
        shrunk = config.patch * 2 ** (len(sizes) - 1)
        pixels = ((height + self.padding[0]) // shrunk) * ((width + self.padding[1]) // shrunk)
        self.mixing = nn.ModuleList(PixelMixing(pixels) for _ in range(config.mixing))
        self.middle = Stage(sizes[-1], config.middle, config.embedding)
        self.deepest = sizes[-1]
        self.last = nn.Conv2d(sizes[0], inputs, 3, padding=1)
        nn.init.normal_(self.last.weight, std=1e-3)  # not 0: at F = 0 nothing of it would have a gradient
        nn.init.zeros_(cast(Tensor, self.last.bias))

    def forward(self, u: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, C, H, W) to F of the same shape, and the features (B, deepest, h, w) furthest down."""
        high, wide = u.shape[-2:]
        features, skips = self.encode(u, embedding)
        h = features
        for i in range(len(self.up) - 1, -1, -1):
            h = skips[i] + functional.pixel_shuffle(self.grow[i](h), 2)
            h = self.up[i](h, embedding)
        found = functional.pixel_shuffle(self.last(functional.silu(h)), self.patch)
        return found[..., :high, :wide], features

    def encode(self, u: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The way down: u (B, C, H, W) to the features furthest down, and those of each finer resolution."""
        if any(self.padding):
            u = functional.pad(u, (0, self.padding[1], 0, self.padding[0]))
        h = self.first(functional.pixel_unshuffle(u, self.patch))
        skips = []
        for i, stage in enumerate(self.down):
            h = stage(h, embedding)
            if i < len(self.shrink):
                skips.append(h)
                h = self.shrink[i](functional.pixel_unshuffle(h, 2))
        for mixing in self.mixing:
            h = mixing(h)
        return self.middle(h, embedding), skips


class Stage(nn.Module):
    """Residual blocks h + conv(silu(gain * conv(silu(h)) + bias)) at one resolution."""

    def __init__(self, channels: int, blocks: int, embedding: int) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.level = nn.ModuleList(nn.Linear(embedding, 2 * channels) for _ in range(blocks))
        for outer, level in zip(self.outer, self.level, strict=True):
            nn.init.normal_(cast(Tensor, outer.weight), std=0.3 * (9 * channels) ** -0.5)
            nn.init.zeros_(cast(Tensor, outer.bias))
            nn.init.zeros_(cast(Tensor, level.bias))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """h (B, channels, h, w)."""
        for inner, outer, level in zip(self.inner, self.outer, self.level, strict=True):
            gain, bias = level(embedding)[..., None, None].chunk(2, dim=1)
            z = torch.addcmul(bias, inner(functional.silu(h)), 1 + gain)
            h = h + outer(functional.silu(z))
        return h


class PixelMixing(nn.Module):
    """h + B silu(A silu(h)) over all pixels of a channel, the same for each channel."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(pixels, 2 * pixels), nn.Linear(2 * pixels, pixels)
        nn.init.normal_(self.outer.weight, std=0.3 * (2 * pixels) ** -0.5)
        nn.init.zeros_(self.outer.bias)

    def forward(self, h: Tensor) -> Tensor:
        """h (B, channels, h, w)."""
        mixed = self.outer(functional.silu(self.inner(functional.silu(h.flatten(2)))))
        return h + mixed.view_as(h)


class ClassHead(nn.Module):
    """log-shares of the classes from the deepest features, told the noise level."""

    def __init__(self, channels: int, num_classes: int, embedding: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, 2 * channels, 1)
        self.level = nn.Linear(embedding, 4 * channels)
        self.last = nn.Linear(2 * channels, num_classes)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Logits (B, num_classes)."""
        gain, bias = self.level(embedding).chunk(2, dim=1)
        pooled = functional.silu(self.project(functional.silu(features))).mean((2, 3))
        return self.last(functional.silu(pooled * (1 + gain) + bias))
