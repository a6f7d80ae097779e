"""Energy networks of pictures: their settings, and the parts that several of them share."""

import dataclasses
import math
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import Condition, Energy
from ebm_traj.errors import InputError

LABEL = "label"
"""Name of the class (B,) int64 in a condition; -1 for none."""

NO_LABEL = -1

Kind = Literal["unet", "conv", "residual"]
Activation = Literal["silu", "leaky_relu", "relu"]
Shape = tuple[int, int, int]
"""Channels, height and width of a picture."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The network of an image energy; which fields count depends on the kind."""

    kind: Kind = "unet"
    """unet: noise-conditional energy whose gradient denoises (`image.denoiser`); conv: the tutorial's
    small network (`image.conv`); residual: the literature's residual networks (`image.residual`)."""
    channels: tuple[int, ...] = (32, 64)
    """unet: channels at each resolution. conv: of each convolution. residual: of each residual block."""
    patch: int = 2
    """unet: side of the patches that become channels before the first convolution; 1 for none."""
    blocks: int = 1
    """unet: residual blocks at each resolution, on the way down and again on the way up."""
    mixing: int = 0
    """unet: blocks at the lowest resolution that mix all its pixels (Tolstikhin et al. 2021); a digit hangs
    together over the whole picture, which convolutions alone are slow to learn."""
    middle: int = 0
    """unet: further residual blocks at the lowest resolution, after the mixing."""
    embedding: int = 64
    """unet: width of what the noise level is turned into."""
    stem: int | None = None
    """residual: channels of the first convolution; None: those of the first block."""
    dense: int = 64
    """conv: units of the hidden layer after the convolutions."""
    activation: Activation = "silu"
    """Of conv and residual; unet has silu."""
    spectral_norm: bool = False
    """residual: divide each weight by its largest singular value (Miyato et al. 2018)."""
    downsample: tuple[int, ...] = ()
    """residual: numbers of the blocks, from 0, that halve the resolution."""
    attention: tuple[int, ...] = ()
    """residual: numbers of the blocks that self-attention follows (Zhang et al. 2019)."""
    scales: int = 1
    """residual: towers on ever coarser pictures, whose energies are added (2012.01316)."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"network kind: '{self.kind}'; accepted are {', '.join(get_args(Kind))}")
        if self.activation not in get_args(Activation):
            raise InputError(
                f"network activation: '{self.activation}'; accepted are {', '.join(get_args(Activation))}"
            )
        if not self.channels or min(self.channels) < 1:
            raise InputError(f"network channels: {self.channels}; accepted are one or more, each 1 and more")
        for name in ("patch", "blocks", "embedding", "dense", "scales"):
            if getattr(self, name) < 1:
                raise InputError(f"network {name}: {getattr(self, name)}; accepted are 1 and more")
        for name in ("mixing", "middle"):
            if getattr(self, name) < 0:
                raise InputError(f"network {name}: {getattr(self, name)}; accepted are 0 and more")
        for name in ("downsample", "attention"):
            if any(not 0 <= number < len(self.channels) for number in getattr(self, name)):
                raise InputError(
                    f"network {name}: {getattr(self, name)}; accepted are numbers of the "
                    f"{len(self.channels)} blocks, from 0"
                )


class ImageEnergy(Energy):
    """An energy of pictures x (B, C, H, W); its condition may hold the class and the noise level.

    `shape` (C, H, W); `num_classes` 0 where it takes no class; `has_levels` whether it reads the noise level.
    """

    shape: Shape
    num_classes: int
    has_levels: bool = False

    def class_energies(self, x: Tensor, condition: Condition) -> Tensor:
        """E(x | y) (B, num_classes) of every class y; whatever class the condition names is ignored.

        Here one pass for each class; networks that know a shorter way have their own.
        """
        rows = len(x)
        wide = x.repeat_interleave(self.num_classes, dim=0)
        others = {name: v.repeat_interleave(self.num_classes, dim=0) for name, v in condition.items()}
        others[LABEL] = torch.arange(self.num_classes, device=x.device).repeat(rows)
        return self(wide, others).view(rows, self.num_classes)

    def over_classes(self, x: Tensor, condition: Condition) -> Tensor:
        """-log sum_y exp -E(x | y) (B,): the energy of x whatever its class, if all E(x | y) are of one
        normalising constant (Grathwohl et al. 2020, 1912.03263, eq. 6)."""
        return -torch.logsumexp(-self.class_energies(x, condition), dim=1)


def label_of(x: Tensor, condition: Condition, num_classes: int) -> Tensor:
    """The class (B,) of each row, `NO_LABEL` where the condition has none."""
    label = condition.get(LABEL)
    if label is None or num_classes == 0:
        return torch.full((len(x),), NO_LABEL, dtype=torch.int64, device=x.device)
    return label


def activation_of(name: Activation) -> nn.Module:
    """The activation of this name, out of place."""
    made: dict[str, nn.Module] = {"silu": nn.SiLU(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2)}
    return made[name]


def build_network(
    config: NetworkConfig, shape: Shape, num_classes: int, *, mean: Tensor | None = None, std: float = 1.0
) -> ImageEnergy:
    """The network of these settings for pictures of `shape`, with classes or without (0).

    `mean` (C, H, W) and `std` are those of the training pictures, which noise-conditional networks start
    from. Raises InputError if the pictures do not fit the network.
    """
    channels, height, width = shape
    if channels < 1 or height < 1 or width < 1:
        raise InputError(f"picture shape: {shape}; accepted are channels, height and width of 1 and more")
    if config.kind == "unet":
        from ebm_traj.image.denoiser import DenoiserEnergy

        return DenoiserEnergy(config, shape, num_classes, mean=mean, std=std)
    if config.kind == "conv":
        from ebm_traj.image.conv import ConvEnergy

        return ConvEnergy(config, shape, num_classes)
    from ebm_traj.image.residual import ResidualNetEnergy

    return ResidualNetEnergy(config, shape, num_classes)


class ClassGain(nn.Module):
    """A gain and a bias of each channel for each class: h * (1 + g_y) + b_y; rows without a class keep h.

    In the literature's nets the condition enters so in every residual block (1903.08689, section 3.4).
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes + 1, 2 * channels)  # the last row: no class
        nn.init.normal_(self.table.weight, std=0.1)
        with torch.no_grad():
            self.table.weight[-1] = 0.0

    def gain_and_bias(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """1 + g and b of each row, (B, channels, 1, 1); label (B,) with -1 for none."""
        row = torch.where(label < 0, self.table.num_embeddings - 1, label)
        gain, bias = self.table(row)[..., None, None].chunk(2, dim=1)
        return 1 + gain, bias

    def forward(self, h: Tensor, label: Tensor) -> Tensor:
        """h (B, channels, h, w), label (B,) with -1 for none."""
        gain, bias = self.gain_and_bias(label)
        return torch.addcmul(bias, h, gain)


class LevelEmbedding(nn.Module):
    """log sigma (B,) to features (B, width): sines and cosines, then a hidden layer."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        # from one period over all levels in use, about 8 in log sigma, to sixteen
        octaves = torch.linspace(0, 4, half) if half > 1 else torch.zeros(1)
        self.register_buffer("frequencies", 2 * math.pi / 8 * 2**octaves, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma (B,), positive."""
        angles = sigma.log()[:, None] * self.frequencies
        return cast(Tensor, self.layers(torch.cat([angles.cos(), angles.sin()], dim=1)))
