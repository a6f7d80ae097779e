"""The Gaussian ensemble: networks that each predict mean and variance, as in PETS (Chua et al. 2018)."""

import dataclasses
from collections.abc import Hashable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import Condition
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.proposal import gaussian_log_prob, soft_bound
from ebm_traj.errors import InputError
from ebm_traj.trajectory.fc import FramePredictor, require_rows
from ebm_traj.trajectory.model import TrajectoryModel
from ebm_traj.trajectory.network_config import NetworkConfig

Propagation = Literal["ts_infinity", "ts1"]

MEMBER = "member"
"""Name of a row's member (B,) in a condition."""
FIRST_LOG_VARIANCES = (-10.0, 0.5)  # the bounds before training, as in the code of PETS
BOUND_WEIGHT = 0.01  # of their distance in the loss, as in the code of PETS


@dataclasses.dataclass(frozen=True)
class GaussianConfig:
    """Settings of the ensemble."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """Window and network size, of each member."""
    members: int = 5
    """M, networks in the ensemble; 1 is a plain Gaussian network."""
    propagation: Propagation = "ts_infinity"
    """ts_infinity: a sampled future keeps its member to its end. ts1: each window draws its own."""
    batch_size: int = 256
    """Rows in a step, for each member."""

    def __post_init__(self) -> None:
        if self.members < 1:
            raise InputError(f"members: {self.members}; accepted are 1 and more")
        if self.propagation not in get_args(Propagation):
            accepted = ", ".join(get_args(Propagation))
            raise InputError(f"propagation '{self.propagation}'; accepted are {accepted}")
        require_rows(self.batch_size)


class GaussianEnsemble(nn.Module):
    """M networks from a condition to mean and log variance (B, n); they share the latter's learned bounds."""

    def __init__(self, condition_size: int, frame_size: int, members: int, config: NetworkConfig) -> None:
        super().__init__()
        self.window = config.window_frames
        self.members = nn.ModuleList(
            FramePredictor(condition_size, 2 * frame_size, config) for _ in range(members)
        )
        low, high = FIRST_LOG_VARIANCES
        self.low = nn.Parameter(torch.full((self.window * frame_size,), low))
        self.high = nn.Parameter(torch.full((self.window * frame_size,), high))

    def predict(self, member: int, condition: Condition) -> tuple[Tensor, Tensor]:
        """Mean and log scale, each (B, n), by one member."""
        values = self.members[member](condition).unflatten(1, (self.window, 2, -1))
        mean, log_variance = values[:, :, 0].flatten(1), values[:, :, 1].flatten(1)
        return mean, 0.5 * soft_bound(log_variance, self.low, self.high)

    def sample(self, condition: Condition, member: Tensor, generator: torch.Generator | None) -> Tensor:
        """One draw (B, n) for each row by its own member (B,)."""
        x = torch.empty(len(member), len(self.low), device=self.low.device).normal_(generator=generator)
        for m in range(len(self.members)):
            rows = (member == m).nonzero().squeeze(1)
            mean, log_scale = self.predict(m, {name: values[rows] for name, values in condition.items()})
            x[rows] = mean + log_scale.exp() * x[rows]
        return x


class EnsembleLikelihood(Objective):
    """Maximum likelihood of each member on rows of its own, one after the other in a step.

    PETS gives each member a bootstrap of the data; here each sees rows drawn for it alone, in an order of its
    own, from all of the data. Where data are many the two differ little (Lakshminarayanan et al. 2017).
    """

    def __init__(self, ensemble: GaussianEnsemble, rows: int) -> None:
        """`rows` for each member."""
        super().__init__()
        self.ensemble = ensemble
        self.new_rows = self.batch_size = rows * len(ensemble.members)

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        ensemble, count = self.ensemble, len(self.ensemble.members)
        likelihoods, errors = [], []
        for m in range(count):
            # every M-th row, a fair draw even of a sorted batch
            x = batch.x[m::count]
            condition = {name: values[m::count] for name, values in batch.condition.items()}
            mean, log_scale = ensemble.predict(m, condition)
            likelihoods.append(gaussian_log_prob(x, mean, log_scale).mean())
            errors.append((x - mean).detach().square().mean())
        # per dimension, so that the bounds weigh alike whatever the window
        loss = -torch.stack(likelihoods).mean() / batch.x.shape[-1]
        width = (ensemble.high - ensemble.low).mean()
        figures = {
            "negative_log_likelihood": loss.detach() * batch.x.shape[-1],
            "squared_error": torch.stack(errors).mean(),
            "bounds_width": width.detach(),
        }
        return loss + BOUND_WEIGHT * width, figures

    def replay_key(self) -> Hashable | None:
        return ()


class GaussianModel(TrajectoryModel):
    """An ensemble of Gaussian networks, sampled by trajectories of particles (Chua et al. 2018).

    Members of futures are drawn independently, not dealt out evenly as in PETS, so that the futures of a
    context are independent draws of one distribution like those of any other model.
    """

    kind = "gaussian"
    config_class = GaussianConfig
    config: GaussianConfig

    def __init__(self, config: GaussianConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        self.ensemble = GaussianEnsemble(
            self.condition_size, self.frame_size, config.members, self.network_config
        )

    def objective(self) -> Objective:
        return EnsembleLikelihood(self.ensemble, self.config.batch_size)

    def _begin(self, rows: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        if self.config.propagation == "ts1":
            return {}
        return {MEMBER: self._draw_members(rows, generator)}

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        member = condition.get(MEMBER)
        if member is None:
            member = self._draw_members(len(condition["context"]), generator)
        return self.ensemble.sample(condition, member, generator)

    def _draw_members(self, rows: int, generator: torch.Generator | None) -> Tensor:
        return torch.randint(self.config.members, (rows,), generator=generator, device=self.device)
