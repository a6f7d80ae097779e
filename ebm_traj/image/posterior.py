"""Pictures given what was seen of them: draws from p(x | y), the model's energy with the measurement's.

Four ways along the noise levels of a noise-conditional energy, and one on an energy without levels:

* `moments`: the flow to lower levels with the denoised picture given x and y, from the energy's gradient and
  second derivative (`image.moments`; Rozet et al. 2024, 2405.13712).
* `replace`: ancestral steps down the levels; at each, what is seen takes its place, noised to that level, and
  the level is visited several times, so that the rest can settle around it (RePaint, Lugmayr et al. 2022,
  2201.09865, algorithm 1).
* `measure`: the energy of the measurement, |y - A x|^2 / 2 (s^2 + c sigma^2), is added to the model's at each
  level, and Langevin steps walk on the sum (Song & Ermon 2019; Jalal et al. 2021, 2108.01368).
* `gibbs`: turns of an exact Gaussian draw given y and a draw of the picture given that, whose coupling
  |x - z|^2 / 2 sigma^2 tightens from level to level (split Gibbs, Vono et al. 2019, 1804.05809; with such a
  prior Coeurdoux et al. 2023, 2304.11134, and Wu et al. 2024, 2405.18782).
* pictures under noise alone are pictures at the level of that noise already: steps lead down from there.
* without levels, Langevin or Hamiltonian chains on E(x) + T |y - A x|^2 / 2 s^2, T the chain's temperature;
  pixels that are known exactly are held.

On Gaussian pictures, where p(x | y) is known, `moments` is exact up to the number of levels; the others as
the lowest level goes to 0 and the visits of each level become many, which the tests measure.
"""

import dataclasses
import itertools
import math
from typing import Literal, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from ebm_traj.core.annealing import AnnealConfig, EnergyAt, anneal
from ebm_traj.core.energy import EnergyOfX, energy_and_gradient
from ebm_traj.core.hmc import ChainConfig
from ebm_traj.core.langevin import LangevinConfig, noise_like
from ebm_traj.errors import InputError
from ebm_traj.image.measurements import Measurement
from ebm_traj.image.moments import by_moments
from ebm_traj.image.sampling import PictureModel, centre_of, cost_of, energy_of_levels, walk

Way = Literal["moments", "replace", "measure", "gibbs"]


@dataclasses.dataclass(frozen=True)
class PosteriorConfig:
    """How pictures are drawn given what was seen of them."""

    way: Way = "replace"
    """moments, replace, measure or gibbs, see `image.posterior`; energies without levels go a way of their
    own."""
    levels: int = 24
    """Noise levels."""
    sigma_max: float = 5.0
    """The highest, in units of pixels in [-1, 1]."""
    sigma_min: float = 0.02
    """The lowest."""
    rho: float = 5.0
    """How much denser the low levels lie (Karras et al. 2022, eq. 5)."""
    repeats: int = 4
    """moments: turns of conjugate gradients. replace: visits of each level. measure: Langevin steps there.
    gibbs: turns there."""
    inner: int = 5
    """gibbs: steps from a level down to the data in each turn, each of one gradient."""
    step_size: float = 0.2
    """measure: Langevin step, in units of the level squared."""
    metropolis: bool = False
    """measure: accept or reject each step."""
    widen: float = 1.0
    """measure: the factor c; larger ones hold the measurement more loosely while noise is high."""

    def __post_init__(self) -> None:
        if self.way not in get_args(Way):
            raise InputError(f"posterior way: {self.way!r}; accepted are {', '.join(get_args(Way))}")
        for name in ("levels", "repeats", "inner"):
            least = 2 if name == "levels" else 1
            if getattr(self, name) < least:
                raise InputError(f"posterior {name}: {getattr(self, name)}; accepted are {least} and more")
        for name in ("rho", "step_size", "widen"):
            if not getattr(self, name) > 0:
                raise InputError(f"posterior {name}: {getattr(self, name)}; it must be above 0")
        if not 0 < self.sigma_min < self.sigma_max:
            raise InputError(
                f"posterior levels: {self.sigma_min} to {self.sigma_max}; needs 0 < sigma_min < sigma_max"
            )

    @property
    def sigmas(self) -> list[float]:
        """The levels, falling."""
        return self.schedule.levels

    @property
    def schedule(self) -> AnnealConfig:
        """The same as settings of `core.annealing`, with the Langevin steps of `measure`."""
        return AnnealConfig(
            self.levels,
            self.sigma_max,
            self.sigma_min,
            self.rho,
            "langevin",
            langevin_steps=self.repeats,
            langevin_step_size=self.step_size,
            metropolis=self.metropolis,
        )

    @property
    def gradients(self) -> int:
        """Gradients of the model's energy that one draw costs."""
        if self.way == "measure":
            return self.schedule.gradients
        if self.way == "gibbs":
            return self.levels * self.repeats * self.inner
        if self.way == "moments":
            return (self.levels + 1) * (3 + 2 * self.repeats)
        return (self.levels - 1) * self.repeats + 1


