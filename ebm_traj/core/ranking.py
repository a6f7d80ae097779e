"""Ranking noise-contrastive estimation: tell the datum from draws of a known distribution."""

import dataclasses
import math
from collections.abc import Hashable

import torch
from torch import Tensor

from ebm_traj.core.energy import Energy
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.proposal import CENTRE, Proposal, ResidualEnergy, repeat
from ebm_traj.errors import InputError

LOWEST_LOG_DENSITY = -1e6  # a datum where q is 0 is ranked first for sure and teaches nothing


@dataclasses.dataclass(frozen=True)
class RankingConfig:
    """Settings of ranking noise-contrastive estimation."""

    batch_size: int = 256
    """Rows of data in a step."""
    negatives: int = 32
    """Draws K of the proposal for each row, under the row's own condition."""
    corrected: bool = True
    """Take log q off each energy, so that exp(-E) is the density. False is the InfoNCE of implicit
    behavioural cloning (2109.00137), whose optimum is exp(-E) = p / q up to a factor: right for a uniform q
    alone."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch size: {self.batch_size}; accepted are 1 and more")
        if self.negatives < 1:
            raise InputError(f"negatives: {self.negatives}; accepted are 1 and more")


class RankingNCE(Objective):
    """Conditional ranking noise-contrastive estimation (Ma & Collins 2018, 1809.01812; Singh et al. 2023).

    loss = -log softmax over {datum, K draws of q} of (-E(x | c) - log q(x | c)), at the datum
           [+ the proposal's own loss].

    Consistent for every K, with an error that shrinks as K grows and as q comes near the data; no chain is
    run, so none has to mix. What E adds to a condition as a whole is free. q is taken as it is: the ranking
    sends no gradient to it.
    """

    def __init__(
        self, energy: Energy, proposal: Proposal, config: RankingConfig, *, fit_proposal: bool = True
    ) -> None:
        """`fit_proposal` False leaves the proposal's own loss to another objective.

        Raises InputError if the proposal has no density.
        """
        super().__init__()
        if config.corrected and type(proposal).log_prob is Proposal.log_prob:
            raise InputError(
                f"ranking: {type(proposal).__name__} has no log_prob; accepted are proposals with a density, "
                "or corrected=False"
            )
        self.energy = energy
        self.proposal = proposal
        self.config = config
        self.fit_proposal = fit_proposal
        self.new_rows = self.batch_size = config.batch_size

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rows, draws = len(batch), self.config.negatives
        # an energy on top of this very q is correction - log q: log q need not be computed
        cancels = (
            self.config.corrected
            and isinstance(self.energy, ResidualEnergy)
            and self.energy.proposal is self.proposal
            and CENTRE not in batch.condition
        )
        with torch.no_grad():
            noise = self.proposal.draws(batch.condition, draws, generator)
            # each row's datum first, then its draws
            x = torch.cat([batch.x[:, None], noise.view(rows, draws, *batch.x.shape[1:])], dim=1).flatten(
                0, 1
            )
            condition = repeat(batch.condition, 1 + draws)
            log_q = torch.zeros((), dtype=x.dtype, device=x.device)
            if self.config.corrected and not cancels:
                log_q = self.proposal.log_prob(x, condition).view(rows, -1).clamp(min=LOWEST_LOG_DENSITY)

        asked = self.energy.learned if cancels else self.energy
        energy = asked(x, condition).view(rows, 1 + draws)
        logits = -energy - log_q
        log_share = logits.log_softmax(1)
        ranking = -log_share[:, 0].mean()
        loss = ranking
        with torch.no_grad():
            data, samples = energy[:, 0].mean(), energy[:, 1:].mean()
            weights = logits[:, 1:].softmax(1)
            figures = {
                "energy_data": data,
                "energy_samples": samples,
                "energy_gap": data - samples,
                # 0 where the datum cannot be told from the draws; at most log(K + 1), where K is too small
                "ranking_information": math.log(1 + draws) - ranking.detach(),
                "ranking_accuracy": (logits.argmax(1) == 0).float().mean(),
                # share of the draws that count under the energy; towards 1 / K where q is far from it
                "effective_samples": (1 / weights.square().sum(1)).mean() / draws,
            }
        proposal_loss = self.proposal.loss(batch.x, batch.condition) if self.fit_proposal else None
        if proposal_loss is not None:
            loss = loss + proposal_loss
            figures["proposal_loss"] = proposal_loss.detach()
        return loss, figures

    def replay_key(self) -> Hashable | None:
        return ()

    @property
    def gradients(self) -> int:
        return 1 + self.config.negatives
