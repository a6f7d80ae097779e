"""`CEMPlanner`: the cross-entropy method over action sequences in a learned dynamics model (as in PETS)."""

import dataclasses
import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from ebm_traj.errors import InputError
from ebm_traj.planning.descent import DescentConfig, descend
from ebm_traj.planning.energies import FutureEnergy, named, total, unknown_last
from ebm_traj.planning.following import follow
from ebm_traj.planning.plan import Plan, late
from ebm_traj.trajectory.model import TrajectoryModel


@dataclasses.dataclass(frozen=True)
class CEMConfig:
    """Settings of the cross-entropy method (Chua et al. 2018, 1805.12114, section 5)."""

    futures: int = 64
    """Action sequences in a round."""
    horizon: int = 16
    """Steps of a sequence."""
    rounds: int = 4
    """Rounds, each fitted to the elites of the last."""
    elites: int = 8
    """Sequences that the next round is fitted to."""
    particles: int = 0
    """Futures drawn for each sequence, whose wishes are averaged; 0 for the model's mean prediction, in which
    chance does not hide what actions do (models that have one; others draw one future)."""
    noise: float = 0.5
    """Standard deviation of the first round, in half-widths of the action box."""
    smallest_noise: float = 0.05
    """Never less."""
    momentum: float = 0.1
    """Share of the last round's mean and spread that stays."""
    prior_share: float = 0.25
    """Share of the first round's sequences that a joint model draws itself: what its data would do here."""
    average: bool = False
    """Act on the mean of the last elites in place of the best sequence: it is smoother, and holds what is
    reached."""
    energy_weight: float = 0.0
    """Of that joint model's energy of states and actions beside the wishes, per nat of a window: plans that
    leave its data, where the dynamics err, cost (Du, Lin & Mordatch 2019, 1909.06878)."""
    descent: DescentConfig = dataclasses.field(default_factory=DescentConfig)
    """Gradient steps from what the last round found, on the wishes and that energy."""

    def __post_init__(self) -> None:
        if self.particles < 0:
            raise InputError(f"CEM particles: {self.particles}; accepted are 0 and more")
        for name in ("futures", "horizon", "rounds", "elites"):
            if getattr(self, name) < 1:
                raise InputError(f"CEM {name}: {getattr(self, name)}; accepted are 1 and more")
        if self.elites > self.futures:
            raise InputError(f"CEM elites: {self.elites}; accepted are at most the {self.futures} futures")
        if not (0 < self.noise < math.inf and 0 <= self.smallest_noise < math.inf):
            raise InputError(
                f"CEM noise {self.noise}, smallest noise {self.smallest_noise}; accepted are above 0, "
                "for the smallest 0 as well"
            )
        if not (0 <= self.momentum < 1 and 0 <= self.prior_share <= 1):
            raise InputError(
                f"CEM momentum {self.momentum}, prior share {self.prior_share}; accepted are 0 to below 1, "
                "and 0 to 1"
            )
        if not (self.energy_weight >= 0 and math.isfinite(self.energy_weight)):
            raise InputError(f"CEM energy weight: {self.energy_weight}; it must be 0 or more")


