"""What is minimised: the interface of a training objective, and the simplest one, regression."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import Condition


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

    def replay_key(self) -> Hashable | None:
        """What `forward` decides in Python at present, where all else in it are operations on tensors that
        stay in their places: a recorded step (`core.recorded_step`) is good for as long as it stays the same.
        None while a step cannot be recorded."""
        return None

    def replayed(self, steps: int) -> None:
        """Count `steps` that were replayed and not called, where `forward` counts in Python; below 0: take
        calls back."""

    def memory(self) -> dict[str, Tensor]:
        """Tensors a resumed run needs beside the parameters."""
        return {}

    def load_memory(self, memory: Mapping[str, Tensor], device: torch.device) -> None:
        """Restore what `memory` gave."""

    def recover(self) -> str:
        """Called after a divergence, when the weights were set back: be more careful. Says what changed."""
        return "nothing changed"


class Regression(Objective):
    """Mean squared error of network(condition) to x: the fully connected baseline."""

    def __init__(self, predict: nn.Module | Callable[[Condition], Tensor], batch_size: int) -> None:
        super().__init__()
        self.predict = predict
        self.new_rows = self.batch_size = batch_size

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (self.predict(batch.condition) - batch.x).square().mean()
        return loss, {"squared_error": loss.detach()}

    def replay_key(self) -> Hashable | None:
        return ()
