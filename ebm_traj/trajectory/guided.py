"""Energies that a user writes (goal, obstacle), summed with a model's at sampling time."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ebm_traj.core.annealing import AnnealConfig, EnergyAt
from ebm_traj.core.convergence import UntilConverged
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy, EnergyOfX
from ebm_traj.core.gradients import BoundEnergy, BoundWithFunction
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.objectives import Objective
from ebm_traj.core.proposal import Proposal, Start
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import TrajectoryEBM
from ebm_traj.trajectory.ensemble import ComposedEBM
from ebm_traj.trajectory.joint import ACTIONS, JointProposal, StagedEnergy
from ebm_traj.trajectory.model import MAX_ROWS
from ebm_traj.trajectory.walks import walk

FRAMES = "raw_context"
"""Name of the raw context (B, C, D) in the condition of a guided model."""
LARGEST = 1e30  # energies beyond, and what is no number, count as this

EnergyOfFrames = Callable[[Tensor], Tensor]
"""A user's energy: raw frames (B, W, D) of a window to (B,), in torch; twice differentiable if stiff."""


class GuidedEnergy(Energy):
    """E(x | c) + sum_k w_k U_k(frames of x), for energies U_k that a user writes on raw frames.

    Without noise levels, and as `energy` of a window, that is all there is to it. At a noise level sigma, x
    is data and noise, and what U adds is -log E[exp(-U(x0)) | x], with x0 the data that x may come from.

    U at x itself is wrong there, and the flow's steps (about sigma^2 dU/dx) blow up where U curves by more
    than 1/sigma^2. U at the mean m = E[x0 | x] (Tweedie's formula; Chung et al. 2023, 2209.14687) pulls too
    hard while x0 is still uncertain, and blows up as well where U is stiff. So its pull is divided by
    1 + v kappa: v is the variance of x0, sigma^2 dm/dx (Boys et al. 2023, 2310.06721), and kappa >= 0 the
    curvature of U, each along U's own slope. This is exact for a quadratic U of one direction (a coordinate's
    goal) and for a linear one on a Gaussian density; it stays stable for a stiff goal, as the pseudo-inverse
    guidance of Song et al. 2023; and at the lowest level it becomes U at the mean. Elsewhere it is an
    approximation, which the corrector of `AnnealConfig` mends as far as it mixes. It costs second derivatives
    of the energy: three to four plain gradients.
    """

    def __init__(
        self,
        model: TrajectoryEBM,
        energies: Mapping[str, EnergyOfFrames],
        weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.base = model.window_energy
        self._model = [model]  # in a list: its modules are registered once, by the guided model
        self.energies = dict(energies)
        self.weights = dict(weights)

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.base(x, condition) + self.added(x, condition)

    def bind(self, condition: Condition) -> EnergyOfX:
        base = self.base.bind(condition)
        if isinstance(base, BoundEnergy):
            return BoundWithFunction(base, self.added, condition)
        return lambda x: base(x) + self.added(x, condition)

    def bind_levels(self, condition: Condition) -> EnergyAt:
        """The guided energy at each noise level; its gradient is that of the class's formula."""
        base = cast(Any, self.base).bind_levels(condition)

        def at(level: Tensor) -> EnergyOfX:
            energy = base(level)
            return lambda x: self._at_level(x, energy, level, condition)

        return at

    def added(self, x: Tensor, condition: Condition) -> Tensor:
        """sum_k w_k U_k (B,) of coordinates x (B, n)."""
        return torch.stack([energy(x) for energy in self._parts(condition)]).sum(0)

    def whole(self, x: Tensor, condition: Condition) -> Tensor:
        """Coordinates of the whole window, of which x may be a part."""
        return x

    def _parts(self, condition: Condition) -> list[EnergyOfX]:
        """Each weighted energy as a function of coordinates."""

        def part(name: str, function: EnergyOfFrames) -> EnergyOfX:
            def energy(x: Tensor) -> Tensor:
                values = function(self._model[0].decode(condition[FRAMES], self.whole(x, condition))[0])
                if not isinstance(values, Tensor) or values.shape != x.shape[:1]:
                    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                    raise InputError(f"energy '{name}': gave {shape}; accepted is ({len(x)},)")
                return self.weights[name] * values

            return energy

        return [part(name, function) for name, function in self.energies.items()]

    def _at_level(self, x: Tensor, energy: EnergyOfX, level: Tensor, condition: Condition) -> Tensor:
        variance = level.square()
        with torch.enable_grad():
            here = x.detach().requires_grad_(True)
            value = energy(here)
            (slope,) = torch.autograd.grad(value.sum(), here, create_graph=True)
            mean = here - variance[:, None] * slope
            pulls, total = [], value.detach()
            for part in self._parts(condition):
                added, pull, curvature = _slope_and_curvature(part, mean.detach())
                pulls.append((added, pull, curvature))
            change = slope.detach()
            for added, pull, curvature in pulls:
                (back,) = torch.autograd.grad((mean * pull).sum(), here, retain_graph=True)  # (dm/dx)^T dU/dm
                along = _ratio((pull * back).sum(-1), pull.square().sum(-1)).clamp_min(0)
                share = 1 / (1 + variance * along * curvature)
                total = total + share * added
                change = change + share[:, None] * back
        if not x.requires_grad:
            return total
        # a value with a known gradient, so that samplers need not differentiate all this again
        line = (x * change).sum(-1)
        return total + line - line.detach()


class GuidedStates(GuidedEnergy):
    """The same for the states of a joint model under actions that stand still: E(states | actions, c) + U."""

    def __init__(self, guided: GuidedEnergy) -> None:
        super().__init__(guided._model[0], guided.energies, guided.weights)
        staged = cast(StagedEnergy, self.base)
        self.base, self.parts = staged.states, staged.parts

    def whole(self, x: Tensor, condition: Condition) -> Tensor:
        return self.parts.join(condition[ACTIONS], x)


class Begun(Proposal):
    """Starts that are known already, of `proposal`."""

    def __init__(self, begin: Start, proposal: Proposal) -> None:
        super().__init__()
        self.begin, self.proposal = begin, proposal

    def start(self, condition: Condition, generator: torch.Generator | None = None) -> Start:
        return self.begin

    def scale(self, condition: Condition) -> Tensor | None:
        return self.proposal.scale(condition)


class GuidedProposal(Proposal):
    """Of a few starts for each row one is taken, with probability in proportion to exp(-U).

    A local chain does not carry samples from mode to mode: their shares must be right at the start. This is
    sampling-importance-resampling, right for many candidates.
    """

    def __init__(self, proposal: Proposal, energy: GuidedEnergy, candidates: int) -> None:
        super().__init__()
        self.proposal = proposal
        self._energy = [energy]  # in a list: it is registered once, by the guided model
        self.candidates = candidates

    @property
    def clipped(self) -> bool:
        return self.proposal.clipped

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        return self.start(condition, generator).x

    @torch.no_grad()
    def start(self, condition: Condition, generator: torch.Generator | None = None) -> Start:
        if self.candidates == 1:
            return self.proposal.start(condition, generator)
        rows = max(1, MAX_ROWS // self.candidates)  # at once; bounds memory
        parts = [
            self._resampled({name: value[i : i + rows] for name, value in condition.items()}, generator)
            for i in range(0, len(next(iter(condition.values()))), rows)
        ]
        names = parts[0].component
        return Start(
            torch.cat([part.x for part in parts]),
            {name: torch.cat([part.component[name] for part in parts]) for name in names},
        )

    def _resampled(self, condition: Condition, generator: torch.Generator | None) -> Start:
        count = self.candidates
        many = {name: value.repeat_interleave(count, dim=0) for name, value in condition.items()}
        starts = self.proposal.start(many, generator)
        rows = picked_rows(self._energy[0].added(starts.x, many), count, generator)
        return Start(starts.x[rows], {name: value[rows] for name, value in starts.component.items()})

    def scale(self, condition: Condition) -> Tensor | None:
        return self.proposal.scale(condition)


def picked_rows(energies: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """(B,) of B x `count` rows, those of a present side by side: one each, in proportion to exp(-energy)."""
    energies = energies.nan_to_num(nan=LARGEST, posinf=LARGEST)
    shares = (-energies).unflatten(0, (-1, count)).softmax(-1)
    picked = torch.multinomial(shares, 1, generator=generator).squeeze(1)
    return picked + count * torch.arange(len(picked), device=picked.device)


class GuidedModel(ComposedEBM):
    """An energy model and energies of a user's own, summed inside the sampler; the same interface.

    `energies` map raw frames (B, W, D) of a window, given dimensions and all, to (B,): a goal, an obstacle, a
    wish for smoothness. They are added to E of each window as they are, so an energy of 1 makes a window e
    times less likely, and 1/2 |s - g|^2 / r^2 asks for s within about r of g. `GuidedEnergy` says how they
    are taken at noise levels.

    Joint models are sampled in their two stages: of `candidates` actions, each with a start of the states
    that follow, one pair is taken by the wish, which then acts in the chain of the states.
    """

    kind = "guided"

    def __init__(
        self,
        model: TrajectoryEBM,
        energies: Mapping[str, EnergyOfFrames],
        weights: Mapping[str, float] | None = None,
        candidates: int = 16,
    ) -> None:
        """`weights` are factors of the energies, by name; 1 for those not named. Sampler: the model's.

        Without noise levels each chain starts from one of so many `candidates`, see `GuidedProposal`.
        Raises InputError if the model has no energy to add to, or a weight no energy.
        """
        if not isinstance(model, TrajectoryEBM):
            raise InputError(f"guided model: a model of kind '{model.kind}'; accepted are ebm and ensemble")
        if candidates < 1:
            raise InputError(f"candidates: {candidates}; accepted are 1 and more")
        if not energies:
            raise InputError("guided model: no energies; accepted are one and more")
        weights = dict(weights or {})
        for name, weight in weights.items():
            if name not in energies:
                raise InputError(f"weight of '{name}': no such energy; there are {', '.join(energies)}")
            if not np.isfinite(weight):
                raise InputError(f"weight of '{name}': {weight}; accepted are finite numbers")
        self._take_after(model)
        self.model = model
        energy = GuidedEnergy(model, energies, {name: weights.get(name, 1.0) for name in energies})
        self.window_energy = energy
        self.proposal = GuidedProposal(model.proposal, energy, candidates)
        self.candidates = candidates
        self.states = GuidedStates(energy) if isinstance(model.window_energy, StagedEnergy) else None
        self.inverse = model.inverse
        self.card = model.card
        self.train(model.training)

    def condition(
        self, context: Tensor, actions: Tensor | None = None, past_actions: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What the model is conditioned on, and the raw context, from which coordinates are decoded."""
        return {**self.model.condition(context, actions, past_actions), FRAMES: context}

    @property
    def follows_actions(self) -> bool:
        return self.model.follows_actions

    @property
    def gradients_per_window(self) -> float:
        """Those of the states' chain, and of as many chains of actions as there are candidates."""
        sampler = self.sampler
        if self.states is not None and isinstance(sampler, LangevinConfig):
            return sampler.gradients * (1 + self.candidates)
        return super().gradients_per_window

    def _sample_window(self, condition: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
        if self.states is None:
            return super()._sample_window(condition, generator)
        return self._in_stages(condition, None, generator)

    def _follow_window(
        self, condition: dict[str, Tensor], actions: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        if self.states is None:
            return super()._follow_window(condition, actions, generator)
        return self._in_stages(condition, actions, generator)

    def _in_stages(
        self, condition: dict[str, Tensor], actions: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """x (B, n) under given actions (B, W A), or under actions drawn from the model."""
        guided, proposal = self.states, self.model.proposal
        assert guided is not None
        assert isinstance(proposal, JointProposal)
        rows = max(1, MAX_ROWS // self.candidates)  # at once; bounds memory
        known = condition if actions is None else {**condition, ACTIONS: actions}
        parts = []
        for i in range(0, len(condition["context"]), rows):
            some = {name: value[i : i + rows] for name, value in known.items()}
            taken, begin = self._candidates(some, generator)
            some[ACTIONS] = taken
            chain = walk(guided, Begun(begin, proposal.states), some, self._chain, generator)
            self._count([chain])
            parts.append(guided.parts.join(taken, chain.x))
        return torch.cat(parts)

    @property
    def _chain(self) -> LangevinConfig | UntilConverged:
        sampler = self.sampler
        assert not isinstance(sampler, AnnealConfig)  # joint models in stages have no noise levels
        return sampler

    def _candidates(
        self, condition: dict[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, Start]:
        """Of each present's candidates one: its actions (B, W A) and where its states start."""
        guided, proposal, count = self.states, self.model.proposal, self.candidates
        assert guided is not None
        assert isinstance(proposal, JointProposal)
        many = {name: value.repeat_interleave(count, dim=0) for name, value in condition.items()}
        if ACTIONS not in many:
            energy = cast(StagedEnergy, self.model.window_energy).actions
            chain = walk(energy, proposal.actions, many, self._chain, generator)
            self._count([chain])
            many[ACTIONS] = chain.x.clamp_(-1, 1) if proposal.actions.clipped else chain.x
        start = proposal.states.start(many, generator)
        if count == 1:
            return many[ACTIONS], start
        rows = picked_rows(guided.added(start.x, many), count, generator)
        component = {name: value[rows] for name, value in start.component.items()}
        return many[ACTIONS][rows], Start(start.x[rows], component)

    def objective(self) -> Objective:
        raise InputError("guided model: the model in it is trained by itself")

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        raise InputError("guided model: its energies are functions and cannot be saved; save the model in it")


def _slope_and_curvature(energy: EnergyOfX, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (B,), dU/dm (B, n) and the curvature of U along its slope (B,), 0 where it bends down; detached."""
    point = at.detach().requires_grad_(True)
    value = energy(point)
    if not value.requires_grad:  # a constant
        return value.detach(), torch.zeros_like(at), torch.zeros_like(value)
    (slope,) = torch.autograd.grad(value.sum(), point, create_graph=True)
    direction = slope.detach()
    bend = torch.zeros_like(at)
    if slope.requires_grad:  # else U is linear
        (found,) = torch.autograd.grad((slope * direction).sum(), point, allow_unused=True)
        bend = bend if found is None else found
    curvature = _ratio((bend * direction).sum(-1), direction.square().sum(-1)).clamp_min(0)
    return value.detach(), direction, curvature


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below, 0 where below is."""
    return torch.where(below > 0, above / below.clamp_min(torch.finfo(below.dtype).tiny), 0.0)
