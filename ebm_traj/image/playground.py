"""The 2-D playground: energies learnt in the plane, where the normalising constant is a sum over a grid.

Contrastive divergence and denoising learn an energy of samples of a density known exactly. The integral of
exp(-E) over a grid makes the learnt energy a normalised density, so that its log-likelihood on new samples
and its Kullback-Leibler divergence from the truth are numbers, not guesses.
"""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ebm_traj.core.annealing import AnnealConfig, anneal
from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.denoising import LEVEL, AtLevel, DenoisingConfig, DenoisingScoreMatching
from ebm_traj.core.distributed import make_fabric
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy, EnergyOfX
from ebm_traj.core.jumps import jump
from ebm_traj.core.langevin import Chain, LangevinConfig, langevin
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.proposal import NoiseProposal
from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.core.trainer import Trainer, TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.image.toy import ToyDensity

Learning = Literal["denoising", "contrastive"]
ROW = "row"
"""Name of the only entry of a condition of plane energies, which says how many rows there are."""
JUMPS = 200
"""Offered to each sample before its walk; one in ten is taken, or one in twenty."""
WALK = LangevinConfig(steps=200, step_size=0.01, metropolis=True, adapt=100)
"""What samples walk after their jumps."""


@dataclasses.dataclass(frozen=True)
class PlaneConfig:
    """How an energy of the plane is learnt."""

    learning: Learning = "denoising"
    """By denoising at all noise levels, or by contrastive divergence with replay."""
    width: int = 128
    """Of three hidden layers."""
    samples: int = 20_000
    """Of the density, drawn once."""
    denoising: DenoisingConfig = dataclasses.field(
        default_factory=lambda: DenoisingConfig(
            batch_size=512, sigma_min=0.05, sigma_max=6.0, log_sigma_mean=-1.0, log_sigma_std=1.2
        )
    )
    contrastive: ContrastiveConfig = dataclasses.field(
        default_factory=lambda: ContrastiveConfig(
            batch_size=512,
            langevin=LangevinConfig(steps=10, step_size=0.05, metropolis=True),
            buffer_size=10_000,
            replay_fraction=0.95,
            energy_regularisation=1e-2,
            jumps=10,
            adapt=True,
        )
    )
    trainer: TrainerConfig = dataclasses.field(
        default_factory=lambda: TrainerConfig(iterations=2000, learning_rate=3e-3, validate_every=0)
    )

    def __post_init__(self) -> None:
        if self.learning not in get_args(Learning):
            raise InputError(f"learning: '{self.learning}'; accepted are {', '.join(get_args(Learning))}")
        for name in ("width", "samples"):
            if getattr(self, name) < 1:
                raise InputError(f"plane {name}: {getattr(self, name)}; accepted are 1 and more")


class PlaneEnergy(Energy):
    """E(x) of x (B, 2): a network, beside a wide Gaussian bowl of `extent` that keeps chains from leaving.

    With a `level` in the condition it is noise-conditional, x is taken in units of sqrt(1 + s^2), and the
    bowl is that of data of unit spread seen through noise.
    """

    def __init__(self, width: int, extent: float, with_level: bool) -> None:
        super().__init__()
        self.extent, self.with_level = extent, with_level
        sizes = [10 + 2 * with_level, width, width, width, 1]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        nn.init.zeros_(layers[-1].weight)
        self.network = nn.Sequential(*[part for layer in layers for part in (layer, nn.SiLU())][:-1])

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        if not self.with_level:
            bowl = 0.5 * (x / (0.5 * self.extent)).square().sum(1)
            return bowl + self.network(_waves(x / (0.5 * self.extent)))[:, 0]
        level = condition[LEVEL][:, None]
        spread = (1 + level**2).sqrt()
        said = self.network(torch.cat([_waves(x / spread), level.log(), 1 / spread], 1))
        return 0.5 * (x / spread).square().sum(1) + said[:, 0] / level[:, 0].clamp_min(0.3)


def _waves(x: Tensor) -> Tensor:
    """(B, 10) x and its sines and cosines of two lengths: sharp edges are learnt sooner."""
    return torch.cat([x, *[wave(k * x) for k in (2, 4) for wave in (torch.sin, torch.cos)]], 1)


@dataclasses.dataclass(frozen=True)
class Learnt:
    """An energy of the plane after training."""

    energy: Energy
    """Of the data, or, of a noise-conditional network, of the data seen through its lowest noise."""
    config: PlaneConfig
    conditional: PlaneEnergy
    """The network itself."""

    def energy_at(self, level: Tensor) -> EnergyOfX:
        """The noise-conditional energy at levels (B,). Raises InputError if it has none."""
        if not self.conditional.with_level:
            raise InputError("levels: an energy learnt by contrastive divergence has none")
        return lambda x: self.conditional(x, {LEVEL: level})

    def sample(self, count: int, generator: torch.Generator | None = None, *, record: bool = False) -> Chain:
        """A `Chain` whose x are (count, 2) samples: down the levels, or by jumps and a walk from anywhere."""
        extent = self.conditional.extent
        if self.conditional.with_level:
            levels = self.config.denoising
            path = AnnealConfig(steps=20, sigma_max=levels.sigma_max, sigma_min=levels.sigma_min)
            return anneal(self.energy_at, torch.zeros(count, 2), path, generator=generator, record=record)
        return walk_anywhere(self.energy, extent, count, generator, record=record)


