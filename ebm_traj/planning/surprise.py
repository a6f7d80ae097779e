"""How surprising one observed step is to a model: scores of (context, next frame) given the action done.

Every score gives a row of numbers for each step, of the whole state first and then of its parts, which
`Monitor` puts on one scale and accumulates. A fault often shows in few dimensions, and in a sum over all of
them it drowns.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ebm_traj.core.proposal import Mixture, MixtureProposal, gaussian_log_prob, repeat
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.trajectory.codec import WindowCodec
from ebm_traj.trajectory.ebm import TrajectoryEBM
from ebm_traj.trajectory.fc import FCModel
from ebm_traj.trajectory.gaussian import GaussianModel
from ebm_traj.trajectory.joint import ACTIONS, JointProposal, StagedEnergy
from ebm_traj.trajectory.mixture import MixtureModel
from ebm_traj.trajectory.model import TrajectoryModel
from ebm_traj.trajectory.walks import walk

WHOLE = "all"
DENSITY = "-log q"
Families = tuple[tuple[str, ...], ...]
DRAWS = 16  # of the model's own, that an observation is held against; with 32 no more was detected
SMALLEST = 1e-12  # tail probability; less counts as this
LOG_HALF_SQUARE = 0.9189385332046727  # log(2 pi) / 2


class Step(NamedTuple):
    """What a model makes of B observed steps."""

    x: Tensor
    """(B, P) coordinates of the next frame's predicted dimensions."""
    condition: dict[str, Tensor]
    """Context, past actions and the action done, `ACTIONS`, if the model knows of actions."""


class Score(Protocol):
    """Numbers that are large where a model did not expect what was observed."""

    names: tuple[str, ...]
    """Of the whole and of the parts."""
    families: Families
    """Names that say the same of different dimensions. Each family has one voice in a monitor's level: else
    the many joints of a hand would drown the one object in it."""

    def __call__(
        self, context: Tensor, next_frame: Tensor, action: Tensor | None, past_actions: Tensor | None
    ) -> Tensor:
        """Scores (B, len(names)) of next frames (B, D) after contexts (B, C, D) and actions (B, A)."""
        ...


def read_step(
    model: TrajectoryModel,
    context: Tensor,
    next_frame: Tensor,
    action: Tensor | None,
    past_actions: Tensor | None,
) -> Step:
    """The step in the model's coordinates; a joint model is told the action, as if it had sampled it."""
    if model.window_frames != 1:
        raise InputError(f"monitor: a model of windows of {model.window_frames} frames; accepted is 1")
    if model.conditioning != "states" and action is None:
        raise InputError(
            f"monitor: conditioning '{model.conditioning}' and no action; it needs what was done"
        )
    actions = None if action is None else action[:, None]
    condition = model.condition(context, actions, past_actions)
    if model.conditioning == "joint":
        assert action is not None
        condition[ACTIONS] = model.scale_actions(action)
    return Step(model.codec.encode(context, next_frame[:, None]), condition)


def parts_of(codec: WindowCodec) -> dict[str, list[int]]:
    """Parts of what is predicted, as places in coordinates: the whole, each kind, each by itself, in this
    order. A dimension that is named like one of the others is called "dimension NAME"."""
    kinds: dict[str, list[int]] = {}
    for place, (_, kind) in enumerate(codec.coordinate_names):
        kinds.setdefault(kind, []).append(place)
    found = {WHOLE: list(range(codec.predicted_size))}
    if len(kinds) > 1:
        found |= {kind: places for kind, places in kinds.items() if len(places) > 1}
    return found | {name: [place] for place, name in enumerate(_singles(codec))}


def _singles(codec: WindowCodec) -> list[str]:
    """What each coordinate is called among the parts."""
    taken = {WHOLE, DENSITY, *(kind for _, kind in codec.coordinate_names)}
    return [f"dimension {name}" if name in taken else name for name, _ in codec.coordinate_names]


def families_of(codec: WindowCodec, names: Sequence[str]) -> Families:
    """The families of parts by name: the dimensions of a kind are one, all else is one each."""
    kinds = dict(zip(_singles(codec), (kind for _, kind in codec.coordinate_names), strict=True))
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(f"each {kinds[name]}" if name in kinds else name, []).append(name)
    return tuple(map(tuple, families.values()))


