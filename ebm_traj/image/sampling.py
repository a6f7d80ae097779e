"""Samples of whatever has an energy of pictures: one model, several as one, an energy in closed form."""

import dataclasses
import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from ebm_traj.core.annealing import AnnealConfig, EnergyAt, anneal
from ebm_traj.core.energy import EnergyOfX
from ebm_traj.core.hmc import ChainConfig, HMCConfig, run_chain
from ebm_traj.core.langevin import Chain, LangevinConfig
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError

Sampler = AnnealConfig | ChainConfig


class PictureModel(Protocol):
    """What the tasks on pictures ask of a model; `image.model.ImageModel` has it, and `image.ensembles`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        ...

    @property
    def num_classes(self) -> int:
        """0 for an unconditional model."""
        ...

    @property
    def has_levels(self) -> bool:
        """Whether the energy reads a noise level."""
        ...

    def energy_at(self, sigma: Tensor | None = None, labels: Tensor | None = None) -> EnergyOfX:
        """The energy of x (B, C, H, W) at levels sigma (B,), under classes labels (B,)."""
        ...


@dataclasses.dataclass(frozen=True)
class Samples:
    """Pictures that a model made, and what they cost."""

    x: Tensor
    """(N, C, H, W), on the CPU."""
    labels: Tensor | None
    """(N,) the classes that were asked for."""
    gradients: int
    """Of the energy, for each picture."""
    seconds: float
    """CPU seconds of this process, of all threads."""
    trace: Tensor | None = None
    """(T, n, C, H, W) the states of the first few chains, if asked for."""


def energy_of_levels(model: PictureModel, labels: Tensor | None = None) -> EnergyAt:
    """Noise levels (B,) to the model's energy there, as `core.annealing` wants it."""
    return lambda sigma: model.energy_at(sigma, labels)


def device_of(model: PictureModel) -> torch.device:
    """Where the model's weights are; the CPU if it has none."""
    return torch.device(getattr(model, "device", "cpu"))


def cost_of(model: PictureModel) -> int:
    """Gradients of single networks in one gradient of the model's energy: more than 1 for sums of models."""
    return getattr(model, "cost", 1)


def centre_of(model: PictureModel) -> Tensor:
    """(C, H, W) the mean picture of the training data if the model knows it, else 0: what noise is put on."""
    mean = getattr(model, "mean", getattr(getattr(model, "energy", None), "mean", None))
    return mean if isinstance(mean, Tensor) else torch.zeros(*model.shape, device=device_of(model))


def own_sampler(model: PictureModel) -> Sampler:
    """The sampler that the model was given in training; `core`'s defaults if it has none."""
    config = getattr(model, "config", None)
    if model.has_levels:
        return getattr(config, "annealing", None) or AnnealConfig()
    return getattr(config, "generation", None) or LangevinConfig()


def sharpened(sampler: Sampler, sharpness: float | None, below: float | None) -> Sampler:
    """The same sampler with another factor on the energy, at this level and below it (`AnnealConfig`).

    None leaves the sampler's own. Raises InputError for samplers of models without noise levels.
    """
    if sharpness is None and below is None:
        return sampler
    if not isinstance(sampler, AnnealConfig):
        raise InputError("sharpness: this model has no noise levels; leave it out")
    return dataclasses.replace(
        sampler,
        sharpness=sampler.sharpness if sharpness is None else sharpness,
        sharp_below=sampler.sharp_below if below is None else below,
    )


def walk(
    model: PictureModel,
    energy: EnergyOfX,
    start: Tensor,
    config: ChainConfig,
    *,
    generator: torch.Generator | None = None,
    record: bool = False,
) -> Chain:
    """A chain on an energy of pictures, with pixels held in the bounds that the model was trained with.

    Only plain Langevin steps know bounds; chains with a Metropolis test walk freely.
    """
    bounds = getattr(getattr(model, "config", None), "bounds", None)
    if bounds is not None and isinstance(config, LangevinConfig) and not config.metropolis:
        from ebm_traj.image.objectives import bounded_langevin

        return bounded_langevin(energy, start, config, bounds, generator=generator, record=record)
    return run_chain(energy, start, config, generator=generator, record=record)


