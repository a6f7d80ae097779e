"""Networks of (condition, x, level) behind one interface: window MLP, residual MLP, temporal convolution."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from ebm_traj.core.gradients import (
    MLPForm,
    MLPGradient,
    ResidualForm,
    ResidualGradient,
    TemporalGradient,
)
from ebm_traj.errors import InputError
from ebm_traj.trajectory.conditional import ConditionalNetwork, Size, set_to_zero
from ebm_traj.trajectory.prepared_condition import PreparedCondition

LEVEL_FEATURES = 16  # sines and cosines of a noise level
KERNEL = 3  # frames that a temporal layer looks at


def make_network(
    config: Size,
    condition_size: int,
    frame_size: int,
    outputs: int,
    *,
    per_frame: bool,
    levels: bool = False,
) -> ConditionalNetwork:
    """The network that `config.architecture` names; `frame_size` 0 for one that sees no x.

    `levels` is for networks that are told a noise level (its logarithm) or a time.
    Raises InputError if the architecture is unknown.
    """
    if config.architecture not in NETWORKS:
        raise InputError(f"architecture '{config.architecture}' is unknown; accepted: {', '.join(NETWORKS)}")
    network = NETWORKS[config.architecture](config, condition_size, frame_size, outputs, per_frame, levels)
    if not config.linear_path and config.whitening is None:
        return network
    beside = outputs * (config.window_frames if per_frame else 1) if config.linear_path else 0
    return PreparedCondition(network, condition_size, beside, config.whitening is not None)


class WindowMLP(ConditionalNetwork):
    """`depth` hidden layers of `width` SiLU units over everything at once: the literature's network."""

    def __init__(
        self, config: Size, condition_size: int, frame_size: int, outputs: int, per_frame: bool, levels: bool
    ) -> None:
        super().__init__()
        width, window = config.width, config.window_frames
        self.condition = nn.Linear(condition_size, width)
        self.x = nn.Linear(window * frame_size, width, bias=False) if frame_size else None
        self.level = LevelEmbedding(width) if levels else None
        hidden = [layer for _ in range(config.depth - 1) for layer in (nn.SiLU(), nn.Linear(width, width))]
        last = nn.Linear(width, outputs * (window if per_frame else 1))
        self.rest = nn.Sequential(*hidden, nn.SiLU(), last)
        rescale_split_input(self.condition, self.x)

    @property
    def first(self) -> nn.Linear:
        return self.condition

    def encode_further(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, encoded: Tensor, x: Tensor | None = None, level: Tensor | None = None) -> Tensor:
        return self.rest(add_inputs(encoded, self.x, x, self.level, level))

    @torch.no_grad()
    def input_gradient(self, encoded: Tensor, level: Tensor | None = None) -> MLPGradient:
        layers = [layer for layer in self.rest if isinstance(layer, nn.Linear)]
        return MLPGradient(
            MLPForm(
                first=add_inputs(encoded, None, None, self.level, level),
                x_weight=x_weight(self.x),
                hidden=tuple((layer.weight.t(), layer.bias) for layer in layers[:-1]),
                last=only_output(layers[-1]),
                last_bias=layers[-1].bias[0],
            )
        )


