"""Drawing from sums of energies of single factors, level by level, and the ways to compare that with."""

import dataclasses
import itertools
from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.denoising import LEVEL
from ebm_traj.core.energy import EnergyOfX, energy_and_gradient
from ebm_traj.core.langevin import LangevinConfig, langevin, noise_like
from ebm_traj.errors import InputError
from ebm_traj.image.composition import SpriteModel, to_picture
from ebm_traj.image.composition_posteriors import WEIGHTS
from ebm_traj.image.factor_energy import FACTORS, TOLD

Way = Literal["sum", "product", "in turn", "joint"]
"""sum: E(x) + sum_i w (E_i(x | c_i) - E(x)). product: sum_i E_i(x | c_i), no E(x) taken off. in turn: steps
of E_1(x | c_1), then of E_2(x | c_2) and so on, as the code released with 1903.08689 does. joint: the energy
that is told all at once."""


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
    weight: float = 5.0
    """w of the sum."""
    corrector: LangevinConfig = dataclasses.field(
        default_factory=lambda: LangevinConfig(steps=6, step_size=0.25, temperature=0.35)
    )
    """Langevin steps at each level, their size in units of the level squared. Weight, temperature and steps
    were chosen on seen combinations; 1, 1 and many are those of p(x) prod_i p(c_i | x)."""

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
        """Gradients of a network (the energy's, the posteriors') that one picture costs."""
        steps = self.corrector.gradients
        if way == "in turn":
            return 2 * self.levels * (len(FACTORS) * steps + 1)
        return (1 if way == "joint" else 2) * self.levels * (steps + 1)


def composed(
    model: SpriteModel, asked: Tensor, way: Way, sigma: float, weight: float = 1.0
) -> list[EnergyOfX]:
    """Energies of x (B, 1, H, W) at one level for factors asked (B, 5): one, or with `in turn` one for each
    factor. Raises InputError on an unknown way."""
    if way not in get_args(Way):
        raise InputError(f"way of composing: '{way}'; accepted are {', '.join(get_args(Way))}")
    level = asked.new_full((len(asked),), sigma)

    def part(weights: list[float], plain: float = 1.0) -> EnergyOfX:
        """plain E(x) + sum_i weight_i f_i(x, c_i)."""
        condition = {
            LEVEL: level,
            "factors": asked,
            WEIGHTS: asked.new_tensor(weights).expand(len(asked), -1),
        }
        return lambda x: plain * model.energy(x, {LEVEL: level}) + model.posteriors(x, condition)

    if way == "joint":
        told = {LEVEL: level, "factors": asked, TOLD: torch.ones_like(level)}
        return [lambda x: model.energy(x, told)]
    if way == "in turn":
        return [part(row) for row in torch.eye(len(FACTORS)).tolist()]
    if way == "product":
        return [part([1.0] * len(FACTORS), float(len(FACTORS)))]
    return [part([weight] * len(FACTORS))]


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
            seen.append(to_picture(denoised))
        x = denoised + lower / sigma * (x - denoised)
    return to_picture(x), torch.stack(seen) if record else x.new_empty(0, *x.shape)
