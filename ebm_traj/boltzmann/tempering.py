"""Machines between independent units and an RBM, for annealed importance sampling and parallel tempering."""

import dataclasses
import math

import torch
from torch import Tensor

from ebm_traj.boltzmann.rbm import RBM, bernoulli, softplus
from ebm_traj.errors import InputError


class Path:
    """The densities f_beta(v), unnormalised, from the base machine (beta = 0) to the RBM (beta = 1).

    Base machine: visible units of their own biases a, hidden units of fair coins. In between (Salakhutdinov &
    Murray 2008, eq. 15-18), with x = W v + c:
    f_beta(v) = exp((1 - beta) a v + beta b v) prod_j (1 + exp(beta x_j)); Gaussian units keep their scale.
    Tensors are the machine's own: where it is trained on, make a path anew.
    """

    def __init__(self, rbm: RBM, base: Tensor) -> None:
        """`base` (n,) is a, see `rbm.base_bias`."""
        if base.shape != (rbm.visible_size,):
            raise InputError(f"base biases: shape {tuple(base.shape)}; accepted is ({rbm.visible_size},)")
        self.units = rbm.units
        self.base = base.detach().to(rbm.weights)
        self.weights = rbm.weights.detach()
        self.visible_bias, self.hidden_bias = rbm.visible_bias.detach(), rbm.hidden_bias.detach()
        self.scale, self.precision = rbm.log_scale.exp(), rbm.precision

    @property
    def base_log_z(self) -> float:
        """log of the sum of f_0."""
        hidden = self.weights.shape[1] * math.log(2)
        if self.units == "bernoulli":
            return hidden + float(softplus(self.base.double()).sum())
        width = self.scale.double().log() + 0.5 * math.log(2 * math.pi)
        return hidden + float((width + 0.5 * self.base.double() ** 2 * self.precision).sum())

    @property
    def constant(self) -> float:
        """log of f_1(v) exp(F(v)), the same for every v: 0 for binary units."""
        if self.units == "bernoulli":
            return 0.0
        return float((0.5 * self.visible_bias.double() ** 2 * self.precision).sum())

    def start(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Draws v (count, n) from the base machine."""
        mean = self.base.expand(count, -1)
        return self._visible(mean, generator)

    def hidden_input(self, v: Tensor) -> Tensor:
        """x (B, m) at beta = 1."""
        return torch.addmm(self.hidden_bias, self._statistic(v), self.weights)

    def log_ratio(self, v: Tensor, x: Tensor, beta: float, other: float) -> Tensor:
        """log f_beta(v) - log f_other(v), (B,), in double precision; x = `hidden_input(v)`."""
        linear = self._statistic(v) @ (self.visible_bias - self.base)
        hidden = (softplus(beta * x) - softplus(other * x)).sum(-1)
        return (beta - other) * linear.double() + hidden.double()

    def step(
        self, x: Tensor, beta: float | Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """(h, v) by block Gibbs at beta from x; beta may differ by row, (B, 1)."""
        h = bernoulli(torch.sigmoid(beta * x), generator)
        logits = beta * torch.addmm(self.visible_bias, h, self.weights.T) + (1 - beta) * self.base
        return h, self._visible(logits, generator)

    def joint(self, v: Tensor, h: Tensor, x: Tensor) -> Tensor:
        """G(v, h) (B,), with which p_beta(v, h) ~ exp(-beta G(v, h) + terms without beta)."""
        return self._statistic(v) @ (self.base - self.visible_bias) - (h * x).sum(-1)

    def _statistic(self, v: Tensor) -> Tensor:
        return v if self.units == "bernoulli" else v * self.precision

    def _visible(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.units == "bernoulli":
            return bernoulli(values.sigmoid(), generator)
        return values + self.scale * torch.empty_like(values).normal_(generator=generator)


@dataclasses.dataclass
class Ladder:
    """State of parallel tempering: one set of chains at each beta, the last of which is 1."""

    betas: Tensor
    """(T,) rising, from 0 or more to 1."""
    v: Tensor
    """(T, M, n)."""
    exchanged: Tensor
    """Share of the proposed exchanges that were made, in the last step, (T - 1,)."""


def make_ladder(path: Path, temperatures: int, chains: int, generator: torch.Generator | None) -> Ladder:
    """T = `temperatures` evenly spaced betas from 0 to 1; all chains start at the base machine."""
    if temperatures < 2:
        raise InputError(f"temperatures: {temperatures}; accepted are 2 and more")
    betas = torch.linspace(0, 1, temperatures, device=path.weights.device, dtype=path.weights.dtype)
    v = path.start(temperatures * chains, generator).unflatten(0, (temperatures, chains))
    return Ladder(betas, v, torch.zeros(temperatures - 1, device=v.device))


def temper(path: Path, ladder: Ladder, generator: torch.Generator | None) -> None:
    """One step of Gibbs at every beta, then exchanges between neighbours, even and odd pairs in turn.

    An exchange of the states of beta and beta' is accepted with probability
    min(1, exp((beta - beta')(G - G'))) (Desjardins et al. 2010; Cho, Raiko & Ilin 2010).
    """
    levels, chains, _ = ladder.v.shape
    beta = ladder.betas.repeat_interleave(chains)[:, None]
    flat = ladder.v.flatten(0, 1)
    h, v = path.step(path.hidden_input(flat), beta, generator)
    energy = path.joint(v, h, path.hidden_input(v)).unflatten(0, (levels, chains))
    v = v.unflatten(0, (levels, chains))
    uniform = torch.empty(levels - 1, chains, device=v.device, dtype=v.dtype).uniform_(generator=generator)
    made = torch.zeros_like(uniform)
    for first in (0, 1):
        low = torch.arange(first, levels - 1, 2, device=v.device)
        if not len(low):
            continue
        gap = (ladder.betas[low] - ladder.betas[low + 1])[:, None] * (energy[low] - energy[low + 1])
        swap = uniform[low].log() < gap
        made[low] = swap.to(made)
        for values, mask in ((energy, swap), (v, swap[..., None])):
            below, above = values[low], values[low + 1]
            values[low], values[low + 1] = torch.where(mask, above, below), torch.where(mask, below, above)
    ladder.v, ladder.exchanged = v, made.mean(-1)
