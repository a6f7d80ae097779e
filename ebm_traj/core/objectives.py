"""What is minimised: the interface of a training objective, contrastive divergence, and regression."""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import Condition, Energy
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.core.proposal import Proposal
from ebm_traj.core.replay import ReplayBuffer
from ebm_traj.errors import InputError


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of data: x (B, ...) and what it is conditioned on."""

    x: Tensor
    condition: Condition

    def __len__(self) -> int:
        return len(self.x)


class Objective(nn.Module):
    """A loss with its parameters (as sub-modules) and its memory that is no parameter (a replay buffer)."""

    new_rows: int
    """How many new rows of data one step takes."""
    batch_size: int
    """Rows in a step, replayed ones included."""

    @property
    def gradients(self) -> int:
        """Gradients of the network that one step costs, those of its chains included."""
        return 1

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and figures to log (0-d tensors). `energy_*` figures are watched by the guard."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def memory(self) -> dict[str, Tensor]:
        """Tensors a resumed run needs beside the parameters."""
        return {}

    def load_memory(self, memory: Mapping[str, Tensor], device: torch.device) -> None:
        """Restore what `memory` gave."""

    def recover(self) -> str:
        """Called after a divergence, when the weights were set back: be more careful. Says what changed."""
        return "nothing changed"


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """Settings of contrastive divergence."""

    batch_size: int = 256
    """Rows in a step, replayed and new ones together."""
    langevin: LangevinConfig = dataclasses.field(default_factory=LangevinConfig)
    """The chain that makes the negative samples."""
    buffer_size: int = 10_000
    """Slots of the replay buffer."""
    replay_fraction: float = 0.7
    """Share of the rows whose chain goes on from the buffer; the others start anew."""
    energy_regularisation: float = 0.01
    """Weight of mean(E+^2 + E-^2), which keeps the energies near 0 (1903.08689, section 3.3)."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch size: {self.batch_size}; accepted are 1 and more")
        if not 0 <= self.replay_fraction < 1:
            raise InputError(f"replay fraction: {self.replay_fraction}; accepted is 0 to below 1")
        if self.buffer_size < self.batch_size:
            raise InputError(f"buffer size: {self.buffer_size}; it must hold a batch of {self.batch_size}")


class ContrastiveDivergence(Objective):
    """Contrastive divergence with Langevin chains and replay (Hinton 2002; Du & Mordatch 2019, eq. 3).

    loss = mean(E(data) - E(chain)) + regularisation [+ the proposal's own loss]. No gradient flows through
    the chain. A replayed chain goes on under its own condition, and its data row stands beside it in the
    positive phase: what the energy adds to a condition as a whole then cancels in each row.
    """

    def __init__(self, energy: Energy, proposal: Proposal, config: ContrastiveConfig) -> None:
        super().__init__()
        self.energy = energy
        self.proposal = proposal
        self.config = config
        self.langevin = config.langevin
        self.buffer = ReplayBuffer(config.buffer_size)
        self.batch_size = config.batch_size
        self.replayed_rows = round(config.batch_size * config.replay_fraction)
        self.new_rows = config.batch_size - self.replayed_rows

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        new = len(batch)
        data, condition = batch.x, dict(batch.condition)
        start = self.proposal.sample(condition, generator)
        replayed = min(self.replayed_rows, len(self.buffer))
        if replayed:
            slots, rows = self.buffer.draw(replayed, generator)
            data = torch.cat([data, rows["data"]])
            start = torch.cat([start, rows["chain"]])
            condition = {name: torch.cat([values, rows[name]]) for name, values in condition.items()}

        chain = langevin(
            self.energy.bind(condition),
            start,
            self.langevin,
            scale=self.proposal.scale(condition),
            generator=generator,
        )
        if replayed:
            self.buffer.update(slots, "chain", chain.x[new:])
        self.buffer.add({"chain": chain.x[:new], "data": batch.x, **batch.condition})

        # one pass over both phases costs less than two
        both = {name: torch.cat([values, values]) for name, values in condition.items()}
        positive, negative = self.energy(torch.cat([data, chain.x]), both).chunk(2)
        gap = (positive - negative).mean()
        loss = gap + self.config.energy_regularisation * (positive**2 + negative**2).mean()
        figures = {
            "energy_data": positive.detach().mean(),
            "energy_samples": negative.detach().mean(),
            "energy_gap": gap.detach(),
            "displacement": (chain.x - start).square().mean().sqrt(),
            "spread_samples": chain.x.std(),
            "spread_data": data.std(),
            "acceptance": chain.acceptance,
        }
        proposal_loss = self.proposal.loss(data, condition)
        if proposal_loss is not None:
            loss = loss + proposal_loss
            figures["proposal_loss"] = proposal_loss.detach()
        return loss, figures

    @property
    def gradients(self) -> int:
        return 1 + self.langevin.steps

    def memory(self) -> dict[str, Tensor]:
        return {
            **{f"buffer.{name}": values for name, values in self.buffer.state().items()},
            "step_size": torch.tensor(self.langevin.step_size, dtype=torch.float64),
        }

    def load_memory(self, memory: Mapping[str, Tensor], device: torch.device) -> None:
        prefix = "buffer."
        state = {name.removeprefix(prefix): v for name, v in memory.items() if name.startswith(prefix)}
        self.buffer.load_state(state, device)
        self.langevin = dataclasses.replace(self.langevin, step_size=float(memory["step_size"]))

    def recover(self) -> str:
        self.buffer.clear()
        smaller = self.langevin.step_size / 2
        self.langevin = dataclasses.replace(self.langevin, step_size=smaller)
        return f"replay buffer emptied, Langevin step size {smaller:g}"


class Regression(Objective):
    """Mean squared error of network(condition) to x: the fully connected baseline."""

    def __init__(self, predict: nn.Module | Callable[[Condition], Tensor], batch_size: int) -> None:
        super().__init__()
        self.predict = predict
        self.new_rows = self.batch_size = batch_size

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (self.predict(batch.condition) - batch.x).square().mean()
        return loss, {"squared_error": loss.detach()}
