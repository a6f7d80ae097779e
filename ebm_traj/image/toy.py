"""Densities in the plane that are known exactly: their energy is -log p, normalised; samples are exact."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy
from ebm_traj.errors import InputError

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class ToyDensity(Energy):
    """E(x) = -log p(x) of x (B, 2), with exact samples; nothing of it lies beyond +-`extent` but 1e-3."""

    extent: float = 4.0

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) (B,), normalised."""
        raise TypeError(f"{type(self).__name__} does not define log_prob")

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws (count, 2)."""
        raise TypeError(f"{type(self).__name__} does not define sample")

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return -self.log_prob(x)


class Gaussians(ToyDensity):
    """A mixture of round Gaussians of one width: the ring, the moons, or a blob."""

    def __init__(self, means: Tensor, scale: float) -> None:
        """`means` (K, 2), of equal weight. Raises InputError if there is none, or scale is not above 0."""
        super().__init__()
        if means.dim() != 2 or means.shape[1] != 2 or not len(means):
            raise InputError(f"means: {tuple(means.shape)}; needed is (K, 2) with K of 1 and more")
        if not scale > 0:
            raise InputError(f"scale: {scale}; it must be above 0")
        self.means: Tensor
        self.register_buffer("means", means)
        self.scale = scale

    def log_prob(self, x: Tensor) -> Tensor:
        squared = (x[:, None] - self.means).square().sum(-1) / self.scale**2
        each = -0.5 * squared - 2 * HALF_LOG_TWO_PI - 2 * math.log(self.scale)
        return each.logsumexp(1) - math.log(len(self.means))

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        device = self.means.device
        pick = torch.randint(len(self.means), (count,), generator=generator, device=device)
        return self.means[pick] + self.scale * _normal((count, 2), generator, self.means)


class Checkerboard(ToyDensity):
    """Uniform on the dark squares of a 4 x 4 board of side 2 x `extent` - 2, blurred a little.

    A uniform square blurred by a Gaussian is a product of differences of error functions, so log p stays
    exact and has a gradient everywhere.
    """

    def __init__(self, blur: float = 0.1) -> None:
        super().__init__()
        if not blur > 0:
            raise InputError(f"blur: {blur}; it must be above 0")
        self.blur = blur
        corners = [(i - 2.0, j - 2.0) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
        self.corners: Tensor
        self.register_buffer("corners", 1.5 * torch.tensor(corners))

    def log_prob(self, x: Tensor) -> Tensor:
        from_low = (x[:, None] - self.corners) / self.blur
        side = 1.5 / self.blur
        # log of Phi(a) - Phi(a - side), by the tail that does not cancel
        a, b = from_low, from_low - side
        flip = b > 0
        high, low = torch.where(flip, -b, a), torch.where(flip, -a, b)
        log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        inside = log_high + torch.log1p(-(log_low - log_high).exp().clamp(max=1 - 1e-7))
        return (inside - math.log(1.5)).sum(-1).logsumexp(1) - math.log(len(self.corners))

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        device = self.corners.device
        pick = torch.randint(len(self.corners), (count,), generator=generator, device=device)
        inside = 1.5 * torch.rand((count, 2), generator=generator, device=device)
        return self.corners[pick] + inside + self.blur * _normal((count, 2), generator, self.corners)


class Pinwheel(ToyDensity):
    """Five narrow Gaussians around the origin, turned by an angle that grows with the radius.

    Such a turn keeps areas (its Jacobian is 1), so log p is that of the Gaussians at the point turned back.
    """

    def __init__(self, arms: int = 5, turn: float = 0.8) -> None:
        super().__init__()
        if arms < 1:
            raise InputError(f"arms: {arms}; accepted are 1 and more")
        self.turn = turn
        angles = 2 * math.pi * torch.arange(arms) / arms
        self.directions: Tensor
        self.register_buffer("directions", torch.stack([angles.cos(), angles.sin()], 1))
        self.centre, self.along, self.across = 1.8, 0.5, 0.15

    def log_prob(self, x: Tensor) -> Tensor:
        straight = _turned(x, -self.turn * _radius(x))
        along = straight @ self.directions.T
        across = straight @ torch.stack([-self.directions[:, 1], self.directions[:, 0]], 1).T
        squared = ((along - self.centre) / self.along) ** 2 + (across / self.across) ** 2
        each = -0.5 * squared - 2 * HALF_LOG_TWO_PI - math.log(self.along * self.across)
        return each.logsumexp(1) - math.log(len(self.directions))

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        device = self.directions.device
        pick = torch.randint(len(self.directions), (count,), generator=generator, device=device)
        normal = _normal((count, 2), generator, self.directions)
        d = self.directions[pick]
        across = torch.stack([-d[:, 1], d[:, 0]], 1)
        x = d * (self.centre + self.along * normal[:, :1]) + across * (self.across * normal[:, 1:])
        return _turned(x, self.turn * _radius(x))


class Funnel(ToyDensity):
    """x_2 ~ N(0, 1), x_1 | x_2 ~ N(0, exp(x_2) / 4): wide above, narrow below (Neal 2003, milder)."""

    extent = 6.0

    def log_prob(self, x: Tensor) -> Tensor:
        log_scale = 0.5 * x[:, 1] - math.log(2)
        narrow = -0.5 * (x[:, 0] * (-log_scale).exp()) ** 2 - log_scale
        return narrow - 0.5 * x[:, 1] ** 2 - 2 * HALF_LOG_TWO_PI

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        device = None if generator is None else generator.device
        normal = torch.empty((count, 2), device=device).normal_(generator=generator)
        return torch.stack([normal[:, 0] * (0.5 * normal[:, 1]).exp() / 2, normal[:, 1]], 1)


def ring(modes: int = 8, radius: float = 2.5, scale: float = 0.25) -> Gaussians:
    """Gaussians evenly on a circle."""
    if modes < 1:
        raise InputError(f"modes: {modes}; accepted are 1 and more")
    angles = 2 * math.pi * torch.arange(modes) / modes
    return Gaussians(radius * torch.stack([angles.cos(), angles.sin()], 1), scale)


def moons(points: int = 48, scale: float = 0.15) -> Gaussians:
    """Two half circles that interlock, each a dense row of Gaussians."""
    angles = math.pi * (torch.arange(points) + 0.5) / points
    upper = torch.stack([angles.cos() - 0.5, angles.sin() - 0.25], 1)
    return Gaussians(1.6 * torch.cat([upper, -upper]), scale)


TOYS: dict[str, Callable[[], ToyDensity]] = {
    "ring": ring,
    "checkerboard": Checkerboard,
    "moons": moons,
    "pinwheel": Pinwheel,
    "funnel": Funnel,
}
"""The densities by name."""


def toy(name: str) -> ToyDensity:
    """The density of that name. Raises InputError if there is none."""
    if name not in TOYS:
        raise InputError(f"density: '{name}'; accepted are {', '.join(TOYS)}")
    return TOYS[name]()


def _radius(x: Tensor) -> Tensor:
    return (x.square().sum(1) + 1e-12).sqrt()  # with a gradient at the origin


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], 1)


def _normal(shape: tuple[int, int], generator: torch.Generator | None, like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device).normal_(generator=generator)
