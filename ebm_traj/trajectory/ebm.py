"""The temporal energy model: an energy of (context, following frames), its training and its sampling."""

import dataclasses
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.backends import backend
from ebm_traj.core.combined import CombinedObjective, Part
from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.convergence import ConvergedChain, Spent, UntilConverged
from ebm_traj.core.denoising import LEVEL, AtLevel, DenoisingConfig, DenoisingScoreMatching
from ebm_traj.core.energy import Condition, Energy, energy_and_gradient
from ebm_traj.core.langevin import Chain, LangevinConfig
from ebm_traj.core.likelihood import Likelihood
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.proposal import (
    GaussianProposal,
    MixtureProposal,
    NoiseProposal,
    Proposal,
    ResidualEnergy,
    require_share,
)
from ebm_traj.core.ranking import RankingConfig, RankingNCE
from ebm_traj.errors import InputError
from ebm_traj.trajectory.joint import (
    ACTIONS,
    FrameParts,
    JointProposal,
    MixtureHead,
    PartObjective,
    StagedEnergy,
)
from ebm_traj.trajectory.model import TrajectoryModel, join
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.networks import MLP, make_network
from ebm_traj.trajectory.walks import AnnealedProposal, annealed_gradients, annealed_sample, walk
from ebm_traj.trajectory.window_energy import WindowEnergy

Training = Literal["contrastive", "ranking", "denoising", "combined"]
ProposalName = Literal["mixture", "gaussian", "noise"]

Sampler = LangevinConfig | AnnealConfig | UntilConverged

# a start's own component is the unit of its chain, in which 0.3 is near the best step for some 50 dimensions
# (Roberts & Rosenthal 1998)
DEFAULT_CONTRASTIVE = ContrastiveConfig(
    batch_size=256,
    langevin=LangevinConfig(steps=6, step_size=0.3, metropolis=True),
    energy_regularisation=0.25,  # with 0.01 the energy outran its chains (acceptance 0.02)
)
RARE = -4.0  # logit of a chance that is still to be learned
ENERGY_START = 0.75  # share of a run after which the energy joins in
DEFAULT_ANNEALING = AnnealConfig(steps=12, sigma_max=5.0, sigma_min=0.02, solver="heun")
DEFAULT_START = AnnealConfig(steps=8, sigma_max=5.0, sigma_min=0.02, solver="multistep", denoise=False)


