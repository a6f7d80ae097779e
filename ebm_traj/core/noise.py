"""Standard normal noise, drawn again and again for one chain."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BITS = 12  # of each number; a larger table would leave the cache that products fill between two steps
WORD = 16
QUICK_FROM = 8192  # numbers at a time, from which on the table is worth its start

Draw = Callable[[], Tensor]
"""To noise (B, ...), valid until the next call, and the caller's to write over."""
NoiseSource = Callable[[Tensor, torch.Generator | None], Draw]
"""From what noise shall look like, and a generator."""


def exact_noise(like: Tensor, generator: torch.Generator | None) -> Draw:
    """Torch's own normal numbers, of the shape of `like`."""
    noise = torch.empty_like(like)
    return lambda: noise.normal_(generator=generator)


def quick_noise(like: Tensor, generator: torch.Generator | None) -> Draw:
    """Noise for chains without Metropolis correction: of many float32 numbers on a CPU, from a table.

    12 bits choose one of 4,096 equally likely values, the means of the normal distribution over cells of
    equal chance, scaled to variance 1. Odd moments are 0, the fourth is 2.997. The order in the step size to
    which a chain without correction is right asks for the first three alone (Kloeden & Platen 1992, section
    14.1); a correction would ask for the density of the noise. Torch draws its numbers by one thread and
    takes four times as long. The bits are of SFC64, seeded by `generator`, once.
    """
    if like.device.type != "cpu" or like.dtype != torch.float32 or like.numel() < QUICK_FROM:
        return exact_noise(like, generator)
    noise = torch.empty_like(like, memory_format=torch.contiguous_format)
    flat, per_word = noise.view(-1).numpy(), 64 // WORD
    words = -(-len(flat) // per_word)
    bits = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_(generator=generator)))

    def draw() -> Tensor:
        chosen = bits.random_raw(words).view(np.uint16)[: len(flat)]
        chosen >>= WORD - BITS
        np.take(TABLE, chosen, out=flat, mode="clip")  # no index is beyond; "raise" would take a buffer
        return noise

    return draw


def _cell_means(count: int) -> NDArray[np.float32]:
    """(count,) means of N(0, 1) over cells of equal chance, scaled to variance 1."""
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    edges = normal.icdf(torch.arange(1, count, dtype=torch.float64) / count)
    density = torch.nn.functional.pad(normal.log_prob(edges).exp(), (1, 1))
    means = (density[:-1] - density[1:]) * count
    return (means / means.square().mean().sqrt()).float().numpy()


TABLE = _cell_means(1 << BITS)
