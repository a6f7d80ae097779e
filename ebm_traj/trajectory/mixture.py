"""The mixture density network (Bishop 1994): a mixture of Gaussians over windows, by maximum likelihood."""

import dataclasses

import torch
from torch import Tensor, nn

from ebm_traj.core.likelihood import Likelihood
from ebm_traj.core.objectives import Objective
from ebm_traj.core.proposal import MixtureProposal, require_share
from ebm_traj.errors import InputError
from ebm_traj.trajectory.fc import FramePredictor, require_rows
from ebm_traj.trajectory.model import TrajectoryModel, join
from ebm_traj.trajectory.network_config import NetworkConfig


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """Settings of the mixture density network."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """Window and network size."""
    components: int = 8
    """K, Gaussians in the mixture."""
    least_share: float = 0.001
    """Sampling leaves out components of less than this share of the likeliest one's weight: wide ones, there
    for what training cannot explain, would throw a rollout off. 0 draws all."""
    batch_size: int = 256
    """Rows in a step."""

    def __post_init__(self) -> None:
        if self.components < 1:
            raise InputError(f"components: {self.components}; accepted are 1 and more")
        require_share(self.least_share)
        require_rows(self.batch_size)


class MixtureHead(nn.Module):
    """Condition (B, F) to the numbers that `MixtureProposal` reads, with means and scales frame by frame."""

    def __init__(self, condition_size: int, frame_size: int, components: int, config: NetworkConfig) -> None:
        super().__init__()
        self.window, self.components = config.window_frames, components
        outputs = MixtureProposal.outputs(frame_size, components)
        self.predictor = FramePredictor(condition_size, outputs, config)

    def forward(self, condition: Tensor) -> Tensor:
        values = self.predictor.from_joined(condition).unflatten(1, (self.window, -1))
        logits, rest = values[..., : self.components], values[..., self.components :]
        # (B, W, 2, K, f) to (B, 2, K, W, f): a component is one Gaussian over the whole window
        rest = rest.unflatten(2, (2, self.components, -1)).movedim(1, 3)
        return torch.cat([logits.mean(1), rest.flatten(1)], dim=1)


class MixtureModel(TrajectoryModel):
    """Samples windows from a mixture of Gaussians; its energy is -log of the density."""

    kind = "mixture"
    has_energy = True
    config_class = MixtureConfig
    config: MixtureConfig

    def __init__(self, config: MixtureConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        head = MixtureHead(self.condition_size, self.frame_size, config.components, self.network_config)
        self.proposal = MixtureProposal(head, join, config.components, least_share=config.least_share)

    def objective(self) -> Objective:
        return Likelihood(self.proposal, self.config.batch_size)

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        return self.proposal.sample(condition, generator)

    def _window_energy(self, x: Tensor, condition: dict[str, Tensor]) -> Tensor:
        return -self.proposal.log_prob(x, condition)
