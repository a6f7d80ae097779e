"""The divergence guard: energies that run away are noticed, and the last good weights come back."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class DivergenceGuard:
    """Holds the last good weights and optimiser state in memory, and says when figures are bad.

    Contrastive training diverges now and then; what helps is to go back, draw new random numbers and walk
    more carefully (1903.08689, appendix). Training stops with an error after `max_restarts`.
    """

    def __init__(self, energy_limit: float, max_restarts: int) -> None:
        self.energy_limit = energy_limit
        self.max_restarts = max_restarts
        self.restarts = 0
        self._good: tuple[int, dict, dict, dict] | None = None

    def trouble(self, figures: Mapping[str, Tensor | float]) -> str | None:
        """What is wrong with the figures of a step, in words; None if nothing is."""
        for name, figure in figures.items():
            value = float(figure)
            if not math.isfinite(value):
                return f"{name} is {value}"
            if name.startswith("energy_") and abs(value) > self.energy_limit:
                return f"{name} is {value:.4g}, beyond +-{self.energy_limit:g}"
        return None

    def keep(
        self, iteration: int, module: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module
    ) -> None:
        """Remember this state as good."""
        self._good = (
            iteration,
            {name: value.detach().clone() for name, value in module.state_dict().items()},
            _cloned(optimizer.state_dict()),
            {name: value.detach().clone() for name, value in ema.state_dict().items()},
        )

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module) -> int:
        """Put the last good state back and count a restart; the iteration it belongs to."""
        if self._good is None:
            raise RuntimeError("no good state was kept before the first divergence")
        self.restarts += 1
        iteration, weights, optimizer_state, ema_weights = self._good
        module.load_state_dict(weights)
        optimizer.load_state_dict(_cloned(optimizer_state))
        ema.load_state_dict(ema_weights)
        return iteration


def _cloned(tree):
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _cloned(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_cloned(value) for value in tree]
    return tree
