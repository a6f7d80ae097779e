"""Scores of how little a picture belongs to a model's data, all read from its energy.

A low energy alone is a poor sign: smooth pictures have low energy under any good model of pictures (Nalisnick
et al. 2019). The other scores ask whether energies and gradients are *usual*, at one noise level or at many.
Higher is always less at home. Nothing here looks at other sets.
"""

import dataclasses
import io
import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ebm_traj.core.energy import EnergyOfX, energy_and_gradient
from ebm_traj.errors import InputError

Array = NDArray[np.float64]
COMPONENTS = (1, 2, 4)  # of the mixtures tried; by BIC
RIDGE = 1e-3  # share of a feature's variance added to the covariance's diagonal


class EnergyModel(Protocol):
    """What is read of a model: its energy of pictures (B, C, H, W) at a noise level (B,)."""

    has_levels: bool

    def energy_at(self, sigma: Tensor | None = None, labels: Tensor | None = None) -> EnergyOfX: ...


@dataclasses.dataclass(frozen=True)
class Readings:
    """What a model says of pictures, at each noise level."""

    sigmas: tuple[float, ...]
    """Noise levels, rising; (0,) of a model without them."""
    energy: Array
    """(N, L) E(x, sigma)."""
    slope: Array
    """(N, L) sigma |dE/dx| / sqrt(pixels): of unit size for x blurred with sigma; |dE/dx| without levels."""
    bits: Array
    """(N,) length of the picture as a PNG, in bits."""

    def __len__(self) -> int:
        return len(self.bits)


def spaced_levels(low: float, high: float, count: int) -> tuple[float, ...]:
    """Noise levels evenly spaced in the logarithm, both ends among them."""
    if not 0 < low <= high:
        raise InputError(f"noise levels: {low} to {high}; accepted is 0 < low <= high")
    if count < 1:
        raise InputError(f"noise levels: {count}; accepted are 1 and more")
    return tuple(float(s) for s in np.geomspace(low, high, count)) if count > 1 else (float(low),)


def read_energies(
    model: EnergyModel,
    x: NDArray[np.uint8],
    sigmas: tuple[float, ...],
    *,
    device: torch.device | str = "cpu",
    batch: int = 250,
    progress: Callable[[int], object] | None = None,
) -> Readings:
    """Energies and gradients of pictures (N, H, W, C), as they are (no noise is added), at each level.

    `sigmas` is ignored for a model without levels. `progress` is told of each batch's rows.
    """
    sigmas = sigmas if model.has_levels else (0.0,)
    energies, slopes = [], []
    for first in range(0, len(x), batch):
        part = torch.as_tensor(x[first : first + batch], device=device).permute(0, 3, 1, 2)
        part = part.float() / 127.5 - 1
        values, lengths = [], []
        for sigma in sigmas:
            level = part.new_full((len(part),), sigma) if model.has_levels else None
            energy, gradient = energy_and_gradient(model.energy_at(level), part)
            unit = sigma / math.sqrt(part[0].numel()) if model.has_levels else 1.0
            values.append(energy.double().cpu())
            lengths.append(unit * gradient.double().flatten(1).norm(dim=1).cpu())
        energies.append(torch.stack(values, 1).numpy())
        slopes.append(torch.stack(lengths, 1).numpy())
        if progress:
            progress(len(part))
    return Readings(sigmas, np.concatenate(energies), np.concatenate(slopes), png_bits(x))


def png_bits(x: NDArray[np.uint8]) -> Array:
    """(N,) bits of each picture (H, W, C) as an optimised PNG: how complex it is (Serra et al. 2020)."""
    from PIL import Image

    lengths = []
    for picture in x:
        buffer = io.BytesIO()
        Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(
            buffer, format="png", optimize=True
        )
        lengths.append(8 * buffer.tell())
    return np.array(lengths, np.float64)


