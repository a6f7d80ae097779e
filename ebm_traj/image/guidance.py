"""A class asked for more firmly: the part of a conditional energy that the class adds, weighed."""

from typing import Any

import torch
from torch import Tensor

from ebm_traj.core.energy import EnergyOfX
from ebm_traj.errors import InputError
from ebm_traj.image.sampling import PictureModel, centre_of, chain_starts, device_of


class Guided:
    """E(x) + weight (E(x | y) - E(x)), for every task that takes a model.

    E(x | y) - E(x) is -log p(y | x) up to a constant, so the density is p(x) p(y | x)^weight: 1 is the model
    itself, more makes pictures that are plainly of their class and less varied (Dhariwal & Nichol 2021,
    2105.05233; Ho & Salimans 2022, 2207.12598). Each gradient costs two of the model's. With noise levels it
    is an approximation: noising does not commute with the weight.
    """

    def __init__(self, model: PictureModel, weight: float) -> None:
        if not model.num_classes:
            raise InputError("guidance: this model is unconditional; needed is one with classes")
        if not weight > 0:
            raise InputError(f"guidance: {weight}; it must be above 0")
        self.model, self.weight = model, weight
        self.shape, self.num_classes, self.has_levels = model.shape, model.num_classes, model.has_levels
        self.config: Any = getattr(model, "config", None)
        self.mean = centre_of(model)
        self.cost = 1 if weight == 1 else 2
        """Gradients of the model in one of this."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model)

    def energy_at(self, sigma: Tensor | None = None, labels: Tensor | None = None) -> EnergyOfX:
        """The energy of x at levels sigma (B,), under classes labels (B,); without them the model's own."""
        if labels is None:
            return self.model.energy_at(sigma, None)
        of_class = self.model.energy_at(sigma, labels)
        if self.weight == 1:
            return of_class
        plain = self.model.energy_at(sigma, None)
        return lambda x: self.weight * of_class(x) + (1 - self.weight) * plain(x)

    def _chain_starts(self, count: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        return chain_starts(self.model, count, labels, generator)


def guided(model: PictureModel, weight: float) -> PictureModel:
    """The model itself with a weight of 1, else `Guided`."""
    return model if weight == 1 else Guided(model, weight)
