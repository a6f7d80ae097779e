"""`Plan` and the interface of all planners."""

import dataclasses
import time
from typing import Protocol

import torch
from torch import Tensor

from ebm_traj.trajectory.model import TrajectoryModel


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a planner found for each of B presents: M candidates of H steps."""

    states: Tensor
    """(B, M, H, D) predicted frames, raw units."""
    actions: Tensor | None
    """(B, M, H, A) raw actions that lead from frame to frame; None if the planner's model has none."""
    energies: Tensor
    """(B, M) what candidates were chosen by; lower is better."""
    chosen: Tensor
    """(B,) index of the candidate to act on."""
    rounds: int = 1
    """Times that candidates were drawn or improved."""
    settled: bool = True
    """Whether planning ended by itself; False if the deadline or the last round cut it short."""

    @property
    def horizon(self) -> int:
        """H; shorter than asked for if the deadline came in between."""
        return self.states.shape[2]

    def chosen_states(self) -> Tensor:
        """(B, H, D)"""
        return self.states[torch.arange(len(self.chosen)), self.chosen]

    def chosen_actions(self) -> Tensor | None:
        """(B, H, A)"""
        return None if self.actions is None else self.actions[torch.arange(len(self.chosen)), self.chosen]


class Planner(Protocol):
    """Plans for one present or many at once; keeps its last plan as a warm start."""

    context_frames: int
    """C, frames it wants to see."""
    model: TrajectoryModel
    """It says how states are read."""

    def reset(self) -> None:
        """Forget the last plan: a new episode begins."""
        ...

    def plan(
        self,
        context: Tensor,
        past_actions: Tensor,
        generator: torch.Generator,
        *,
        ahead: int = 0,
        deadline: float | None = None,
    ) -> Plan:
        """A plan from contexts (B, C, D) and past actions (B, K or more, at least 1, A), raw units.

        `ahead` steps of the last plan were acted on since it was made. `deadline` (of `time.perf_counter`)
        is when to hand over the best plan found so far.
        """
        ...


def late(deadline: float | None, wanted: float = 0.0) -> bool:
    """Whether less than `wanted` seconds are left to a deadline (of `time.perf_counter`)."""
    return deadline is not None and time.perf_counter() + wanted >= deadline
