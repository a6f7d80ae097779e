"""Learning an RBM as an objective of the core: a surrogate loss with the gradient of CD."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ebm_traj.boltzmann.learning import LearningConfig
from ebm_traj.boltzmann.rbm import RBM, base_bias
from ebm_traj.boltzmann.tempering import Path
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.errors import InputError


class RBMDivergence(Objective):
    """CD-k or persistent CD for `core.trainer.Trainer`: loss = mean F(data) - mean F(chain ends).

    No gradient flows through the chain, so the loss has the gradient of the log-likelihood as the chain
    estimates it, for any optimiser. `Learner` takes the same steps by hand, several times as fast, and can
    centre them; this is for machines with learned conditions and for the trainer's many devices.
    """

    base: Tensor

    def __init__(self, rbm: RBM, config: LearningConfig, batch_size: int, mean: Tensor) -> None:
        """`mean` (n,) of the data: where persistent chains start. InputError for pt and centring."""
        super().__init__()
        if config.algorithm == "pt" or config.centred:
            raise InputError(
                "objective of an RBM: accepted are cd and pcd, not centred; Learner has the others"
            )
        self.rbm, self.config = rbm, config
        self.new_rows = self.batch_size = batch_size
        self.register_buffer("base", base_bias(mean, rbm.units))
        self.chain = torch.zeros(0)

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rbm, pcd = self.rbm, self.config.algorithm == "pcd"
        with torch.no_grad():
            if pcd and not len(self.chain):
                v = Path(rbm, self.base).start(self.config.chains, generator)
                self.chain = rbm.sample_hidden(v, generator)
            h = self.chain if pcd else rbm.sample_hidden(batch.x, generator)
            for k in range(self.config.steps):
                v = rbm.sample_visible(h, generator)
                if pcd or k < self.config.steps - 1:
                    h = rbm.sample_hidden(v, generator)
            if pcd:
                self.chain = h
        data, model = rbm(batch.x).mean(), rbm(v).mean()
        loss = data - model
        if self.config.weight_decay:
            loss = loss + 0.5 * self.config.weight_decay * rbm.weights.square().sum()
        return loss, {"energy_data": data.detach(), "energy_chain": model.detach()}

    def memory(self) -> dict[str, Tensor]:
        return {"chain": self.chain} if len(self.chain) else {}

    def load_memory(self, memory: Mapping[str, Tensor], device: torch.device) -> None:
        self.chain = memory["chain"].to(device, copy=True) if "chain" in memory else torch.zeros(0)
