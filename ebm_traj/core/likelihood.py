"""Maximum likelihood of a distribution whose density is known."""

from collections.abc import Hashable

import torch
from torch import Tensor

from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.proposal import Proposal


class Likelihood(Objective):
    """Maximum likelihood of a `Proposal`."""

    def __init__(self, proposal: Proposal, batch_size: int) -> None:
        super().__init__()
        self.proposal = proposal
        self.new_rows = self.batch_size = batch_size

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        loss = -self.proposal.log_prob(batch.x, batch.condition).mean()
        return loss, {"negative_log_likelihood": loss.detach()}

    def replay_key(self) -> Hashable | None:
        return ()
