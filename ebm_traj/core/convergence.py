"""Adaptive computation: run a chain until nothing drifts any more."""

import dataclasses

import torch
from torch import Tensor

from ebm_traj.core.energy import EnergyOfX
from ebm_traj.core.hmc import ChainConfig, run_chain
from ebm_traj.core.langevin import Chain
from ebm_traj.errors import InputError

IN_A_ROW = 2  # checks that must agree; one alone is passed by chance while a weak drift goes on


@dataclasses.dataclass(frozen=True)
class ConvergedChain(Chain):
    """A chain with when, and whether, it stopped by itself."""

    steps: int = 0
    """Transitions each chain made, those of adaptation included."""
    converged: bool = False
    """Whether it stopped because nothing drifted; False if `max_steps` came first."""
    drifts: tuple[tuple[float, float], ...] = ()
    """At each check, the drifts of energy and of squared distance from the start, in standard errors."""


@dataclasses.dataclass(frozen=True)
class UntilConverged:
    """A sampler that decides itself how many steps it takes, see `run_until_converged`."""

    chain: ChainConfig
    """The steps; how many it says is not used."""
    max_steps: int = 200
    """At most so many."""
    check_every: int = 4
    """Steps between looks."""
    tolerance: float = 2.0
    """Drift, in standard errors over the batch, that counts as none."""

    def __post_init__(self) -> None:
        _require_limits(self.chain, self.max_steps, self.check_every, self.tolerance)


@dataclasses.dataclass(frozen=True)
class Spent:
    """What a sampler that stops by itself has cost so far."""

    windows: int = 0
    """Windows sampled, by row."""
    gradients: int = 0
    """Gradients that they took, all together."""
    stopped: int = 0
    """Of these windows, those whose chains stopped by themselves, not at `max_steps`."""

    @property
    def mean(self) -> float:
        """Gradients a window; 0 before the first."""
        return self.gradients / max(self.windows, 1)

    def plus(self, windows: int, gradients: int, stopped: bool) -> "Spent":
        """With a batch of `windows` more that took so many `gradients` each."""
        return Spent(
            self.windows + windows, self.gradients + windows * gradients, self.stopped + windows * stopped
        )


def run_until_converged(
    energy: EnergyOfX,
    start: Tensor,
    config: ChainConfig,
    *,
    max_steps: int = 1000,
    check_every: int = 10,
    tolerance: float = 2.0,
    scale: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> ConvergedChain:
    """Run Langevin or Hamiltonian chains from `start` (B, ...) until the batch has stopped drifting.

    `config.steps` is not used: blocks of `check_every` transitions follow one another, after those of
    `config.adapt` if it adapts. After each block two figures of every row are compared with the block before:
    its energy, and its squared distance from the start (in units of `scale`). The mean change over rows,
    divided by its standard error over rows, is the drift; rows walk independently, so no autocorrelation has
    to be estimated, and a row's own constant in the energy (its condition) cancels. The walk ends when both
    drifts are within `tolerance` at two checks in a row.

    This is Geweke's comparison of an early with a late part (1992), taken across many short chains as in
    Margossian et al. 2024, where the original goes along one long one. The energy tells a chain that still
    descends from a stationary one (Nijkamp et al. 2020 tell convergent from short-run chains by it); the
    distance, which grows until a chain has forgotten its start, tells one that merely moves slowly. More rows
    see a smaller drift and so run longer. What it cannot see: modes that no row has found, and drifts
    smaller than a batch of this size can tell from chance.

    Raises InputError for fewer than 2 rows, or if not two blocks fit into `max_steps`.
    """
    if len(start) < 2:
        raise InputError(f"rows of the batch: {len(start)}; telling drift from chance needs 2 or more")
    _require_limits(config, max_steps, check_every, tolerance)
    origin = start.detach()
    x = origin
    block = dataclasses.replace(config, steps=config.adapt + check_every)
    steps = gradients = 0
    accepted = torch.zeros((), device=x.device)
    adapted_step_size: Tensor | None = None
    before: Tensor | None = None
    drifts: list[tuple[float, float]] = []
    calm = blocks = 0
    while calm < IN_A_ROW and steps + block.steps <= max_steps:
        chain = run_chain(energy, x, block, scale=scale, generator=generator)
        x = chain.x
        steps += block.steps
        gradients += chain.gradients
        accepted = accepted + chain.acceptance
        blocks += 1
        if chain.adapted_step_size is not None:
            adapted_step_size = chain.adapted_step_size
            step_size = float(adapted_step_size)
            block = dataclasses.replace(config, steps=check_every, adapt=0, step_size=step_size)
        figures = torch.stack([_energies(energy, chain), _squared_distance(x, origin, scale)])
        if before is not None:
            drift = _in_standard_errors(figures - before)
            drifts.append(drift)
            # a NaN is no calm
            calm = calm + 1 if all(abs(value) <= tolerance for value in drift) else 0
        before = figures
    return ConvergedChain(
        x=x,
        acceptance=accepted / blocks,
        gradients=gradients,
        energy=None if before is None else before[0],
        adapted_step_size=adapted_step_size,
        steps=steps,
        converged=calm >= IN_A_ROW,
        drifts=tuple(drifts),
    )


def _require_limits(config: ChainConfig, max_steps: int, check_every: int, tolerance: float) -> None:
    if check_every < 1:
        raise InputError(f"check_every: {check_every}; accepted are 1 and more")
    if not tolerance > 0:
        raise InputError(f"tolerance: {tolerance}; it must be above 0")
    if max_steps < config.adapt + 2 * check_every:
        raise InputError(
            f"max_steps: {max_steps}; needs {config.adapt + 2 * check_every}, two blocks after adaptation"
        )


def _energies(energy: EnergyOfX, chain: Chain) -> Tensor:
    if chain.energy is not None:
        return chain.energy
    with torch.no_grad():
        return energy(chain.x)


def _squared_distance(x: Tensor, origin: Tensor, scale: Tensor | None) -> Tensor:
    moved = x - origin if scale is None else (x - origin) / scale
    return moved.square().flatten(1).sum(1)


def _in_standard_errors(changes: Tensor) -> tuple[float, float]:
    """Mean over rows of each figure's changes (2, B), in standard errors; 0 if nothing changed at all, NaN
    if a row has left the range of its numbers."""
    mean, error = changes.mean(1), changes.std(1) / changes.shape[1] ** 0.5
    at_rest = (mean == 0) & (error == 0)
    drift = torch.where(at_rest, torch.zeros_like(mean), mean / error)
    of_energy, of_distance = torch.where(error.isfinite(), drift, torch.full_like(drift, torch.nan)).tolist()
    return of_energy, of_distance
