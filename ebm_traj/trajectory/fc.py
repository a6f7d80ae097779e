"""The fully connected baseline: one network, squared error, one answer."""

import dataclasses

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import Condition
from ebm_traj.core.objectives import Objective, Regression
from ebm_traj.trajectory.ebm import join
from ebm_traj.trajectory.model import NetworkConfig, TrajectoryModel
from ebm_traj.trajectory.networks import MLP


@dataclasses.dataclass(frozen=True)
class FCConfig:
    """Settings of the baseline."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """Window and network size."""
    batch_size: int = 256
    """Rows in a step."""


class Predictor(nn.Module):
    """Condition to coordinates (B, W P)."""

    def __init__(self, condition_size: int, target_size: int, network: NetworkConfig) -> None:
        super().__init__()
        self.network = MLP(condition_size, target_size, network.width, network.depth)

    def forward(self, condition: Condition) -> Tensor:
        return self.network(join(condition))


class FCModel(TrajectoryModel):
    """Deterministic: every sampled future of a context is the same."""

    kind = "fc"
    config_class = FCConfig
    config: FCConfig

    def __init__(self, config: FCConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        self.predictor = Predictor(self.condition_size, self.codec.target_size, self.network_config)

    def objective(self) -> Objective:
        return Regression(self.predictor, self.config.batch_size)

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        return self.predictor(condition)
