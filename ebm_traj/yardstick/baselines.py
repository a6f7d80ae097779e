"""Rows of the comparison that learn nothing: they show what a score can be without any prediction."""

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.spec import StateSpec

Float = TypeVar("Float", bound=np.floating)


class Persistence:
    """The present stays as it is: every future repeats the last context frame.

    It has the interface of a `TrajectoryModel`.
    """

    kind = "persistence"
    conditioning = "states"
    context_frames = 1
    window_frames = 1
    has_energy = False

    def __init__(self, spec: StateSpec) -> None:
        self.spec = spec
        self.card: dict[str, Any] = {}

    def sample(
        self,
        context: Tensor,
        horizon: int,
        num_samples: int,
        *,
        actions: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, C, D) -> (B, M, H, D), all frames equal to the last one of the context."""
        last = context[:, -1, None, None]  # (B, 1, 1, D)
        return last.expand(-1, num_samples, horizon, -1).clone()


def shuffle_branches(branches: NDArray[Float]) -> NDArray[Float]:
    """Shuffled truth for B contexts: true futures (B, M, H, D), each of them that of another context.

    Future m of context b is future m of context b + 1 + (m mod (B - 1)), so never its own and as many
    different presents as there are. Right in every marginal, it knows nothing of the present. B >= 2.
    """
    contexts, futures = branches.shape[:2]
    column = np.arange(futures)
    row = (np.arange(contexts)[:, None] + 1 + column % (contexts - 1)) % contexts
    return branches[row, column]
