"""Exponential moving average of a module's parameters."""

import copy

import torch
from torch import nn


class EMA:
    """Keeps `module`, a copy whose parameters follow the trained ones.

    The decay is warmed up as min(decay, (1 + n) / (10 + n)) after n updates, so that the first weights are
    soon forgotten. Buffers (scales of the data, spectral-norm vectors) are copied, never averaged.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move a step towards the parameters of `module`."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine = [parameter.detach() for parameter in self.module.parameters()]
        theirs = [parameter.detach() for parameter in module.parameters()]
        torch._foreach_lerp_(mine, theirs, weight)
        for my_buffer, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            my_buffer.copy_(buffer)
