"""The temporal energy model: an energy of (context, following frames), its ways of training and of sampling."""

import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.core.annealing import AnnealConfig, EnergyAt, anneal
from ebm_traj.core.combined import CombinedObjective, Part
from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.denoising import LEVEL, AtLevel, DenoisingConfig, DenoisingScoreMatching
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy, EnergyOfX
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.core.objectives import Objective
from ebm_traj.core.proposal import GaussianProposal, MixtureProposal, NoiseProposal, Proposal
from ebm_traj.core.ranking import RankingConfig, RankingNCE
from ebm_traj.errors import InputError
from ebm_traj.trajectory.model import NetworkConfig, TrajectoryModel
from ebm_traj.trajectory.networks import MLP, make_network, squeeze_last

Training = Literal["combined", "denoising", "contrastive", "ranking"]
ProposalName = Literal["gaussian", "mixture", "noise"]

# Metropolis correction keeps rollouts from blowing up where a plain step of this size now and then does
DEFAULT_CONTRASTIVE = ContrastiveConfig(langevin=LangevinConfig(steps=20, step_size=0.1, metropolis=True))
DEFAULT_SAMPLER = AnnealConfig(steps=12, sigma_max=5.0, sigma_min=0.02, solver="heun")


@dataclasses.dataclass(frozen=True)
class EBMConfig:
    """Settings of the energy model and of its training."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """Window and network size."""
    training: Training = "combined"
    """combined: denoising at all noise levels, and contrastive divergence at the lowest. denoising: without the
    latter. contrastive: an energy without noise levels, by contrastive divergence alone (the literature).
    ranking: the same energy, by ranking noise-contrastive estimation."""
    contrastive: ContrastiveConfig = DEFAULT_CONTRASTIVE
    """Contrastive divergence; without noise levels, sampling uses the same chain as training."""
    denoising: DenoisingConfig = dataclasses.field(default_factory=DenoisingConfig)
    """Noise levels of denoising score matching."""
    ranking: RankingConfig = dataclasses.field(default_factory=RankingConfig)
    """Ranking noise-contrastive estimation."""
    contrastive_weight: float = 0.1
    """Combined training: weight of the contrastive loss beside that of denoising,"""
    contrastive_start: int = 1000
    """and the iteration at which it joins in."""
    sampler: AnnealConfig = DEFAULT_SAMPLER
    """How an energy with noise levels is sampled."""
    start: AnnealConfig = AnnealConfig(steps=8, sigma_max=5.0, sigma_min=0.02, solver="multistep", denoise=False)
    """Combined training: the walk that starts new chains."""
    proposal: ProposalName = "gaussian"
    """Where chains start: a learned Gaussian or mixture of them, or the last frame plus uniform noise."""
    components: int = 5
    """Components of the mixture."""
    start_noise: float = 0.3
    """Half width of the uniform noise of the `noise` proposal, in coordinates."""
    confinement: float = 0.3
    """Weight of |x|^2 / 2 in an energy without noise levels, so that exp(-E) can be normalised."""
    residual: bool = False
    """Contrastive and ranking training: the energy is learned on top of the proposal's, -log q."""

    def __post_init__(self) -> None:
        for name, accepted in (("training", Training), ("proposal", ProposalName)):
            if getattr(self, name) not in get_args(accepted):
                raise InputError(
                    f"{name} '{getattr(self, name)}'; accepted are {', '.join(get_args(accepted))}"
                )
        if self.residual and self.proposal == "noise":
            raise InputError("residual: the 'noise' proposal is flat; accepted are gaussian and mixture")
        if self.residual and self.has_levels:
            raise InputError(f"residual: with {self.training} training there is none; leave it out")

    @property
    def has_levels(self) -> bool:
        """Whether the energy is told a noise level."""
        return self.training in ("combined", "denoising")


class WindowEnergy(Energy):
    """E(x | context, actions[, sigma]) = |x|^2 / 2 * base + network(context, actions, x[, sigma]).

    Without noise levels `base` is the confinement. With them it is 1 / (1 + sigma^2), which alone is right for
    data of unit scale, and the network sees x / sqrt(1 + sigma^2): at high levels it has nothing left to add.
    """

    def __init__(
        self, condition_size: int, frame_size: int, network: NetworkConfig, confinement: float, levels: bool
    ):
        super().__init__()
        self.network = make_network(network, condition_size, frame_size, 1, per_frame=False, levels=levels)
        self.confinement = confinement
        self.levels = levels
        self.x_size = network.window_frames * frame_size

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.given(self.network.encode(join(condition)), x, condition.get(LEVEL))

    def bind(self, condition: Condition) -> EnergyOfX:
        """What depends on the condition alone is computed once for a whole chain."""
        at = self.bind_levels(condition)
        return at(condition[LEVEL]) if self.levels else at(condition["context"])

    def bind_levels(self, condition: Condition) -> EnergyAt:
        """E(x, sigma | condition) as a function of sigma (B,), then of x; without levels sigma is ignored."""
        with torch.no_grad():
            encoded = self.network.encode(join(condition))
        return lambda level: lambda x: self.given(encoded, x, level if self.levels else None)

    def given(self, encoded: Tensor, x: Tensor, level: Tensor | None) -> Tensor:
        """The energy (B,) of x under an encoded condition."""
        if level is None:
            return 0.5 * self.confinement * x.square().sum(-1) + squeeze_last(self.network(encoded, x))
        variance = 1 + level.square()
        scaled = x / variance.sqrt()[:, None]
        return 0.5 * scaled.square().sum(-1) + squeeze_last(self.network(encoded, scaled, level.log()))


