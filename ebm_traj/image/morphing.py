"""Morphing: chains that start at pictures of one class and walk on the energy of another."""

import dataclasses

import torch
from torch import Tensor

from ebm_traj.core.annealing import AnnealConfig, anneal
from ebm_traj.core.hmc import ChainConfig
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.image.sampling import PictureModel, cost_of, device_of, energy_of_levels, own_sampler, walk


@dataclasses.dataclass(frozen=True)
class MorphConfig:
    """How far a chain steps, for models with noise levels.

    Each turn puts noise of `level` on the picture and takes it off along the flow of the new class's energy.
    Both carry that class's density to itself, the first to its noised one and the second back (up to the
    number of steps), so the chain keeps it; it walks the more slowly the lower the level.
    """

    level: float = 1.0
    """Standard deviation of the noise of a turn, in pixels of [-1, 1]."""
    turns: int = 12
    """Turns of the chain."""
    steps: int = 10
    """Levels from there down to the data in each turn, each of one gradient."""

    def __post_init__(self) -> None:
        if not self.level > 0:
            raise InputError(f"morph level: {self.level}; it must be above 0")
        for name, least in (("turns", 1), ("steps", 2)):
            if getattr(self, name) < least:
                raise InputError(f"morph {name}: {getattr(self, name)}; accepted are {least} and more")

    def turn(self, lowest: float) -> AnnealConfig:
        """One turn as settings of `core.annealing`."""
        if lowest >= self.level:
            raise InputError(f"morph level: {self.level}; the model's levels begin at {lowest:g}")
        return AnnealConfig(self.steps, self.level, lowest, 5.0, "multistep")


@dataclasses.dataclass(frozen=True)
class Morph:
    """Chains from pictures to another class."""

    frames: Tensor
    """(T + 1, N, C, H, W): the pictures at the start, and after each turn."""
    labels: Tensor
    """(N,) the classes walked to."""
    gradients: int
    """Of the energy, for each chain."""


def morph(
    model: PictureModel,
    x: Tensor,
    labels: Tensor,
    config: MorphConfig | ChainConfig | None = None,
    *,
    frames: int = 24,
    seed: int = 0,
) -> Morph:
    """Walk from pictures x (N, C, H, W) under the energy of classes `labels` (N,).

    With levels by a `MorphConfig`, a frame a turn; without by Langevin or Hamiltonian steps, of which
    `frames` evenly spaced states are kept. Raises InputError for an unconditional model.
    """
    if not model.num_classes:
        raise InputError("morphing: this model is unconditional; needed is one with classes")
    if len(labels) != len(x) or int(labels.min()) < 0 or int(labels.max()) >= model.num_classes:
        raise InputError(
            f"morphing: needed is a class of 0 to {model.num_classes - 1} for each of {len(x)} pictures"
        )
    device = device_of(model)
    start, to = x.to(device), labels.to(device)
    generator = seeded_generator(device, seed, "morphing")
    if not model.has_levels:
        chain_config = config or own_sampler(model)
        if isinstance(chain_config, MorphConfig | AnnealConfig):
            raise InputError("morphing: this model has no noise levels; needed are settings of a chain")
        energy = model.energy_at(None, to)
        chain = walk(model, energy, start, chain_config, generator=generator, record=True)
        assert chain.trace is not None
        kept = torch.linspace(0, len(chain.trace) - 1, min(frames, len(chain.trace))).long()
        states = torch.cat([start[None], chain.trace[kept.to(device)]])
        return Morph(states.cpu(), labels.cpu(), chain.gradients * cost_of(model))
    config = config or MorphConfig()
    if not isinstance(config, MorphConfig):
        raise InputError("morphing: this model has noise levels; needed is a MorphConfig")
    sampler = own_sampler(model)
    turn = config.turn(sampler.sigma_min if isinstance(sampler, AnnealConfig) else config.level / 50)
    energy_at = energy_of_levels(model, to)
    seen = [start]
    for _ in range(config.turns):
        seen.append(anneal(energy_at, seen[-1], turn, generator=generator).x)
    gradients = config.turns * turn.gradients * cost_of(model)
    return Morph(torch.stack(seen).cpu(), labels.cpu(), gradients)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """(N,) root mean square difference of pictures."""
    return (a - b).square().flatten(1).mean(1).sqrt()
