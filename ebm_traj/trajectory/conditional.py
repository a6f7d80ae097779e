"""What every network of (condition, x, level) offers."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from ebm_traj.core.gradients import InputGradient

T = TypeVar("T")
Architecture = Literal["mlp", "residual", "temporal"]


class Size(Protocol):
    """What a network reads of `NetworkConfig`."""

    @property
    def window_frames(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def architecture(self) -> Architecture: ...
    @property
    def linear_path(self) -> bool: ...
    @property
    def whitening(self) -> float | None: ...


class ConditionalNetwork(nn.Module):
    """f(x | condition, level). What depends on the condition alone is computed once, by `encode`."""

    def encode(self, condition: Tensor) -> Tensor:
        """Condition (B, F) to what `forward` needs of it (B, E)."""
        return self.encode_further(self.first(condition))

    @property
    def first(self) -> nn.Linear:
        """The layer that sees the condition."""
        raise TypeError(f"{type(self).__name__} does not define first")

    def encode_further(self, hidden: Tensor) -> Tensor:
        """What the first layer gives (B, width) to what `encode` gives."""
        raise TypeError(f"{type(self).__name__} does not define encode_further")

    def forward(self, encoded: Tensor, x: Tensor | None = None, level: Tensor | None = None) -> Tensor:
        """x (B, W * frame_size), level (B,), or None, to (B, outputs) or, per frame, (B, W * outputs)."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    _prepared: tuple[list[tuple[int, int]], Any] | None = None
    _seen: list[Mapping[str, Tensor | None]] | None = None  # walking over modules takes longer than a look

    def prepared(self, make: Callable[[], T]) -> T:
        """What `make` derives from the weights, kept in evaluation mode for as long as they stay the same.

        Weights written to behind autograd's back (`weight.data`) look the same; write under `torch.no_grad`.
        """
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        if self.training or capturing:  # a graph is to read the weights themselves, at each replay
            return make()
        if self._seen is None:  # a module's own dictionaries: what is put in place of a weight is seen there
            self._seen = [
                own for each in self.modules_prepared() for own in (each._parameters, each._buffers)
            ]
        state = [
            (values.data_ptr(), values._version)
            for own in self._seen
            for values in own.values()
            if values is not None
        ]
        if self._prepared is None or self._prepared[0] != state:
            self._prepared = state, make()
        return cast(T, self._prepared[1])

    def modules_prepared(self) -> list[nn.Module]:
        """The modules from whose own weights comes what is `prepared` here."""
        return [each for each in self.modules() if each._parameters]

    def input_gradient(self, encoded: Tensor, level: Tensor | None = None) -> InputGradient:
        """Value (B,) and gradient of the one output as a function of x alone, written out; no graph."""
        raise TypeError(f"{type(self).__name__} does not define input_gradient")

    def start_at_zero(self) -> None:
        """Set the last layer to zero, so that all outputs are 0 until something is learned."""
        set_to_zero([layer for layer in self.modules() if isinstance(layer, nn.Linear)][-1])


def set_to_zero(layer: nn.Module) -> None:
    """All parameters of a layer, in place."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