class ResidualEnergy(Energy):
    """E = -log q(x | condition) + a learned correction; q stands still, its own loss trains it."""

    def __init__(self, proposal: Proposal, correction: Energy) -> None:
        super().__init__()
        self.proposal = proposal
        self.correction = correction

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.correction(x, condition) - self._log_density(x, condition)

    def bind(self, condition: Condition) -> EnergyOfX:
        correction = self.correction.bind(condition)
        return lambda x: correction(x) - self._log_density(x, condition)

    def _log_density(self, x: Tensor, condition: Condition) -> Tensor:
        # of x alone: parameters of q learn from their likelihood, not from the energy's loss
        value = self.proposal.log_prob(x, condition)
        if not torch.is_grad_enabled() or not x.requires_grad:
            return value.detach()
        return value


class TrajectoryEBM(TrajectoryModel):
    """A conditional energy over windows (1903.08689, section 4.3, and what has been learned since)."""

    kind = "ebm"
    has_energy = True
    config_class = EBMConfig
    config: EBMConfig

    def __init__(self, config: EBMConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        net = self.network_config
        correction = WindowEnergy(
            self.condition_size, self.frame_size, net, config.confinement, config.has_levels
        )
        self.proposal = self._make_proposal(config, net, correction)
        self.window_energy: Energy = correction
        if config.residual:
            self.window_energy = ResidualEnergy(self.proposal, correction)

    def _make_proposal(self, config: EBMConfig, net: NetworkConfig, energy: WindowEnergy) -> Proposal:
        if config.has_levels:
            return AnnealedProposal(energy, config.start)
        if config.proposal == "noise":
            return NoiseProposal(self._stay, config.start_noise)
        if config.proposal == "mixture":
            outputs = MixtureProposal.outputs(self.target_size, config.components)
            return MixtureProposal(self._head(net, outputs), join, config.components)
        return GaussianProposal(self._head(net, 2 * self.target_size), join)

    def _head(self, net: NetworkConfig, outputs: int) -> MLP:
        return MLP(self.condition_size, outputs, net.width, net.depth)

    def _stay(self, condition: Condition) -> Tensor:
        """Coordinates of frames that repeat the last one; actions, if predicted, at the centre of their box."""
        frames = self.codec.stay(condition["context"])
        if self.frame_size == self.codec.predicted_size:
            return frames
        split = frames.unflatten(1, (self.window_frames, -1))
        still = split.new_zeros(*split.shape[:2], self.action_size)
        return torch.cat([split, still], dim=-1).flatten(1)

    def objective(self) -> Objective:
        config = self.config
        if config.training == "contrastive":
            return ContrastiveDivergence(self.window_energy, self.proposal, config.contrastive)
        if config.training == "ranking":
            return RankingNCE(self.window_energy, self.proposal, config.ranking)
        denoising = DenoisingScoreMatching(self.window_energy, config.denoising)
        if config.training == "denoising":
            return denoising
        lowest = AtLevel(self.window_energy, config.denoising.sigma_min)
        contrastive = ContrastiveDivergence(lowest, self.proposal, config.contrastive)
        return CombinedObjective(
            [
                Part("denoising", denoising),
                Part("contrastive", contrastive, config.contrastive_weight, config.contrastive_start),
            ]
        )

    @property
    def sampler(self) -> LangevinConfig | AnnealConfig:
        """What `sample` runs; replace it to trade time against quality.

        An energy with noise levels is sampled by an `AnnealConfig`, one without by a `LangevinConfig`.
        """
        if self._sampler is not None:
            return self._sampler
        return self.config.sampler if self.config.has_levels else self.config.contrastive.langevin

    @sampler.setter
    def sampler(self, config: LangevinConfig | AnnealConfig) -> None:
        if isinstance(config, AnnealConfig) != self.config.has_levels:
            wanted = "AnnealConfig" if self.config.has_levels else "LangevinConfig"
            raise InputError(f"sampler: {type(config).__name__}; accepted for this energy is {wanted}")
        self._sampler = config

    _sampler: LangevinConfig | AnnealConfig | None = None

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        sampler = self.sampler
        if isinstance(sampler, AnnealConfig):
            return annealed_sample(self.window_energy, condition, self.target_size, sampler, generator)
        return langevin(
            self.window_energy.bind(condition),
            self.proposal.sample(condition, generator),
            sampler,
            scale=self.proposal.scale(condition),
            generator=generator,
        ).x

    def _window_energy(self, x: Tensor, condition: dict[str, Tensor]) -> Tensor:
        if self.config.has_levels:
            level = x.new_full((len(x),), self.config.denoising.sigma_min)
            return self.window_energy(x, {**condition, LEVEL: level})
        return self.window_energy(x, condition)


class AnnealedProposal(Proposal):
    """Chains start where a short walk through the noise levels of the energy itself ends."""

    def __init__(self, energy: WindowEnergy, config: AnnealConfig) -> None:
        super().__init__()
        self._energy = [energy]  # in a list: its parameters are not the proposal's
        self.config = config

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        energy = self._energy[0]
        return annealed_sample(energy, condition, energy.x_size, self.config, generator)


def annealed_sample(
    energy: WindowEnergy,
    condition: Condition,
    size: int,
    config: AnnealConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """x (B, size) from noise to data; the walk starts from N(0, 1 + sigma_max^2), as noised data of unit scale."""
    start = torch.empty(len(condition["context"]), size, device=condition["context"].device)
    start.normal_(generator=generator)
    return anneal(energy.bind_levels(condition), start, config, generator=generator).x


def join(condition: Condition) -> Tensor:
    """Context features (B, F), and the actions after them if there are any."""
    parts = [condition["context"], *([condition["actions"]] if "actions" in condition else [])]
    return torch.cat(parts, dim=-1)
