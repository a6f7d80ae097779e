"""What a model predicts under given actions: its mean, or futures drawn from it."""

import torch
from torch import Tensor

from ebm_traj.trajectory.model import TrajectoryModel


def follow(
    model: TrajectoryModel,
    context: Tensor,
    past_actions: Tensor,
    actions: Tensor,
    particles: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Futures (B, M * max(1, particles), H, D) of contexts (B, C, D) under actions (B, M, H, A).

    Those of one sequence of actions stand side by side. `particles` 0 asks for the model's mean prediction;
    models without one draw one future.
    """
    if not particles and model.has_mean:
        return model.predict(context, actions, past_actions=past_actions)
    many = actions.repeat_interleave(max(1, particles), 1)
    return model.sample(
        context, many.shape[2], many.shape[1], actions=many, past_actions=past_actions, generator=generator
    )
