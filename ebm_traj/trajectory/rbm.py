"""The conditional RBM over windows (Taylor, Hinton & Roweis 2007): learned by CD, sampled by Gibbs."""

import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ebm_traj.boltzmann.rbm import bernoulli, softplus
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.errors import InputError
from ebm_traj.trajectory.fc import FramePredictor, require_rows
from ebm_traj.trajectory.model import TrajectoryModel, join
from ebm_traj.trajectory.network_config import NetworkConfig

Biases = Literal["network", "linear"]

FIRST_WEIGHT = 0.1


@dataclasses.dataclass(frozen=True)
class RBMConfig:
    """Settings of the conditional RBM."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """Window, and network size of the biases."""
    hidden: int = 256
    """Hidden units."""
    biases: Biases = "network"
    """How what was seen moves the biases of both layers: by a network of the size of the other models', or
    linear, as in the literature."""
    steps: int = 1
    """k, Gibbs steps of a chain from the data in training (CD-k)."""
    gibbs_steps: int = 30
    """Gibbs steps that make a sample."""
    batch_size: int = 256
    """Rows in a step."""

    def __post_init__(self) -> None:
        for name in ("hidden", "steps", "gibbs_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 1 and more")
        if self.biases not in get_args(Biases):
            raise InputError(f"biases '{self.biases}'; accepted are {', '.join(get_args(Biases))}")
        require_rows(self.batch_size)


class ConditionalBiases(nn.Module):
    """Condition (B, F) to the mean a (B, n) of the window and the logits d (B, m) of the hidden units."""

    def __init__(self, condition_size: int, frame_size: int, config: RBMConfig) -> None:
        super().__init__()
        self.window, self.hidden = config.network.window_frames, config.hidden
        outputs = frame_size + config.hidden
        if config.biases == "linear":
            linear = nn.Linear(condition_size, self.window * outputs)
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
            self.predictor: nn.Module = linear
        else:
            self.predictor = FramePredictor(condition_size, outputs, config.network)

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor]:
        joined = join(condition)
        predictor = self.predictor
        values = predictor.from_joined(joined) if isinstance(predictor, FramePredictor) else predictor(joined)
        values = values.unflatten(1, (self.window, -1))
        return values[..., : -self.hidden].flatten(1), values[..., -self.hidden :].mean(1)


class ConditionalRBM(Energy):
    """p(x, h | c) ~ exp(-1/2 r r + d(c) h + r W (h - 1/2)), r = (x - a(c)) / s, x (B, n), h (B, m) in {0, 1}.

    The machine of Taylor et al. with both layers centred (Melchior et al. 2016), at a(c) and 1/2, and the
    scale s (n,) learned: where a and d are linear, its distributions are theirs. Called on x it gives the
    free energy -log sum_h exp(-E(x, h | c)).
    """

    def __init__(self, biases: ConditionalBiases, size: int, hidden: int) -> None:
        super().__init__()
        self.biases = biases
        self.weights = nn.Parameter(FIRST_WEIGHT * torch.randn(size, hidden))
        self.log_scale = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.free_energy(x, *self.biases(condition))

    def free_energy(self, x: Tensor, mean: Tensor, logits: Tensor) -> Tensor:
        """F(x | c) (B,) from the biases of c."""
        r = (x - mean) * (-self.log_scale).exp()
        pull = r @ self.weights
        return 0.5 * r.square().sum(-1) + 0.5 * pull.sum(-1) - softplus(logits + pull).sum(-1)

    @torch.no_grad()
    def gibbs(
        self, r: Tensor, mean: Tensor, logits: Tensor, steps: int, generator: torch.Generator | None
    ) -> Tensor:
        """x (B, n) after block Gibbs steps from the whitened r (B, n)."""
        for _ in range(steps):
            h = bernoulli((logits + r @ self.weights).sigmoid(), generator)
            r = (h - 0.5) @ self.weights.T + torch.empty_like(r).normal_(generator=generator)
        return mean + r * self.log_scale.exp()


class ConditionalDivergence(Objective):
    """CD-k: loss = mean F(data | c) - mean F(chain | c), chains from the data under the same condition."""

    def __init__(self, rbm: ConditionalRBM, steps: int, rows: int) -> None:
        super().__init__()
        self.rbm, self.steps = rbm, steps
        self.new_rows = self.batch_size = rows

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rbm = self.rbm
        mean, logits = rbm.biases(batch.condition)
        with torch.no_grad():
            r = (batch.x - mean) * (-rbm.log_scale).exp()
            x = rbm.gibbs(r, mean, logits, self.steps, generator)
        data, chain = (rbm.free_energy(rows, mean, logits).mean() for rows in (batch.x, x))
        return data - chain, {
            "energy_data": data.detach(),
            "energy_chain": chain.detach(),
            "reconstruction_error": (x - batch.x).square().mean(),
        }


class RBMModel(TrajectoryModel):
    """Samples windows from a conditional RBM by block Gibbs."""

    kind = "rbm"
    has_energy = True
    config_class = RBMConfig
    config: RBMConfig

    def __init__(self, config: RBMConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        biases = ConditionalBiases(self.condition_size, self.frame_size, config)
        self.rbm = ConditionalRBM(biases, self.target_size, config.hidden)

    def objective(self) -> Objective:
        return ConditionalDivergence(self.rbm, self.config.steps, self.config.batch_size)

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        mean, logits = self.rbm.biases(condition)
        r = torch.empty_like(mean).normal_(generator=generator)
        return self.rbm.gibbs(r, mean, logits, self.config.gibbs_steps, generator)

    def _window_energy(self, x: Tensor, condition: dict[str, Tensor]) -> Tensor:
        return self.rbm(x, condition)