class EnergyScore:
    """Energies, each against the energies of the model's own draws under the same condition.

    Whole: (E(s | c, a) - mean_m E(s_m | c, a)) / std_m E(s_m | c, a) of M draws s_m. Energies are known up to
    a constant of each context, and that constant, as well as how sure the model is there, falls out. Of a
    joint model the energy of the states under the action that was done.

    Parts: the same of -log q of the part alone, which a mixture of Gaussians gives in closed form, for each
    kind of dimension; and for each dimension z^2 - 1, z the normal score of its cumulative probability under
    q. q is the mixture that the model is, or that its energy stands on; without one the whole is all. And
    -log q of the whole as it is, `DENSITY`: where draws are far apart, as of an object that falls, nothing
    observed is far from them, yet such contexts are rare themselves.

    Raises InputError for a model that has neither an energy nor a density of the next state.
    """

    def __init__(
        self, model: TrajectoryModel, *, draws: int = DRAWS, parts: bool = True, seed: int = 0
    ) -> None:
        if draws < 2:
            raise InputError(f"draws: {draws}; accepted are 2 and more")
        self.model = model
        self.draws = draws
        self.generator = seeded_generator(model.device, "monitor", seed)
        self.has_energy = isinstance(model, TrajectoryEBM)
        has_mixture = mixture_known(model)
        if not (self.has_energy or has_mixture):
            raise InputError(
                f"monitor: a model of kind '{model.kind}' has no density of the next state; "
                "use its prediction error"
            )
        if self.has_energy and model.conditioning == "joint" and not _is_staged(model):
            raise InputError(
                "monitor: the energy is one of state and action together, and cannot be asked about the "
                "state under an action; accepted are models of conditioning actions or states, and joint "
                "ones with a mixture proposal"
            )
        self._parts = parts_of(model.codec) if has_mixture and parts else {WHOLE: []}
        self.names = (*self._parts, DENSITY) if has_mixture and parts else (WHOLE,)
        self.families = families_of(model.codec, self.names)
        self._groups = [p for name, p in self._parts.items() if name != WHOLE and len(p) > 1]
        self._singles = sum(name != WHOLE and len(p) == 1 for name, p in self._parts.items())

    @torch.no_grad()
    def __call__(
        self, context: Tensor, next_frame: Tensor, action: Tensor | None, past_actions: Tensor | None
    ) -> Tensor:
        step = read_step(self.model, context, next_frame, action, past_actions)
        mixture = state_mixture(self.model, step.condition) if mixture_known(self.model) else None
        groups = self._groups
        if mixture is None:
            return self._whole_energy(step)[:, None]
        own = draw(mixture, self.draws, self.generator)  # (B, M, P)
        if self.has_energy:
            whole = self._whole_energy(step)[:, None]
        else:
            groups = [list(range(step.x.shape[1])), *groups]
            whole = step.x[:, :0]
        found = [whole]
        if groups:
            observed = negative_log_density(mixture, step.x[:, None], groups)[:, 0]
            found.append(against(observed, negative_log_density(mixture, own, groups)))
        if self._singles:
            found.append(normal_scores(mixture, step.x).square() - 1)
        if DENSITY in self.names:
            found.append(whole_density(mixture, step.x))
        return torch.cat(found, dim=1)

    def _whole_energy(self, step: Step) -> Tensor:
        """(B,) the energy of what was observed against those of the model's draws."""
        model, many = self.model, dict(repeat(step.condition, self.draws))
        assert isinstance(model, TrajectoryEBM)
        if isinstance(model.window_energy, StagedEnergy):
            assert isinstance(model.proposal, JointProposal)
            energy = model.window_energy.states
            sampler = model.sampler
            chain = walk(energy, model.proposal.states, many, sampler, self.generator)  # type: ignore[arg-type]
            observed, own = energy(step.x, step.condition), energy(chain.x, many)
        else:
            draws = model._sample_window(many, self.generator)
            observed = model._window_energy(step.x, step.condition)
            own = model._window_energy(draws, many)
        return against(observed[:, None], own.view(len(step.x), self.draws, 1))[:, 0]


