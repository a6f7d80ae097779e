"""The temporal energy model: an energy of (context, following frames), sampled by Langevin dynamics."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy, EnergyOfX
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.core.objectives import ContrastiveConfig, ContrastiveDivergence, Objective
from ebm_traj.core.proposal import GaussianProposal, NoiseProposal, Proposal
from ebm_traj.trajectory.model import NetworkConfig, TrajectoryModel
from ebm_traj.trajectory.networks import MLP, squeeze_last

# Metropolis correction keeps rollouts from blowing up where a plain step of this size now and then does
DEFAULT_CONTRASTIVE = ContrastiveConfig(langevin=LangevinConfig(steps=20, step_size=0.1, metropolis=True))


@dataclasses.dataclass(frozen=True)
class EBMConfig:
    """Settings of the energy model and of its training."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """Window and network size."""
    contrastive: ContrastiveConfig = DEFAULT_CONTRASTIVE
    """Contrastive divergence; sampling uses the same chain as training."""
    proposal: Literal["gaussian", "noise"] = "gaussian"
    """Where chains start: a learned Gaussian, or the last frame plus uniform noise (the literature)."""
    start_noise: float = 0.3
    """Half width of the uniform noise of the `noise` proposal, in coordinates."""
    confinement: float = 0.3
    """Weight of |x|^2 / 2 in the energy, so that exp(-E) can be normalised and chains stay in range."""


class WindowEnergy(Energy):
    """E(x | context, actions) = confinement * |x|^2 / 2 + network(context, actions, x)."""

    def __init__(self, condition_size: int, target_size: int, network: NetworkConfig, confinement: float):
        super().__init__()
        self.network = MLP(condition_size + target_size, 1, network.width, network.depth)
        self.confinement = confinement

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        values = squeeze_last(self.network(torch.cat([join(condition), x], dim=-1)))
        return values + self._confine(x)

    def bind(self, condition: Condition) -> EnergyOfX:
        """The part of the first layer that sees the condition is computed once for a whole chain."""
        first, rest = self.network.first, self.network.rest
        known = join(condition)
        seen = first.weight[:, : known.shape[-1]]
        with torch.no_grad():
            base = torch.addmm(first.bias, known, seen.T)
        moved = first.weight[:, known.shape[-1] :].detach().T.contiguous()
        return lambda x: squeeze_last(rest(torch.addmm(base, x, moved))) + self._confine(x)

    def _confine(self, x: Tensor) -> Tensor:
        return 0.5 * self.confinement * x.square().sum(-1)


class TrajectoryEBM(TrajectoryModel):
    """A conditional energy over windows, trained by contrastive divergence (1903.08689, section 4.3)."""

    kind = "ebm"
    has_energy = True
    config_class = EBMConfig
    config: EBMConfig

    def __init__(self, config: EBMConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        net = self.network_config
        self.window_energy = WindowEnergy(
            self.condition_size, self.codec.target_size, net, config.confinement
        )
        self.proposal = self._make_proposal(config, net)

    def _make_proposal(self, config: EBMConfig, net: NetworkConfig) -> Proposal:
        if config.proposal == "noise":
            return NoiseProposal(lambda condition: self.codec.stay(condition["context"]), config.start_noise)
        return GaussianProposal(
            MLP(self.condition_size, 2 * self.codec.target_size, net.width, net.depth), join
        )

    def objective(self) -> Objective:
        return ContrastiveDivergence(self.window_energy, self.proposal, self.config.contrastive)

    @property
    def sampler(self) -> LangevinConfig:
        """The chain that `sample` runs; replace it to trade time against quality."""
        return self._sampler or self.config.contrastive.langevin

    @sampler.setter
    def sampler(self, config: LangevinConfig) -> None:
        self._sampler = config

    _sampler: LangevinConfig | None = None

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        return langevin(
            self.window_energy.bind(condition),
            self.proposal.sample(condition, generator),
            self.sampler,
            scale=self.proposal.scale(condition),
            generator=generator,
        ).x

    def _window_energy(self, x: Tensor, condition: dict[str, Tensor]) -> Tensor:
        return self.window_energy(x, condition)


def join(condition: Condition) -> Tensor:
    """Context features (B, F), and the actions after them if there are any."""
    parts = [condition["context"], *([condition["actions"]] if "actions" in condition else [])]
    return torch.cat(parts, dim=-1)