def chain_starts(
    model: PictureModel, count: int, labels: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """Where chains without levels begin: saved ones of the same class if the model has them, else noise."""
    own = getattr(model, "_chain_starts", None)
    if own is not None:
        return own(count, labels, generator)
    noise = torch.empty(count, *model.shape, device=device_of(model))
    return noise.uniform_(-1, 1, generator=generator)


def draw(
    model: PictureModel,
    count: int,
    labels: Tensor | None = None,
    *,
    sampler: Sampler | None = None,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    record: bool = False,
) -> Chain:
    """`count` pictures by the model's own sampler or the one given, in one batch.

    Raises InputError if sampler and model do not fit.
    """
    config = sampler or own_sampler(model)
    if isinstance(config, AnnealConfig):
        if not model.has_levels:
            raise InputError("sampler: this model has no noise levels; accepted are settings of a chain")
        begin = centre_of(model).expand(count, *model.shape) if start is None else start
        energy_at = energy_of_levels(model, labels)
        return anneal(energy_at, begin, config, generator=generator, record=record)
    if not getattr(model, "metropolis", True) and (isinstance(config, HMCConfig) or config.metropolis):
        raise InputError(
            "sampler: models in turn have no energy for a Metropolis test; use their mean or sum"
        )
    begin = chain_starts(model, count, labels, generator) if start is None else start
    energy = model.energy_at(None, labels)
    return walk(model, energy, begin, config, generator=generator, record=record)


def sample(
    model: PictureModel,
    count: int,
    labels: Tensor | None = None,
    *,
    sampler: Sampler | None = None,
    batch: int = 128,
    seed: int = 0,
    shown: int = 0,
    progress: str | None = None,
    draw_batch: Callable[..., Chain] = draw,
) -> Samples:
    """`count` pictures, `batch` at a time, each batch with a seed of its own; `shown` chains are recorded.

    `labels` (count,) classes to ask for. `progress` names a bar on the terminal.
    """
    for name, value in (("samples", count), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name}: {value}; accepted are 1 and more")
    if labels is not None:
        if not model.num_classes:
            raise InputError("classes: this model is unconditional; it takes none")
        if len(labels) != count:
            raise InputError(f"classes: {len(labels)} of them for {count} samples")
        if int(labels.min()) < 0 or int(labels.max()) >= model.num_classes:
            raise InputError(f"classes: accepted are 0 to {model.num_classes - 1}")
    if begin_turns := getattr(model, "begin_turns", None):
        begin_turns()  # the same seed, the same samples
    device, parts, trace, gradients = device_of(model), [], None, 0
    began = time.process_time()
    starts = range(0, count, batch)
    for begin in tqdm(starts, desc=progress, unit="batch", disable=progress is None):
        rows = min(batch, count - begin)
        given = None if labels is None else labels[begin : begin + rows].to(device)
        generator = seeded_generator(device, seed, "samples", begin)
        record = bool(shown) and begin == 0
        chain = draw_batch(model, rows, given, sampler=sampler, generator=generator, record=record)
        parts.append(chain.x.cpu())
        gradients = chain.gradients * cost_of(model)
        if record and chain.trace is not None:
            trace = chain.trace[:, :shown].cpu()
    return Samples(torch.cat(parts), labels, gradients, time.process_time() - began, trace)


TRAINED_CLASSES = "classes"  # in a model's card


def even_labels(model: PictureModel, count: int) -> Tensor | None:
    """As many of each class it was trained on as can be, in turn; None for an unconditional model."""
    if not model.num_classes:
        return None
    trained = getattr(model, "card", {}).get(TRAINED_CLASSES) or range(model.num_classes)
    return torch.tensor(trained)[torch.arange(count) % len(trained)]
