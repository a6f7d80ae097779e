"""Langevin dynamics on an energy: unadjusted or Metropolis-corrected, optionally preconditioned."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from ebm_traj.core.adaptation import DualAveraging
from ebm_traj.core.backends import SamplerBackend, backend, is_recording
from ebm_traj.core.energy import EnergyOfX, energy_and_gradient
from ebm_traj.core.gradients import BoundEnergy, MLPForm, mlp_form
from ebm_traj.core.noise import NoiseSource, exact_noise, quick_noise
from ebm_traj.core.seeding import derive_seed
from ebm_traj.errors import InputError

KERNEL_TOLERANCE = 0.02  # of products in TF32, relative to the length of a step

ValueAndGradient = Callable[[Tensor, bool], tuple[Tensor, Tensor]]
"""x (B, ...), whether the value is asked for; to E (B,) and dE/dx (B, ...), both until the next call."""


@dataclasses.dataclass(frozen=True)
class LangevinConfig:
    """How a chain walks: x' = x - step_size * dE/dx + noise * n, with n ~ N(0, 1)."""

    steps: int = 20
    """Number of steps; each costs one gradient of the energy."""
    step_size: float = 0.1
    """Factor of the gradient."""
    noise: float | None = None
    """Factor of the noise; None gives sqrt(2 * step_size * temperature), to sample exp(-E / temperature)."""
    clip: float | None = None
    """Bound on each element of the gradient, before the step size; None for no bound."""
    metropolis: bool = False
    """Accept or reject each step (MALA, Roberts & Tweedie 1996), which removes the bias of the step size.
    Needs the default noise and no clip."""
    temperature: float = 1.0
    """Samples exp(-E / temperature); needs the default noise if it is not 1."""
    adapt: int = 0
    """The first so many steps tune the step size to the target acceptance by dual averaging; it then stays,
    and what follows keeps detailed balance. Needs metropolis and fewer than `steps`."""
    target_acceptance: float = 0.574
    """Aim of the adaptation; the best for MALA in many dimensions (Roberts & Rosenthal 1998)."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"Langevin steps: {self.steps}; accepted are 0 and more")
        if not self.step_size > 0:
            raise InputError(f"Langevin step size: {self.step_size}; it must be above 0")
        if self.noise is not None and not self.noise >= 0:
            raise InputError(f"Langevin noise: {self.noise}; it must be 0 or more")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"Langevin clip: {self.clip}; it must be above 0, or None")
        if self.metropolis and (self.noise is not None or self.clip is not None):
            raise InputError(
                "Langevin metropolis: needs noise None and clip None, else the proposal is unknown"
            )
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"Langevin temperature: {self.temperature}; it must be above 0")
        if self.noise is not None and self.temperature != 1:
            raise InputError(f"Langevin temperature: {self.temperature}; with noise given it must be 1")
        if self.adapt and not self.metropolis:
            raise InputError(f"Langevin adapt: {self.adapt}; without metropolis it must be 0")
        require_adaptation("Langevin", self.adapt, self.steps, self.target_acceptance)

    @property
    def noise_scale(self) -> float:
        """The factor of the noise in force."""
        return math.sqrt(2 * self.step_size * self.temperature) if self.noise is None else self.noise

    @property
    def gradients(self) -> int:
        """Gradients of the energy that one chain costs; the corrected chain also needs that of its start."""
        return self.steps + 1 if self.metropolis and self.steps else self.steps


@dataclasses.dataclass(frozen=True)
class Chain:
    """Where a batch of chains ended, and how the walk went."""

    x: Tensor
    """(B, ...) the last states, detached."""
    acceptance: Tensor
    """0-d, mean share of accepted steps, of those after adaptation; 1 without Metropolis correction. A
    tensor, so that nothing waits."""
    gradients: int = 0
    """Gradients of the energy that each chain of the batch cost."""
    energy: Tensor | None = None
    """(B,) energies of the last states (not divided by the temperature), where the walk knows them."""
    adapted_step_size: Tensor | None = None
    """0-d, the step size that adaptation ended with; None if it was not adapted."""
    trace: Tensor | None = None
    """(T, B, ...) the state after each step that follows adaptation, if asked for; see `core.diagnostics`."""


def langevin(
    energy: EnergyOfX,
    start: Tensor,
    config: LangevinConfig,
    *,
    scale: Tensor | None = None,
    generator: torch.Generator | None = None,
    record: bool = False,
) -> Chain:
    """Run a batch of Langevin chains from `start` (B, ...) on an energy of x, see `Energy.bind`.

    `scale` (broadcast to x, may differ by condition but not by x) preconditions the chain: gradient times
    scale^2, noise times scale, as if x / scale were walked with the plain rule. One gradient per step.
    `record` keeps all states in `Chain.trace`.
    """
    chosen = choose_backend(energy, start, config, record)
    if chosen == "triton":
        return _in_one_launch(energy, start, config, scale, generator)
    walk = _metropolis_adjusted if config.metropolis else _unadjusted
    if chosen != "manual":
        return walk(_by_autograd(energy), start, config, scale, generator, record)
    gradient = cast(BoundEnergy, energy).value_and_gradient
    with torch.no_grad():
        if config.metropolis:
            return _metropolis_adjusted(gradient, start, config, scale, generator, record)
        return _unadjusted(gradient, start, config, scale, generator, record, quick_noise)


def choose_backend(energy: EnergyOfX, start: Tensor, config: LangevinConfig, record: bool) -> SamplerBackend:
    """How this chain is walked, see `core.backends`. Raises InputError if what was asked for cannot do it."""
    asked = backend()
    if asked in ("auto", "triton"):
        why = _why_not_in_one_launch(energy, start, config, record)
        if why is None and (asked == "triton" or _one_launch_agrees(energy, start, config)):
            return "triton"
        if asked == "triton":
            raise InputError(f"sampler backend 'triton': {why}; accepted here are autograd and manual")
    written = isinstance(energy, BoundEnergy) and start.dim() == 2
    if asked == "manual" and not written:
        raise InputError("sampler backend 'manual': this energy has no written-out gradient; use autograd")
    return "manual" if written and asked != "autograd" else "autograd"


def _why_not_in_one_launch(
    energy: EnergyOfX, start: Tensor, config: LangevinConfig, record: bool
) -> str | None:
    if not start.is_cuda:
        return "the chain is not on a CUDA device"
    form = mlp_form(energy)
    if form is None:
        return "the energy is not an MLP"
    if record or config.adapt:
        return "it neither records nor adapts"
    from ebm_traj.core.triton_chain import supports

    return supports(form, config)


_agrees: dict[tuple[int, ...], bool] = {}


def _one_launch_agrees(energy: EnergyOfX, start: Tensor, config: LangevinConfig) -> bool:
    """Whether the kernel, before it is chosen by itself, walks as the reference does on this machine.

    Looked at once for each shape of network: two steps without noise. A kernel that cannot be built counts as
    one that does not agree, and is said so once.
    """
    form = cast(MLPForm, mlp_form(energy))
    key = (*form.x_weight.shape, len(form.hidden), form.precision is None)
    if key not in _agrees:
        from ebm_traj.core.triton_chain import triton_langevin

        still = LangevinConfig(steps=2, step_size=config.step_size, noise=0.0)
        bound = cast(BoundEnergy, energy)
        try:
            with torch.no_grad():
                expected = _unadjusted(bound.value_and_gradient, start, still, None, None, False).x
                found = triton_langevin(form, start.detach(), still, scale=None, seed=0).x
                apart = (found - expected).abs().max() / (expected - start).abs().max().clamp_min(1e-12)
            _agrees[key] = bool(apart < KERNEL_TOLERANCE)
            why = f"its steps differ by {float(apart):.2g} of their length"
        except Exception as error:  # whatever a compiler may raise
            _agrees[key], why = False, str(error).splitlines()[0]
        if not _agrees[key]:
            warnings.warn(f"chains are walked without the one-launch kernel: {why}", stacklevel=2)
    return _agrees[key]


def _in_one_launch(
    energy: EnergyOfX,
    start: Tensor,
    config: LangevinConfig,
    scale: Tensor | None,
    generator: torch.Generator | None,
) -> Chain:
    from ebm_traj.core.triton_chain import triton_langevin

    seed: int | Tensor
    if is_recording():  # a seed of the host's would be the same in each replay
        seed = torch.empty((), dtype=torch.int64, device=start.device).random_(generator=generator)
    else:
        generator = generator or torch.cuda.default_generators[start.device.index or 0]
        # the generator's place is known to the host: nothing waits for the device
        seed = derive_seed(generator.initial_seed(), generator.get_offset())
        generator.set_offset(generator.get_offset() + 4)
    return triton_langevin(cast(MLPForm, mlp_form(energy)), start.detach(), config, scale=scale, seed=seed)


def _by_autograd(energy: EnergyOfX) -> ValueAndGradient:
    return lambda x, need_value: energy_and_gradient(energy, x)


def _unadjusted(
    value_and_gradient: ValueAndGradient,
    start: Tensor,
    config: LangevinConfig,
    scale: Tensor | None,
    generator: torch.Generator | None,
    record: bool,
    source: NoiseSource = exact_noise,
) -> Chain:
    x = start.detach().clone(memory_format=torch.contiguous_format)
    noise_scale = config.noise_scale
    drift = None if scale is None else -config.step_size * scale**2
    spread = None if scale is None else noise_scale * scale
    draw = source(x, generator) if config.steps and noise_scale > 0 else None
    states = []
    for _ in range(config.steps):
        _, gradient = value_and_gradient(x, False)
        if config.clip is not None:
            gradient.clamp_(-config.clip, config.clip)
        if drift is None or spread is None:
            x.add_(gradient, alpha=-config.step_size)
        else:
            x.addcmul_(gradient, drift)
        if draw is not None:
            x.add_(draw(), alpha=noise_scale) if spread is None else x.addcmul_(draw(), spread)
        if record:
            states.append(x.clone())
    return Chain(
        x=x,
        acceptance=torch.ones(()),
        gradients=config.gradients,
        trace=stack_states(states, x) if record else None,
    )


def _metropolis_adjusted(
    value_and_gradient: ValueAndGradient,
    start: Tensor,
    config: LangevinConfig,
    scale: Tensor | None,
    generator: torch.Generator | None,
    record: bool,
) -> Chain:
    """MALA: the Langevin step as a proposal, accepted with the Metropolis-Hastings probability.

    With G = g + g', the sum of the gradients before and after a step of noise f, the noise that would bring
    the proposal back is c G - f with c = scale sqrt(eta / 2 T), so that log q'/q = sum c G (f - c G / 2).
    """
    x = start.detach().clone(memory_format=torch.contiguous_format)
    if config.steps == 0:
        return Chain(x=x, acceptance=torch.ones(()), trace=stack_states([], x) if record else None)
    tuner = DualAveraging(config.step_size, config.target_acceptance, x.device) if config.adapt else None
    s = torch.ones((), dtype=x.dtype, device=x.device) if scale is None else scale
    drift, spread, back = _step_of(config.step_size, s, config.temperature)
    value, gradient = (found.clone() for found in value_and_gradient(x, True))
    accepted = torch.zeros((), device=x.device)
    noise, proposal = torch.empty_like(x), torch.empty_like(x)
    uniform = torch.empty(len(x), device=x.device)
    states = []
    for step in range(config.steps):
        noise.normal_(generator=generator)
        torch.addcmul(x, gradient, drift, value=-1, out=proposal).addcmul_(noise, spread)
        new_value, new_gradient = value_and_gradient(proposal, True)
        u = (gradient + new_gradient).mul_(back)
        log_ratio = (value - new_value).div_(config.temperature)
        log_ratio += noise.add_(u, alpha=-0.5).mul_(u).flatten(1).sum(1)
        # in place of its logarithm's own tensor; the order of random numbers is noise, then this
        accept = uniform.uniform_(generator=generator).log() < log_ratio
        keep = accept.view(-1, *[1] * (x.dim() - 1))
        torch.where(keep, proposal, x, out=x)
        torch.where(keep, new_gradient, gradient, out=gradient)
        torch.where(accept, new_value, value, out=value)
        if tuner is not None and step < config.adapt:
            tuner.update(log_ratio)
            eta = tuner.averaged if step + 1 == config.adapt else tuner.step_size
            drift, spread, back = _step_of(eta, s, config.temperature)
            continue
        accepted += accept.float().mean()
        if record:
            states.append(x.clone())
    return Chain(
        x=x,
        acceptance=accepted / (config.steps - config.adapt),
        gradients=config.gradients,
        energy=value,
        adapted_step_size=None if tuner is None else tuner.averaged,
        trace=stack_states(states, x) if record else None,
    )


def _step_of(eta: float | Tensor, s: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of the gradient, of the noise, and c of `_metropolis_adjusted`."""
    root = math.sqrt(eta) if isinstance(eta, float) else eta.sqrt()
    return eta * s**2, math.sqrt(2 * temperature) * root * s, root / math.sqrt(2 * temperature) * s


def require_adaptation(sampler: str, adapt: int, steps: int, target: float) -> None:
    """InputError unless adaptation leaves transitions to run with what it found."""
    if adapt < 0 or (adapt and adapt >= steps):
        raise InputError(f"{sampler} adapt: {adapt}; accepted are 0 to below the number of steps, {steps}")
    if not 0 < target < 1:
        raise InputError(f"{sampler} target acceptance: {target}; accepted is between 0 and 1")


def stack_states(states: list[Tensor], x: Tensor) -> Tensor:
    """(T, B, ...) of the states, shaped like x (B, ...); T may be 0."""
    return torch.stack(states) if states else x.new_empty((0, *x.shape))


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of x's shape."""
    return torch.empty_like(x).normal_(generator=generator)
