"""Restoration: pictures freed of noise, blur, missing pixels or a coarse grid, and what stays uncertain."""

import dataclasses
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.core.hmc import ChainConfig
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.image.measurements import Measurement, block_mean, gaussian_blur, masked, noisy, separable
from ebm_traj.image.moments import conjugate_gradients
from ebm_traj.image.posterior import PosteriorConfig, denoised, draw_in_batches
from ebm_traj.image.sampling import PictureModel, device_of, energy_of_levels

DamageKind = Literal["noise", "blur", "missing", "coarse"]
LEAST = {"noise": 0.0, "blur": 0.0, "missing": 0.0, "coarse": 1.0}
FILTER_TURNS = 200
FILTER_ROWS = 10_000
RIDGE = 1e-4  # variance of a pixel, a hundredth of a pixel's range squared: 1 grey level is 6e-5


@dataclasses.dataclass(frozen=True)
class Damage:
    """What was done to a picture."""

    kind: DamageKind
    amount: float
    """noise: standard deviation, of a range of 2. blur: standard deviation in pixels. missing: share of the
    pixels. coarse: pixels along the side of a block, of which only the mean is seen."""
    noise: float = 0.0
    """Standard deviation of the noise on what is left; of blur and coarse it must be above 0."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(DamageKind):
            raise InputError(f"damage: '{self.kind}'; accepted are {', '.join(get_args(DamageKind))}")
        if not (self.amount > LEAST[self.kind] and math.isfinite(self.amount)):
            raise InputError(f"damage {self.kind}: {self.amount}; it must be above {LEAST[self.kind]:g}")
        if self.kind == "missing" and not self.amount < 1:
            raise InputError(f"damage missing: {self.amount}; it must be below 1")
        if self.kind == "coarse" and self.amount != int(self.amount):
            raise InputError(f"damage coarse: {self.amount}; accepted are whole pixels")

    @classmethod
    def read(cls, text: str) -> "Damage":
        """KIND:AMOUNT or KIND:AMOUNT:NOISE; blur and coarse have noise of 0.05 by default."""
        kind, *numbers = text.split(":")
        if (
            kind not in get_args(DamageKind)
            or not 1 <= len(numbers) <= 2
            or (kind == "noise" and numbers[1:])
        ):
            raise InputError(
                f"damage '{text}': accepted are noise:STD, blur:PIXELS[:STD], missing:SHARE[:STD], "
                "coarse:PIXELS[:STD]"
            )
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            raise InputError(f"damage '{text}': {':'.join(numbers)} is no number") from None
        default = 0.05 if kind in ("blur", "coarse") else 0.0
        return cls(kind, values[0], values[1] if len(values) > 1 else default)  # type: ignore[arg-type]

    @property
    def title(self) -> str:
        """A few words."""
        words = {
            "noise": f"noise of {self.amount:g}",
            "blur": f"blur of {self.amount:g} px",
            "missing": f"{100 * self.amount:g} % missing",
            "coarse": f"{self.amount:g} x {self.amount:g} means",
        }[self.kind]
        return words + (f", noise of {self.noise:g}" if self.noise else "")

    def of(self, x: Tensor, generator: torch.Generator | None = None) -> Measurement:
        """What is seen of pictures x (N, C, H, W) after it; each has its own noise and missing pixels."""
        high, wide = x.shape[-2:]
        if self.kind == "noise":
            return noisy(x, self.amount, generator)
        if self.kind == "missing":
            seen = torch.empty(len(x), 1, high, wide, device=x.device).uniform_(generator=generator)
            return masked(x, seen >= self.amount, self.noise, generator)
        if self.kind == "blur":
            maps = gaussian_blur(high, self.amount), gaussian_blur(wide, self.amount)
        else:
            maps = block_mean(high, int(self.amount)), block_mean(wide, int(self.amount))
        return separable(x, *maps, self.noise, generator)


@dataclasses.dataclass(frozen=True)
class Restored:
    """M draws of each of N pictures given what was seen."""

    drawn: Tensor
    """(N, M, C, H, W)."""
    gradients: int
    """Of the energy, for each draw."""

    @property
    def mean(self) -> Tensor:
        """(N, C, H, W) the estimate of least squared error."""
        return self.drawn.mean(1)

    @property
    def spread(self) -> Tensor:
        """(N, C, H, W) standard deviation of the draws: what is left uncertain."""
        return self.drawn.std(1)


def restore(
    model: PictureModel,
    measurement: Measurement,
    count: int = 8,
    config: PosteriorConfig | ChainConfig | None = None,
    *,
    batch: int = 128,
    seed: int = 0,
    progress: str | None = None,
) -> Restored:
    """`count` draws of each picture given what was seen of it, see `image.posterior`."""
    if count < 2:
        raise InputError(f"draws: {count} of each picture; accepted are 2 and more")
    device = device_of(model)
    found = draw_in_batches(
        model,
        measurement.to(device).repeat(count),
        config or PosteriorConfig("moments"),
        batch=batch,
        generator=seeded_generator(device, seed, "restoration"),
        progress=progress,
    )
    return Restored(found.x.view(-1, count, *found.x.shape[1:]), found.gradients)


def tweedie(model: PictureModel, measurement: Measurement) -> Tensor:
    """The mean of pictures under noise alone, from one gradient at the level of that noise: exact for the
    model's own density (Robbins 1956; Efron 2011). Raises InputError on other damage."""
    if not measurement.whole or not measurement.noise > 0 or not model.has_levels:
        raise InputError("one-gradient denoising: needs pictures under noise alone and a model with levels")
    with torch.no_grad():
        seen = measurement.seen.to(device_of(model))
        return denoised(energy_of_levels(model), seen, measurement.noise)


def wiener(measurement: Measurement, train: Tensor) -> Tensor:
    """The best linear estimate (N, C, H, W) by mean and covariance of training pictures (R, C, H, W).

    m + C A^T (A C A^T + s^2)^-1 (y - A m), by conjugate gradients: for stationary noise and pictures the
    Wiener filter, and what a Gaussian energy would restore.
    """
    train = train[:FILTER_ROWS]
    mean = train.mean(0)
    away = (train - mean).flatten(1)
    covariance = away.T @ away / max(len(train) - 1, 1) + RIDGE * torch.eye(away.shape[1]).to(away)
    gains = measurement.gains.expand(measurement.shape)
    noise = max(measurement.noise**2, RIDGE)

    def spread(x: Tensor) -> Tensor:
        return (x.flatten(1) @ covariance).view(x.shape)

    def seen_spread(u: Tensor) -> Tensor:
        return gains * measurement.analyse(spread(measurement.synthesise(gains * u))) + noise * u

    off = torch.where(gains > 0, measurement.seen - gains * measurement.analyse(mean[None]), 0.0)
    solved = conjugate_gradients(seen_spread, off, min(FILTER_TURNS, off[0].numel()))
    return mean + spread(measurement.synthesise(gains * solved))


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """(N,) peak signal to noise ratio in dB, of a range of 2."""
    error = (x - truth).square().flatten(1).mean(1).clamp_min(1e-12)
    return 10 * torch.log10(4 / error)


def calibration(found: Restored, truth: Tensor) -> float:
    """Root mean square error of the mean against what the draws' own spread says it is; 1 is right.

    Of M draws the mean misses the truth by a variance of (1 + 1 / M) times theirs.
    """
    error = (found.mean - truth).square().mean()
    said = found.spread.square().mean() * (1 + 1 / found.drawn.shape[1])
    return float((error / said.clamp_min(1e-12)).sqrt())
