"""The ladder network: a classifier whose every layer is also denoised, so that unlabelled data teach it.

Rasmus et al. 2015, 1507.02672, algorithm 1. An encoder of batch-normalised layers runs twice with the same
weights, clean and with Gaussian noise in every layer; a decoder goes down again and, at each layer l, joins
the noisy value z~ with what comes from above, u, to an estimate z^ = g(z~, u) of the clean value z. The cost
is the cross-entropy of the noisy path's answer for labelled rows plus

    sum_l  lambda_l / m_l  | (z^_l - mean_l) / std_l - z_l |^2        (equation 2 and algorithm 1)

for unlabelled ones, with the clean pass's batch statistics of layer l (none for the input, l = 0). Of one
picture this sum is its energy: low where the network restores what was lost.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm_traj.errors import InputError

EPSILON = 1e-10  # added to variances, as in the paper's program
ALL_LAYERS = (1000.0, 10.0, 0.1, 0.1, 0.1, 0.1, 0.1)
"""Denoising costs of the full ladder network on MNIST, from the input up."""
BOTTOM_LAYER = (1000.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""The input's cost alone: the variant that EBGAN-LN builds on (Zhao et al. 2016, table 3)."""


@dataclasses.dataclass(frozen=True)
class LadderConfig:
    """Sizes and costs; the defaults are those of permutation-invariant MNIST."""

    hidden: tuple[int, ...] = (1000, 500, 250, 250, 250)
    """Units of the hidden layers."""
    noise: float = 0.3
    """Standard deviation of the noise on the input and on every normalised layer."""
    costs: tuple[float, ...] = ALL_LAYERS
    """Weights lambda of the denoising costs, from the input to the classes."""
    half_precision: bool = False
    """Matrix products in bfloat16, everything else in float32: about twice as fast where the processor has
    instructions for it."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"ladder hidden: {self.hidden}; needed are one layer and one unit or more")
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise InputError(f"ladder noise: {self.noise}; it must be 0 or more")
        if len(self.costs) != len(self.hidden) + 2 or not all(0 <= c < math.inf for c in self.costs):
            raise InputError(
                f"ladder costs: {self.costs}; needed are {len(self.hidden) + 2} of 0 or more "
                "(the input, each hidden layer, the classes)"
            )


@dataclasses.dataclass
class LadderPass:
    """What one run of the encoder leaves at the layers 0 (input) to L (classes)."""

    z: list[Tensor]
    """(B, m_l) values after normalisation and noise, before bias and nonlinearity."""
    mean: list[Tensor]
    """(m_l,) means of the layer before normalisation; 0 for the input."""
    std: list[Tensor]
    """(m_l,) standard deviations, likewise; 1 for the input."""
    logits: Tensor
    """(B, classes)."""


def normalise(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation of x (B, m) without a learned scale: (x - mean) / std, mean (m,), std (m,).

    The variance is the biased one, over the rows given.
    """
    mean = x.mean(0)
    centred = x - mean
    std = (centred.square().mean(0) + EPSILON).sqrt()  # several times as fast as torch.var_mean on a CPU
    return centred / std, mean, std


