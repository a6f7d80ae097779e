"""Inverse dynamics: the action that leads from a context to a wanted next frame."""

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import Condition
from ebm_traj.trajectory.networks import MLP


class InverseDynamics(nn.Module):
    """Features of the context and the next frame's coordinates to an action scaled to [-1, 1].

    Trained by squared error beside a model that predicts states only, so that its futures can be acted.
    """

    def __init__(self, feature_size: int, frame_size: int, action_size: int, width: int, depth: int) -> None:
        super().__init__()
        self.network = MLP(feature_size + frame_size, action_size, width, depth)

    def forward(self, condition: Condition) -> Tensor:
        """`condition` holds "context" (B, F) and "next" (B, P); scaled actions (B, A)."""
        return self.network(torch.cat([condition["context"], condition["next"]], dim=-1))
