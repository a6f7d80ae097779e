"""The general Boltzmann machine: visible and hidden binary units, all of them coupled."""

import torch
from torch import Tensor, nn

from ebm_traj.boltzmann.enumeration import binary_states, log_sum
from ebm_traj.boltzmann.rbm import RBM, bernoulli
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy
from ebm_traj.errors import InputError

FIRST_COUPLING = 0.01
MOST_HIDDEN = 16  # summed over for each row of a free energy


class BoltzmannMachine(Energy):
    """E(s) = -1/2 s J s - b s over s = (v, h) in {0, 1}, J symmetric, no diagonal (Ackley et al. 1985).

    Called on v (B, n) it gives the free energy F(v) = -log sum_h exp(-E(v, h)), (B,), by enumeration of up to
    `MOST_HIDDEN` hidden units; `mean_field` bounds it for more. The first n units are the visible ones.
    """

    mask: Tensor

    def __init__(self, visible: int, hidden: int = 0, mask: Tensor | None = None) -> None:
        """`mask` (n + m, n + m), symmetric: ones where units are coupled; default: all with all others."""
        super().__init__()
        if visible < 1 or hidden < 0:
            raise InputError(f"units: {visible} visible, {hidden} hidden; accepted are 1 and 0 or more")
        units = visible + hidden
        allowed = torch.ones(units, units) if mask is None else mask.to(torch.float32)
        if allowed.shape != (units, units) or not torch.equal(allowed, allowed.T):
            found = tuple(allowed.shape)
            raise InputError(f"mask: shape {found}; accepted is a symmetric ({units}, {units})")
        self.visible_size, self.hidden_size = visible, hidden
        self.raw = nn.Parameter(torch.zeros(units, units))
        """The upper triangle holds the couplings; what is below does not count."""
        self.bias = nn.Parameter(torch.zeros(units))
        self.register_buffer("mask", allowed.triu(1))

    @classmethod
    def of(cls, rbm: RBM) -> "BoltzmannMachine":
        """The machine with couplings between the layers only that an RBM of binary units is."""
        if rbm.units != "bernoulli":
            raise InputError(f"visible units '{rbm.units}'; a Boltzmann machine accepts bernoulli")
        n, m = rbm.weights.shape
        mask = torch.zeros(n + m, n + m)
        mask[:n, n:] = 1
        machine = cls(n, m, mask + mask.T).to(rbm.weights)
        with torch.no_grad():
            machine.raw[:n, n:] = rbm.weights
            machine.bias.copy_(torch.cat([rbm.visible_bias, rbm.hidden_bias]))
        return machine

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Small random couplings."""
        self.raw.normal_(0, FIRST_COUPLING, generator=generator)

    @property
    def couplings(self) -> Tensor:
        """J (n + m, n + m)."""
        upper = self.raw * self.mask
        return upper + upper.T

    # --- energies -------------------------------------------------------------------------------------------

    def joint_energy(self, s: Tensor) -> Tensor:
        """E(s) (B,) of whole states (B, n + m); of independent units with means s, their mean energy."""
        return -0.5 * ((s @ self.couplings) * s).sum(-1) - s @ self.bias

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        n, m = self.visible_size, self.hidden_size
        if m > MOST_HIDDEN:
            raise InputError(
                f"free energy: {m} hidden units; accepted are up to {MOST_HIDDEN}, beyond that see mean_field"
            )
        couplings = self.couplings
        alone = -0.5 * ((x @ couplings[:n, :n]) * x).sum(-1) - x @ self.bias[:n]
        if not m:
            return alone
        states = torch.cat(list(binary_states(m, self.bias)))
        within = 0.5 * ((states @ couplings[n:, n:]) * states).sum(-1)
        field = self.bias[n:] + x @ couplings[:n, n:]
        return alone - (field @ states.T + within).logsumexp(-1)

    def log_z(self) -> Tensor:
        """log of the sum of exp(-E) over all states, 0-d, differentiable; InputError beyond 22 units."""
        return log_sum(self.joint_energy, len(self.bias), self.bias)

    # --- Gibbs sampling -------------------------------------------------------------------------------------

    @torch.no_grad()
    def gibbs(
        self, s: Tensor, sweeps: int, generator: torch.Generator | None = None, *, clamped: bool = False
    ) -> Tensor:
        """States (B, n + m) after sweeps over the units in turn; `clamped` leaves the visible ones alone."""
        couplings, s = self.couplings, s.clone()
        first = self.visible_size if clamped else 0
        for _ in range(sweeps):
            for i in range(first, s.shape[1]):
                s[:, i] = bernoulli((s @ couplings[:, i] + self.bias[i]).sigmoid(), generator)
        return s

    def start(self, v: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """States (B, n + m) with these visible units and fair coins for the hidden ones."""
        fair = v.new_full((len(v), self.hidden_size), 0.5)
        return torch.cat([v, bernoulli(fair, generator)], dim=1)

    # --- mean field -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def mean_field(self, v: Tensor, sweeps: int = 30) -> Tensor:
        """(v, q) (B, n + m): means q of independent hidden units nearest to p(h | v), found unit by unit.

        Each update raises `bound`, so the sweeps converge, to a local optimum.
        """
        couplings = self.couplings
        s = torch.cat([v, v.new_full((len(v), self.hidden_size), 0.5)], dim=1)
        for _ in range(sweeps):
            for i in range(self.visible_size, s.shape[1]):
                s[:, i] = (s @ couplings[:, i] + self.bias[i]).sigmoid()
        return s

    def bound(self, s: Tensor) -> Tensor:
        """A lower bound (B,) of -F(v) by states (v, q) of `mean_field`: mean of -E, and the entropy of q."""
        q = s[:, self.visible_size :]
        entropy = -(torch.xlogy(q, q) + torch.xlogy(1 - q, 1 - q)).sum(-1)
        return -self.joint_energy(s) + entropy