@dataclasses.dataclass(frozen=True)
class Draw:
    """Pictures drawn given what was seen of them."""

    x: Tensor
    """(B, C, H, W), what is known exactly in its place."""
    raw: Tensor
    """(B, C, H, W) before it was put there."""
    gradients: int
    """Of the model's energy, for each draw."""
    trace: Tensor | None = None
    """(T, B, C, H, W) states on the way, if asked for."""


def draw_posterior(
    model: PictureModel,
    measurement: Measurement,
    config: PosteriorConfig | ChainConfig,
    *,
    labels: Tensor | None = None,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    record: bool = False,
) -> Draw:
    """One draw (B, C, H, W) of a picture for each that was measured, by the model's energy.

    `labels` (B,) classes that are known. `start` (B, C, H, W) is where chains begin: by default the mean
    picture with levels (noise is put on it here), uniform noise in [-1, 1] without. Models with levels take
    a `PosteriorConfig`, others a `ChainConfig`.
    `record` keeps the states in `trace`. Raises InputError if model, measurement and way do not fit.
    """
    require_way(model, measurement, config)
    if not isinstance(config, PosteriorConfig):
        return _by_chain(model, measurement, config, labels, start, generator, record)
    energy_at = energy_of_levels(model, labels)
    begin = centre_of(model).to(measurement.seen).expand(measurement.shape) if start is None else start
    with torch.no_grad():
        if _is_level(measurement, config):
            return _from_noise(energy_at, measurement, config, generator, record)
        if config.way == "measure":
            return _by_measure(energy_at, measurement, config, begin, generator, record)
        if config.way == "moments":
            return _by_moments(energy_at, measurement, config, begin, generator, record)
        if config.way == "gibbs":
            return _by_gibbs(energy_at, measurement, config, begin, generator, record)
        return _by_replacing(energy_at, measurement, config, begin, generator, record)


def require_way(model: PictureModel, measurement: Measurement, config: PosteriorConfig | ChainConfig) -> None:
    """Raise InputError unless model, measurement and way fit each other."""
    if tuple(measurement.shape[1:]) != tuple(model.shape):
        raise InputError(
            f"measured pictures of {tuple(measurement.shape[1:])}; the model's are {tuple(model.shape)}"
        )
    if not isinstance(config, PosteriorConfig):
        if model.has_levels:
            raise InputError("this model has noise levels: it needs a PosteriorConfig")
        return
    if not model.has_levels:
        raise InputError("this model has no noise levels: it needs settings of a chain (LangevinConfig)")
    if (
        config.way == "replace"
        and not _is_level(measurement, config)
        and measurement.noise > config.sigma_min
    ):
        raise InputError(
            f"way 'replace': measurement noise {measurement.noise:g} is above the lowest level "
            f"{config.sigma_min:g}; use gibbs or measure"
        )