class LikelihoodScore:
    """-log q(s | c, a) of the whole next state, as it is: not held against the model's own draws."""

    names: tuple[str, ...] = (WHOLE,)
    families: Families = ((WHOLE,),)

    def __init__(self, model: TrajectoryModel) -> None:
        if not mixture_known(model):
            raise InputError(f"monitor: a model of kind '{model.kind}' has no mixture of the next state")
        self.model = model

    @torch.no_grad()
    def __call__(
        self, context: Tensor, next_frame: Tensor, action: Tensor | None, past_actions: Tensor | None
    ) -> Tensor:
        step = read_step(self.model, context, next_frame, action, past_actions)
        mixture = state_mixture(self.model, step.condition)
        return whole_density(mixture, step.x)


class ErrorScore:
    """Errors of the mean prediction, root mean square over the whole and over each part.

    In each dimension in units of `scale` (P,), the root mean square error on fault-free steps, set by `fit`.
    """

    def __init__(
        self, model: TrajectoryModel, *, parts: bool = True, draws: int = DRAWS, seed: int = 0
    ) -> None:
        self.model = model
        self.draws = draws
        self.generator = seeded_generator(model.device, "monitor", seed)
        everything = parts_of(model.codec)
        self._parts = everything if parts else {WHOLE: everything[WHOLE]}
        self.names = tuple(self._parts)
        self.families = families_of(model.codec, self.names)
        self.scale = torch.ones(model.codec.predicted_size, device=model.device)

    @torch.no_grad()
    def errors(
        self, context: Tensor, next_frame: Tensor, action: Tensor | None, past_actions: Tensor | None
    ) -> Tensor:
        """Observed less predicted coordinates (B, P)."""
        model = self.model
        step = read_step(model, context, next_frame, action, past_actions)
        if mixture_known(model):
            mixture = state_mixture(model, step.condition)
            return step.x - (mixture.log_weights.exp()[..., None] * mixture.means).sum(1)
        if model.conditioning == "joint":
            raise InputError(
                f"monitor: a joint model of kind '{model.kind}' does not predict under an action; accepted "
                "are models of conditioning actions or states"
            )
        many = 1 if isinstance(model, FCModel) else self.draws
        drawn = model._sample_window(dict(repeat(step.condition, many)), self.generator)
        return step.x - drawn.view(len(step.x), many, -1).mean(1)

    def fit(self, errors: Tensor) -> None:
        """Set the scale from errors (n, P) of fault-free steps."""
        self.scale = errors.square().mean(0).sqrt().clamp_min(1e-6)

    def __call__(
        self, context: Tensor, next_frame: Tensor, action: Tensor | None, past_actions: Tensor | None
    ) -> Tensor:
        squares = (self.errors(context, next_frame, action, past_actions) / self.scale).square()
        return torch.stack([squares[:, places].mean(1).sqrt() for places in self._parts.values()], dim=1)


class VarianceScore:
    """Logarithm of the ensemble's variance, mean over dimensions: members' own and between members.

    It looks at the context alone: it says that a prediction is unsure, not that it was wrong.
    """

    names: tuple[str, ...] = (WHOLE,)
    families: Families = ((WHOLE,),)

    def __init__(self, model: TrajectoryModel) -> None:
        if not isinstance(model, GaussianModel):
            raise InputError(f"monitor: a model of kind '{model.kind}' is no ensemble; accepted is gaussian")
        self.model = model

    @torch.no_grad()
    def __call__(
        self, context: Tensor, next_frame: Tensor, action: Tensor | None, past_actions: Tensor | None
    ) -> Tensor:
        step = read_step(self.model, context, next_frame, action, past_actions)
        mixture = state_mixture(self.model, step.condition)
        variance = (2 * mixture.log_scales).exp().mean(1) + mixture.means.var(1, correction=0)
        return variance.mean(1, keepdim=True).log()


# --- mixtures of the next state ---------------------------------------------------------------------------


def mixture_known(model: TrajectoryModel) -> bool:
    """Whether the model has a mixture of Gaussians over the next state under a context and an action."""
    if isinstance(model, GaussianModel):
        return model.conditioning != "joint"
    if isinstance(model, TrajectoryEBM) and model.conditioning == "joint":
        return _is_staged(model) and isinstance(_staged_proposal(model), MixtureProposal)
    proposal = getattr(model, "proposal", None)
    return isinstance(model, TrajectoryEBM | MixtureModel) and isinstance(proposal, MixtureProposal)