class CEMPlanner:
    """Plans with any model that predicts states under given actions; warm start by shifting the last mean."""

    def __init__(
        self,
        model: TrajectoryModel,
        config: CEMConfig | None = None,
        energies: Mapping[str, FutureEnergy] | FutureEnergy | None = None,
        prior: TrajectoryModel | None = None,
    ) -> None:
        """`prior`: a joint model that draws `prior_share` of the first sequences; else the model, if joint.

        Raises InputError without wishes, if the model is not told actions, or if the prior does not fit it.
        """
        self.energies = named(energies)
        if not self.energies:
            raise InputError("CEM: needs energies to plan by, such as planning.energies.goal(model.spec)")
        if model.conditioning == "states":
            raise InputError("CEM: the model predicts without actions; accepted are actions and joint")
        if not model.follows_actions:
            raise InputError(
                f"CEM: a joint {model.kind} model draws its own actions and follows none; accepted are "
                "action-conditional models, and joint energy models on a mixture of Gaussians"
            )
        self.model = model
        self.config = config or CEMConfig()
        if self.config.descent.steps and not model.has_mean:
            raise InputError(
                f"CEM descent: {self.config.descent.steps} steps; a {model.kind} model of conditioning "
                f"'{model.conditioning}' has no mean in closed form to take the slope of; accepted is 0"
            )
        self.prior = prior or (model if model.conditioning == "joint" else None)
        if prior is not None:
            found = prior.spec.difference(model.spec)
            if prior.conditioning != "joint":
                found = f"its conditioning is '{prior.conditioning}'"
            if found:
                raise InputError(f"CEM prior: {found}; accepted is a joint model of the same state")
        if not (self.prior and self.prior.has_energy):
            descent = self.config.descent
            if self.config.energy_weight or (descent.steps and descent.energy_weight):
                raise InputError(
                    "CEM energy weight: needs a joint model with an energy, as model or prior; without one "
                    "accepted is 0, for a descent too"
                )
        self.horizon = self.config.horizon
        weighs = self.config.energy_weight or (
            self.config.descent.steps and self.config.descent.energy_weight
        )
        if weighs and self.prior is not None and self.horizon < self.prior.window_frames:
            raise InputError(
                f"CEM energy weight: a horizon of {self.horizon} steps; the energy is of windows of "
                f"{self.prior.window_frames}"
            )
        self.context_frames = max(m.context_frames for m in (model, self.prior) if m is not None)
        self._mean: Tensor | None = None

    def reset(self) -> None:
        self._mean = None

    @torch.no_grad()
    def plan(
        self,
        context: Tensor,
        past_actions: Tensor,
        generator: torch.Generator,
        *,
        ahead: int = 0,
        deadline: float | None = None,
    ) -> Plan:
        """See `Planner.plan`; candidates are those of the last round."""
        config, model, batch = self.config, self.model, len(context)
        mean = self._mean
        if mean is None or len(mean) != batch:
            last = model.scale_actions(past_actions[:, -1:])
            mean = last.expand(-1, config.horizon, -1)
        else:
            tail = mean[:, -1:].expand(-1, ahead, -1)
            mean = torch.cat([mean[:, ahead:], tail], 1)[:, : config.horizon]
        spread = torch.full_like(mean, config.noise)
        prior, own = self.prior, int(config.prior_share * config.futures)
        rounds, settled = 0, True
        longest = 0.0
        for rounds in range(1, config.rounds + 1):
            began = time.perf_counter()
            noise = torch.empty(
                batch, config.futures, *mean.shape[1:], dtype=mean.dtype, device=mean.device
            ).normal_(generator=generator)
            scaled = (mean[:, None] + spread[:, None] * noise).clamp(-1, 1)
            if rounds == 1 and own and prior is not None:
                seen = context[:, -prior.context_frames :]
                _, drawn = prior.sample_with_actions(
                    seen, config.horizon, own, past_actions=past_actions, generator=generator
                )
                scaled[:, :own] = model.scale_actions(drawn)
            actions = model.unscale_actions(scaled)
            states, wish = self._judge(context, past_actions, actions, generator)
            best = wish.topk(config.elites, largest=False).indices
            elites = scaled.gather(1, best[..., None, None].expand(-1, -1, *scaled.shape[2:]))
            keep = config.momentum if rounds > 1 else 0.0
            mean = keep * mean + (1 - keep) * elites.mean(1)
            wide = elites.std(1) if config.elites > 1 else torch.zeros_like(spread)
            spread = (keep * spread + (1 - keep) * wide).clamp_min(config.smallest_noise)
            longest = max(longest, time.perf_counter() - began)
            if late(deadline, longest):  # the next one would end after it
                settled = rounds == config.rounds
                break
        chosen = wish.argmin(1)
        descends = config.descent.steps > 0 and not late(deadline)
        if descends:
            best = scaled[torch.arange(batch, device=scaled.device), chosen]
            mean = self._descend(context, past_actions, mean if config.average else best, deadline)
        self._mean = mean
        if config.average or descends:
            middle = model.unscale_actions(mean)[:, None]
            future, value = self._judge(context, past_actions, middle, generator)
            states, actions = torch.cat([future, states], 1), torch.cat([middle, actions], 1)
            wish, chosen = torch.cat([value, wish], 1), torch.zeros_like(chosen)
        return Plan(states, actions, wish, chosen, rounds, settled)

    def _descend(
        self, context: Tensor, past_actions: Tensor, start: Tensor, deadline: float | None
    ) -> Tensor:
        """The scaled actions (B, H, A) that a descent from `start` ends at."""
        weight = self.config.descent.energy_weight
        seen = context[:, -self.model.context_frames :]

        def judge(scaled: Tensor) -> Tensor:
            actions = self.model.unscale_actions(scaled)[:, None]
            future = self.model.predict(seen, actions, past_actions=past_actions)
            return self._value(context, past_actions, future, actions, weight)[:, 0]

        return descend(start, judge, self.config.descent, deadline)

    def _judge(
        self, context: Tensor, past_actions: Tensor, actions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A future (B, M, H, D) of each sequence of actions (B, M, H, A), and what it is chosen by (B, M)."""
        config, model = self.config, self.model
        seen = context[:, -model.context_frames :]
        futures = follow(model, seen, past_actions, actions, config.particles, generator)
        value = self._value(context, past_actions, futures, actions, config.energy_weight)
        return futures[:, :: max(1, config.particles)], value

    def _value(
        self, context: Tensor, past_actions: Tensor, futures: Tensor, actions: Tensor, weight: float
    ) -> Tensor:
        """The wishes and `weight` times the prior's energy (B, M) of plans, as `_energy` takes them."""
        wish = total(self.energies, futures.flatten(0, 1)).view(*actions.shape[:2], -1).mean(2)
        if not weight:
            return wish
        return unknown_last(wish + weight * self._energy(context, past_actions, futures, actions))

    def _energy(self, context: Tensor, past_actions: Tensor, futures: Tensor, actions: Tensor) -> Tensor:
        """The prior's energy (B, M) of plans with futures (B, M P, H, D), actions (B, M, H, A)."""
        assert self.prior is not None
        particles = futures.shape[1] // actions.shape[1]
        found = self.prior.path_energy(
            context[:, -self.prior.context_frames :],
            futures,
            actions.repeat_interleave(particles, 1),
            past_actions,
        )
        return found.view(*actions.shape[:2], particles).mean(2)
