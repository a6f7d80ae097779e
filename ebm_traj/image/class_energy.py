"""One small energy for each class: what a class has learnt no later class can touch."""

import dataclasses
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ebm_traj.core.annealing import AnnealConfig, anneal
from ebm_traj.core.denoising import LEVEL, DenoisingConfig, DenoisingScoreMatching, denoise
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy, EnergyOfX
from ebm_traj.core.objectives import Batch
from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.errors import InputError


@dataclasses.dataclass(frozen=True)
class ClassEnergyConfig:
    """Size, training and reading of a `ClassEnergies`."""

    width: int = 30
    """Hidden units of each class."""
    batch_size: int = 16
    """Pictures of a class in one of its steps."""
    repeats: int = 4
    """Noise draws for each picture of a step."""
    learning_rate: float = 2e-3
    """Of Adam."""
    sigma_min: float = 0.1
    """Lowest noise level, in units of the spread of all pixels."""
    sigma_max: float = 3.0
    """Highest."""
    levels: int = 6
    """Levels at which a picture is denoised to be classified, evenly in log sigma."""
    draws: int = 2
    """Noise draws at each of them, the same ones for every class."""

    def __post_init__(self) -> None:
        for name in ("width", "batch_size", "repeats", "levels", "draws"):
            if getattr(self, name) < 1:
                raise InputError(f"class energies {name}: {getattr(self, name)}; accepted are 1 and more")
        if not 0 < self.sigma_min < self.sigma_max:
            raise InputError(
                f"class energies: levels {self.sigma_min} to {self.sigma_max}; needed is 0 < low < high"
            )
        if not self.learning_rate > 0:
            raise InputError(f"class energies: learning rate {self.learning_rate}; it must be above 0")