@dataclasses.dataclass(frozen=True)
class EBMConfig:
    """Settings of the energy model and of its training."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """Window and network size."""
    training: Training = "contrastive"
    """contrastive: contrastive divergence with Langevin chains and replay. ranking: noise-contrastive
    estimation. denoising: score matching of an energy at all noise levels, sampled through them. combined:
    denoising, and contrastive divergence at the lowest level."""
    proposal: ProposalName = "mixture"
    """Where chains start: a learned mixture of Gaussians, one Gaussian, or the last frame plus noise."""
    components: int = 8
    """Gaussians in the mixture."""
    state_components: int | None = None
    """Joint models: those in the mixture of states under given actions. Default: as many."""
    least_share: float = 0.001
    """Sampling leaves out components of less than this share of the likeliest one's weight: wide ones, there
    for what training cannot explain, would throw a rollout off. 0 draws all."""
    residual: bool = True
    """The energy is learned on top of the proposal's, -log q; else it stands alone."""
    uniform_actions: bool = True
    """Joint models: each component of the mixture of actions may draw a frame's action uniformly from its
    box, as exploration does, by a chance that is learned."""
    clip_actions: bool = True
    """Joint models: actions are clipped to their box before the states that follow are drawn, exploration as
    wide as it was."""
    correction_width: int = 128
    """Units of a hidden layer of such an energy's network, which has less to learn and is walked often."""
    likelihood_batch: int = 256
    """Rows in a step of the proposal's own training, by maximum likelihood."""
    contrastive: ContrastiveConfig = DEFAULT_CONTRASTIVE
    """Contrastive divergence; without noise levels, sampling uses the same chain as training."""
    ranking: RankingConfig = dataclasses.field(default_factory=RankingConfig)
    """Ranking noise-contrastive estimation."""
    denoising: DenoisingConfig = dataclasses.field(default_factory=DenoisingConfig)
    """Noise levels of denoising score matching."""
    energy_start: int | None = None
    """Iteration at which the contrastive or ranking loss joins the proposal's, or denoising's. Default: after
    three quarters of the run; at once if there is no other loss."""
    energy_weight: float = 1.0
    """Weight of that loss beside the other."""
    annealing: AnnealConfig = DEFAULT_ANNEALING
    """How an energy with noise levels is sampled."""
    chain_start: AnnealConfig = DEFAULT_START
    """Combined training: the walk through noise levels that starts new chains."""
    start_noise: float = 0.3
    """Half width of the uniform noise of the `noise` proposal, in coordinates."""
    confinement: float = 0.3
    """Weight of |x|^2 / 2 in an energy that stands alone, so that exp(-E) can be normalised."""

    def __post_init__(self) -> None:
        for name, accepted in (("training", Training), ("proposal", ProposalName)):
            if getattr(self, name) not in get_args(accepted):
                raise InputError(
                    f"{name} '{getattr(self, name)}'; accepted are {', '.join(get_args(accepted))}"
                )
        if self.is_residual and self.proposal == "noise":
            raise InputError(
                "residual: the 'noise' proposal is flat; set it to False, or use another proposal"
            )
        if (self.energy_start or 0) < 0:
            raise InputError(f"energy start: {self.energy_start}; accepted are 0 and more")
        for name in ("components", "correction_width", "likelihood_batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 1 and more")
        if self.state_components is not None and self.state_components < 1:
            raise InputError(f"state components: {self.state_components}; accepted are 1 and more, or none")
        require_share(self.least_share)
        if not self.energy_weight > 0:
            raise InputError(f"energy weight: {self.energy_weight}; it must be above 0")
        if not 0 < self.start_noise < math.inf:
            raise InputError(f"start noise: {self.start_noise}; it must be above 0")
        if not 0 <= self.confinement < math.inf:
            raise InputError(f"confinement: {self.confinement}; accepted are 0 and more")

    def for_run(self, iterations: int) -> "EBMConfig":
        """The same settings with what depends on the length of the run filled in.

        Raises InputError if the energy would begin after the end, or if samples would be taken at noise
        levels that are not trained.
        """
        if self.has_levels:
            self._require_trained("annealing", self.annealing)
            if self.training == "combined":
                self._require_trained("chain start", self.chain_start)
        if self.energy_start is not None:
            if self.energy_start >= iterations:
                raise InputError(
                    f"energy start: {self.energy_start}; in a run of {iterations} iterations the energy "
                    "would not be trained; accepted are fewer, or none for three quarters of them"
                )
            return self
        return dataclasses.replace(self, energy_start=round(ENERGY_START * iterations))

    def _require_trained(self, name: str, walk: AnnealConfig) -> None:
        """InputError unless a walk stays within the noise levels of denoising."""
        low, high = self.denoising.sigma_min, self.denoising.sigma_max
        if walk.sigma_min < low or walk.sigma_max > high:
            raise InputError(
                f"{name}: noise levels {walk.sigma_min:g} to {walk.sigma_max:g}, and denoising trains those "
                f"from {low:g} to {high:g}; accepted are levels among these"
            )

    @property
    def is_residual(self) -> bool:
        """Whether the energy is learned on top of a proposal's."""
        return self.residual and not self.has_levels

    @property
    def has_levels(self) -> bool:
        """Whether the energy is told a noise level."""
        return self.training in ("combined", "denoising")


