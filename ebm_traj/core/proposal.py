"""Where chains start: a fixed noise, noise around a known point, a learned Gaussian or a mixture of them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import Condition
from ebm_traj.errors import InputError

LOG_SCALE_RANGE = (math.log(0.1), 0.5)  # of the learned Gaussian, in units of the data's own scale
# of the mixture's components: behaviour mixes a nearly deterministic mode with a wide one
COMPONENT_LOG_SCALE_RANGE = (math.log(0.01), math.log(10.0))
# components start between these scales, so that they do not all learn the same
FIRST_LOG_SCALES = (math.log(0.1), 0.0)
FARTHEST = 1e6  # standard deviations; beyond, squares overflow and a density is 0 for any purpose
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Proposal(nn.Module):
    """A distribution q(x | condition) from which Langevin chains start."""

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """One start (B, n) for each row of the condition, detached."""
        raise TypeError(f"{type(self).__name__} does not define sample")

    def log_prob(self, x: Tensor, condition: Condition) -> Tensor:
        """log q(x | condition) (B,) of x (B, n), normalised; TypeError where a proposal has no density."""
        raise TypeError(f"{type(self).__name__} does not define log_prob")

    def scale(self, condition: Condition) -> Tensor | None:
        """Preconditioner (B, n) of the chain, a function of the condition alone; None for none."""
        return None

    def loss(self, x: Tensor, condition: Condition) -> Tensor | None:
        """What to minimise (a scalar) so that q comes near the data; None if nothing is learned."""
        return None


class NoiseProposal(Proposal):
    """Uniform noise in `centre` +- `width`; the literature starts at the last frame +- 0.3 (1903.08689)."""

    def __init__(self, centre: Callable[[Condition], Tensor], width: float) -> None:
        super().__init__()
        self.centre = centre
        self.width = width

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        centre = self.centre(condition).detach()
        return centre + torch.empty_like(centre).uniform_(-self.width, self.width, generator=generator)

    def log_prob(self, x: Tensor, condition: Condition) -> Tensor:
        """-inf outside the box."""
        inside = ((x - self.centre(condition)).abs() <= self.width).all(-1)
        density = x.new_full((len(x),), -x.shape[-1] * math.log(2 * self.width))
        return density.masked_fill(~inside, -math.inf)


class GaussianProposal(Proposal):
    """A learned diagonal Gaussian N(m(condition), s(condition)^2), fitted by maximum likelihood.

    It starts the chain where the data are and gives its natural step in each dimension; the energy then has
    to learn what a Gaussian cannot say (Gao et al. 2020, 1912.00589, use a flow in the same role).
    """

    def __init__(self, network: nn.Module, read: Callable[[Condition], Tensor]) -> None:
        """`network` maps `read(condition)` (B, f) to mean and log scale side by side (B, 2 n)."""
        super().__init__()
        self.network = network
        self.read = read

    def mean_and_scale(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """m and s, each (B, n); s is bounded so that a chain always moves and never explodes."""
        mean, log_scale = self.network(self.read(condition)).chunk(2, dim=-1)
        return mean, log_scale.clamp(*LOG_SCALE_RANGE).exp()

    @torch.no_grad()
    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        mean, scale = self.mean_and_scale(condition)
        return mean + scale * torch.empty_like(mean).normal_(generator=generator)

    def log_prob(self, x: Tensor, condition: Condition) -> Tensor:
        mean, scale = self.mean_and_scale(condition)
        return gaussian_log_prob(x, mean, scale.log())

    @torch.no_grad()
    def scale(self, condition: Condition) -> Tensor | None:
        return self.mean_and_scale(condition)[1]

    def loss(self, x: Tensor, condition: Condition) -> Tensor | None:
        mean, scale = self.mean_and_scale(condition)
        return (0.5 * ((x - mean) / scale) ** 2 + scale.log()).sum(-1).mean()


class Mixture(NamedTuple):
    """A mixture of K diagonal Gaussians for each of B rows."""

    log_weights: Tensor
    """(B, K), normalised."""
    means: Tensor
    """(B, K, n)"""
    log_scales: Tensor
    """(B, K, n)"""


class MixtureProposal(Proposal):
    """A learned mixture of K diagonal Gaussians, fitted by maximum likelihood (Bishop 1994).

    Starts of a chain then fall into the modes in the right shares, which a local chain cannot mend later.
    """

    first_log_scales: Tensor

    def __init__(self, network: nn.Module, read: Callable[[Condition], Tensor], components: int) -> None:
        """`network` maps `read(condition)` (B, f) to (B, `outputs(n, components)`).

        In this order: K logits of the weights, K n means, K n logarithms of scales.
        """
        super().__init__()
        if components < 1:
            raise InputError(f"components of the mixture: {components}; accepted are 1 and more")
        self.network = network
        self.read = read
        self.components = components
        first = torch.linspace(*FIRST_LOG_SCALES, components) if components > 1 else torch.zeros(1)
        self.register_buffer("first_log_scales", first[:, None], persistent=False)

    @staticmethod
    def outputs(size: int, components: int) -> int:
        """Numbers that the network gives for x of `size` numbers."""
        return components * (1 + 2 * size)

    def mixture(self, condition: Condition) -> Mixture:
        """The mixture of each row; scales are softly bounded, so that gradients never die at a bound."""
        values = self.network(self.read(condition))
        logits, rest = values[:, : self.components], values[:, self.components :]
        means, log_scales = rest.unflatten(1, (2, self.components, -1)).unbind(1)
        log_scales = soft_bound(log_scales + self.first_log_scales, *COMPONENT_LOG_SCALE_RANGE)
        return Mixture(logits.log_softmax(-1), means, log_scales)

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        return self.sample_with_component(condition, generator)[0]

    @torch.no_grad()
    def sample_with_component(
        self, condition: Condition, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Starts (B, n) and the scales (B, n) of the components they came from.

        As a chain's preconditioner this scale keeps detailed balance: it stays as it was drawn, whatever
        the x the chain walks to.
        """
        log_weights, means, log_scales = self.mixture(condition)
        picked = torch.multinomial(log_weights.exp(), 1, generator=generator)[..., None]
        picked = picked.expand(-1, -1, means.shape[-1])
        mean, scale = means.gather(1, picked).squeeze(1), log_scales.gather(1, picked).squeeze(1).exp()
        return mean + scale * torch.empty_like(mean).normal_(generator=generator), scale

    def log_prob(self, x: Tensor, condition: Condition) -> Tensor:
        log_weights, means, log_scales = self.mixture(condition)
        return (log_weights + gaussian_log_prob(x[:, None], means, log_scales)).logsumexp(-1)

    def mean_and_scale(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, n) of the whole mixture, within components and between them."""
        log_weights, means, log_scales = self.mixture(condition)
        weights = log_weights.exp()[..., None]
        centre = (weights * means).sum(1)
        variance = (weights * ((2 * log_scales).exp() + (means - centre[:, None]).square())).sum(1)
        return centre, variance.sqrt()

    @torch.no_grad()
    def scale(self, condition: Condition) -> Tensor | None:
        return self.mean_and_scale(condition)[1]

    def loss(self, x: Tensor, condition: Condition) -> Tensor | None:
        return -self.log_prob(x, condition).mean()


def gaussian_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log N(x; mean, diag(scale^2)), summed over the last dimension; finite for any finite input."""
    distance = ((x - mean) * (-log_scale).exp()).clamp(-FARTHEST, FARTHEST)
    return -(0.5 * distance.square() + log_scale + HALF_LOG_TWO_PI).sum(-1)


def soft_bound(values: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Values held between two bounds, smoothly (Chua et al. 2018, appendix A.1)."""
    values = high - nn.functional.softplus(high - values)
    return low + nn.functional.softplus(values - low)
