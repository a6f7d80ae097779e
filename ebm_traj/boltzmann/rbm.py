"""The restricted Boltzmann machine, with binary or Gaussian visible units; its free energy is an `Energy`."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy
from ebm_traj.errors import InputError

VisibleUnits = Literal["bernoulli", "gaussian"]

FIRST_WEIGHT = 0.01  # standard deviation of the first weights (Hinton 2010, section 8.1)
LEAST_MEAN = 1e-2  # data means are kept this far from 0 and 1 before their logit is taken


class RBM(Energy):
    """Restricted Boltzmann machine over visible units v (B, n) and hidden ones h (B, m) in {0, 1}.

    Binary visible units: E(v, h) = - b v - c h - v W h. Gaussian ones, of fixed or learned scale s:
    E(v, h) = sum (v - b)^2 / 2 s^2 - c h - (v / s^2) W h, so that v given h is N(b + W h, s^2)
    (Melchior et al. 2017). Called on v, it gives the free energy F(v) = -log sum_h exp(-E(v, h)), (B,).
    """

    log_scale: Tensor

    def __init__(self, visible: int, hidden: int, units: VisibleUnits = "bernoulli") -> None:
        """All parameters are zero until `initialise`. InputError on sizes below 1 and unknown units."""
        super().__init__()
        for name, count in (("visible", visible), ("hidden", hidden)):
            if count < 1:
                raise InputError(f"{name} units: {count}; accepted are 1 and more")
        if units not in get_args(VisibleUnits):
            raise InputError(f"visible units '{units}'; accepted are {', '.join(get_args(VisibleUnits))}")
        self.units: VisibleUnits = units
        self.weights = nn.Parameter(torch.zeros(visible, hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.register_buffer("log_scale", torch.zeros(visible))

    @property
    def visible_size(self) -> int:
        """n."""
        return self.weights.shape[0]

    @property
    def hidden_size(self) -> int:
        """m."""
        return self.weights.shape[1]

    @torch.no_grad()
    def initialise(self, mean: Tensor, generator: torch.Generator | None = None) -> None:
        """Small random weights; visible biases from the data's mean (n,), which the machine then has."""
        self.weights.normal_(0, FIRST_WEIGHT, generator=generator)
        self.visible_bias.copy_(base_bias(mean, self.units))
        self.hidden_bias.zero_()

    # --- energies -------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.visible_energy(x) - softplus(self.hidden_input(x)).sum(-1)

    def joint_energy(self, v: Tensor, h: Tensor) -> Tensor:
        """E(v, h) (B,)."""
        return self.visible_energy(v) - (h * self.hidden_input(v)).sum(-1)

    def visible_energy(self, v: Tensor) -> Tensor:
        """The part of the energy (B,) that no hidden unit has to do with."""
        if self.units == "bernoulli":
            return -(v @ self.visible_bias)
        return 0.5 * ((v - self.visible_bias) / self.log_scale.exp()).square().sum(-1)

    def hidden_free_energy(self, h: Tensor) -> Tensor:
        """-log of the sum (or integral) of exp(-E(v, h)) over v, (B,)."""
        mean = self.visible_bias + h @ self.weights.T
        if self.units == "bernoulli":
            return -(h @ self.hidden_bias) - softplus(mean).sum(-1)
        square = (mean.square() - self.visible_bias.square()) * self.precision
        constant = (self.log_scale + 0.5 * math.log(2 * math.pi)).sum()
        return -(h @ self.hidden_bias) - 0.5 * square.sum(-1) - constant

    # --- conditionals ---------------------------------------------------------------------------------------

    @property
    def precision(self) -> Tensor:
        """1 / s^2 (n,) of Gaussian visible units."""
        return (-2 * self.log_scale).exp()

    def statistic(self, v: Tensor) -> Tensor:
        """What the weights multiply: v, or v / s^2."""
        return v if self.units == "bernoulli" else v * self.precision

    def hidden_input(self, v: Tensor) -> Tensor:
        """Logits (B, m) of the hidden units given v."""
        return torch.addmm(self.hidden_bias, self.statistic(v), self.weights)

    def hidden_mean(self, v: Tensor) -> Tensor:
        """P(h = 1 | v) (B, m)."""
        return self.hidden_input(v).sigmoid()

    def visible_mean(self, h: Tensor) -> Tensor:
        """E[v | h] (B, n)."""
        values = torch.addmm(self.visible_bias, h, self.weights.T)
        return values.sigmoid() if self.units == "bernoulli" else values

    def sample_hidden(self, v: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """h ~ P(h | v)."""
        return bernoulli(self.hidden_mean(v), generator)

    def sample_visible(self, h: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """v ~ p(v | h)."""
        mean = self.visible_mean(h)
        if self.units == "bernoulli":
            return bernoulli(mean, generator)
        return mean + self.log_scale.exp() * torch.empty_like(mean).normal_(generator=generator)

    def reconstruct(self, v: Tensor) -> Tensor:
        """E[v | h] at the mean of h given v: one way up and down without chance."""
        return self.visible_mean(self.hidden_mean(v))


def bernoulli(probability: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Ones with the given probabilities, zeros else, as floats; quicker than torch.bernoulli on a CPU."""
    uniform = torch.empty_like(probability).uniform_(generator=generator)
    return (uniform < probability).to(probability.dtype)


def base_bias(mean: Tensor, units: VisibleUnits) -> Tensor:
    """Visible biases (n,) with which independent units have the data's mean (n,)."""
    return mean.clamp(LEAST_MEAN, 1 - LEAST_MEAN).logit() if units == "bernoulli" else mean.clone()


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact in float64 too (torch's default takes x itself from 20 on)."""
    return F.softplus(x, threshold=40)