class DenoiserEnergy(Energy):
    """E(x, s) = |x - h(x, s)|^2 / (2 s^2) of rows x (B, D), with one hidden layer.

    h is x / (1 + s^2) + s / sqrt(1 + s^2) W' silu(W x / sqrt(1 + s^2) + b(s)) + b'(s), see
    `FactorEnergy`.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(size, width)
        self.level = nn.Linear(LEVEL_FEATURES, 2 * width)
        self.leave = nn.Linear(width, size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.level.weight)
        nn.init.zeros_(self.level.bias)

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        level = condition[LEVEL][:, None]
        spread = (1 + level**2).sqrt()
        gain, bias = self.level(level_features(level)).chunk(2, 1)
        hidden = nn.functional.silu(self.enter(x / spread) * (1 + gain) + bias)
        off = x - x / spread**2 - level / spread * self.leave(hidden)
        return off.square().sum(1) / (2 * level[:, 0] ** 2)


LEVEL_FEATURES = 4


def level_features(level: Tensor) -> Tensor:
    """(B, 4) smooth features of levels (B, 1)."""
    log = level.log()
    return torch.cat([log / 2, 1 / (1 + level**2), (log / 2).cos(), (log / 2).sin()], 1)


class ClassEnergies:
    """Energies E_y(x, s), each with its own network and optimiser, learnt by denoising as classes come.

    A class's step reads pictures of that class alone, so nothing is forgotten, no boundary between tasks has
    to be known, and no picture is stored: what is kept for a class is its network, its optimiser's two
    moments, and fewer than `batch_size` pictures that wait for a step to be full.
    """

    def __init__(self, size: int, num_classes: int, config: ClassEnergyConfig, seed: int) -> None:
        self.config = config
        self.size = size
        self.energies: list[DenoiserEnergy | None] = [None] * num_classes
        self._objectives: dict[int, DenoisingScoreMatching] = {}
        self._optimizers: dict[int, torch.optim.Optimizer] = {}
        self._waiting: dict[int, Tensor] = {}
        self._seed = seed
        self._generator = seeded_generator("cpu", seed, "class energies")

    @property
    def known(self) -> list[int]:
        """Classes met so far."""
        return [y for y, energy in enumerate(self.energies) if energy is not None]

    @property
    def parameters(self) -> int:
        """Numbers learnt for the classes met so far."""
        return sum(p.numel() for e in self.energies if e is not None for p in e.parameters())

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Learn from rows x (B, D) of classes y (B,): each full step of a class is taken at once."""
        for label in y.unique().tolist():
            rows = x[y == label]
            if label in self._waiting:
                rows = torch.cat([self._waiting.pop(label), rows])
            for start in range(0, len(rows), self.config.batch_size):
                some = rows[start : start + self.config.batch_size]
                if len(some) < self.config.batch_size:
                    self._waiting[label] = some
                else:
                    self._step(label, some)

    def _meet(self, label: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, "class", label))
            energy = DenoiserEnergy(self.size, self.config.width)
        c = self.config
        levels = DenoisingConfig(
            batch_size=c.batch_size * c.repeats,
            sigma_min=c.sigma_min,
            sigma_max=c.sigma_max,
            log_sigma_mean=0.5 * (math.log(c.sigma_min) + math.log(c.sigma_max)),
            log_sigma_std=0.4 * (math.log(c.sigma_max) - math.log(c.sigma_min)),
        )
        self.energies[label] = energy
        self._objectives[label] = DenoisingScoreMatching(energy, levels)
        self._optimizers[label] = torch.optim.Adam(energy.parameters(), lr=c.learning_rate)

    def _step(self, label: int, rows: Tensor) -> None:
        if self.energies[label] is None:
            self._meet(label)
        batch = Batch(rows.repeat(self.config.repeats, 1), {})
        loss, _ = self._objectives[label](batch, self._generator)
        optimizer = self._optimizers[label]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def _levels(self) -> Tensor:
        low, high = math.log(self.config.sigma_min), math.log(self.config.sigma_max)
        return torch.linspace(low, high, self.config.levels).exp()

    def log_evidence(self, x: Tensor, classes: Iterable[int], seed: int = 0) -> Tensor:
        """(B, classes) minus the mean over levels of |denoised - x|^2 / s^2, times the span of log s.

        Up to a constant that is the same for all classes it is a lower bound of log p_y(x) (Ho et al. 2020;
        Kingma et al. 2021, eq. 15; used to classify by Li et al. 2023, 2303.16203): energies that were learnt
        apart become comparable. The same noise is used for every class and every x.
        """
        generator = seeded_generator("cpu", seed, "evidence")
        classes = list(classes)
        total = x.new_zeros(len(x), len(classes))
        for sigma in self._levels().tolist():
            for _ in range(self.config.draws):
                noisy = x + sigma * torch.empty_like(x).normal_(generator=generator)
                condition = {LEVEL: x.new_full((len(x),), sigma)}
                for column, label in enumerate(classes):
                    energy = self.energies[label]
                    if energy is None:
                        raise InputError(f"class {label}: never met; known are {self.known}")
                    off = denoise(energy, noisy, condition) - x
                    total[:, column] -= off.detach().square().sum(1) / sigma**2
        span = math.log(self.config.sigma_max / self.config.sigma_min)
        return total * span / (self.config.levels * self.config.draws)

    def sample(self, label: int, count: int, seed: int, steps: int = 12) -> Tensor:
        """Rows (count, D) of one class's energy, by following its levels down."""
        energy = self.energies[label]
        if energy is None:
            raise InputError(f"class {label}: never met; known are {self.known}")

        def at(level: Tensor) -> EnergyOfX:
            return lambda x: energy(x, {LEVEL: level})

        c = self.config
        path = AnnealConfig(steps=steps, sigma_max=c.sigma_max, sigma_min=c.sigma_min)
        generator = seeded_generator("cpu", seed, "samples", label)
        return anneal(at, torch.zeros(count, self.size), path, generator=generator).x
