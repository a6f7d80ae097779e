"""`NetworkConfig`: what the networks of every trajectory model have in common."""

import dataclasses
import math
from typing import get_args

from ebm_traj.errors import InputError
from ebm_traj.trajectory.codec import Coordinates
from ebm_traj.trajectory.conditional import Architecture
from ebm_traj.trajectory.networks import NETWORKS


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """What every trajectory model has: its window and the size of its networks."""

    context_frames: int = 4
    """C, frames already seen."""
    window_frames: int = 1
    """W, frames predicted together."""
    width: int = 256
    """Units of a hidden layer."""
    depth: int = 2
    """Hidden layers, or residual blocks."""
    architecture: Architecture = "residual"
    """mlp: the literature's. residual: with an encoder of the condition. temporal: along the window."""
    coordinates: Coordinates = "turn"
    """What is predicted. turn: the one-step change, of a rotation as a turn about the world's axes. change:
    the same, of a rotation as the change of its quaternion. state: the state itself, as in the literature."""
    action_history: int | None = None
    """How many of the C - 1 actions between the frames of the context a model sees. Default: all of them if
    it predicts actions (behaviour often depends on its last action), none if not."""
    linear_path: bool = True
    """Whether networks that predict (not energies) add a linear function of what they are told: much of the
    next change is one of the last changes and actions."""
    whitening: float | None = 0.1
    """What networks are told is turned to its principal directions, and each is divided by sqrt(variance +
    this^2): training is faster along them. None leaves it as it is."""
    context_noise: float = 0.005
    """Standard deviation of the noise on the scaled context while training, against drift in rollouts."""

    def __post_init__(self) -> None:
        for name in ("context_frames", "window_frames", "width", "depth"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 1 and more")
        if self.whitening is not None and not 0 < self.whitening < math.inf:
            raise InputError(f"whitening: {self.whitening}; it must be above 0, or None")
        if self.action_history is not None and not 0 <= self.action_history < self.context_frames:
            raise InputError(
                f"action history: {self.action_history}; a context of {self.context_frames} frames has "
                f"0 to {self.context_frames - 1} actions"
            )
        if self.architecture not in NETWORKS:
            raise InputError(f"architecture '{self.architecture}'; accepted are {', '.join(NETWORKS)}")
        if self.coordinates not in get_args(Coordinates):
            raise InputError(
                f"coordinates '{self.coordinates}'; accepted are {', '.join(get_args(Coordinates))}"
            )
        if not 0 <= self.context_noise < math.inf:
            raise InputError(f"context noise: {self.context_noise}; accepted are 0 and more")
