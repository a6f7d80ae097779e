"""Drawing from sums of energies of single factors, level by level, and the ways to compare that with."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.denoising import LEVEL
from ebm_traj.core.energy import EnergyOfX, energy_and_gradient
from ebm_traj.core.langevin import LangevinConfig, langevin, noise_like
from ebm_traj.errors import InputError
from ebm_traj.image.composition import SpriteModel
from ebm_traj.image.factor_energy import FACTORS, TOLD

Way = Literal["sum", "product", "in turn", "joint"]
"""sum: E(x) + sum_i w (E(x | c_i) - E(x)). product: sum_i E(x | c_i), no E(x) taken off. in turn: steps of
E(x | c_1), then of E(x | c_2) and so on, as the code released with 1903.08689 does. joint: E(x | all c_i) of
a model that is told all at once."""


@dataclasses.dataclass(frozen=True)
class CompositionSampling:
    """The way from noise to pictures."""

    levels: int = 20
    """Noise levels."""
    sigma_max: float = 30.0
    """Highest; in units of the spread of all pixels."""
    sigma_min: float = 0.05
    """Lowest."""
    rho: float = 4.0
    """How much denser the low levels lie, see `AnnealConfig`."""
    weight: float = 1.0
    """w of the sum."""
    corrector: LangevinConfig = dataclasses.field(
        default_factory=lambda: LangevinConfig(steps=3, step_size=0.1)
    )
    """Langevin steps at each level, their size in units of the level squared."""

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise InputError(f"composition levels: {self.levels}; accepted are 2 and more")
        if not self.weight > 0:
            raise InputError(f"composition weight: {self.weight}; it must be above 0")
        _ = self.schedule  # raises on bad levels

    @property
    def schedule(self) -> list[float]:
        """The levels, falling."""
        path = AnnealConfig(
            steps=self.levels, sigma_max=self.sigma_max, sigma_min=self.sigma_min, rho=self.rho
        )
        return path.levels

    def gradients(self, way: Way) -> int:
        """Gradients of the network that one picture costs."""
        steps = self.corrector.gradients
        if way == "in turn":
            return self.levels * (len(FACTORS) * steps + 1)
        energies = {"sum": len(FACTORS) + 1, "product": len(FACTORS), "joint": 1}[way]
        return energies * self.levels * (steps + 1)


def energies_of(model: SpriteModel, asked: Tensor, told: Tensor, sigma: float) -> Callable[[Tensor], Tensor]:
    """x (B, 1, H, W) to energies (K, B), each told its own factors (K, 4) of those asked for (B, 5)."""
    kinds = len(told)
    factors = asked.repeat(kinds, 1)
    masks = told.repeat_interleave(len(asked), 0)
    level = asked.new_full((len(factors),), sigma)

    def evaluate(x: Tensor) -> Tensor:
        many = x.repeat(kinds, 1, 1, 1)
        return model.energy(many, {LEVEL: level, "factors": factors, TOLD: masks}).view(kinds, -1)

    return evaluate


def composed(
    model: SpriteModel, asked: Tensor, way: Way, sigma: float, weight: float = 1.0
) -> list[EnergyOfX]:
    """The energies at one level: one, or with `in turn` as many as there are factors.

    Raises InputError if the model was told too much or too little for the way.
    """
    if way not in get_args(Way):
        raise InputError(f"way of composing: '{way}'; accepted are {', '.join(get_args(Way))}")
    needs = "all" if way == "joint" else "one"
    if model.telling != needs:
        raise InputError(
            f"way of composing: '{way}' needs a model told {needs}; this one is told {model.telling}"
        )
    one = torch.eye(len(FACTORS))

    def told_rows(masks: Tensor) -> EnergyOfX:
        return lambda x: energies_of(model, asked, masks, sigma)(x).sum(0)

    if way == "joint":
        return [told_rows(torch.ones(1, len(FACTORS)))]
    if way == "in turn":
        return [told_rows(row[None]) for row in one]
    if way == "product":
        return [told_rows(one)]
    told = torch.cat([torch.zeros(1, len(FACTORS)), one])
    weights = torch.tensor([1 - weight * len(FACTORS), *[weight] * len(FACTORS)])
    return [lambda x: weights @ energies_of(model, asked, told, sigma)(x)]


def sample_sprites(
    model: SpriteModel,
    asked: Tensor,
    way: Way,
    config: CompositionSampling,
    *,
    generator: torch.Generator | None = None,
    record: bool = False,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, H, W) in [-1, 1] for factors asked (N, 5), and (T, N, 1, H, W) what the walk of each
    would be denoised to at each level, empty unless `record`."""
    parts = [_walk(model, some, way, config, generator, record) for some in asked.float().split(chunk)]
    return torch.cat([x for x, _ in parts]), torch.cat([trace for _, trace in parts], 1)


def _walk(
    model: SpriteModel,
    asked: Tensor,
    way: Way,
    config: CompositionSampling,
    generator: torch.Generator | None,
    record: bool,
) -> tuple[Tensor, Tensor]:
    side = model.energy.config.pixels
    schedule = config.schedule
    x = torch.zeros(len(asked), 1, side, side)
    x = schedule[0] * noise_like(x, generator)
    seen = []
    for sigma, lower in itertools.pairwise([*schedule, 0.0]):
        energies = composed(model, asked, way, sigma, config.weight)
        if config.corrector.steps:
            for energy in energies:
                unit = x.new_full((), sigma)
                x = langevin(energy, x, config.corrector, scale=unit, generator=generator).x
        # one Euler step of the probability flow; the last one denoises. In turn: of the last energy
        denoised = x - sigma**2 * energy_and_gradient(energies[-1], x)[1]
        if record:
            seen.append(model.to_picture(denoised))
        x = denoised + lower / sigma * (x - denoised)
    return model.to_picture(x), torch.stack(seen) if record else x.new_empty(0, *x.shape)
