"""The denoised picture given a measurement, from the energy's first two derivatives at a noise level.

By Tweedie's formulas x0 | x at level sigma has the mean D = x - sigma^2 dE/dx and the covariance
sigma^2 dD/dx, symmetric because D is the gradient of a scalar. Taking x0 | x as Gaussian with these moments,
its mean given y = A x0 + s n is D + V A^T (A V A^T + s^2)^-1 (y - A D) with V = sigma^2 dD/dx: exact for
Gaussian pictures at every level (moment matching, Rozet et al. 2024, 2405.13712; Boys et al. 2023,
2310.06721). The linear system is solved by conjugate gradients, each turn one product with dD/dx.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ebm_traj.core.annealing import EnergyAt
from ebm_traj.core.langevin import noise_like
from ebm_traj.image.measurements import Measurement

LEAST_NOISE = 0.01  # of a measurement, as a share of the level: keeps the linear system well-posed


def denoised_given(
    energy_at: EnergyAt, x: Tensor, sigma: float, measurement: Measurement, turns: int
) -> Tensor:
    """E[x0 | x, y] (B, C, H, W) of pictures x at level `sigma`: 3 + 2 `turns` gradients of the energy."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        energy = energy_at(x.new_full((len(x),), sigma))
        (gradient,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
        clean = x - sigma**2 * gradient

        def spread(v: Tensor) -> Tensor:
            """V v = sigma^2 (dD/dx) v."""
            (product,) = torch.autograd.grad(clean, x, v, retain_graph=True)
            return sigma**2 * product

        gains = measurement.gains.expand_as(x)
        noise = max(measurement.noise, LEAST_NOISE * sigma) ** 2

        def seen_spread(u: Tensor) -> Tensor:
            """(A V A^T + s^2) u, in the basis where A is diagonal."""
            inner = measurement.analyse(spread(measurement.synthesise(gains * u)))
            return gains * inner + noise * u

        off = torch.where(gains > 0, measurement.seen - gains * measurement.analyse(clean.detach()), 0.0)
        solved = conjugate_gradients(seen_spread, off, turns)
        return clean.detach() + spread(measurement.synthesise(gains * solved)).detach()


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, turns: int) -> Tensor:
    """u (B, ...) with product(u) near right, by `turns` turns of each row's own (Hestenes & Stiefel 1952).

    A row whose curvature is not positive stays where it is.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.dim() - 1))

    solved, rest = torch.zeros_like(right), right
    direction, size = rest, dot(rest, rest)
    for _ in range(turns):
        ahead = product(direction)
        curvature = dot(direction, ahead)
        step = torch.where(curvature > 0, size / curvature.clamp_min(1e-30), 0.0)
        solved = solved + step * direction
        rest = rest - step * ahead
        new = dot(rest, rest)
        direction = rest + new / size.clamp_min(1e-30) * direction
        size = new
    return solved


def by_moments(
    energy_at: EnergyAt,
    begin: Tensor,
    sigmas: list[float],
    measurement: Measurement,
    turns: int,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """From noise of the highest level to the picture, along the flow to lower levels: the states at each.

    Noise is put on what the measurement says of a picture that `begin` (B, C, H, W) would be at the highest
    level: the flow is deterministic, and an error in the mean of its start would be carried down. Second
    order with one denoising a level (DPM-Solver++ 2M, Lu et al. 2022), as in `core.annealing`.
    """
    x = denoised_given(energy_at, begin, sigmas[0], measurement, turns)
    x = x + sigmas[0] * noise_like(x, generator)
    states = [x]
    before, log_before = None, 0.0
    for sigma, lower in itertools.pairwise(sigmas):
        clean = denoised_given(energy_at, x, sigma, measurement, turns)
        log_step = math.log(sigma / lower)
        aim = clean if before is None else clean + log_step / (2 * log_before) * (clean - before)
        x = lower / sigma * x + (1 - lower / sigma) * aim
        before, log_before = clean, log_step
        states.append(x)
    states.append(denoised_given(energy_at, x, sigmas[-1], measurement, turns))
    return states
