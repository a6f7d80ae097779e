"""Where chains start: a fixed noise, noise around a known point, or a learned Gaussian."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import Condition

LOG_SCALE_RANGE = (math.log(0.1), 0.5)  # of the learned Gaussian, in units of the data's own scale


class Proposal(nn.Module):
    """A distribution q(x | condition) from which Langevin chains start."""

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """One start (B, n) for each row of the condition, detached."""
        raise TypeError(f"{type(self).__name__} does not define sample")

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

    @torch.no_grad()
    def scale(self, condition: Condition) -> Tensor | None:
        return self.mean_and_scale(condition)[1]

    def loss(self, x: Tensor, condition: Condition) -> Tensor | None:
        mean, scale = self.mean_and_scale(condition)
        return (0.5 * ((x - mean) / scale) ** 2 + scale.log()).sum(-1).mean()