def _is_level(measurement: Measurement, config: PosteriorConfig) -> bool:
    """Whether what was seen is the whole picture at one of the levels' noise: its chain begins there."""
    return measurement.whole and config.sigma_min < measurement.noise <= config.sigma_max


def draw_in_batches(
    model: PictureModel,
    measurement: Measurement,
    config: PosteriorConfig | ChainConfig,
    *,
    labels: Tensor | None = None,
    batch: int = 128,
    generator: torch.Generator | None = None,
    progress: str | None = None,
) -> Draw:
    """`draw_posterior` of many pictures, `batch` at a time; `progress` names a bar on the terminal."""
    if batch < 1:
        raise InputError(f"batch: {batch}; accepted are 1 and more")
    draws = []
    starts = range(0, len(measurement.seen), batch)
    for begin in tqdm(starts, desc=progress, unit="batch", disable=progress is None):
        rows = slice(begin, begin + batch)
        given = None if labels is None else labels[rows]
        draws.append(draw_posterior(model, measurement.take(rows), config, labels=given, generator=generator))
    return Draw(
        torch.cat([draw.x for draw in draws]),
        torch.cat([draw.raw for draw in draws]),
        draws[0].gradients * cost_of(model),
    )


def _from_noise(
    energy_at: EnergyAt,
    measurement: Measurement,
    config: PosteriorConfig,
    generator: torch.Generator | None,
    record: bool,
) -> Draw:
    """Under noise alone: what was seen is a picture at the level of its noise, from which steps lead down."""
    x = measurement.seen
    levels = AnnealConfig(2 * config.levels, measurement.noise, config.sigma_min, config.rho).levels
    states = [x]
    for sigma, lower in itertools.pairwise(levels):
        x = ancestral_step(energy_at, x, sigma, lower, generator)
        states.append(x)
    x = denoised(energy_at, x, levels[-1])
    states.append(x)
    return _draw(measurement, x, len(levels), torch.stack(states) if record else None)


def _by_measure(
    energy_at: EnergyAt,
    measurement: Measurement,
    config: PosteriorConfig,
    begin: Tensor,
    generator: torch.Generator | None,
    record: bool,
) -> Draw:
    def total(sigma: Tensor) -> EnergyOfX:
        prior = energy_at(sigma)
        return lambda x: prior(x) + measurement.energy(x, sigma, config.widen)

    chain = anneal(total, begin, config.schedule, generator=generator, record=record)
    return _draw(measurement, chain.x, config.gradients, chain.trace)


def _by_replacing(
    energy_at: EnergyAt,
    measurement: Measurement,
    config: PosteriorConfig,
    begin: Tensor,
    generator: torch.Generator | None,
    record: bool,
) -> Draw:
    sigmas = config.sigmas
    x = begin + sigmas[0] * noise_like(measurement.seen, generator)
    x = measurement.replace(x, sigmas[0], generator)
    states = [x]
    for sigma, lower in itertools.pairwise(sigmas):
        for visit in range(config.repeats):
            if visit:
                x = x + math.sqrt(sigma**2 - lower**2) * noise_like(x, generator)
            x = ancestral_step(energy_at, x, sigma, lower, generator)
            x = measurement.replace(x, lower, generator)
        states.append(x)
    x = denoised(energy_at, x, sigmas[-1])
    states.append(x)
    return _draw(measurement, x, config.gradients, torch.stack(states) if record else None)


def _by_gibbs(
    energy_at: EnergyAt,
    measurement: Measurement,
    config: PosteriorConfig,
    begin: Tensor,
    generator: torch.Generator | None,
    record: bool,
) -> Draw:
    x, states = begin, []
    for coupling in config.sigmas:
        down = AnnealConfig(
            config.inner, coupling, min(coupling, max(config.sigma_min / 4, coupling / 30)), config.rho
        )
        for _ in range(config.repeats):
            z = measurement.draw(x, coupling, generator)
            for sigma, lower in itertools.pairwise(down.levels):
                z = ancestral_step(energy_at, z, sigma, lower, generator)
            x = denoised(energy_at, z, down.levels[-1])
        states.append(x)
    return _draw(measurement, x, config.gradients, torch.stack(states) if record else None)


