"""Exponential moving average of a module's parameters."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """Keeps `module`, a copy whose parameters follow the trained ones.

    The decay is warmed up as min(decay, (1 + n) / (10 + n)) after n updates, so that the first weights are
    soon forgotten. Buffers (scales of the data, spectral-norm vectors) are copied, never averaged.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay
        self.updates = 0
        self.on_device: Tensor | None = None
        """0-d, where a recorded step reads the share of the way that an update goes; None: it is a number."""

    def count(self) -> None:
        """Begin another update: how far it goes."""
        self.updates += 1
        if self.on_device is not None:
            self.on_device.fill_(self.share)

    @property
    def share(self) -> float:
        """The share of the way to the trained weights that the current update goes."""
        return 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))

    def update(self, module: nn.Module) -> None:
        """Move a step towards the parameters of `module`."""
        self.count()
        self.follow(module)

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Go that share of the way towards the parameters of `module`."""
        mine = [parameter.detach() for parameter in self.module.parameters()]
        theirs = [parameter.detach() for parameter in module.parameters()]
        if self.on_device is None:
            torch._foreach_lerp_(mine, theirs, self.share)
        else:
            way = torch._foreach_sub(theirs, mine)
            torch._foreach_mul_(way, self.on_device)
            torch._foreach_add_(mine, way)
        for my_buffer, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            my_buffer.copy_(buffer)
