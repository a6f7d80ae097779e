"""Where chains start: a fixed noise, noise around a known point, a learned Gaussian or a mixture of them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebm_traj.core.clipping import before_clipping
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy, EnergyOfX
from ebm_traj.core.gradients import BoundEnergy, BoundWithQuadratic, beyond_walls
from ebm_traj.errors import InputError

LOG_SCALE_RANGE = (math.log(0.1), 0.5)  # of the learned Gaussian, in units of the data's own scale
# of the mixture's components: behaviour mixes a nearly deterministic mode with a wide one
COMPONENT_LOG_SCALE_RANGE = (math.log(0.01), math.log(10.0))
# components start between these scales, so that they do not all learn the same
FIRST_LOG_SCALES = (math.log(0.1), 0.0)
FARTHEST = 1e6  # standard deviations; beyond, squares overflow and a density is 0 for any purpose
UNIFORM_STD = 1 / math.sqrt(3)  # of the uniform distribution on [-1, 1]
BOX_REACH = 5.0  # a box of n dimensions is walked in this share / n of it: walls turn back two steps in three
BOX_ROUNDING = 1e-5  # actions at a bound, scaled in float32, may lie this far outside
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


CENTRE, SCALE, BOXED = "component_centre", "component_scale", "component_boxed"
"""Names in a condition of what a chain knows of the component it was started in, each (B, n)."""


class Start(NamedTuple):
    """Where chains start."""

    x: Tensor
    """(B, n), detached."""
    component: dict[str, Tensor]
    """What to add to the condition of the chain: `CENTRE`, `SCALE` and, of a mixture with blocks, `BOXED`;
    or nothing."""


class Proposal(nn.Module):
    """A distribution q(x | condition) from which Langevin chains start."""

    @property
    def clipped(self) -> bool:
        """Whether x is to be clipped to [-1, 1] where a chain from here ends, see `MixtureProposal`."""
        return False

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """One start (B, n) for each row of the condition, detached."""
        raise TypeError(f"{type(self).__name__} does not define sample")

    def start(self, condition: Condition, generator: torch.Generator | None = None) -> Start:
        """A start for each row, and the component of q that it was drawn from if q has any."""
        return Start(self.sample(condition, generator), {})

    def draws(self, condition: Condition, times: int, generator: torch.Generator | None = None) -> Tensor:
        """`times` independent draws (B * times, n) for each row of the condition, a row's side by side."""
        return self.sample(repeat(condition, times), generator)

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
    """A mixture of K diagonal Gaussians for each of B rows; blocks of numbers may be uniform instead."""

    log_weights: Tensor
    """(B, K), normalised."""
    means: Tensor
    """(B, K, n)"""
    log_scales: Tensor
    """(B, K, n)"""
    uniform: Tensor | None = None
    """(B, K, blocks), logits of the chance that a component draws a block from its box; None for no box."""

    def of(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mean, log scale (B, n) and `uniform` (B, blocks) of one component of each row, `index` (B,)."""
        rows = torch.arange(len(index), device=index.device)
        uniform = None if self.uniform is None else self.uniform[rows, index]
        return self.means[rows, index], self.log_scales[rows, index], uniform


class MixtureProposal(Proposal):
    """A learned mixture of K diagonal Gaussians, fitted by maximum likelihood (Bishop 1994).

    Starts of a chain then fall into the modes in the right shares, which a local chain cannot mend later.
    With `blocks` x is so many blocks of numbers, such as the actions of a window's frames, and each component
    draws each block, by a chance of its own, uniformly from [-1, 1] instead: exploration does so.

    Likelihood keeps a wide component of next to no weight for what the others cannot explain. One draw from
    it ends a rollout: the next prediction is asked for where there were never data. Outside of training
    components of less than `least_share` of the likeliest one's weight are not drawn; the density has them.

    With `clip` what lies in a box, such as actions, is to be clipped to it: a Gaussian that stands for
    uniform exploration reaches beyond. Outside of training its scale is then the one that clipping makes the
    learned one of, so that exploration is as wide as in the data.
    """

    first_log_scales: Tensor

    def __init__(
        self,
        network: nn.Module,
        read: Callable[[Condition], Any],
        components: int,
        blocks: int = 0,
        *,
        least_share: float = 0.0,
        clip: bool = False,
    ) -> None:
        """`network` maps `read(condition)` (B, f) to (B, `outputs(n, components, blocks)`).

        In this order: logits of the weights, K n means, K n logarithms of scales, K logits for each block.
        """
        super().__init__()
        if components < 1:
            raise InputError(f"components of the mixture: {components}; accepted are 1 and more")
        self.network = network
        self.read = read
        self.components = components
        self.blocks = blocks
        self.least_share = least_share
        self.clip = clip
        self.register_buffer("first_log_scales", self.first_scales(components), persistent=False)

    @property
    def clipped(self) -> bool:
        return self.clip and not self.training

    @staticmethod
    def first_scales(components: int) -> Tensor:
        """Logarithms (K, 1) of the scales that are the components' before anything is learned."""
        first = torch.linspace(*FIRST_LOG_SCALES, components) if components > 1 else torch.zeros(1)
        return first[:, None]

    @staticmethod
    def outputs(size: int, components: int, blocks: int = 0) -> int:
        """Numbers that the network gives for x of `size` numbers."""
        return components * (1 + 2 * size + blocks)

    def mixture(self, condition: Condition) -> Mixture:
        """The mixture of each row; scales are softly bounded, so that gradients never die at a bound."""
        logits, means, log_scales, uniform = self.numbers(self._values(condition))
        log_scales = self._bounded(log_scales, self.first_log_scales)
        return Mixture(logits.log_softmax(-1), means, log_scales, uniform)

    def _values(self, condition: Condition) -> Tensor:
        return self.network(self.read(condition))

    def numbers(self, values: Tensor) -> Mixture:
        """What the network gives (B, outputs), taken apart: weights not normalised, scales not bounded."""
        count, last = self.components, self.components * self.blocks
        uniform = values[:, -last:].unflatten(1, (count, -1)) if last else None
        means, log_scales = values[:, count : values.shape[1] - last].unflatten(1, (2, count, -1)).unbind(1)
        return Mixture(values[:, :count], means, log_scales, uniform)

    @staticmethod
    def _bounded(log_scales: Tensor, first: Tensor) -> Tensor:
        return soft_bound(log_scales + first, *COMPONENT_LOG_SCALE_RANGE)

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        return self.start(condition, generator).x

    @torch.no_grad()
    def start(self, condition: Condition, generator: torch.Generator | None = None) -> Start:
        """Starts, and the component of each.

        Its scale preconditions a chain and keeps detailed balance: it stays as it was drawn, whatever the x
        the chain walks to. A chain that also keeps to its component (`ResidualEnergy`) is stationary from the
        start.
        """
        return self._draw(self.numbers(self._values(condition)), generator)

    @torch.no_grad()
    def draws(self, condition: Condition, times: int, generator: torch.Generator | None = None) -> Tensor:
        # the network is asked once for each row
        values = self._values(condition).repeat_interleave(times, dim=0)
        return self._draw(self.numbers(values), generator).x

    def left_in(self, logits: Tensor) -> Tensor:
        """Logits (B, K) of weights, those of components below `least_share` of the likeliest set to -inf."""
        if not self.least_share:
            return logits
        least = logits.amax(-1, keepdim=True) + math.log(self.least_share)
        return logits.masked_fill(logits < least, -math.inf)

    def _draw(self, numbers: Mixture, generator: torch.Generator | None) -> Start:
        logits = numbers.log_weights if self.training else self.left_in(numbers.log_weights)
        # Gumbel's trick: the largest of logits - log(exponential noise) is drawn with the right shares
        race = torch.empty_like(logits).exponential_(generator=generator).log_()
        index = (logits - race).argmax(-1)  # (B,)
        # bounded after the choice: the other components' scales are not asked for
        centre, log_scale, uniform = numbers.of(index)
        scale = self._bounded(log_scale, self.first_log_scales[index]).exp()
        if self.clipped:
            scale = before_clipping(scale)
        x = centre + scale * torch.empty_like(centre).normal_(generator=generator)
        if uniform is None:
            return Start(x, {CENTRE: centre, SCALE: scale})
        drawn = torch.empty_like(uniform).uniform_(generator=generator) < uniform.sigmoid()  # (B, blocks)
        boxed = drawn.repeat_interleave(x.shape[1] // self.blocks, dim=1)
        inside = torch.empty_like(centre).uniform_(-1, 1, generator=generator)
        reach = UNIFORM_STD * min(1.0, BOX_REACH / x.shape[1])
        return Start(
            torch.where(boxed, inside, x),
            {
                CENTRE: torch.where(boxed, 0.0, centre),
                SCALE: torch.where(boxed, reach, scale),
                BOXED: boxed.to(x.dtype),
            },
        )

    def sample_with_component(
        self, condition: Condition, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Starts (B, n) and the scales (B, n) of the components they came from."""
        start = self.start(condition, generator)
        return start.x, start.component[SCALE]

    def log_prob(self, x: Tensor, condition: Condition) -> Tensor:
        log_weights, means, log_scales, uniform = self.mixture(condition)
        x = x[:, None]
        if uniform is None:
            return (log_weights + gaussian_log_prob(x, means, log_scales)).logsumexp(-1)
        shape = (self.blocks, -1)
        x, means, log_scales = (values.unflatten(-1, shape) for values in (x, means, log_scales))
        gaussian = nn.functional.logsigmoid(-uniform) + gaussian_log_prob(x, means, log_scales)
        boxed = nn.functional.logsigmoid(uniform) + box_log_prob(x)
        return (log_weights + torch.logaddexp(gaussian, boxed).sum(-1)).logsumexp(-1)

    def mean_and_scale(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, n) of the whole mixture: within its components and between them."""
        log_weights, means, log_scales, uniform = self.mixture(condition)
        weights, variances = log_weights.exp()[..., None], (2 * log_scales).exp()
        if uniform is not None:
            chance = uniform.sigmoid().repeat_interleave(means.shape[-1] // self.blocks, dim=-1)
            squares = torch.lerp(variances + means.square(), torch.full_like(means, UNIFORM_STD**2), chance)
            means = (1 - chance) * means
            variances = squares - means.square()
        centre = (weights * means).sum(1)
        spread = (weights * (variances + (means - centre[:, None]).square())).sum(1)
        return centre, spread.sqrt()

    @torch.no_grad()
    def scale(self, condition: Condition) -> Tensor | None:
        """The scale of the chain's own component if the condition holds it, else the whole mixture's."""
        return condition[SCALE] if SCALE in condition else self.mean_and_scale(condition)[1]

    def loss(self, x: Tensor, condition: Condition) -> Tensor | None:
        return -self.log_prob(x, condition).mean()


class ResidualEnergy(Energy):
    """A learned energy on top of a proposal's: E(x | c) = -log q(x | c) + correction(x | c).

    If the condition names the component k of q in which a chain was started, E is that component's own,
    -log q(x | c, k) + correction: q then is a Gaussian, with a box for some numbers, and the chain is
    stationary from its start as far as the correction is small; the shares of the components stay those that
    q learned. The proposal is held fixed here; its own loss trains it.
    """

    def __init__(self, proposal: Proposal, correction: Energy) -> None:
        super().__init__()
        self._proposal = [proposal]  # in a list: its parameters are not the energy's
        self.correction = correction

    @property
    def proposal(self) -> Proposal:
        """q, on which the correction stands."""
        return self._proposal[0]

    @property
    def learned(self) -> Energy:
        return self.correction

    @property
    def needs_autograd(self) -> bool:
        return self.correction.needs_autograd or not isinstance(self.proposal, MixtureProposal)

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.correction(x, condition) + self._base(x, condition)

    def bind(self, condition: Condition) -> EnergyOfX:
        correction = self.correction.bind(condition)
        if CENTRE in condition and isinstance(correction, BoundEnergy):
            precision, boxed = condition[SCALE].square().reciprocal(), condition.get(BOXED)
            if boxed is None:
                return BoundWithQuadratic(correction, condition[CENTRE], precision)
            return BoundWithQuadratic(correction, condition[CENTRE], precision * (1 - boxed), boxed > 0)
        return lambda x: correction(x) + self._base(x, condition)

    def _base(self, x: Tensor, condition: Condition) -> Tensor:
        if CENTRE in condition:
            return component_energy(x, condition)
        return -self.proposal.log_prob(x, condition)


def require_share(share: float) -> None:
    """InputError unless a `least_share` is one."""
    if not 0 <= share < 1:
        raise InputError(f"least share: {share}; accepted are 0 to below 1")


def repeat(condition: Condition, times: int) -> Condition:
    """Each row `times` times, side by side."""
    return {name: values.repeat_interleave(times, dim=0) for name, values in condition.items()}


def component_energy(x: Tensor, condition: Condition) -> Tensor:
    """-log density (B,) of the component up to a constant: |(x - m) / s|^2 / 2, hard walls where boxed."""
    white = (x - condition[CENTRE]) / condition[SCALE]
    boxed = condition.get(BOXED)
    if boxed is None:
        return 0.5 * white.square().sum(-1)
    energy = (0.5 * white.square() * (1 - boxed)).sum(-1)
    return energy.masked_fill(beyond_walls(x, boxed > 0), math.inf)


def box_log_prob(x: Tensor) -> Tensor:
    """log density (...) of the uniform distribution on [-1, 1]^n at x (..., n); -inf outside."""
    inside = (x.abs() <= 1 + BOX_ROUNDING).all(-1)
    return torch.where(inside, x.new_full((), -x.shape[-1] * math.log(2)), x.new_full((), -math.inf))


def gaussian_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log N(x; mean, diag(scale^2)), summed over the last dimension; finite for any finite input."""
    distance = ((x - mean) * (-log_scale).exp()).clamp(-FARTHEST, FARTHEST)
    return -(0.5 * distance.square() + log_scale + HALF_LOG_TWO_PI).sum(-1)


def soft_bound(values: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Values held between two bounds, smoothly (Chua et al. 2018, appendix A.1)."""
    values = high - nn.functional.softplus(high - values)
    return low + nn.functional.softplus(values - low)
