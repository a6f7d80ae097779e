"""Langevin chains whose pixels have bounds, and energies that are held while a chain runs on them."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import EnergyOfX, energy_and_gradient
from ebm_traj.core.langevin import Chain, LangevinConfig, stack_states


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it a module's parameters ask for no gradient: autograd then keeps nothing for them."""
    asked = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def bounded_langevin(
    energy: EnergyOfX,
    start: Tensor,
    config: LangevinConfig,
    bounds: float,
    *,
    generator: torch.Generator | None = None,
    record: bool = False,
) -> Chain:
    """Langevin chains from `start` (B, C, H, W) whose pixels are held within +- `bounds` after each step.

    As all published image chains do, for energies that say nothing of what lies outside; no Metropolis
    correction. `record` keeps all states in `Chain.trace`.
    """
    x = start.detach().clone()
    noise, states = torch.empty_like(x), []
    for _ in range(config.steps):
        _, gradient = energy_and_gradient(energy, x)
        if config.clip is not None:
            gradient = gradient.clamp(-config.clip, config.clip)
        x.add_(gradient, alpha=-config.step_size)
        if config.noise_scale > 0:
            x.add_(noise.normal_(generator=generator), alpha=config.noise_scale)
        x.clamp_(-bounds, bounds)
        if record:
            states.append(x.clone())
    trace = stack_states(states, x) if record else None
    return Chain(x=x, acceptance=torch.ones(()), gradients=config.gradients, trace=trace)