class ResidualMLP(ConditionalNetwork):
    """`depth` residual blocks over the condition, then as many over x that each see the result again."""

    def __init__(
        self, config: Size, condition_size: int, frame_size: int, outputs: int, per_frame: bool, levels: bool
    ) -> None:
        super().__init__()
        width, window = config.width, config.window_frames
        encoder = [ResidualBlock(width) for _ in range(config.depth)]
        self.condition = nn.Sequential(nn.Linear(condition_size, width), *encoder)
        self.x = nn.Linear(window * frame_size, width, bias=False) if frame_size else None
        self.level = LevelEmbedding(width) if levels else None
        self.blocks = nn.ModuleList(ConditionedBlock(width) for _ in range(config.depth))
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(width, outputs * (window if per_frame else 1)))

    @property
    def first(self) -> nn.Linear:
        return cast(nn.Linear, self.condition[0])

    def encode_further(self, hidden: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return self.condition[1:](hidden)
        for inner, inner_bias, outer, outer_bias in self.prepared(self._forms)[1]:
            z = torch.addmm(inner_bias, nn.functional.silu(hidden), inner)
            hidden = torch.addmm(hidden, nn.functional.silu(z), outer).add_(outer_bias)
        return hidden

    def forward(self, encoded: Tensor, x: Tensor | None = None, level: Tensor | None = None) -> Tensor:
        hidden = start = add_inputs(encoded, self.x, x, self.level, level)
        if not (self.training or torch.is_grad_enabled()):
            return self._without_graph(start)
        for block in self.blocks:
            hidden = block(hidden, start)
        return self.out(hidden)

    def _without_graph(self, start: Tensor) -> Tensor:
        """The same in fewer and smaller products, see `ResidualForm`."""
        trunk, width = self.prepared(self._forms)[0], start.shape[1]
        activated = nn.functional.silu(start)
        seen = torch.addmm(trunk.start_bias, activated, trunk.start)
        hidden = start
        for k, (outer, bias) in enumerate(trunk.outer):
            z = seen[:, k * width : (k + 1) * width]
            if k:
                z.addmm_(activated, trunk.inner[k - 1])
            hidden = torch.addmm(hidden, nn.functional.silu(z), outer).add_(bias)
            activated = nn.functional.silu(hidden)
        last = cast(nn.Linear, self.out[1])
        return nn.functional.linear(activated, last.weight, last.bias)

    @torch.no_grad()
    def input_gradient(self, encoded: Tensor, level: Tensor | None = None) -> ResidualGradient:
        first = add_inputs(encoded, None, None, self.level, level)
        last = cast(nn.Linear, self.out[1])
        trunk = self.prepared(self._forms)[0]
        return ResidualGradient(trunk, x_weight(self.x), only_output(last), last.bias[0], first)

    @torch.no_grad()
    def _forms(self) -> tuple[ResidualForm, list[tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """The blocks over x, and weights (in, out) and biases of those over the condition."""
        encoder = cast(list[ResidualBlock], list(self.condition)[1:])
        layers = [(block.inner, block.outer) for block in encoder]
        return self._trunk(), [(a.weight.t(), a.bias, b.weight.t(), b.bias) for a, b in layers]

    def _trunk(self) -> ResidualForm:
        blocks = cast(list[ConditionedBlock], list(self.blocks))
        inner = [block.inner.weight.t().chunk(2) for block in blocks]  # of h, and of h_0
        start = [inner[0][0] + inner[0][1], *(of_start for _, of_start in inner[1:])]
        return ResidualForm(
            start=torch.cat(start, dim=1),
            start_bias=torch.cat([block.inner.bias for block in blocks]),
            inner=tuple(of_hidden for of_hidden, _ in inner[1:]),
            outer=tuple((block.outer.weight.t(), block.outer.bias) for block in blocks),
        )


class TemporalNetwork(ConditionalNetwork):
    """Residual convolutions along the window, dilated 1, 2, 4, ... so that every frame meets every other."""

    def __init__(
        self, config: Size, condition_size: int, frame_size: int, outputs: int, per_frame: bool, levels: bool
    ) -> None:
        super().__init__()
        width, self.window = config.width, config.window_frames
        self.per_frame = per_frame
        self.condition = nn.Sequential(nn.Linear(condition_size, width), ResidualBlock(width))
        self.x = nn.Linear(frame_size, width, bias=False) if frame_size else None
        self.level = LevelEmbedding(width) if levels else None
        self.place = nn.Parameter(0.1 * torch.randn(self.window, width))
        reach = max(1, math.ceil(math.log2(max(2, self.window))))
        self.blocks = nn.ModuleList(TemporalBlock(width, 2 ** (i % reach)) for i in range(config.depth))
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(width, outputs))

    @property
    def first(self) -> nn.Linear:
        return cast(nn.Linear, self.condition[0])

    def encode_further(self, hidden: Tensor) -> Tensor:
        return self.condition[1:](hidden)

    def forward(self, encoded: Tensor, x: Tensor | None = None, level: Tensor | None = None) -> Tensor:
        frames = encoded[:, None] + self.place  # (B, W, width)
        if self.x is not None and x is not None:
            frames = frames + self.x(x.unflatten(1, (self.window, -1)))
        if self.level is not None and level is not None:
            frames = frames + self.level(level)[:, None]
        hidden = frames.transpose(1, 2)  # (B, width, W)
        for block in self.blocks:
            hidden = block(hidden)
        values = self.out(hidden.transpose(1, 2))  # (B, W, outputs)
        return values.flatten(1) if self.per_frame else values.mean(1)

    @torch.no_grad()
    def input_gradient(self, encoded: Tensor, level: Tensor | None = None) -> TemporalGradient:
        blocks = cast(list[TemporalBlock], list(self.blocks))
        first = add_inputs(encoded, None, None, self.level, level)[:, None] + self.place
        last = cast(nn.Linear, self.out[1])
        return TemporalGradient(
            first,
            x_weight(self.x),
            tuple(
                (block.inner.weight, cast(Tensor, block.inner.bias), block.inner.dilation[0])
                for block in blocks
            ),
            tuple((block.outer.weight, cast(Tensor, block.outer.bias)) for block in blocks),
            only_output(last),
            last.bias[0],
        )


class ResidualBlock(nn.Module):
    """h + B silu(A silu(h)); starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = zero_linear(width)

    def forward(self, hidden: Tensor) -> Tensor:
        silu = nn.functional.silu
        return hidden + self.outer(silu(self.inner(silu(hidden))))


class ConditionedBlock(nn.Module):
    """A residual block whose hidden layer also sees where the trunk started: condition, x and level."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(2 * width, width)
        self.outer = zero_linear(width)

    def forward(self, hidden: Tensor, start: Tensor) -> Tensor:
        silu = nn.functional.silu
        return hidden + self.outer(silu(self.inner(silu(torch.cat([hidden, start], dim=-1)))))


class TemporalBlock(nn.Module):
    """h + B silu(conv(silu(h))) along time; starts as the identity."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.inner = nn.Conv1d(width, width, KERNEL, padding=dilation, dilation=dilation)
        self.outer = nn.Conv1d(width, width, 1)
        set_to_zero(self.outer)

    def forward(self, hidden: Tensor) -> Tensor:
        silu = nn.functional.silu
        return hidden + self.outer(silu(self.inner(silu(hidden))))


class LevelEmbedding(nn.Module):
    """Sines and cosines of a level (B,), such as log sigma, to (B, width)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        frequencies = torch.logspace(math.log10(0.25), math.log10(4.0), LEVEL_FEATURES // 2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mix = nn.Sequential(
            nn.Linear(LEVEL_FEATURES + 1, width), nn.SiLU(), nn.Linear(width, width, bias=False)
        )

    def forward(self, level: Tensor) -> Tensor:
        angles = level[:, None] * self.frequencies
        return self.mix(torch.cat([level[:, None], angles.sin(), angles.cos()], dim=-1))


class MLP(nn.Module):
    """`depth` hidden layers of `width` SiLU units and a linear layer to `outputs`."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        hidden = [layer for _ in range(depth - 1) for layer in (nn.SiLU(), nn.Linear(width, width))]
        self.rest = nn.Sequential(*hidden, nn.SiLU(), nn.Linear(width, outputs))

    def forward(self, values: Tensor) -> Tensor:
        return self.rest(self.first(values))


NETWORKS: dict[str, type] = {"mlp": WindowMLP, "residual": ResidualMLP, "temporal": TemporalNetwork}


def add_inputs(
    encoded: Tensor,
    read_x: nn.Module | None,
    x: Tensor | None,
    read_level: nn.Module | None,
    level: Tensor | None,
) -> Tensor:
    """The first hidden layer (B, width): condition, x and level, each through its own weights."""
    hidden = encoded
    if read_x is not None and x is not None:
        hidden = hidden + read_x(x)
    if read_level is not None and level is not None:
        hidden = hidden + read_level(level)
    return hidden


def x_weight(read_x: nn.Module | None) -> Tensor:
    """(n, width) of the layer that reads x."""
    if not isinstance(read_x, nn.Linear):
        raise TypeError("this network reads no x")
    return read_x.weight.t()


def only_output(layer: nn.Linear) -> Tensor:
    """(width,) weights of a layer with one output."""
    if layer.out_features != 1:
        raise TypeError(f"a network with {layer.out_features} outputs has no one gradient")
    return layer.weight[0]


def rescale_split_input(condition: nn.Linear, x: nn.Linear | None) -> None:
    """Initial weights of two layers that add up, as if they were one layer of all inputs."""
    if x is not None:
        inputs = condition.in_features + x.in_features
        with torch.no_grad():
            condition.weight.mul_(math.sqrt(condition.in_features / inputs))
            condition.bias.mul_(math.sqrt(condition.in_features / inputs))
            x.weight.mul_(math.sqrt(x.in_features / inputs))


def zero_linear(width: int) -> nn.Linear:
    """A square linear layer that starts at zero."""
    layer = nn.Linear(width, width)
    set_to_zero(layer)
    return layer


def parameter_count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def squeeze_last(values: Tensor) -> Tensor:
    """(B, 1) to (B,)."""
    return values.squeeze(-1)
