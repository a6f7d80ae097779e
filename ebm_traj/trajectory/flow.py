"""Flow matching and diffusion of the energy model's size: what generative models without an energy can do."""

import dataclasses
from collections.abc import Hashable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ebm_traj.core.annealing import AnnealConfig, anneal
from ebm_traj.core.denoising import DenoisingConfig
from ebm_traj.core.energy import Condition, EnergyOfX
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.errors import InputError
from ebm_traj.trajectory.conditional import ConditionalNetwork
from ebm_traj.trajectory.fc import require_rows
from ebm_traj.trajectory.model import TrajectoryModel, join
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.networks import make_network

Times = Literal["uniform", "logit_normal"]
FlowSolver = Literal["heun", "midpoint", "euler"]

TIME_RANGE = 4.0  # times 0 to 1 are told as levels -4 to 4, the range that level embeddings resolve
DEFAULT_SAMPLER = AnnealConfig(steps=12, sigma_max=5.0, sigma_min=0.02, solver="heun")


# --- flow matching ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """Settings of conditional flow matching."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """Window and network size."""
    batch_size: int = 256
    """Rows in a step."""
    times: Times = "uniform"
    """How times of training are drawn; logit_normal dwells in the middle (Esser et al. 2024)."""
    steps: int = 10
    """Steps of the solver from noise to data."""
    solver: FlowSolver = "heun"
    """`heun` and `midpoint`: second order, two evaluations a step; `euler`: first order, one."""

    def __post_init__(self) -> None:
        require_rows(self.batch_size)
        if self.steps < 1:
            raise InputError(f"flow steps: {self.steps}; accepted are 1 and more")
        for name, accepted in (("times", Times), ("solver", FlowSolver)):
            if getattr(self, name) not in get_args(accepted):
                raise InputError(
                    f"flow {name} '{getattr(self, name)}'; accepted are {', '.join(get_args(accepted))}"
                )

    @property
    def evaluations(self) -> int:
        """Evaluations of the network that one sample costs."""
        return self.steps * (1 if self.solver == "euler" else 2)

    def draw(self, rows: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """Times (rows,) of training, in [0, 1]."""
        if self.times == "uniform":
            return torch.empty(rows, device=device).uniform_(generator=generator)
        return torch.empty(rows, device=device).normal_(generator=generator).sigmoid()


class FlowMatching(Objective):
    """Fits v(x_t, t | c) to x - noise on the straight lines x_t = (1 - t) noise + t x (Lipman et al. 2023).

    loss = mean |v(x_t, t | c) - (x - noise)|^2; at the optimum dx/dt = v carries noise to the data.
    """

    def __init__(self, network: ConditionalNetwork, config: FlowConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.new_rows = self.batch_size = config.batch_size

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch.x
        noise = torch.empty_like(x).normal_(generator=generator)
        t = self.config.draw(len(x), x.device, generator)
        between = torch.lerp(noise, x, t[:, None])
        velocity = velocity_of(self.network, self.network.encode(join(batch.condition)), between, t)
        loss = (velocity - (x - noise)).square().mean()
        return loss, {"velocity_error": loss.detach()}

    def replay_key(self) -> Hashable | None:
        return ()


class FlowModel(TrajectoryModel):
    """Conditional flow matching: an ordinary differential equation from noise to windows."""

    kind = "flow"
    config_class = FlowConfig
    config: FlowConfig

    def __init__(self, config: FlowConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        self.network = _frame_network(self)

    def objective(self) -> Objective:
        return FlowMatching(self.network, self.config)

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        encoded = self.network.encode(join(condition))
        x = torch.empty(len(encoded), self.target_size, device=encoded.device).normal_(generator=generator)
        return follow(self.network, encoded, x, self.config.steps, self.config.solver)


def follow(network: ConditionalNetwork, encoded: Tensor, x: Tensor, steps: int, solver: FlowSolver) -> Tensor:
    """Carry noise x (B, n) along the flow from time 0 to 1, in equal steps."""

    def velocity(x: Tensor, time: float) -> Tensor:
        return velocity_of(network, encoded, x, x.new_full((len(x),), time))

    step = 1 / steps
    for i in range(steps):
        time = i * step
        slope = velocity(x, time)
        if solver == "heun":
            slope = 0.5 * (slope + velocity(x + step * slope, time + step))
        elif solver == "midpoint":
            slope = velocity(x + 0.5 * step * slope, time + 0.5 * step)
        x = x + step * slope
    return x


def velocity_of(network: ConditionalNetwork, encoded: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """dx/dt (B, n) at x (B, n) and times (B,) under an encoded condition."""
    return network(encoded, x, TIME_RANGE * (2 * t - 1))


# --- diffusion ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """Settings of the diffusion model."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """Window and network size."""
    batch_size: int = 256
    """Rows in a step."""
    log_sigma_mean: float = -0.6
    """Noise levels of training are drawn log-normally, with this mean of log sigma,"""
    log_sigma_std: float = 1.2
    """and this standard deviation, and held between the lowest and the highest of the sampler."""
    data_std: float = 1.0
    """Scale of the coordinates, sigma_data of Karras et al. 2022."""
    sampler: AnnealConfig = DEFAULT_SAMPLER
    """Noise levels and solver; there is no energy, so `metropolis` and a corrector are not accepted."""

    def __post_init__(self) -> None:
        if not self.data_std > 0:
            raise InputError(f"data std: {self.data_std}; it must be above 0")
        if self.sampler.metropolis or self.sampler.corrector_steps:
            raise InputError(
                "diffusion sampler: metropolis and a corrector need an energy; accepted are False and 0 steps"
            )
        _ = self.levels  # checks its own settings

    @property
    def levels(self) -> DenoisingConfig:
        """The noise levels of training."""
        return DenoisingConfig(
            self.batch_size,
            self.sampler.sigma_min,
            self.sampler.sigma_max,
            self.log_sigma_mean,
            self.log_sigma_std,
        )


class Denoiser(nn.Module):
    """D(x, sigma | c), the mean of the data that x = data + sigma * noise may come from.

    D = c_skip x + c_out F(c_in x, log sigma | c), so that F sees and gives numbers of unit scale at all
    levels (Karras et al. 2022, table 1).
    """

    def __init__(self, network: ConditionalNetwork, data_std: float) -> None:
        super().__init__()
        self.network = network
        self.data_std = data_std

    def encode(self, condition: Condition) -> Tensor:
        """What depends on the condition alone, once for a whole walk."""
        return self.network.encode(join(condition))

    def forward(self, encoded: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """x (B, n) and sigma (B,) to (B, n)."""
        variance, level = self.data_std**2, sigma[:, None]
        total = level.square() + variance
        raw = self.network(encoded, x / total.sqrt(), sigma.log())
        return variance / total * x + level * self.data_std / total.sqrt() * raw

    def surrogate(self, encoded: Tensor, sigma: Tensor) -> EnergyOfX:
        """A function of x whose gradient is -score = (x - D) / sigma^2; its value means nothing."""

        def slope_times_x(x: Tensor) -> Tensor:
            with torch.no_grad():
                slope = (x - self(encoded, x, sigma)) / sigma[:, None].square()
            return (slope * x).sum(-1)

        return slope_times_x


class Diffusion(Objective):
    """Denoising at all noise levels, each counting alike (Karras et al. 2022, equations 2 and 8)."""

    def __init__(self, denoiser: Denoiser, levels: DenoisingConfig) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.levels = levels
        self.new_rows = self.batch_size = levels.batch_size

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x, variance = batch.x, self.denoiser.data_std**2
        sigma = self.levels.draw(len(x), x.device, generator)
        noisy = x + sigma[:, None] * torch.empty_like(x).normal_(generator=generator)
        denoised = self.denoiser(self.denoiser.encode(batch.condition), noisy, sigma)
        error = (denoised - x).square().mean(-1)
        loss = (error * (sigma.square() + variance) / (sigma.square() * variance)).mean()
        return loss, {"denoising_loss": loss.detach(), "denoising_error": error.detach().mean().sqrt()}

    def replay_key(self) -> Hashable | None:
        return ()


class DiffusionModel(TrajectoryModel):
    """A denoiser of the same network, sampled by the solvers that also sample the energy model."""

    kind = "diffusion"
    config_class = DiffusionConfig
    config: DiffusionConfig

    def __init__(self, config: DiffusionConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        self.denoiser = Denoiser(_frame_network(self), config.data_std)

    @property
    def _needs_autograd(self) -> bool:
        return True  # for the slope of the surrogate

    def objective(self) -> Objective:
        return Diffusion(self.denoiser, self.config.levels)

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        denoiser, sampler = self.denoiser, self.config.sampler
        encoded = denoiser.encode(condition)
        # at a sigma_max of a few units, noise around zero would still pull the samples towards zero
        start = encoded.new_zeros(len(encoded), self.target_size)
        start = denoiser(encoded, start, start.new_full((len(start),), sampler.sigma_max))
        return anneal(lambda sigma: denoiser.surrogate(encoded, sigma), start, sampler, generator=generator).x


def _frame_network(model: TrajectoryModel) -> ConditionalNetwork:
    """x and level to one number for each number of x."""
    frame = model.frame_size
    return make_network(model.network_config, model.condition_size, frame, frame, per_frame=True, levels=True)