class Combinator(nn.Module):
    """g(z~, u) = (z~ - mu(u)) v(u) + mu(u), unit by unit, with ten numbers a unit (equation 3).

    mu(u) = a1 sigmoid(a2 u + a3) + a4 u + a5, and v(u) likewise with a6 to a10. This is the best estimate of
    a Gaussian z seen through Gaussian noise, whose prior mean and variance depend on u. At the start all are
    0 but a2 = a7 = 1, as in the paper's program.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        start = torch.zeros(10, units)
        start[[1, 6]] = 1.0
        self.a = nn.Parameter(start)

    def forward(self, noisy: Tensor, above: Tensor) -> Tensor:
        """Estimate (B, m) of the clean values from z~ (B, m) and u (B, m)."""
        a1, a2, a3, a4, a5, a6, a7, a8, a9, a10 = self.a.unbind()
        # addcmul joins a product and a sum in one pass over memory
        mean = torch.addcmul(torch.addcmul(a5, a4, above), a1, torch.addcmul(a3, a2, above).sigmoid())
        gain = torch.addcmul(torch.addcmul(a10, a9, above), a6, torch.addcmul(a8, a7, above).sigmoid())
        return torch.addcmul(mean, noisy - mean, gain)


class LadderNetwork(nn.Module):
    """The ladder network of rows x (B, inputs), pixels in [0, 1], and `classes` classes.

    `classify` uses statistics of the clean pass over whole training data, which `collect_statistics` gathers.
    """

    def __init__(self, inputs: int, classes: int, config: LadderConfig = LadderConfig()) -> None:
        """Weights are drawn by torch's global generator: Gaussian of variance 1 / fan-in."""
        super().__init__()
        self.config = config
        self.sizes = [inputs, *config.hidden, classes]
        pairs = list(itertools.pairwise(self.sizes))
        self.up = nn.ParameterList([torch.randn(b, a) / math.sqrt(a) for a, b in pairs])
        self.down = nn.ParameterList([torch.randn(a, b) / math.sqrt(b) for a, b in pairs])
        self.bias = nn.ParameterList([torch.zeros(b) for _, b in pairs])
        self.scale = nn.Parameter(torch.ones(classes))  # of the top layer alone: ReLU needs none
        self.combinators = nn.ModuleList([Combinator(size) for size in self.sizes])
        for layer, (_, size) in enumerate(pairs):
            self.register_buffer(f"mean{layer + 1}", torch.zeros(size))
            self.register_buffer(f"std{layer + 1}", torch.ones(size))

    @property
    def needs_clean(self) -> bool:
        """Whether a layer above the input has a denoising cost, so that the clean pass is needed."""
        return any(self.config.costs[1:])

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """x weight^T."""
        if self.config.half_precision:
            return functional.linear(x.bfloat16(), weight.bfloat16()).to(x.dtype)
        return functional.linear(x, weight)

    def encode(self, x: Tensor, noise: float = 0.0, generator: torch.Generator | None = None) -> LadderPass:
        """Run the encoder on x (B, inputs) with the statistics of these rows; noise 0 is the clean path."""
        return self.encode_apart([x], noise, generator)[0]

    def encode_apart(
        self, parts: Sequence[Tensor], noise: float = 0.0, generator: torch.Generator | None = None
    ) -> list[LadderPass]:
        """`encode` of several batches, each with statistics of its own; one matrix product a layer for all.

        Labelled and unlabelled rows are normalised apart, as in the paper's program.
        """

        def shaken(z: Tensor) -> Tensor:
            if not noise:
                return z
            drawn = torch.empty_like(z).normal_(generator=generator)
            return torch.add(z, drawn, alpha=noise)

        zeros, ones = parts[0].new_zeros(self.sizes[0]), parts[0].new_ones(self.sizes[0])
        found = [LadderPass([shaken(x)], [zeros], [ones], x) for x in parts]
        below = [one.z[0] for one in found]
        for layer, weight in enumerate(self.up):
            joint = self.product(torch.cat(below) if len(below) > 1 else below[0], weight)
            for at, (one, before) in enumerate(zip(found, joint.split([len(x) for x in parts]), strict=True)):
                normal, mean, std = normalise(before)
                one.z.append(shaken(normal))
                one.mean.append(mean)
                one.std.append(std)
                below[at] = self._activate(layer, one.z[-1])
        for one, logits in zip(found, below, strict=True):
            one.logits = logits
        return found

    def _activate(self, layer: int, z: Tensor) -> Tensor:
        biased = z + self.bias[layer]
        return biased * self.scale if layer == len(self.up) - 1 else biased.relu()

    def decode(self, noisy: LadderPass) -> list[Tensor]:
        """Estimates z^ (B, m_l) of the clean values of every layer, from the input up."""
        top = len(self.sizes) - 1
        above, _, _ = normalise(noisy.logits.softmax(1))
        estimates = [self.combinators[top](noisy.z[top], above)]
        for layer in range(top - 1, -1, -1):
            above, _, _ = normalise(self.product(estimates[0], self.down[layer]))
            estimates.insert(0, self.combinators[layer](noisy.z[layer], above))
        return estimates

    def costs(self, estimates: Sequence[Tensor], clean: LadderPass) -> Tensor:
        """(B,) weighted denoising cost of each row: exactly 0 where all estimates are the clean values."""
        total = clean.z[0].new_zeros(len(clean.z[0]))
        for layer, weight in enumerate(self.config.costs):
            if not weight:
                continue
            z = clean.z[layer]
            # mean + std z is the layer before normalisation, so z^ is compared in its units
            estimate = estimates[layer]
            if layer:
                estimate = (estimate - clean.mean[layer]) / clean.std[layer]
            total = total + weight * (estimate - z).square().mean(1)
        return total

    def energy(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B,) denoising cost of rows x (B, inputs) with fresh noise."""
        return self.energy_of(self.encode(x, self.config.noise, generator), x)

    def energy_of(self, noisy: LadderPass, x: Tensor) -> Tensor:
        """(B,) denoising cost of rows x (B, inputs) whose noisy pass is known."""
        clean = self.encode(x) if self.needs_clean else LadderPass([x], [], [], x)
        return self.costs(self.decode(noisy), clean)

    @torch.no_grad()
    def collect_statistics(self, x: Tensor) -> None:
        """Set the statistics `classify` uses to those of the clean pass over rows x (N, inputs)."""
        found = self.encode(x)
        for layer in range(1, len(self.sizes)):
            self.get_buffer(f"mean{layer}").copy_(found.mean[layer])
            self.get_buffer(f"std{layer}").copy_(found.std[layer])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of the clean path, with the collected statistics: rows do not affect others."""
        h = x
        for layer, weight in enumerate(self.up):
            z = (self.product(h, weight) - self.get_buffer(f"mean{layer + 1}")) / self.get_buffer(
                f"std{layer + 1}"
            )
            h = self._activate(layer, z)
        return h
