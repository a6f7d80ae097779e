"""E(x, y) whose label enters by a gain, learnt by contrast with another class of the batch."""

import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.errors import InputError

Contrast = Literal["logistic", "difference", "batch"]


@dataclasses.dataclass(frozen=True)
class LabelEnergyConfig:
    """Network and loss of Li et al. 2020 (2011.12216)."""

    width: int = 400
    """Of two hidden layers."""
    contrast: Contrast = "logistic"
    """logistic: log(1 + exp(E(x, y) - E(x, y-))) with one other class y- of the batch; difference: the plain
    difference, held by `regularisation`; batch: the softmax of -E over all classes of the batch."""
    regularisation: float = 0.01
    """Weight of the mean square of the energies."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError(f"width: {self.width}; accepted are 1 and more")
        if self.contrast not in get_args(Contrast):
            raise InputError(f"contrast: '{self.contrast}'; accepted are {', '.join(get_args(Contrast))}")
        if not self.regularisation >= 0:
            raise InputError(f"regularisation: {self.regularisation}; it must be 0 or more")


class LabelEnergy(Energy):
    """E(x, y) of rows x (B, D) and `condition["label"]` (B,): the label multiplies the first hidden layer."""

    def __init__(self, size: int, num_classes: int, config: LabelEnergyConfig) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.first = nn.Linear(size, config.width)
        self.gain = nn.Embedding(num_classes, config.width)
        self.second = nn.Linear(config.width, config.width)
        self.last = nn.Linear(config.width, 1)

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        hidden = torch.relu(self.first(x)) * self._gain(condition["label"])
        return self.last(torch.relu(self.second(hidden)))[:, 0]

    def _gain(self, label: Tensor) -> Tensor:
        """Positive, of mean 1 over the units, as in the published network."""
        weights = self.gain(label)
        return torch.softmax(weights, 1) * weights.shape[1]

    def of_classes(self, x: Tensor, classes: Tensor) -> Tensor:
        """(B, K) energies of x (B, D) with each of the classes (K,); the first layer is shared."""
        hidden = torch.relu(self.first(x))[:, None] * self._gain(classes)
        return self.last(torch.relu(self.second(hidden)))[..., 0]


class LabelContrast(Objective):
    """Lowers E(x, y) of the data against E(x, y-) of other classes *of the batch* alone.

    Classes that are not in the batch are left alone: a softmax over all classes would push them up in every
    step, and that is what makes a classifier forget.
    """

    def __init__(self, energy: LabelEnergy, config: LabelEnergyConfig, batch_size: int) -> None:
        super().__init__()
        self.energy = energy
        self.config = config
        self.new_rows = self.batch_size = batch_size

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        label = batch.condition["label"]
        present, own = label.unique(return_inverse=True)
        if len(present) == 1:  # nothing to contrast with
            zero = self.energy(batch.x[:1], {"label": label[:1]}).sum() * 0
            return zero, {"loss_contrast": zero.detach()}
        energies = self.energy.of_classes(batch.x, present)
        rows = torch.arange(len(label), device=label.device)
        positive = energies[rows, own]
        if self.config.contrast == "batch":
            loss = nn.functional.cross_entropy(-energies, own)
            used = energies
        else:
            shift = torch.randint(
                1, len(present), own.shape, generator=generator, device=label.device
            )  # to any class but the own
            negative = energies[rows, (own + shift) % len(present)]
            gap = positive - negative
            loss = (nn.functional.softplus(gap) if self.config.contrast == "logistic" else gap).mean()
            used = torch.stack([positive, negative])
        loss = loss + self.config.regularisation * used.square().mean()
        return loss, {"loss_contrast": loss.detach(), "energy_data": positive.detach().mean()}
