"""Small networks over the features of a window."""

from torch import Tensor, nn


class MLP(nn.Module):
    """`depth` hidden layers of `width` SiLU units and a linear layer to `outputs`."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        hidden = [layer for _ in range(depth - 1) for layer in (nn.SiLU(), nn.Linear(width, width))]
        self.rest = nn.Sequential(*hidden, nn.SiLU(), nn.Linear(width, outputs))

    def forward(self, values: Tensor) -> Tensor:
        return self.rest(self.first(values))


def parameter_count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def squeeze_last(values: Tensor) -> Tensor:
    """(B, 1) to (B,)."""
    return values.squeeze(-1)
