"""Contrastive divergence with Langevin chains and replay, and its gradient through the sampler."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping
from typing import cast

import torch
from torch import Tensor

from ebm_traj.core.backends import backend
from ebm_traj.core.chains import run_langevin
from ebm_traj.core.energy import Condition, Energy, energy_and_gradient
from ebm_traj.core.jumps import jump, require_density
from ebm_traj.core.langevin import Chain, LangevinConfig, noise_like
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.proposal import CENTRE, GaussianProposal, MixtureProposal, Proposal
from ebm_traj.core.replay import ReplayBuffer
from ebm_traj.errors import InputError

ADAPT_EVERY = 10  # iterations between two looks at the acceptance, each of which waits for the device
ADAPT_GAIN = 2.0  # about one over the slope of the acceptance in log step size
ADAPT_DECAY = 0.6  # the n-th gain is as n^-0.6: between 1/2 and 1, as Robbins-Monro asks
DISTANCE_FLOOR = 1e-3  # per dimension, in whitened units: bounds the push on samples that coincide


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """Settings of contrastive divergence."""

    batch_size: int = 256
    """Rows in a step, replayed and new ones together."""
    langevin: LangevinConfig = dataclasses.field(default_factory=LangevinConfig)
    """The chain that makes the negative samples."""
    buffer_size: int = 10_000
    """Slots of the replay buffer."""
    replay_fraction: float = 0.7
    """Share of the rows whose chain goes on from the buffer; the others start anew."""
    energy_regularisation: float = 0.01
    """Weight of mean(E+^2 + E-^2), which keeps the energies near 0 (1903.08689, section 3.3)."""
    kl: float = 0.0
    """Weight of the energy of the samples as a function of the chain's last steps (2012.01316, eq. 5-7; 1
    there); 0 leaves the chain out of the gradient."""
    entropy: float = 0.0
    """Weight of the samples' entropy, which belongs to the `kl` term (0.3 in the code of 2012.01316)."""
    kl_steps: int = 1
    """Last steps of the chain that the `kl` and `entropy` terms differentiate."""
    jumps: int = 0
    """Fresh draws of the proposal that each chain is offered before its walk, see `core.jumps`: they carry
    chains between modes, whose shares the energy then learns."""
    adapt: bool = False
    """Adapt the chain's step size during training towards its `target_acceptance`, from chain to chain
    (`langevin.adapt` does so anew within each); needs Metropolis."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch size: {self.batch_size}; accepted are 1 and more")
        if not 0 <= self.replay_fraction < 1:
            raise InputError(f"replay fraction: {self.replay_fraction}; accepted is 0 to below 1")
        if self.replayed_rows == self.batch_size:
            raise InputError(
                f"replay fraction: {self.replay_fraction} leaves none of {self.batch_size} rows to start anew"
            )
        if self.buffer_size < self.batch_size:
            raise InputError(f"buffer size: {self.buffer_size}; it must hold a batch of {self.batch_size}")
        for name in ("kl", "entropy", "jumps"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: {getattr(self, name)}; accepted are 0 and more")
        if self.through_chain and not 1 <= self.kl_steps <= self.langevin.steps:
            raise InputError(
                f"kl steps: {self.kl_steps}; accepted are 1 to the chain's {self.langevin.steps} steps"
            )
        if self.adapt and not (self.langevin.metropolis and self.langevin.steps):
            raise InputError("adapt: needs a chain with Metropolis steps, else nothing is rejected")
        if self.langevin.adapt and (self.adapt or self.through_chain):
            raise InputError(
                f"Langevin adapt: {self.langevin.adapt}; beside adapt, kl or entropy it must be 0"
            )

    @property
    def replayed_rows(self) -> int:
        """Rows of a step that come from a filled buffer."""
        return round(self.batch_size * self.replay_fraction)

    @property
    def through_chain(self) -> bool:
        """Whether a gradient goes through the chain."""
        return self.kl > 0 or self.entropy > 0


class ContrastiveDivergence(Objective):
    """Contrastive divergence with Langevin chains and replay (Hinton 2002; Du & Mordatch 2019, eq. 3).

    loss = mean(E(data) - E(chain)) + regularisation [+ the proposal's own loss]. A replayed chain goes on
    under its own condition, and its data row stands beside it in the positive phase: what the energy adds
    to a condition as a whole then cancels in each row.

    No gradient flows through the chain unless `kl` or `entropy` are set (Improved Contrastive Divergence,
    Du et al. 2021, 2012.01316). They add kl * mean E*(x) - entropy * mean log d(x), where x is the end of the
    chain as a function of the parameters through its last `kl_steps` steps, E* the energy with its parameters
    held fixed (else the term would cancel the negative phase), and d the distance to the nearest sample of
    the buffer, whose log is the Kozachenko-Leonenko estimate of entropy up to a factor and a constant. A
    Metropolis decision is held fixed: a rejected step passes nothing on.

    The two terms balance where the samples have the energy's own distribution, with entropy = kl * dimensions
    of x, if the estimate of entropy were exact. It is rough, and one term alone does not balance: either way
    they move the optimum away from the data's distribution, so they are off by default.

    What counts as near, when each chain has a condition of its own: hardly two buffer rows share a condition,
    and samples of *other* conditions lie apart whatever the chains do. Distances are therefore between
    whitened samples (x - m(c)) / s(c), with centre m and scale s of the proposal, or of the component of it
    that a chain keeps to. As far as the proposal takes
    the condition's effect out, all rows are draws of one residual distribution and stand in for each other.
    """

    def __init__(
        self, energy: Energy, proposal: Proposal, config: ContrastiveConfig, *, fit_proposal: bool = True
    ) -> None:
        """`fit_proposal` False leaves the proposal's own loss to another objective.

        Raises InputError if the entropy is asked for and the proposal has no centre, or jumps and it has no
        density.
        """
        super().__init__()
        self.energy = energy
        self.proposal = proposal
        self.config = config
        self.fit_proposal = fit_proposal
        if config.entropy > 0:
            _centre_of(proposal)  # raises here rather than in the first step
        if config.jumps:
            require_density(proposal)
        self.langevin = config.langevin
        """The chain in force: `config.langevin` until its step size is adapted or halved."""
        self.buffer = ReplayBuffer(config.buffer_size)
        self.batch_size = config.batch_size
        self.replayed_rows = config.replayed_rows
        self.new_rows = config.batch_size - self.replayed_rows
        self._accepted: Tensor = torch.zeros(())  # sum since the last adaptation
        self._chains = 0  # chains in that sum
        self._adaptations = 0

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        new = len(batch)
        data, condition = batch.x, dict(batch.condition)
        start, component = self.proposal.start(condition, generator)
        condition |= component
        kept = dict(condition)
        replayed = min(self.replayed_rows, len(self.buffer))
        ages: dict[str, Tensor] = {}
        slots = torch.zeros(0, dtype=torch.int64, device=data.device)
        if replayed:
            slots, rows = self.buffer.draw(replayed, generator)
            age = self.buffer.age(slots)
            ages = {"buffer_age_mean": age.double().mean(), "buffer_age_max": age.max()}
            data = torch.cat([data, rows["data"]])
            start = torch.cat([start, rows["chain"]])
            condition = {name: torch.cat([values, rows[name]]) for name, values in condition.items()}

        scale = self.proposal.scale(condition)
        taken: dict[str, Tensor] = {}
        if times := self.config.jumps:
            temperature = self.langevin.temperature
            start, taken["jumps_taken"] = jump(
                self.energy,
                self.proposal,
                start,
                condition,
                times=times,
                temperature=temperature,
                generator=generator,
            )
        chain, live = self._walk(start, condition, scale, generator)
        through = self._through_chain(live, condition, scale, slots, generator)
        if replayed:
            self.buffer.update(slots, "chain", chain.x[new:])
        self.buffer.add({"chain": chain.x[:new], "data": batch.x, **kept})

        loss, figures = self._phases(data, condition, chain.x, condition, start)
        figures |= {
            "acceptance": chain.acceptance,
            "step_size": torch.tensor(self.langevin.step_size, dtype=torch.float64),
            **ages,
            **taken,
        }
        if through is not None:
            loss = loss + through[0]
            figures.update(through[1])
        proposal_loss = self.proposal.loss(data, condition) if self.fit_proposal else None
        if proposal_loss is not None:
            loss = loss + proposal_loss
            figures["proposal_loss"] = proposal_loss.detach()
        if self.config.adapt:
            self._adapt(chain.acceptance)
        return loss, figures

    def _phases(
        self, data: Tensor, of_data: Condition, samples: Tensor, of_samples: Condition, start: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean E(data) - mean E(samples), the chains' ends, with both kept small; figures for the log."""
        # one pass over both phases costs less than two
        both = {name: torch.cat([values, of_samples[name]]) for name, values in of_data.items()}
        positive, negative = self.energy.learned(torch.cat([data, samples]), both).chunk(2)
        gap = (positive - negative).mean()
        loss = gap + self.config.energy_regularisation * (positive**2 + negative**2).mean()
        return loss, {
            "energy_data": positive.detach().mean(),
            "energy_samples": negative.detach().mean(),
            "energy_gap": gap.detach(),
            "displacement": (samples - start).square().mean().sqrt(),
            "spread_samples": samples.std(),
            "spread_data": data.std(),
        }

    def _walk(
        self, start: Tensor, condition: Condition, scale: Tensor | None, generator: torch.Generator
    ) -> tuple[Chain, Tensor | None]:
        """The chain, and if asked for its end as a function of the parameters: equal to the chain's own."""
        steps, last = self.langevin.steps, self.config.kl_steps if self.config.through_chain else 0
        before = dataclasses.replace(self.langevin, steps=steps - last)
        chain = run_langevin(self.energy, condition, start, before, scale=scale, generator=generator)
        if not last:
            return chain, None
        after = dataclasses.replace(self.langevin, steps=last)
        live, acceptance = differentiable_steps(self.energy, condition, chain.x, after, scale, generator)
        acceptance = ((steps - last) * chain.acceptance + last * acceptance) / steps
        return Chain(x=live.detach(), acceptance=acceptance), live

    def _through_chain(
        self,
        live: Tensor | None,
        condition: Condition,
        scale: Tensor | None,
        slots: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """The `kl` and `entropy` terms and their figures; None if neither is asked for."""
        if live is None:
            return None
        term, figures = live.new_zeros(()), {}
        if self.config.kl > 0:
            # dE/dx as a constant: its product with x has the gradient of E*(x), and none can reach E's own
            # parameters
            values, slope = energy_and_gradient(self.energy.bind(condition), live)
            energy = values + (slope * (live - live.detach())).flatten(1).sum(1)
            term = term + self.config.kl * energy.mean()
            figures["slope_samples"] = slope.square().mean().sqrt()
        if self.config.entropy > 0 and len(self.buffer) > 1:
            distance = self._log_distance(live, condition, scale, slots, generator)
            term = term - self.config.entropy * distance.mean()
            figures["nearest_distance"] = distance.detach().mean().exp()
        return term, figures

    def _log_distance(
        self,
        live: Tensor,
        condition: Condition,
        scale: Tensor | None,
        slots: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """(B,) log of the whitened distance of each sample to the nearest one of the buffer.

        The buffer is as before this step, and a replayed chain is not compared with its own earlier state.
        """
        count = min(self.batch_size, len(self.buffer))
        others, rows = self.buffer.draw(count, generator)
        with torch.no_grad():
            around = {name: rows[name] for name in condition if name in rows}  # the rest is the same for all
            reference = _whiten(rows["chain"], self.proposal, around, self.proposal.scale(around)).flatten(1)
        white = _whiten(live, self.proposal, condition, scale).flatten(1)
        own = torch.zeros(len(white), count, dtype=torch.bool, device=white.device)
        own[len(white) - len(slots) :] = slots[:, None] == others
        with torch.no_grad():  # only the distance to the nearest one is differentiated
            nearest = torch.cdist(white, reference).masked_fill(own, math.inf).argmin(1)
        squared = (white - reference[nearest]).square().sum(1)
        return 0.5 * (squared + DISTANCE_FLOOR**2 * white.shape[1]).log()

    def _adapt(self, acceptance: Tensor) -> None:
        """Robbins-Monro on the logarithm of the step size, every `ADAPT_EVERY` chains."""
        self._accepted = self._accepted + acceptance
        self._chains += 1
        if self._chains < ADAPT_EVERY:
            return
        self._adaptations += 1
        surplus = float(self._accepted) / self._chains - self.langevin.target_acceptance
        factor = math.exp(ADAPT_GAIN * surplus * self._adaptations**-ADAPT_DECAY)
        self.langevin = dataclasses.replace(self.langevin, step_size=self.langevin.step_size * factor)
        self._accepted, self._chains = torch.zeros(()), 0

    @property
    def gradients(self) -> int:
        offers = math.ceil(self.config.jumps / 2)  # an energy without its gradient costs about half
        if not self.config.through_chain:
            return 1 + offers + self.langevin.gradients
        last = self.config.kl_steps
        before = dataclasses.replace(self.langevin, steps=self.langevin.steps - last)
        # a differentiated step is gone through twice more in the backward pass; `kl` looks at dE/dx once more
        live = last * (4 if self.langevin.metropolis else 3) + (self.config.kl > 0)
        return 1 + offers + before.gradients + live

    def replay_key(self) -> Hashable | None:
        # a buffer that fills up gives more rows from step to step; adapting reads the acceptance
        steady = len(self.buffer) == self.buffer.capacity and not self.config.adapt
        return (self.langevin, backend()) if steady else None

    def memory(self) -> dict[str, Tensor]:
        return {
            **{f"buffer.{name}": values for name, values in self.buffer.state().items()},
            "step_size": torch.tensor(self.langevin.step_size, dtype=torch.float64),
            "accepted": self._accepted,
            "adaptation": torch.tensor([self._chains, self._adaptations]),
        }

    def load_memory(self, memory: Mapping[str, Tensor], device: torch.device) -> None:
        prefix = "buffer."
        state = {name.removeprefix(prefix): v for name, v in memory.items() if name.startswith(prefix)}
        self.buffer.load_state(state, device)
        self.langevin = dataclasses.replace(self.langevin, step_size=float(memory["step_size"]))
        self._accepted = memory["accepted"].to(device, copy=True)
        self._chains, self._adaptations = (int(value) for value in memory["adaptation"])

    def recover(self) -> str:
        self.buffer.clear()
        smaller = self.langevin.step_size / 2
        self.langevin = dataclasses.replace(self.langevin, step_size=smaller)
        self._accepted, self._chains = torch.zeros(()), 0
        return f"replay buffer emptied, Langevin step size {smaller:g}"


def differentiable_steps(
    energy: Energy,
    condition: Condition,
    start: Tensor,
    config: LangevinConfig,
    scale: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """The chain of `langevin` up to rounding, with a graph from its end to the energy's parameters.

    `energy` is not bound: work on the condition is differentiated too. Acceptance decisions are constants.
    Returns the end (B, ...) and the mean acceptance (0-d).
    """
    eta, s = config.step_size, torch.ones_like(start) if scale is None else scale.detach()
    accepted = torch.zeros((), device=start.device)
    x = start.detach()
    with torch.enable_grad():
        for _ in range(config.steps):
            x = x if x.requires_grad else x.requires_grad_(True)
            value = energy(x, condition)
            (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
            if config.clip is not None:
                gradient = gradient.clamp(-config.clip, config.clip)
            moved = x - eta * s**2 * gradient
            noise = noise_like(x, generator) if config.noise_scale > 0 else None
            if noise is not None:
                moved = moved + config.noise_scale * s * noise
            if not config.metropolis or noise is None:
                x, accepted = moved, accepted + 1
                continue
            new_value, new_gradient = energy_and_gradient(lambda z: energy(z, condition), moved)
            with torch.no_grad():
                back = (x - moved + eta * s**2 * new_gradient) / (config.noise_scale * s)
                log_ratio = (value - new_value) / config.temperature
                log_ratio = log_ratio + 0.5 * (noise**2 - back**2).flatten(1).sum(1)
                accept = torch.rand(log_ratio.shape, generator=generator, device=x.device).log() < log_ratio
                accepted = accepted + accept.float().mean()
            x = torch.where(accept.view(-1, *[1] * (x.dim() - 1)), moved, x)
    return x, accepted / max(1, config.steps)


def _whiten(x: Tensor, proposal: Proposal, condition: Condition, scale: Tensor | None) -> Tensor:
    """(x - m(c)) / s(c), of which only x is differentiated."""
    with torch.no_grad():  # the centre of what the scale is of: the chain's own component, where it has one
        centre = condition[CENTRE] if CENTRE in condition else _centre_of(proposal)(condition)
    return (x - centre) / (1.0 if scale is None else scale)


def _centre_of(proposal: Proposal) -> Callable[[Condition], Tensor]:
    """The mean of q(. | condition) as a function of the condition; InputError if it is not known."""
    if isinstance(proposal, GaussianProposal | MixtureProposal):
        return lambda condition: proposal.mean_and_scale(condition)[0]
    if hasattr(proposal, "centre"):
        return cast(Callable[[Condition], Tensor], proposal.centre)
    raise InputError(f"entropy: {type(proposal).__name__} has no centre to whiten samples by; set it to 0")
