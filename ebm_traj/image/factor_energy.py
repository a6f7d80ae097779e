"""A noise-conditional energy of sprites, and one that is told all of their factors, by one network."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ebm_traj.core.denoising import LEVEL
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy
from ebm_traj.errors import InputError

FACTORS = ("shape", "size", "position", "rotation")
"""What a picture is conditioned on; position is both coordinates."""
TOLD = "told"
"""Name in a condition of the mask (B,): 1 where the energy is told the factors, 0 where nothing."""
FEATURES = {"shape": 3, "size": 5, "position": 18, "rotation": 6}
"""Width of each factor's features, see `features`."""
LEVEL_FEATURES = 7
PATCHES = 8


@dataclasses.dataclass(frozen=True)
class FactorNetConfig:
    """The network of a `FactorEnergy`."""

    pixels: int = 16
    """Side of the pictures; a multiple of 16. They enter in patches, 8 to a side."""
    channels: int = 32
    """Of the 8 x 8 patches; twice as many of the 4 x 4 of the next level."""
    blocks: int = 1
    """Residual blocks at each of the two resolutions, on the way down and on the way up."""
    embedding: int = 128
    """Width of what level and factors are turned into."""

    def __post_init__(self) -> None:
        if self.pixels < 16 or self.pixels % 16:
            raise InputError(f"pixels: {self.pixels}; accepted are multiples of 16")
        for name in ("channels", "blocks", "embedding"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}; accepted are 1 and more")


def features(factors: Tensor) -> Tensor:
    """(B, 32) smooth features of factors (B, 5): shape 0..2, size and place in 0..1, rotation in radians."""
    shape, size, turn, place = factors[:, 0], factors[:, 1:2], factors[:, 2:3], factors[:, 3:5]
    return torch.cat(
        [
            nn.functional.one_hot(shape.long(), 3).to(factors.dtype),
            *[2 * size - 1, *_waves(size, 2)],
            *[2 * place - 1, *_waves(place, 4)],
            *[wave(k * turn) for k in (1, 2, 4) for wave in (torch.cos, torch.sin)],
        ],
        1,
    )


def level_features(level: Tensor) -> Tensor:
    """(B, 7) smooth features of levels (B,)."""
    log = level.log()[:, None] / 4
    return torch.cat([log, *_waves(log, 3)], 1)


def _waves(x: Tensor, count: int) -> list[Tensor]:
    return [wave(torch.pi * 2**k * x) for k in range(count) for wave in (torch.cos, torch.sin)]


class Block(nn.Module):
    """x + conv(act(gain, bias of conv(act(x)))): gain and bias come from the embedding."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, bias = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        hidden = self.first(nn.functional.silu(x)) * (1 + gain) + bias
        return x + self.second(nn.functional.silu(hidden))


class Expects(Protocol):
    """What expects features of factors in noisy pictures."""

    def expected(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, 32) expected `features` of pictures (B, 1, H, W) with noise of levels (B,)."""
        ...


class FactorEnergy(Energy):
    """E(x, s | c) = |x - h(x, s, c)|^2 / (2 s^2), of pictures x (B, 1, H, W) of unit spread.

    h is a small U-Net with the scales of Karras et al. 2022, the energy that of Du et al. 2023, section 5.
    Told nothing it is given the features that `posteriors` (frozen) expect in x instead: E(x, s), a function
    of x alone, that draws what it reads.
    The condition holds `level` (B,), and, where anything is told, `factors` (B, 5) and `told` (B,); where
    told is 0 the factors do not reach the network.
    """

    def __init__(self, config: FactorNetConfig, posteriors: Expects) -> None:
        super().__init__()
        self.config = config
        self.posteriors = posteriors
        width, deep, emb = config.channels, 2 * config.channels, config.embedding
        patch, side = config.pixels // PATCHES, PATCHES // 2
        self.embed = nn.Sequential(
            nn.Linear(sum(FEATURES.values()) + 1 + LEVEL_FEATURES, emb),
            nn.SiLU(),
            nn.Linear(emb, emb),
            nn.SiLU(),
        )
        self.enter = nn.Sequential(nn.PixelUnshuffle(patch), nn.Conv2d(patch**2, width, 3, padding=1))
        self.down = nn.ModuleList(Block(width, emb) for _ in range(config.blocks))
        self.deeper = nn.Conv2d(width, deep, 4, 2, 1)
        self.place = nn.Linear(emb, deep * side**2)  # of what lies where: convolutions alone know no place
        self.middle = nn.ModuleList(Block(deep, emb) for _ in range(config.blocks))
        self.read = nn.Sequential(nn.Linear(deep * side**2, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU())
        self.infer = nn.Linear(256, emb)
        self.unmix = nn.Linear(256, deep * side**2)
        self.replace = nn.Linear(emb, deep * side**2)
        nn.init.zeros_(self.infer.weight)
        self.late = nn.ModuleList(Block(deep, emb) for _ in range(config.blocks))
        self.higher = nn.ConvTranspose2d(deep, width, 4, 2, 1)
        self.up = nn.ModuleList(Block(width, emb) for _ in range(config.blocks))
        self.leave = nn.Conv2d(width, patch**2, 3, padding=1)
        self.unpatch = nn.PixelShuffle(patch)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        level = condition[LEVEL]
        s = level.view(-1, 1, 1, 1)
        spread = (1 + s**2).sqrt()
        off = x - x / spread**2 - s / spread * self._network(x / spread, self._embedding(x, condition))
        return off.square().flatten(1).sum(1) / (2 * level**2)

    def _embedding(self, x: Tensor, condition: Condition) -> Tensor:
        level = condition[LEVEL]
        told = condition[TOLD] if TOLD in condition else level.new_zeros(len(level))
        known = x.new_zeros(len(x), sum(FEATURES.values()))
        if TOLD in condition:
            known = features(condition["factors"].to(x.dtype))
        blank = (told == 0).nonzero()[:, 0]
        if len(blank):
            known = known.index_copy(0, blank, self.posteriors.expected(x[blank], level[blank]))
        return self.embed(torch.cat([level_features(level), known, told.to(x.dtype)[:, None]], 1))

    def _network(self, x: Tensor, embedding: Tensor) -> Tensor:
        wide = _through(self.down, self.enter(x), embedding)
        deep = self.deeper(wide)
        deep = _through(self.middle, deep + self.place(embedding).view_as(deep), embedding)
        # what is not told is read off the noisy picture, and told to the layers that draw
        code = self.read(nn.functional.silu(deep).flatten(1))
        embedding = nn.functional.silu(embedding + self.infer(code))
        whole = self.unmix(code) + self.replace(embedding)
        deep = _through(self.late, deep + whole.view_as(deep), embedding)
        wide = _through(self.up, wide + self.higher(deep), embedding)
        return self.unpatch(self.leave(nn.functional.silu(wide)))


def _through(blocks: nn.ModuleList, x: Tensor, embedding: Tensor) -> Tensor:
    for block in cast(Sequence[Block], blocks):
        x = block(x, embedding)
    return x
