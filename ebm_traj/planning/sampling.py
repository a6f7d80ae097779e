"""`SamplingPlanner`: futures of a model as candidates, chosen and improved under a composed energy."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.errors import InputError
from ebm_traj.planning.energies import FutureEnergy, named, total, unknown_last
from ebm_traj.planning.following import follow
from ebm_traj.planning.plan import Plan, late
from ebm_traj.trajectory.model import TrajectoryModel

Method = Literal["shooting", "resampling", "langevin", "both"]
SMALLEST_STD = 1e-3  # of scaled actions, when elites agree
LANGEVIN_CLIP = 10.0  # of gradients per one-step change


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Settings of the planner."""

    futures: int = 64
    """M, candidates for each present."""
    horizon: int = 16
    """H, steps of a candidate."""
    method: Method = "resampling"
    """shooting: the model's futures, the best is chosen. resampling: futures that fare well are continued,
    the last plan is tried again under smooth noise, and rounds of improvement follow. langevin: shooting,
    then Langevin steps on model plus wishes over whole plans. both: resampling, then Langevin steps."""
    rounds: int = 2
    """resampling: rounds in all; each after the first perturbs the best candidates so far."""
    resample_every: int = 4
    """resampling: steps after which candidates that fare badly are replaced; 0 for never."""
    temperature: float = 0.3
    """resampling: a candidate survives as exp(-wish / temperature), in standard deviations of the candidates'
    wishes."""
    warm_share: float = 0.25
    """Share of the first candidates that go on with the last plan, shifted, under smooth noise."""
    elites: int = 8
    """Candidates that a later round starts from."""
    noise: float = 0.3
    """Standard deviation of that noise at first, in half-widths of the action box; halved every round."""
    noise_correlation: float = 0.8
    """From step to step."""
    checks: int = 1
    """Futures drawn for the actions of each of the best `elites` before one is chosen; 1 for those at hand.
    More guard against a plan that only one lucky future makes look good."""
    expected: bool = True
    """Perturbed plans are judged by the model's mean prediction, in which chance does not hide what actions
    do; else by one future each."""
    settle: float = 0.01
    """Rounds end when the best wish improves by less than this share."""
    langevin_steps: int = 10
    """Steps of Langevin over whole plans."""
    langevin_step_size: float = 0.02
    """In squared units of the one-step change."""
    wish_weight: float = 10.0
    """Langevin: weight of the wishes beside the model's energy."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"planner method '{self.method}'; accepted are {', '.join(get_args(Method))}")
        for name in ("futures", "horizon", "rounds", "elites", "checks"):
            if getattr(self, name) < 1:
                raise InputError(f"planner {name}: {getattr(self, name)}; accepted are 1 and more")
        for name in ("resample_every", "langevin_steps"):
            if getattr(self, name) < 0:
                found = getattr(self, name)
                raise InputError(f"planner {name.replace('_', ' ')}: {found}; accepted are 0 and more")
        for name in ("temperature", "noise", "wish_weight", "langevin_step_size"):
            if not 0 < (found := getattr(self, name)) < math.inf:
                raise InputError(f"planner {name.replace('_', ' ')}: {found}; accepted are numbers above 0")
        for name in ("warm_share", "noise_correlation"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"planner {name.replace('_', ' ')}: {getattr(self, name)}; 0 to below 1")


@dataclasses.dataclass
class Candidates:
    """(B, M, ...) states, actions and wishes."""

    states: Tensor
    actions: Tensor | None
    wish: Tensor

    def pick(self, index: Tensor) -> "Candidates":
        """Those of (B, m) indices."""
        rows = torch.arange(len(index), device=index.device)[:, None]
        actions = None if self.actions is None else self.actions[rows, index]
        return Candidates(self.states[rows, index], actions, self.wish[rows, index])

    def join(self, other: "Candidates") -> "Candidates":
        """Both, side by side."""
        actions = None
        if self.actions is not None and other.actions is not None:
            actions = torch.cat([self.actions, other.actions], 1)
        wish = torch.cat([self.wish, other.wish], 1)
        return Candidates(torch.cat([self.states, other.states], 1), actions, wish)


class SamplingPlanner:
    """Plans with any trajectory model.

    A joint one proposes actions itself, an action-conditional one is given smooth random ones, one of states
    acts through its inverse dynamics.

    Without wishes the future of lowest model energy is chosen (the literature's planner), with wishes the one
    that meets them best: futures are the model's own, so its energy has been paid already.
    """

    def __init__(
        self,
        model: TrajectoryModel,
        config: PlannerConfig | None = None,
        energies: Mapping[str, FutureEnergy] | FutureEnergy | None = None,
    ) -> None:
        """Raises InputError if the method needs what the model has not."""
        self.model = model
        self.config = config or PlannerConfig()
        self.energies = named(energies)
        if self.config.method in ("langevin", "both") and not model.has_energy:
            raise InputError(
                f"planner method '{self.config.method}': a model of kind '{model.kind}' has no energy"
            )
        if self.config.method in ("langevin", "both") and model.conditioning == "states":
            raise InputError("planner: Langevin over plans needs a joint or action-conditional model")
        self.horizon = self.config.horizon
        if self.config.method in ("langevin", "both") and self.horizon < model.window_frames:
            raise InputError(
                f"planner method '{self.config.method}': a horizon of {self.horizon} steps; the model's "
                f"energy is of windows of {model.window_frames}"
            )
        self.context_frames = model.context_frames
        self._last: Tensor | None = None

    def reset(self) -> None:
        self._last = None

    # --- planning ---------------------------------------------------------------------------------------

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
        """See `Planner.plan`."""
        config = self.config
        found = self._first(context, past_actions, generator, ahead, deadline)
        rounds, settled = 1, True
        if self._improves and found.actions is not None and self.model.follows_actions:
            best, longest = found.wish.min(1).values, 0.0
            for rounds in range(2, config.rounds + 1):
                if late(deadline, longest):  # the next one would end after it
                    rounds, settled = rounds - 1, False
                    break
                began = time.perf_counter()
                found = self._improve(found, context, past_actions, generator, rounds - 2)
                longest = max(longest, time.perf_counter() - began)
                now = found.wish.min(1).values
                gain, best = (best - now).mean(), now
                if gain < config.settle * best.abs().mean():
                    break
            else:
                settled = config.rounds == 1
        if config.method in ("langevin", "both") and not late(deadline):
            found = self._walk(found, context, past_actions, generator)
        energies = self._total(found, context, past_actions)
        doubts = self.energies and config.checks > 1 and not late(deadline)
        if doubts and found.actions is not None and self.model.follows_actions:
            energies = self._checked(found, energies, context, past_actions, generator)
        plan = Plan(found.states, found.actions, energies, energies.argmin(1), rounds, settled)
        self._last = plan.chosen_actions()
        return plan

    @property
    def _improves(self) -> bool:
        """Whether candidates are chosen among on the way: there is something to choose by."""
        return self.config.method in ("resampling", "both") and bool(self.energies)

    def _first(
        self,
        context: Tensor,
        past: Tensor,
        generator: torch.Generator,
        ahead: int,
        deadline: float | None,
    ) -> Candidates:
        """The first M candidates: the model's own, and the last plan shifted."""
        config, futures = self.config, self.config.futures
        warm = self._last if self._improves and self.model.follows_actions else None
        if warm is not None and len(warm) != len(context):
            warm = None
        count = 0 if warm is None else int(config.warm_share * futures)
        if self.model.conditioning == "actions":
            actions = self._smooth(past[:, -1:], futures - count, generator)
            found = self._follow(context, past, actions, generator)
        else:
            found = self._own(context, past, futures - count, generator, deadline)
        if warm is None or not count:
            return found
        horizon = found.states.shape[2]
        tail = warm[:, -1:].expand(-1, horizon, -1)
        shifted = torch.cat([warm[:, ahead:], tail], 1)[:, None, :horizon].expand(-1, count, -1, -1)
        again = self._perturb(shifted, config.noise / 2, generator)
        again[:, 0] = shifted[:, 0]
        return found.join(self._follow(context, past, again, generator))

    def _own(
        self,
        context: Tensor,
        past: Tensor,
        count: int,
        generator: torch.Generator,
        deadline: float | None,
    ) -> Candidates:
        """Futures of the model itself, in segments between which those that fare badly are replaced."""
        model, config, batch = self.model, self.config, len(context)
        joint = model.conditioning == "joint"
        every, width = config.resample_every if self._improves else 0, model.window_frames
        if every:
            segment = -(-every // width) * width  # whole windows
        else:
            segment = config.horizon if deadline is None else width
        rows, before = context.repeat_interleave(count, 0), past.repeat_interleave(count, 0)
        states = rows.new_empty(batch * count, 0, rows.shape[-1])
        actions = before.new_empty(batch * count, 0, before.shape[-1])
        longest = 0.0
        while states.shape[1] < config.horizon:
            began = time.perf_counter()
            steps = min(segment, config.horizon - states.shape[1])
            if joint:
                new, acts = model.sample_with_actions(
                    rows, steps, 1, past_actions=before, generator=generator
                )
                actions = torch.cat([actions, acts[:, 0]], 1)
                before = torch.cat([before, acts[:, 0]], 1)[:, -max(1, model.action_history) :]
            else:
                new = model.sample(rows, steps, 1, past_actions=before, generator=generator)
            states = torch.cat([states, new[:, 0]], 1)
            rows = torch.cat([rows, new[:, 0]], 1)[:, -model.context_frames :]
            longest = max(longest, time.perf_counter() - began)
            if late(deadline, longest):  # the next one would end after it
                break
            if every and states.shape[1] < config.horizon:
                wish = self._wish(states).view(batch, count)
                kept = systematic(survival(wish, config.temperature), generator)
                flat = (kept + count * torch.arange(batch, device=kept.device)[:, None]).flatten()
                states, actions, rows, before = (t[flat] for t in (states, actions, rows, before))
        split = states.unflatten(0, (batch, count))
        taken = actions.unflatten(0, (batch, count)) if joint else None
        return Candidates(split, taken, self._wish(states).view(batch, count))

    def _follow(
        self,
        context: Tensor,
        past: Tensor,
        actions: Tensor,
        generator: torch.Generator,
    ) -> Candidates:
        """Futures under actions (B, m, H, A)."""
        particles = 0 if self.config.expected else 1
        states = follow(self.model, context, past, actions, particles, generator)
        return Candidates(states, actions, self._wish(states.flatten(0, 1)).view(len(context), -1))

    def _improve(
        self,
        found: Candidates,
        context: Tensor,
        past: Tensor,
        generator: torch.Generator,
        past_rounds: int,
    ) -> Candidates:
        """Candidates around the best ones; the best of old and new remain."""
        assert found.actions is not None
        config = self.config
        elites = found.pick(found.wish.topk(min(config.elites, config.futures), largest=False).indices)
        parents = torch.multinomial(
            survival(elites.wish, config.temperature), config.futures, replacement=True, generator=generator
        )
        picked = elites.pick(parents).actions
        assert picked is not None
        actions = self._perturb(picked, config.noise * 0.5**past_rounds, generator)
        both = found.join(self._follow(context, past, actions, generator))
        return both.pick(both.wish.topk(config.futures, largest=False).indices)

    def _checked(
        self,
        found: Candidates,
        energies: Tensor,
        context: Tensor,
        past: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Energies where those of the best candidates are means over futures drawn anew."""
        assert found.actions is not None
        config = self.config
        best = energies.topk(min(config.elites, energies.shape[1]), largest=False).indices
        actions = found.pick(best).actions
        assert actions is not None
        drawn = follow(self.model, context, past, actions, config.checks, generator)
        mean = self._wish(drawn.flatten(0, 1)).view(len(context), -1, config.checks).mean(2)
        # all others fall behind the ones that were checked, whatever sign energies have
        after = (energies - energies.amin(1, keepdim=True)).nan_to_num(nan=0.0, posinf=torch.inf)
        behind = mean.amax(1, keepdim=True) + 1 + after
        return behind.scatter(1, best, mean)

    def _walk(
        self, found: Candidates, context: Tensor, past: Tensor, generator: torch.Generator
    ) -> Candidates:
        """Langevin over whole plans: sum_t E(window_t) + weight * wishes (1903.08689, section 4.3)."""
        model, config = self.model, self.config
        assert found.actions is not None
        batch, count, horizon, _ = found.states.shape
        spec_std = torch.as_tensor(model.spec.change_std, dtype=torch.float32, device=model.device)
        dims = torch.as_tensor(model.spec.moving, device=model.device)
        start = found.states.flatten(0, 1)
        acts = model.scale_actions(found.actions.flatten(0, 1))
        rows, before = context.repeat_interleave(count, 0), past.repeat_interleave(count, 0)
        states_size = horizon * len(dims)

        def unpack(x: Tensor) -> tuple[Tensor, Tensor]:
            states = start.clone()
            states[..., dims] = x[:, :states_size].view(len(x), horizon, -1)
            for quaternion in model.spec.quaternions:
                where = list(quaternion)
                states[..., where] = torch.nn.functional.normalize(states[..., where], dim=-1)
            return states, x[:, states_size:].view(len(x), horizon, -1)

        def energy(x: Tensor) -> Tensor:
            states, scaled = unpack(x)
            actions = scaled * model.action_half + model.action_centre
            path = model.path_energy(rows, states[:, None], actions[:, None], before)[:, 0] * horizon
            return path + config.wish_weight * self._wish(states) if self.energies else path

        x = torch.cat([start[..., dims].flatten(1), acts.flatten(1)], 1)
        scale = torch.cat([spec_std[dims].repeat(horizon), x.new_full((acts[0].numel(),), config.noise)])
        walk = LangevinConfig(steps=config.langevin_steps, step_size=config.langevin_step_size)
        # in units of the one-step change the clip is one number
        white = langevin(
            lambda z: energy(z * scale),
            x / scale,
            dataclasses.replace(walk, clip=LANGEVIN_CLIP),
            generator=generator,
        )
        states, scaled = unpack(white.x * scale)
        actions = model.unscale_actions(scaled)
        return Candidates(
            states.unflatten(0, (batch, count)),
            actions.unflatten(0, (batch, count)),
            self._wish(states).view(batch, count),
        )

    # --- energies ---------------------------------------------------------------------------------------

    def _wish(self, states: Tensor) -> Tensor:
        """Sum of the wishes (R,) of states (R, H, D)."""
        return total(self.energies, states)

    def _total(self, found: Candidates, context: Tensor, past: Tensor) -> Tensor:
        """(B, M) what is chosen by: the wishes, or without any the model's energy."""
        model = self.model
        if self.energies or not model.has_energy or found.states.shape[2] < model.window_frames:
            return found.wish
        return unknown_last(model.path_energy(context, found.states, found.actions, past))

    # --- actions ----------------------------------------------------------------------------------------

    def _smooth(self, last: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Random actions (B, m, H, A) that start from the last one (B, 1, A) and change smoothly."""
        horizon = self.config.horizon
        still = last[:, None].expand(-1, count, horizon, -1)
        return self._perturb(still, 2 * self.config.noise, generator)

    def _perturb(self, actions: Tensor, spread: float, generator: torch.Generator) -> Tensor:
        """Actions (B, m, H, A) plus noise that is correlated along H, inside the box."""
        rho = self.config.noise_correlation
        fresh = torch.empty_like(actions).normal_(generator=generator) * max(spread, SMALLEST_STD)
        steps, noise = [], fresh[:, :, 0]
        for t in range(actions.shape[2]):
            noise = noise if t == 0 else rho * noise + math.sqrt(1 - rho**2) * fresh[:, :, t]
            steps.append(noise)
        scaled = self.model.scale_actions(actions) + torch.stack(steps, 2)
        return self.model.unscale_actions(scaled)


def survival(wish: Tensor, temperature: float) -> Tensor:
    """(B, M) weights that sum to 1, from wishes (B, M) in units of their own spread.

    What is infinite dies out, and is not counted in the spread; where all are, all weigh the same.
    """
    finite = wish.isfinite()
    if not bool(finite.all()):
        kept = torch.where(finite, wish, torch.nan)
        mean = kept.nanmean(1, keepdim=True)
        spread = (kept - mean).square().nanmean(1, keepdim=True).sqrt().nan_to_num(1.0)
        hopeless = ~finite.any(1, keepdim=True)
        wish = torch.where(finite, wish, torch.where(hopeless, 0.0, torch.inf))
    else:
        spread = wish.std(1, keepdim=True) if wish.shape[1] > 1 else torch.ones_like(wish)
    return torch.softmax(-wish / (temperature * spread.clamp_min(1e-6)), 1)


def systematic(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B, M) indices drawn with weights (B, M) by systematic resampling (Kitagawa 1996)."""
    count = weights.shape[1]
    offset = torch.rand(len(weights), 1, generator=generator, device=weights.device)
    places = (torch.arange(count, device=weights.device) + offset) / count
    return torch.searchsorted(weights.cumsum(1), places.clamp(max=1 - 1e-6)).clamp_max(count - 1)
