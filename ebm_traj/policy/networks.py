"""The perceptrons of the trainings, and their weights in the form that is shipped."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ebm_traj.envs.trained import PolicyNetwork

Array = NDArray[np.float64]


def perceptron(features: int, outputs: int, width: int, *, normalised: bool = False) -> nn.Sequential:
    """Two hidden layers of ELU units, as Stable-Baselines3 has it too; `normalised`: within each layer."""
    layers: list[nn.Module] = []
    for size in (features, width):
        layers += [nn.Linear(size, width), *([nn.LayerNorm(width)] if normalised else []), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def weights_of(layers: nn.Module, mean: Array, std: Array, change: float) -> dict[str, NDArray[Any]]:
    """The weights of a network's linear layers, in order, with what `PolicyNetwork` needs besides."""
    weights: dict[str, NDArray[Any]] = {"mean": mean, "std": std, "change": np.array([change])}
    for i, layer in enumerate(linear(layers)):
        weights[f"weight.{i}"] = layer.weight.detach().numpy().copy()
        weights[f"bias.{i}"] = layer.bias.detach().numpy().copy()
    return weights


def load_weights(layers: nn.Module, network: PolicyNetwork) -> None:
    """Copy the weights of a network into linear layers of the same sizes."""
    with torch.no_grad():
        for i, layer in enumerate(linear(layers)):
            layer.weight.copy_(torch.from_numpy(network.weights[f"weight.{i}"]))
            layer.bias.copy_(torch.from_numpy(network.weights[f"bias.{i}"]))


def linear(layers: nn.Module) -> list[nn.Linear]:
    """Its linear layers in order."""
    return [layer for layer in layers.modules() if isinstance(layer, nn.Linear)]