class TrajectoryEBM(TrajectoryModel):
    """A conditional energy over windows (1903.08689, section 4.3, and what has been learned since)."""

    kind = "ebm"
    has_energy = True
    config_class = EBMConfig
    config: EBMConfig

    def __init__(self, config: EBMConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        self.proposal, self.window_energy = self._residual() if config.is_residual else self._alone()

    def _alone(self) -> tuple[Proposal, Energy]:
        """A whole energy, and where its chains start."""
        config, net = self.config, self.network_config
        energy = WindowEnergy(
            self.condition_size, self.frame_size, net, config.confinement, config.has_levels
        )
        return self._make_proposal(config, net, energy), energy

    def _residual(self) -> tuple[Proposal, Energy]:
        """A proposal, and an energy on top of it: for joint models of the actions, then of the states."""
        config, net = self.config, self.network_config
        known, frames, sizes = self.condition_size, self.window_frames, self.codec.predicted_size
        if self.conditioning != "joint" or config.proposal != "mixture":
            proposal = self._make_proposal(config, net, None)
            return proposal, self._correction(proposal, known, self.frame_size)
        parts = FrameParts(frames, sizes, self.action_size)
        blocks = frames if config.uniform_actions else 0
        actions = self._mixture(known, frames * self.action_size, blocks, clip=config.clip_actions)
        known_then = known + frames * self.action_size
        states = self._mixture(known_then, frames * sizes, components=config.state_components)
        staged = StagedEnergy(
            self._correction(actions, known, self.action_size),
            self._correction(states, known_then, sizes),
            parts,
        )
        return JointProposal(actions, states, parts), staged

    def _correction(self, proposal: Proposal, condition_size: int, frame_size: int) -> Energy:
        net = dataclasses.replace(self.network_config, width=self.config.correction_width)
        energy = WindowEnergy(condition_size, frame_size, net, 0.0, levels=False)
        energy.network.start_at_zero()  # before it has learned anything, the energy is the proposal's
        return ResidualEnergy(proposal, energy)

    def _make_proposal(self, config: EBMConfig, net: NetworkConfig, energy: WindowEnergy | None) -> Proposal:
        if config.has_levels and energy is not None:
            return AnnealedProposal(energy, config.chain_start)
        if config.proposal == "noise":
            return NoiseProposal(self._stay, config.start_noise)
        if config.proposal == "gaussian":
            head = MLP(self.condition_size, 2 * self.target_size, net.width, net.depth)
            return GaussianProposal(head, join)
        return self._mixture(self.condition_size, self.target_size)

    def _mixture(
        self,
        condition_size: int,
        size: int,
        blocks: int = 0,
        clip: bool = False,
        components: int | None = None,
    ) -> MixtureProposal:
        count, least_share = components or self.config.components, self.config.least_share
        outputs = MixtureProposal.outputs(size, count, blocks)
        network = make_network(self.network_config, condition_size, 0, outputs, per_frame=False)
        return MixtureProposal(MixtureHead(network), join, count, blocks, least_share=least_share, clip=clip)

    def weights_of(self, trained: TrajectoryModel) -> dict[str, Tensor]:
        """Those of a model without uniform actions serve one with them, whose chances are rare at first."""
        state = super().weights_of(trained)
        if not self.config.uniform_actions or getattr(trained.config, "uniform_actions", True):
            return state
        more = self.config.components * self.window_frames
        actions = {name: values for name, values in state.items() if name.startswith("proposal.actions.")}
        for name, values in self.state_dict().items():
            found = actions.get(name)
            if found is not None and len(values) == len(found) + more:
                rows = torch.zeros_like(values[-more:])
                state[name] = torch.cat([found, rows if rows.dim() > 1 else rows + RARE])
        return state

    def _stay(self, condition: Condition) -> Tensor:
        """Coordinates of frames that repeat the last one; predicted actions are at the centre."""
        frames = self.codec.stay(condition["context"])
        if self.frame_size == self.codec.predicted_size:
            return frames
        split = frames.unflatten(1, (self.window_frames, -1))
        still = split.new_zeros(*split.shape[:2], self.action_size)
        return torch.cat([split, still], dim=-1).flatten(1)

    def objective(self) -> Objective:
        config, energy = self.config, self.window_energy
        if config.training == "denoising":
            return DenoisingScoreMatching(energy, config.denoising)
        if config.training == "combined":
            lowest = AtLevel(energy, config.denoising.sigma_min)
            first = Part("denoising", DenoisingScoreMatching(energy, config.denoising))
            second: Objective = ContrastiveDivergence(lowest, self.proposal, config.contrastive)
        elif config.proposal == "noise":
            return self._energy_objective(energy, self.proposal)
        else:
            first = Part("likelihood", Likelihood(self.proposal, config.likelihood_batch))
            if isinstance(energy, StagedEnergy):
                return self._staged_objective(first, energy)
            second = self._energy_objective(energy, self.proposal)
        begin = config.energy_start or 0
        return CombinedObjective([first, Part(self._loss_name, second, config.energy_weight, begin)])

    def _staged_objective(self, first: Part, energy: StagedEnergy) -> Objective:
        assert isinstance(self.proposal, JointProposal)
        parts = energy.parts
        actions = PartObjective(
            self._energy_objective(energy.actions, self.proposal.actions),
            lambda batch: Batch(parts.split(batch.x, {})[0], batch.condition),
        )
        states = PartObjective(
            self._energy_objective(energy.states, self.proposal.states),
            lambda batch: Batch(*parts.split(batch.x, batch.condition)[1:]),
        )
        name, weight, begin = self._loss_name, self.config.energy_weight, self.config.energy_start or 0
        return CombinedObjective(
            [first, Part(f"{name}_actions", actions, weight, begin), Part(name, states, weight, begin)]
        )

    @property
    def _loss_name(self) -> str:
        return "ranking" if self.config.training == "ranking" else "contrastive"

    def _energy_objective(self, energy: Energy, proposal: Proposal) -> Objective:
        config = self.config
        if config.training == "ranking":
            return RankingNCE(energy, proposal, config.ranking, fit_proposal=False)
        return ContrastiveDivergence(energy, proposal, config.contrastive, fit_proposal=False)

    @property
    def sampler(self) -> Sampler:
        """What `sample` runs; replace it to trade time against quality.

        An energy with noise levels is sampled by an `AnnealConfig`, one without by a `LangevinConfig`, and
        either by `UntilConverged`, which takes as many steps as the batch needs: chains go on from where
        they start, with noise levels at the lowest one from the end of `chain_start`. See `spent`.
        """
        if self._sampler is not None:
            return self._sampler
        return self.config.annealing if self.config.has_levels else self.config.contrastive.langevin

    @sampler.setter
    def sampler(self, config: Sampler) -> None:
        wanted = AnnealConfig if self.config.has_levels else LangevinConfig
        if not isinstance(config, wanted | UntilConverged):
            raise InputError(
                f"sampler: {type(config).__name__}; accepted for this energy are {wanted.__name__} and "
                "UntilConverged"
            )
        self._sampler = config
        self.spent = Spent()

    @property
    def _needs_autograd(self) -> bool:
        return self.config.has_levels or self.window_energy.needs_autograd or backend() == "autograd"

    _sampler: Sampler | None = None
    spent: Spent = Spent()
    """What `UntilConverged` has cost since it was set."""

    @property
    def gradients_per_window(self) -> float:
        """Gradients of the energy, of all its stages, that this sampler takes for one window.

        Until convergence, the mean over the windows sampled since the sampler was set; 0 before the first.
        """
        sampler = self.sampler
        if isinstance(sampler, UntilConverged):
            return self.spent.mean
        if isinstance(sampler, AnnealConfig):
            return annealed_gradients(sampler)
        return sampler.gradients * (2 if isinstance(self.window_energy, StagedEnergy) else 1)

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        sampler = self.sampler
        if isinstance(sampler, AnnealConfig):
            assert isinstance(self.window_energy, WindowEnergy)
            return annealed_sample(self.window_energy, condition, self.target_size, sampler, generator)
        if self.config.has_levels:
            assert isinstance(sampler, UntilConverged)
            return self._sample_lowest(condition, sampler, generator)
        if not isinstance(self.window_energy, StagedEnergy):
            chain = walk(self.window_energy, self.proposal, condition, sampler, generator)
            self._count([chain])
            return chain.x
        assert isinstance(self.proposal, JointProposal)
        energy, proposal = self.window_energy, self.proposal
        actions = walk(energy.actions, proposal.actions, condition, sampler, generator)
        if proposal.actions.clipped:
            actions.x.clamp_(-1, 1)
        known = {**condition, ACTIONS: actions.x}
        states = walk(energy.states, proposal.states, known, sampler, generator)
        self._count([actions, states])
        return energy.parts.join(actions.x, states.x)

    @property
    def follows_actions(self) -> bool:
        return super().follows_actions or isinstance(self.window_energy, StagedEnergy)

    def _follow_window(
        self, condition: dict[str, Tensor], actions: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        energy, sampler = self.window_energy, self.sampler
        if not isinstance(energy, StagedEnergy) or isinstance(sampler, AnnealConfig):
            return super()._follow_window(condition, actions, generator)
        assert isinstance(self.proposal, JointProposal)
        known = {**condition, ACTIONS: actions}
        chain = walk(energy.states, self.proposal.states, known, sampler, generator)
        self._count([chain])
        return energy.parts.join(actions, chain.x)

    @property
    def has_mean(self) -> bool:
        if isinstance(self.window_energy, StagedEnergy):
            proposal = self.proposal
            return isinstance(proposal, JointProposal) and isinstance(proposal.states, MixtureProposal)
        return self.conditioning == "actions" and isinstance(
            self.proposal, MixtureProposal | GaussianProposal
        )

    def _expected_window(self, condition: dict[str, Tensor], actions: Tensor) -> Tensor:
        """The mean of the proposal: what the energy adds to it has a small mean."""
        proposal, energy = self.proposal, self.window_energy
        if isinstance(proposal, JointProposal) and isinstance(energy, StagedEnergy):
            assert isinstance(proposal.states, MixtureProposal)
            states = proposal.states.mean_and_scale({**condition, ACTIONS: actions})[0]
            return energy.parts.join(actions, states)
        assert isinstance(proposal, MixtureProposal | GaussianProposal)
        return proposal.mean_and_scale(condition)[0]

    def _sample_lowest(
        self, condition: dict[str, Tensor], sampler: UntilConverged, generator: torch.Generator | None
    ) -> Tensor:
        """x (B, n) from chains at the lowest noise level until they have converged."""
        lowest = self.config.denoising.sigma_min
        # the level's own noise is the unit of the chain, as of the corrector in `anneal`
        unit = condition["context"].new_full((), lowest)
        energy = AtLevel(self.window_energy, lowest)
        chain = walk(energy, self.proposal, condition, sampler, generator, unit)
        beside = annealed_gradients(self.config.chain_start)
        if not self.config.annealing.denoise:
            self._count([chain], beside)
            return chain.x
        self._count([chain], beside + 1)
        return chain.x - lowest**2 * energy_and_gradient(energy.bind(condition), chain.x)[1]

    def _count(self, chains: list[Chain], beside: int = 0) -> None:
        """Add a batch of windows, and gradients `beside` those of its chains, to what was spent."""
        if isinstance(self.sampler, UntilConverged):
            stopped = all(isinstance(chain, ConvergedChain) and chain.converged for chain in chains)
            gradients = beside + sum(chain.gradients for chain in chains)
            self.spent = self.spent.plus(len(chains[0].x), gradients, stopped)

    def _window_energy(self, x: Tensor, condition: dict[str, Tensor]) -> Tensor:
        if self.config.has_levels:
            level = x.new_full((len(x),), self.config.denoising.sigma_min)
            return self.window_energy(x, {**condition, LEVEL: level})
        return self.window_energy(x, condition)
