"""Goals in hindsight: what an episode reached stands in for the goal that it was after.

Every stretch of behaviour shows how to get to where it ended, whatever it was for (Andrychowicz et al. 2017,
1707.01495; Ghosh et al. 2019, 1912.06088). A joint model trained on such windows draws actions towards a goal
from data that seldom reach theirs.
"""

import dataclasses

import torch
from torch import Tensor

from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.codec import four
from ebm_traj.trajectory.windows import Windows

HINDSIGHT = "hindsight"  # what an error is about


@dataclasses.dataclass(frozen=True)
class Hindsight:
    """How many windows are told another goal than the recorded one, and which."""

    share: float = 0.0
    """Share of the windows whose goal rotation is one that the object has later; 0 for none."""
    ahead: int = 16
    """At most so many steps after the context; how many is drawn evenly. Windows that begin later in an
    episode than these steps allow are left out."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"hindsight share: {self.share}; accepted are 0 to 1")
        if self.ahead < 1:
            raise InputError(f"hindsight ahead: {self.ahead}; accepted are 1 and more")


def frames_needed(context_frames: int, window_frames: int, hindsight: Hindsight) -> int:
    """Frames of a window from which a model's own and a later goal can be taken."""
    return context_frames + (max(window_frames, hindsight.ahead) if hindsight.share else window_frames)


def require_goal(spec: StateSpec, use_given: bool) -> None:
    """InputError unless the state has one rotation and its goal, and the model is told the goal."""
    if not use_given:
        raise InputError(f"{HINDSIGHT}: the model is not told the goal; give --goal True, or leave it out")
    spec.rotation_and_goal(HINDSIGHT)


class HindsightWindows:
    """Windows of another source, cut to a model's length, some of which are told a goal reached later."""

    def __init__(
        self, windows: Windows, spec: StateSpec, context_frames: int, window_frames: int, hindsight: Hindsight
    ) -> None:
        """`windows` of `frames_needed`. Raises InputError if the state has no one rotation and its goal."""
        self.windows, self.hindsight = windows, hindsight
        self.context_frames, self.length = context_frames, context_frames + window_frames
        self.object, self.goal = map(four, spec.rotation_and_goal(HINDSIGHT))

    def draw(self, count: int, iteration: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """States (n, L, D) and actions (n, L, A) of `count` windows."""
        states, actions = self.windows.draw(count, iteration, generator)
        device = states.device
        chosen = torch.rand(count, generator=generator, device=device) < self.hindsight.share
        steps = torch.randint(self.hindsight.ahead, (count,), generator=generator, device=device)
        reached = states[torch.arange(count, device=device), self.context_frames + steps, self.object]
        # goals have w >= 0, as the environment draws them
        reached = torch.where(reached[:, :1] < 0, -reached, reached)
        states = states[:, : self.length].clone()
        told = torch.where(chosen[:, None, None], reached[:, None], states[..., self.goal])
        states[..., self.goal] = told
        return states, actions[:, : self.length]
