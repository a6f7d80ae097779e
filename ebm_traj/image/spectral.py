"""Convolutions divided by their largest singular value, whose estimate moves only when it is told to."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

FIRST_ITERATIONS = 15
EPS = 1e-12


class SpectralConv2d(nn.Conv2d):
    """A convolution with weight W / sigma(W), W as a matrix (out, in * kernel) (Miyato et al. 2018).

    sigma = u' W v with the vectors of the power iteration, buffers that `power_iterate` alone moves: chains
    that ask for thousands of gradients see one and the same energy, and a copy of averaged weights takes the
    vectors as they are.
    """

    u: Tensor
    v: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, padding: int = 0) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=padding)
        matrix = self.weight.detach().flatten(1)
        self.register_buffer("u", functional.normalize(torch.randn(len(matrix)), dim=0, eps=EPS))
        self.register_buffer("v", torch.zeros(matrix.shape[1]))
        for _ in range(FIRST_ITERATIONS):
            self.iterate()

    @torch.no_grad()
    def iterate(self) -> None:
        """One step of the power iteration."""
        matrix = self.weight.flatten(1)
        self.v.copy_(functional.normalize(matrix.t() @ self.u, dim=0, eps=EPS))
        self.u.copy_(functional.normalize(matrix @ self.v, dim=0, eps=EPS))

    @property
    def normalised(self) -> Tensor:
        """W / sigma(W), with a graph through both."""
        # clones: a later step of the power iteration must not change what a graph remembers
        sigma = self.u.clone() @ (self.weight.flatten(1) @ self.v.clone())
        return cast(Tensor, self.weight / sigma)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, H, W)."""
        return functional.conv2d(x, self.normalised, self.bias, padding=self.padding)


def power_iterate(module: nn.Module) -> None:
    """One step of the power iteration in every spectrally normalised layer; once for a step of training."""
    for part in module.modules():
        if isinstance(part, SpectralConv2d):
            part.iterate()
