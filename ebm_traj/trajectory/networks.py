"""Small networks over the features of a window."""

from torch import Tensor, nn


class MLP(nn.Sequential):
    """`depth` hidden layers of `width` SiLU units and a linear layer to `outputs`."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None:
        layers: list[nn.Module] = []
        size = inputs
        for _ in range(depth):
            layers += [nn.Linear(size, width), nn.SiLU()]
            size = width
        super().__init__(*layers, nn.Linear(size, outputs))


def parameter_count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def squeeze_last(values: Tensor) -> Tensor:
    """(B, 1) to (B,)."""
    return values.squeeze(-1)
