"""Learning a general Boltzmann machine: data by mean field, Gibbs or sums, the model by chains or sums."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.boltzmann.machine import BoltzmannMachine
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.errors import InputError

Inference = Literal["mean_field", "gibbs", "exact"]
ModelStatistics = Literal["chains", "exact"]


@dataclasses.dataclass(frozen=True)
class MachineConfig:
    """Learning of a general Boltzmann machine (Salakhutdinov & Hinton 2009)."""

    inference: Inference = "mean_field"
    """How the hidden units are filled in for data."""
    model: ModelStatistics = "chains"
    """chains: persistent Gibbs chains; exact: a sum over all states, for small machines."""
    batch_size: int = 100
    """Rows in a step."""
    chains: int = 100
    """Persistent chains."""
    sweeps: int = 1
    """Gibbs sweeps of the chains in a step."""
    inference_sweeps: int = 10
    """Sweeps that fill in the hidden units."""

    def __post_init__(self) -> None:
        for name, options in (("inference", Inference), ("model", ModelStatistics)):
            if getattr(self, name) not in get_args(options):
                accepted = ", ".join(get_args(options))
                raise InputError(f"{name} '{getattr(self, name)}'; accepted are {accepted}")
        for name in ("batch_size", "chains", "sweeps", "inference_sweeps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 1 and more")


class MachineDivergence(Objective):
    """loss = mean energy of data with hidden units filled in - that of the chains (or + log Z).

    Its gradient is that of the negative log-likelihood, or of its bound by mean field; states are held fixed.
    """

    def __init__(self, machine: BoltzmannMachine, config: MachineConfig) -> None:
        super().__init__()
        self.machine, self.config = machine, config
        self.new_rows = self.batch_size = config.batch_size
        self.chain = torch.zeros(0)

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        machine, config = self.machine, self.config
        data = self._data_energy(batch.x, generator)
        if config.model == "exact":
            model = -machine.log_z()
        else:
            if not len(self.chain):
                fair = batch.x.new_full((config.chains, machine.visible_size), 0.5)
                self.chain = machine.start(torch.bernoulli(fair, generator=generator), generator)
            self.chain = machine.gibbs(self.chain, config.sweeps, generator)
            model = machine.joint_energy(self.chain).mean()
        return data - model, {"energy_data": data.detach(), "energy_chain": model.detach()}

    def _data_energy(self, v: Tensor, generator: torch.Generator) -> Tensor:
        machine, config = self.machine, self.config
        if config.inference == "exact":
            return machine(v).mean()
        if config.inference == "mean_field":
            return -machine.bound(machine.mean_field(v, config.inference_sweeps)).mean()
        s = machine.gibbs(machine.start(v, generator), config.inference_sweeps, generator, clamped=True)
        return machine.joint_energy(s).mean()

    def memory(self) -> dict[str, Tensor]:
        return {"chain": self.chain} if len(self.chain) else {}

    def load_memory(self, memory: Mapping[str, Tensor], device: torch.device) -> None:
        self.chain = memory["chain"].to(device, copy=True) if "chain" in memory else torch.zeros(0)
