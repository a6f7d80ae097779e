"""Jumps of chains to fresh draws of a proposal, accepted so that they leave exp(-E) as it is.

A local chain does not cross from mode to mode, and so never learns in what shares they are. The independence
sampler does: of draws y ~ q it takes one with probability min(1, w(y) / w(x)), w = exp(-E / T) / q (Hastings
1970; Tierney 1994, section 2.3.3). It asks for the energy only, not for its gradient.
"""

import torch
from torch import Tensor

from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy
from ebm_traj.core.proposal import Proposal, repeat
from ebm_traj.errors import InputError


@torch.no_grad()
def jump(
    energy: Energy,
    proposal: Proposal,
    x: Tensor,
    condition: Condition = UNCONDITIONAL,
    *,
    times: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Chains x (B, n) after `times` offers of a fresh draw each, and the mean share (0-d) that was taken.

    What an unnormalised energy is off by, and a q without its factor, do not matter. A chain outside the
    support of q stays where it is, as detailed balance asks. Raises InputError for less than one offer or a
    proposal without a density.
    """
    if times < 1:
        raise InputError(f"jumps: {times}; accepted are 1 and more")
    require_density(proposal)
    offered = proposal.draws(condition, times, generator)
    log_weight = _log_weight(energy, proposal, offered, repeat(condition, times), temperature)
    offered, log_weight = (values.unflatten(0, (len(x), times)) for values in (offered, log_weight))
    own = _log_weight(energy, proposal, x, condition, temperature)
    odds = torch.empty_like(log_weight).uniform_(generator=generator).log_()
    taken = torch.zeros((), device=x.device)
    for k in range(times):
        accept = odds[:, k] < log_weight[:, k] - own
        x = torch.where(accept[:, None], offered[:, k], x)
        own = torch.where(accept, log_weight[:, k], own)
        taken += accept.float().mean()
    return x, taken / times


def require_density(proposal: Proposal) -> None:
    """InputError unless log q is known."""
    if type(proposal).log_prob is Proposal.log_prob:
        raise InputError(f"jumps: {type(proposal).__name__} has no density; accepted are proposals that have")


def _log_weight(
    energy: Energy, proposal: Proposal, x: Tensor, condition: Condition, temperature: float
) -> Tensor:
    return -energy(x, condition) / temperature - proposal.log_prob(x, condition)
