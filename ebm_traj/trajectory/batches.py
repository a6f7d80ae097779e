"""Batches of random windows, as a trainer takes them."""

import torch

from ebm_traj.core.objectives import Batch
from ebm_traj.trajectory.model import TrajectoryModel
from ebm_traj.trajectory.windows import ResidentWindows, Windows


class WindowBatches:
    """What a model is told of random windows, with a little noise, and what follows."""

    def __init__(self, model: TrajectoryModel, windows: Windows, rows: int) -> None:
        self.model, self.windows, self.rows = model, windows, rows

    @property
    def resident(self) -> bool:
        """Whether drawing is all on the device, by the generator alone."""
        return isinstance(self.windows, ResidentWindows)

    @torch.no_grad()
    def __call__(self, iteration: int, generator: torch.Generator) -> Batch:
        model, past = self.model, self.model.context_frames
        frames, actions = self.windows.draw(self.rows, iteration, generator)
        context, future = frames[:, :past], frames[:, past:]
        taken, before = model.told_actions(actions)
        condition = model.condition(context, taken, before)
        noise = torch.empty_like(condition["context"]).normal_(generator=generator)
        condition["context"] += model.network_config.context_noise * noise
        return Batch(model.encode(context, future, taken), condition)