def _by_moments(
    energy_at: EnergyAt,
    measurement: Measurement,
    config: PosteriorConfig,
    begin: Tensor,
    generator: torch.Generator | None,
    record: bool,
) -> Draw:
    states = by_moments(energy_at, begin, config.sigmas, measurement, config.repeats, generator)
    return _draw(measurement, states[-1], config.gradients, torch.stack(states) if record else None)


def _by_chain(
    model: PictureModel,
    measurement: Measurement,
    config: ChainConfig,
    labels: Tensor | None,
    start: Tensor | None,
    generator: torch.Generator | None,
    record: bool,
) -> Draw:
    if start is None:
        start = torch.empty_like(measurement.seen).uniform_(-1, 1, generator=generator)
    prior = model.energy_at(None, labels)
    if measurement.noise == 0:
        if not measurement.of_pixels:
            raise InputError("measurement noise: 0; of a linear map it must be above 0")
        known = (measurement.gains > 0).expand_as(start)
        held = torch.where(known, measurement.seen, 0.0)

        def energy(x: Tensor) -> Tensor:
            return prior(torch.where(known, held, x))

        begin = torch.where(known, held, start)
        chain = walk(model, energy, begin, config, generator=generator, record=record)
        return _draw(measurement, chain.x, chain.gradients, chain.trace)
    weight = temperature_of(config)

    def both(x: Tensor) -> Tensor:
        return prior(x) + weight * measurement.energy(x)

    chain = walk(model, both, start, config, generator=generator, record=record)
    return _draw(measurement, chain.x, chain.gradients, chain.trace)


def temperature_of(config: ChainConfig) -> float:
    """T for which the chain samples exp(-E / T): with noise of its own, noise^2 / 2 step_size.

    The tutorial's chain (step 10, noise 0.005) samples exp(-E / T) with T = 1.25e-6, so that what is to be
    multiplied with that density must be added to E with weight T.
    """
    if isinstance(config, LangevinConfig) and config.noise is not None:
        return config.noise**2 / (2 * config.step_size)
    return config.temperature


def ancestral_step(
    energy_at: EnergyAt, x: Tensor, sigma: float, lower: float, generator: torch.Generator | None
) -> Tensor:
    """x at level `sigma` to a draw at level `lower`, given x: one gradient.

    x' = D + (lower / sigma)^2 (x - D) + n, D the denoised x. The variance of n is that of the noise still to
    come, lower^2 (1 - lower^2 / sigma^2), and of what D leaves open, (1 - lower^2 / sigma^2)^2 V, where
    V = sigma^2 (1 - sigma^2 mean |dE/dx|^2) is the mean variance of a pixel given x (Bao et al. 2022,
    2201.06503, theorem 1), here of the batch at hand.
    """
    gradient = _gradient(energy_at, x, sigma)
    ratio = (lower / sigma) ** 2
    clean = x - sigma**2 * gradient
    left = sigma**2 * (1 - sigma**2 * gradient.square().mean()).clamp(0, 1)
    variance = lower**2 * (1 - ratio) + (1 - ratio) ** 2 * left
    return clean + ratio * (x - clean) + variance.sqrt() * noise_like(x, generator)


def denoised(energy_at: EnergyAt, x: Tensor, sigma: float) -> Tensor:
    """E[x0 | x] of x at level `sigma`, by Tweedie's formula."""
    return x - sigma**2 * _gradient(energy_at, x, sigma)


def _gradient(energy_at: EnergyAt, x: Tensor, sigma: float) -> Tensor:
    return energy_and_gradient(energy_at(x.new_full((len(x),), sigma)), x)[1]


def _draw(measurement: Measurement, x: Tensor, gradients: int, trace: Tensor | None) -> Draw:
    known = measurement.nearest(x, 1.0) if measurement.noise == 0 else x
    return Draw(known, x, gradients, trace)