class Density:
    """A mixture of Gaussians over features, fitted by EM; the number of components by BIC."""

    def __init__(self, features: ArrayLike, components: tuple[int, ...], seed: int) -> None:
        from sklearn.mixture import GaussianMixture

        rows = np.asarray(features, np.float64)
        if len(rows) < 2 * rows.shape[1]:
            raise InputError(
                f"density of {rows.shape[1]} features: {len(rows)} held-out pictures; needed are "
                f"{2 * rows.shape[1]} and more"
            )
        self.mean, self.scale = rows.mean(0), rows.std(0) + 1e-9
        white = (rows - self.mean) / self.scale
        fits = [
            GaussianMixture(k, covariance_type="full", reg_covar=RIDGE, random_state=seed, n_init=2).fit(
                white
            )
            for k in components
            if k == 1 or len(rows) >= 20 * k * rows.shape[1]
        ]
        self.mixture = min(
            fits or [GaussianMixture(1, reg_covar=RIDGE).fit(white)], key=lambda m: m.bic(white)
        )

    def surprise(self, features: ArrayLike) -> Array:
        """-log density (N,) of features (N, F), up to a constant."""
        return -self.mixture.score_samples((np.asarray(features, np.float64) - self.mean) / self.scale)


Score = Callable[[Readings], Array]
PLAIN, CONTROL = "energy", "PNG length alone"


def scores(fitted_on: Readings, *, seed: int = 0) -> dict[str, Score]:
    """Every score of a model, by name; the plain energy first. What is fitted is fitted on held-out pictures
    of the model's own data (`fitted_on`).

    energy                  E(x) at the lowest level.
    typicality              |E(x) - median E of held-out pictures| (Nalisnick et al. 2019).
    gradient norm           |dE/dx| at the lowest level (Grathwohl et al. 2020).
    gradient typicality     | log |dE/dx| - median |.
    energy - complexity     E(x) - ln 2 * bits of the PNG (Serra et al. 2020).
    level ratio             E(x, lowest) - E(x, middle level): a likelihood ratio to the blurred picture's
                            density, as to a background model (Ren et al. 2019).
    energies, Gaussian      -log density of the energies of all levels, by one Gaussian.
    score norms, Gaussian   the same of log |dE/dx| (multi-scale score matching analysis, Mahmood et al.
    2021). score norms, mixture    the same by a mixture of Gaussians.
    both, Gaussian          of energies and log |dE/dx| together.
    all, Gaussian           of these and the PNG's length.
    PNG length alone        -log density of the PNG's length: no energy at all, a control.

    Without noise levels the level ratio is left out.
    """
    centre = float(np.median(fitted_on.energy[:, 0]))
    usual = float(np.median(_log_slope(fitted_on)[:, 0]))
    found: dict[str, Score] = {
        PLAIN: lambda r: r.energy[:, 0],
        "typicality": lambda r: np.abs(r.energy[:, 0] - centre),
        "gradient norm": lambda r: r.slope[:, 0],
        "gradient typicality": lambda r: np.abs(_log_slope(r)[:, 0] - usual),
        "energy - complexity": lambda r: r.energy[:, 0] - math.log(2) * r.bits,
    }
    if len(fitted_on.sigmas) > 1:
        middle = len(fitted_on.sigmas) // 2
        found["level ratio"] = lambda r: r.energy[:, 0] - r.energy[:, middle]
    views: Mapping[str, tuple[Callable[[Readings], Array], tuple[int, ...]]] = {
        "energies, Gaussian": (lambda r: r.energy, (1,)),
        "score norms, Gaussian": (_log_slope, (1,)),
        "score norms, mixture": (_log_slope, COMPONENTS),
        "both, Gaussian": (lambda r: np.concatenate([r.energy, _log_slope(r)], 1), (1,)),
        "all, Gaussian": (
            lambda r: np.concatenate([r.energy, _log_slope(r), np.log(r.bits)[:, None]], 1),
            (1,),
        ),
        CONTROL: (lambda r: np.log(r.bits)[:, None], (1,)),
    }
    for name, (view, components) in views.items():
        density = Density(view(fitted_on), components, seed)
        found[name] = _surprise(density, view)
    return found


def _surprise(density: Density, view: Callable[[Readings], Array]) -> Score:
    return lambda readings: density.surprise(view(readings))


def _log_slope(readings: Readings) -> Array:
    return np.log(readings.slope + 1e-12)
