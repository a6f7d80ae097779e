"""The fully connected baseline: one network, squared error, one answer."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ebm_traj.core.energy import Condition
from ebm_traj.core.objectives import Objective, Regression
from ebm_traj.errors import InputError
from ebm_traj.trajectory.model import TrajectoryModel, join
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.networks import make_network


@dataclasses.dataclass(frozen=True)
class FCConfig:
    """Settings of the baseline."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """Window and network size."""
    batch_size: int = 256
    """Rows in a step."""
    spectral_norm: bool = False
    """Hold the largest singular value of every layer at 1 (Miyato et al. 2018), as the literature's networks
    do. The prediction of an mlp can then change hardly faster than its inputs, in scaled units."""

    def __post_init__(self) -> None:
        require_rows(self.batch_size)


class FramePredictor(nn.Module):
    """Condition to `outputs` numbers for each of W frames, (B, W * outputs); sees no x."""

    def __init__(self, condition_size: int, outputs: int, config: NetworkConfig) -> None:
        super().__init__()
        self.network = make_network(config, condition_size, 0, outputs, per_frame=True)

    def forward(self, condition: Condition) -> Tensor:
        return self.from_joined(join(condition))

    def from_joined(self, condition: Tensor) -> Tensor:
        """The same from a condition (B, F) that is one tensor already."""
        return self.network(self.network.encode(condition))


class FCModel(TrajectoryModel):
    """Deterministic: every sampled future of a context is the same."""

    kind = "fc"
    config_class = FCConfig
    config: FCConfig

    def __init__(self, config: FCConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        self.predictor = FramePredictor(self.condition_size, self.frame_size, self.network_config)
        if config.spectral_norm:
            normalise_spectra(self.predictor)

    def objective(self) -> Objective:
        return Regression(self.predictor, self.config.batch_size)

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        training = self.predictor.training
        self.predictor.eval()  # the spectral norm's vectors move in training mode
        try:
            return self.predictor(condition)
        finally:
            self.predictor.train(training)

    @property
    def has_mean(self) -> bool:
        return self.conditioning == "actions"

    def _expected_window(self, condition: dict[str, Tensor], actions: Tensor) -> Tensor:
        return self._sample_window(condition, None)


def normalise_spectra(module: nn.Module) -> None:
    """Spectral norm on every linear layer; of a convolution, on its weights (out, in * kernel) as a matrix.

    The vectors of the power iteration are buffers: they move in training mode alone, and the averaged weights
    get a copy of them.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d)):
            if not layer.weight.any():
                layer.reset_parameters()  # a layer that starts at zero has no direction to normalise
            parametrizations.spectral_norm(layer)


def require_rows(batch_size: int) -> None:
    """InputError unless a step has rows."""
    if batch_size < 1:
        raise InputError(f"batch size: {batch_size}; accepted are 1 and more")
