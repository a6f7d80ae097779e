"""Several models as one: their energies added, averaged or mixed, or chains that walk on each in turn.

The models may be runs of their own or the last checkpoints of one run: Du & Mordatch (2019, section 4.1)
alternate the last ten and start chains from one buffer.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ebm_traj.core.checkpoint import from_dict, load_tensors, under_prefix
from ebm_traj.core.energy import EnergyOfX
from ebm_traj.errors import InputError
from ebm_traj.image.model import ImageConfig, ImageModel, load_image_model
from ebm_traj.image.sampling import PictureModel, centre_of, device_of

Way = Literal["sum", "mean", "mixture", "alternate"]


class Ensemble:
    """Models of pictures as one `image.sampling.PictureModel`, for every task that takes one.

    * `sum`: E = sum E_i, the product of the densities: pictures that all of them find likely. It is n times
      as steep as one; noised products are not products of noised ones, so that with noise levels this is an
      approximation (Du et al. 2023, 2302.11552).
    * `mean`: E = mean E_i, the geometric mean of the densities: as steep as one, with the errors of single
      models averaged.
    * `mixture`: E = -log mean exp(-E_i), the arithmetic mean of the unnormalised densities: what any of them
      finds likely. Constants by which models differ weigh them.
    * `alternate`: each gradient is of the next model in turn; with noise levels each level is, where several
      steps are made on one. No energy of its own, so Metropolis tests and Hamiltonian chains are refused.
    """

    def __init__(self, models: Sequence[PictureModel], way: Way = "mean") -> None:
        if way not in get_args(Way):
            raise InputError(f"ensemble way: '{way}'; accepted are {', '.join(get_args(Way))}")
        if not models:
            raise InputError("ensemble: no models; needed are one and more")
        first = models[0]
        for model in models[1:]:
            for name in ("shape", "num_classes", "has_levels"):
                if getattr(model, name) != getattr(first, name):
                    raise InputError(
                        f"ensemble: {name.replace('_', ' ')} of {getattr(first, name)} and of "
                        f"{getattr(model, name)}; all models must agree"
                    )
        self.models = list(models)
        self.way: Way = way
        self.shape, self.num_classes, self.has_levels = first.shape, first.num_classes, first.has_levels
        self.turn = 0
        """Of `alternate`: the number of the model that the next gradient is of; 0 as samples are begun."""
        self.config: Any = getattr(first, "config", None)
        self.mean = torch.stack([centre_of(model) for model in models]).mean(0)

    @property
    def device(self) -> torch.device:
        """Where the first model is."""
        return device_of(self.models[0])

    @property
    def cost(self) -> int:
        """Gradients of single models in one of the ensemble."""
        return 1 if self.way == "alternate" else len(self.models)

    @property
    def metropolis(self) -> bool:
        """Whether there is an energy that a Metropolis test could ask for."""
        return self.way != "alternate"

    def begin_turns(self) -> None:
        """The next gradient of `alternate` is the first model's."""
        self.turn = 0

    def energy_at(self, sigma: Tensor | None = None, labels: Tensor | None = None) -> EnergyOfX:
        """The energy of x at levels sigma (B,), under classes labels (B,)."""
        parts = [model.energy_at(sigma, labels) for model in self.models]
        if self.way == "alternate":
            return self._in_turn(parts, by_level=sigma is not None)

        def energy(x: Tensor) -> Tensor:
            values = torch.stack([part(x) for part in parts])
            if self.way == "sum":
                return values.sum(0)
            if self.way == "mean":
                return values.mean(0)
            return -torch.logsumexp(-values, 0) + math.log(len(parts))

        return energy

    def _in_turn(self, parts: list[EnergyOfX], by_level: bool) -> EnergyOfX:
        if by_level:
            chosen = parts[self.turn % len(parts)]
            self.turn += 1
            return chosen

        def energy(x: Tensor) -> Tensor:
            chosen = parts[self.turn % len(parts)]
            self.turn += 1
            return chosen(x)

        return energy

    def _chain_starts(self, count: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """From all members' saved chains as one buffer, else uniform noise."""
        buffers = [model for model in self.models if getattr(model, "chains", None)]
        if not buffers:
            noise = torch.empty(count, *self.shape, device=self.device)
            return noise.uniform_(-1, 1, generator=generator)
        starts = [model._chain_starts(count, labels, generator) for model in buffers]  # type: ignore[attr-defined]
        owner = torch.randint(len(starts), (count,), generator=generator, device=self.device)
        return torch.stack(starts)[owner, torch.arange(count, device=self.device)]


def load_ensemble(
    paths: Sequence[str | Path], way: Way = "mean", device: str = "cpu", *, num_classes: int = 0
) -> Ensemble:
    """Saved models as one. A path is the folder of a model, or a copy of a run's training.safetensors.

    `num_classes` is that of the data, for checkpoints of conditional models.
    """
    models: list[PictureModel] = []
    for path in map(Path, paths):
        if path.is_file():
            models.append(load_training_checkpoint(path, num_classes, device))
        else:
            models.append(load_image_model(path, device))
    return Ensemble(models, way)


def load_training_checkpoint(path: Path, num_classes: int, device: str = "cpu") -> ImageModel:
    """The averaged weights of a training checkpoint as a model, with the chains of its replay buffer.

    Raises InputError if the file is no checkpoint of an image model.
    """
    tensors, meta = load_tensors(path, device)
    try:
        config = from_dict(ImageConfig, meta["identity"]["config"])
        channels, height, width = meta["identity"]["data"][3:]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no training checkpoint of an image model ({error})") from None
    model = ImageModel(config, (channels, height, width), num_classes)
    averaged = under_prefix("ema", tensors)
    # the objective's own names come before those of the energy
    inside = min((name for name in averaged if "energy." in name), key=len, default="energy.")
    weights = under_prefix(inside[: inside.index("energy.") + len("energy")], averaged)
    try:
        model.energy.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: weights do not fit its settings ({reason})") from error
    buffer = {name.split("row.")[-1]: rows for name, rows in tensors.items() if "row." in name}
    if "chain" in buffer and not model.has_levels:
        counters = next(rows for name, rows in tensors.items() if name.endswith("counters"))
        model.chains = {
            name: buffer[name][: int(counters[0])] for name in ("chain", "label") if name in buffer
        }
    model.card = {"data": meta["identity"]["data"][0], "iterations": meta["iteration"]}
    return model.to(device).eval().requires_grad_(False)