def walk_anywhere(
    energy: Energy,
    extent: float,
    count: int,
    generator: torch.Generator | None = None,
    *,
    record: bool = False,
) -> Chain:
    """A `Chain` whose x are `count` samples of an energy, from anywhere in +-`extent`.

    Jumps find the modes in their shares; Metropolis-corrected Langevin steps follow, recorded if asked for.
    """
    anywhere, rows = anywhere_in(extent), {ROW: torch.zeros(count, 1)}
    start = anywhere.sample(rows, generator)
    start, _ = jump(energy, anywhere, start, rows, times=JUMPS, generator=generator)
    return langevin(of_x(energy), start, WALK, generator=generator, record=record)


def anywhere_in(extent: float) -> NoiseProposal:
    """The uniform distribution on the square +-`extent`."""
    return NoiseProposal(lambda condition: torch.zeros(len(condition[ROW]), 2), extent)


def learn(density: ToyDensity, config: PlaneConfig, folder: Path) -> Learnt:
    """Learn an energy of samples of a density; log and checkpoint go to `folder`, which is made."""
    seed = config.trainer.seed
    data = density.sample(config.samples, seeded_generator("cpu", seed, "plane data"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "plane weights"))
        energy = PlaneEnergy(config.width, density.extent, config.learning == "denoising")
    objective: Objective
    if config.learning == "denoising":
        objective = DenoisingScoreMatching(energy, config.denoising)
    else:
        objective = ContrastiveDivergence(energy, anywhere_in(density.extent), config.contrastive)

    def batches(iteration: int, generator: torch.Generator) -> Batch:
        pick = torch.randint(len(data), (objective.new_rows,), generator=generator)
        return Batch(data[pick], {ROW: torch.zeros(len(pick), 1)})

    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(objective, batches, config.trainer, folder, make_fabric("cpu"), {"plane": repr(config)})
    trainer.fit()
    trainer.raw.load_state_dict(trainer.ema.module.state_dict())
    energy.eval().requires_grad_(False)
    whole: Energy = (
        energy if config.learning == "contrastive" else AtLevel(energy, config.denoising.sigma_min)
    )
    return Learnt(whole, config, energy)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Cells of a square of the plane."""

    extent: float = 4.0
    """The square is -extent..extent."""
    cells: int = 200
    """A side."""

    def __post_init__(self) -> None:
        if not self.extent > 0 or self.cells < 2:
            raise InputError(f"grid: {self.cells} cells to +-{self.extent}; accepted are 2 and more, above 0")

    @property
    def points(self) -> Tensor:
        """(cells^2, 2) midpoints, row by row from below."""
        side = self.extent * (2 * (torch.arange(self.cells) + 0.5) / self.cells - 1)
        down, right = torch.meshgrid(side, side, indexing="ij")
        return torch.stack([right.flatten(), down.flatten()], 1)

    @property
    def area(self) -> float:
        """Of a cell."""
        return (2 * self.extent / self.cells) ** 2

    @torch.no_grad()
    def values(self, energy: EnergyOfX, chunk: int = 10_000) -> Tensor:
        """(cells^2,) energies at the midpoints, in float64."""
        return torch.cat([energy(some) for some in self.points.split(chunk)]).double()

    def log_z(self, energy: EnergyOfX) -> float:
        """log of the integral of exp(-E) over the square, by the midpoint rule."""
        return float((-self.values(energy)).logsumexp(0)) + math.log(self.area)

    def log_density(self, energy: EnergyOfX) -> Tensor:
        """(cells^2,) normalised over the square."""
        values = self.values(energy)
        return -values - (-values).logsumexp(0) - math.log(self.area)

    def kl(self, truth: EnergyOfX, energy: EnergyOfX) -> float:
        """KL(truth || model) over the square, in nats, by the midpoint rule."""
        p, q = self.log_density(truth), self.log_density(energy)
        return float((p.exp() * (p - q)).nansum()) * self.area


def of_x(energy: Energy) -> EnergyOfX:
    """An energy of the plane as a function of x alone."""
    return lambda x: energy(x, {ROW: torch.zeros(len(x), 1)})


@dataclasses.dataclass(frozen=True)
class Scores:
    """How near a learnt energy is to the truth, in nats."""

    log_likelihood: float
    """Mean log density of new samples of the truth under the learnt energy, normalised by quadrature."""
    truth: float
    """The same under the truth: the most that can be reached on average."""
    kl: float
    """KL(truth || learnt), by quadrature."""
    kl_reverse: float
    """KL(learnt || truth): large where the learnt density is and the truth is not."""
    log_z: float
    """Of the learnt energy."""


def score(density: ToyDensity, energy: Energy, grid: Grid | None = None, count: int = 20_000) -> Scores:
    """Compare a learnt energy with the density it was learnt from."""
    grid = grid or Grid(density.extent + 1.0, 200)
    test = density.sample(count, seeded_generator("cpu", "plane test"))
    truth, learnt = of_x(density), of_x(energy)
    with torch.no_grad():
        log_z = grid.log_z(learnt)
        likelihood = float(-learnt(test).double().mean()) - log_z
        best = float(-truth(test).double().mean())
    return Scores(likelihood, best, grid.kl(truth, learnt), grid.kl(learnt, truth), log_z)
