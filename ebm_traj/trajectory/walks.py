"""How the energy model's chains walk: from a proposal, or through the noise levels."""

import dataclasses

import torch
from torch import Tensor

from ebm_traj.core.annealing import AnnealConfig, anneal
from ebm_traj.core.chains import run_langevin
from ebm_traj.core.convergence import UntilConverged, run_until_converged
from ebm_traj.core.energy import Condition, Energy, energy_and_gradient
from ebm_traj.core.hmc import run_chain
from ebm_traj.core.langevin import Chain, LangevinConfig
from ebm_traj.core.proposal import Proposal
from ebm_traj.trajectory.window_energy import WindowEnergy


class AnnealedProposal(Proposal):
    """Chains start where a short walk through the noise levels of the energy itself ends."""

    def __init__(self, energy: WindowEnergy, config: AnnealConfig) -> None:
        super().__init__()
        self._energy = [energy]  # in a list: its parameters are not the proposal's
        self.config = config

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        energy = self._energy[0]
        return annealed_sample(energy, condition, energy.x_size, self.config, generator)


def walk(
    energy: Energy,
    proposal: Proposal,
    condition: Condition,
    config: LangevinConfig | UntilConverged,
    generator: torch.Generator | None,
    unit: Tensor | None = None,
) -> Chain:
    """Chains of x (B, n) that start from the proposal.

    Each walks in the scale of its own component, if the proposal has components, else of the proposal; in
    `unit` if it has none.
    """
    start, component = proposal.start(condition, generator)
    if isinstance(config, LangevinConfig) and not config.steps:
        return Chain(start, start.new_ones(()))
    known = {**condition, **component}
    scale = proposal.scale(known)
    scale = unit if scale is None else scale
    if isinstance(config, LangevinConfig):
        return run_langevin(energy, known, start, config, scale=scale, generator=generator)
    bound = energy.bind(known)
    if len(start) < 2:  # one chain cannot tell drift from chance
        longest = dataclasses.replace(config.chain, steps=config.max_steps)
        return run_chain(bound, start, longest, scale=scale, generator=generator)
    limits = {name: getattr(config, name) for name in ("max_steps", "check_every", "tolerance")}
    return run_until_converged(bound, start, config.chain, **limits, scale=scale, generator=generator)


def annealed_gradients(config: AnnealConfig) -> int:
    """Gradients that `annealed_sample` takes: of the walk, and one for the mean that it starts around."""
    return config.gradients + 1


def annealed_sample(
    energy: WindowEnergy,
    condition: Condition,
    size: int,
    config: AnnealConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """x (B, size) from noise to data.

    The walk starts around the mean that the energy itself gives at the highest level: from zero, what is left
    of the mean there, mean / sigma_max, would shift every sample.
    """
    known = condition["context"]
    energy_at = energy.bind_levels(condition)
    zero = known.new_zeros(len(known), size)
    _, gradient = energy_and_gradient(energy_at(known.new_full((len(known),), config.sigma_max)), zero)
    start = torch.empty_like(zero).normal_(generator=generator) - config.sigma_max**2 * gradient
    return anneal(energy_at, start, config, generator=generator).x