def state_mixture(model: TrajectoryModel, condition: dict[str, Tensor]) -> Mixture:
    """The mixture over the next state's coordinates (B, K, P), under a condition of `read_step`."""
    if isinstance(model, GaussianModel):
        members = [model.ensemble.predict(m, condition) for m in range(model.config.members)]
        means, log_scales = (torch.stack(values, dim=1) for values in zip(*members, strict=True))
        even = means.new_full(means.shape[:2], 1 / len(members)).log()
        return Mixture(even, means, log_scales)
    if isinstance(model, TrajectoryEBM) and model.conditioning == "joint":
        return _staged_proposal(model).mixture(condition)
    assert isinstance(model, TrajectoryEBM | MixtureModel) and isinstance(model.proposal, MixtureProposal)
    if model.conditioning != "joint":
        return model.proposal.mixture(condition)
    # one mixture over state and action: each component is as likely as it makes the action that was done
    action = condition[ACTIONS]
    both = model.proposal.mixture({name: v for name, v in condition.items() if name != ACTIONS})
    size = model.codec.predicted_size
    likely = gaussian_log_prob(action[:, None], both.means[..., size:], both.log_scales[..., size:])
    weights = (both.log_weights + likely).log_softmax(-1)
    return Mixture(weights, both.means[..., :size], both.log_scales[..., :size])


def _is_staged(model: TrajectoryModel) -> bool:
    return isinstance(getattr(model, "window_energy", None), StagedEnergy)


def _staged_proposal(model: TrajectoryEBM) -> MixtureProposal:
    assert isinstance(model.proposal, JointProposal)
    return model.proposal.states  # type: ignore[return-value]


def draw(mixture: Mixture, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` draws (B, M, P) from each row's mixture; NaN where its numbers are none."""
    weights = mixture.log_weights.exp()
    known = weights.isfinite().all(1, keepdim=True)
    picked = torch.multinomial(torch.where(known, weights, 1.0), count, replacement=True, generator=generator)
    index = picked[..., None].expand(-1, -1, mixture.means.shape[-1])
    means, scales = mixture.means.gather(1, index), mixture.log_scales.gather(1, index).exp()
    return means + scales * torch.empty_like(means).normal_(generator=generator)


def negative_log_density(mixture: Mixture, x: Tensor, groups: Sequence[list[int]]) -> Tensor:
    """-log q (B, M, G) of each group of dimensions alone, of points x (B, M, P)."""
    member = x.new_zeros(x.shape[-1], len(groups))
    for g, places in enumerate(groups):
        member[places, g] = 1
    means, log_scales = mixture.means[:, None], mixture.log_scales[:, None]
    white = (x[:, :, None] - means) * (-log_scales).exp()
    log_density = -(0.5 * white.square() + log_scales + LOG_HALF_SQUARE) @ member  # (B, M, K, G)
    return -(mixture.log_weights[:, None, :, None] + log_density).logsumexp(2)


def whole_density(mixture: Mixture, x: Tensor) -> Tensor:
    """-log q (B, 1) of points x (B, P) in all dimensions."""
    return negative_log_density(mixture, x[:, None], [list(range(x.shape[1]))])[:, 0]


def normal_scores(mixture: Mixture, x: Tensor) -> Tensor:
    """|z| (B, P) of points x (B, P), each dimension alone: where a standard normal has as much beyond it.

    From the smaller tail, in double precision.
    """
    white = ((x[:, None] - mixture.means) * (-mixture.log_scales).exp()).double()
    weights = mixture.log_weights.double().exp()[..., None]
    below = (weights * torch.special.ndtr(white)).sum(1)
    above = (weights * torch.special.ndtr(-white)).sum(1)
    tail = torch.minimum(below, above).clamp(SMALLEST, 0.5)
    return -torch.special.ndtri(tail).to(x.dtype)


def against(observed: Tensor, own: Tensor) -> Tensor:
    """Standard deviations (B, G) by which observed values (B, G) exceed the mean of the model's (B, M, G)."""
    spread = own.std(1)
    floor = 1e-3 + 1e-6 * own.abs().mean(1)  # a model that is sure to the last digit
    return (observed - own.mean(1)) / torch.maximum(spread, floor)
