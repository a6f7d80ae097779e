"""The tutorial's small convolutional energy, and its gradient by the picture written out."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm_traj.core.energy import UNCONDITIONAL, Condition, EnergyOfX
from ebm_traj.core.gradients import silu_and_slope
from ebm_traj.image.networks import ClassGain, ImageEnergy, NetworkConfig, Shape, activation_of, label_of

STRIDE = (2, 2)


class ConvEnergy(ImageEnergy):
    """Convolutions of stride 2, one of 5x5 and then of 3x3, a hidden layer, a number.

    For pictures of 28x28 and channels (16, 32, 64, 64) it is the network of the UvA and PyTorch Lightning
    tutorial on deep energy models (P. Lippe, tutorial 8): padding 4 first, which makes 32x32 of 28x28.
    Classes, if any, are a gain and a bias of each channel.
    """

    def __init__(self, config: NetworkConfig, shape: Shape, num_classes: int = 0) -> None:
        super().__init__()
        self.shape, self.num_classes = shape, num_classes
        channels, height, width = shape
        self.convs, self.gains = nn.ModuleList(), nn.ModuleList()
        before = channels
        for i, size in enumerate(config.channels):
            kernel, padding = (5, 4) if i == 0 else (3, 1)
            self.convs.append(nn.Conv2d(before, size, kernel, stride=STRIDE, padding=padding))
            height, width = ((n + 2 * padding - kernel) // 2 + 1 for n in (height, width))
            before = size
            if num_classes:
                self.gains.append(ClassGain(num_classes, size))
        for conv in self.convs:  # channels last: less time on a CPU
            weight = cast(nn.Conv2d, conv).weight
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self.activation = activation_of(config.activation)
        self.smooth = config.activation == "silu"
        self.dense = nn.Linear(before * height * width, config.dense)
        self.last = nn.Linear(config.dense, 1)

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        """x (B, C, H, W)."""
        label = label_of(x, condition, self.num_classes) if self.num_classes else None
        h = x
        for i, conv in enumerate(self.convs):
            h = conv(h)
            if label is not None:
                h = self.gains[i](h, label)
            h = self.activation(h)
        return cast(Tensor, self.last(self.activation(self.dense(h.flatten(1))))).squeeze(1)

    def bind(self, condition: Condition) -> EnergyOfX:
        if not self.smooth or self.dense.weight.dtype != torch.float32:
            return super().bind(condition)
        return BoundConv(self, condition)


class BoundConv:
    """A `ConvEnergy` of x under a condition, which knows its gradient (`core.gradients.BoundEnergy`).

    What autograd does, without its graph and with two detours round slow convolutions: weights lie channels
    last, and the way back through the first layer, to one channel or three, is an ordinary convolution.
    """

    def __init__(self, energy: ConvEnergy, condition: Condition) -> None:
        self.energy, self.condition = energy, condition
        self.first_back = _back_by_phases(cast(nn.Conv2d, energy.convs[0]).weight.detach())

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.energy(x, self.condition))

    def value_and_gradient(self, x: Tensor, need_value: bool = True) -> tuple[Tensor, Tensor]:
        """E (B,) and dE/dx (B, C, H, W), without autograd."""
        energy = self.energy
        convs = [cast(nn.Conv2d, conv) for conv in energy.convs]
        gains = self._gains(x)
        h, inputs, slopes = x, [], []
        for conv, gain in zip(convs, gains, strict=True):
            inputs.append(h)
            h = functional.conv2d(h, conv.weight, conv.bias, STRIDE, conv.padding)
            if gain is not None:
                h = torch.addcmul(gain[1], h, gain[0])
            h, slope = silu_and_slope(h)
            slopes.append(slope if gain is None else slope.mul_(gain[0]))
        hidden, hidden_slope = silu_and_slope(energy.dense(h.flatten(1)))
        value = energy.last(hidden).squeeze(1) if need_value else x.new_zeros(len(x))
        g = (hidden_slope.mul_(energy.last.weight) @ energy.dense.weight).view(h.shape)
        g = g.contiguous(memory_format=torch.channels_last)  # as the slopes are; all before it follow
        for i in range(len(convs) - 1, 0, -1):
            g = _through(convs[i], g.mul_(slopes[i]), inputs[i])
        g = functional.pixel_shuffle(functional.conv2d(g.mul_(slopes[0]), self.first_back), 2)
        return value, g[..., : x.shape[2], : x.shape[3]]

    def _gains(self, x: Tensor) -> list[tuple[Tensor, Tensor] | None]:
        """Gain and bias (B, channels, 1, 1) of each layer under the condition's classes."""
        if not self.energy.num_classes:
            return [None] * len(self.energy.convs)
        label = label_of(x, self.condition, self.energy.num_classes)
        return [cast(ClassGain, gain).gain_and_bias(label) for gain in self.energy.gains]


def _through(conv: nn.Conv2d, g: Tensor, inputs: Tensor) -> Tensor:
    """The gradient by a convolution's inputs."""
    padding = [int(size) for size in cast(tuple[int, int], conv.padding)]
    found = torch.ops.aten.convolution_backward(
        g, inputs, conv.weight, None, list(STRIDE), padding, [1, 1], False, [0, 0], 1, [True, False, False]
    )
    return cast(Tensor, found[0])


def _back_by_phases(weight: Tensor) -> Tensor:
    """The way back through a 5x5 convolution of stride 2 and padding 4, as a 3x3 convolution.

    Its output holds the four pixels of each 2x2 square as channels: pixel 2 m + p meets the outputs m + j by
    the weight p + 4 - 2 j. weight (channels, C, 5, 5) to (4 C, channels, 3, 3).
    """
    channels, colours = weight.shape[:2]
    out = weight.new_zeros(colours, 2, 2, channels, 3, 3)
    for row in range(2):
        for column in range(2):
            # j from 0 for even pixels, from 1 for odd ones, as the weight ends at 4
            taken = weight[:, :, row::2, column::2].flip(2, 3).transpose(0, 1)
            out[:, row, column, :, row:, column:] = taken
    return out.flatten(0, 2).contiguous(memory_format=torch.channels_last)
