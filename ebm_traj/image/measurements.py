"""What was seen of a picture: y = A x + noise, with A diagonal in a basis that is cheap to enter and leave.

Three kinds: pixels of which some are missing (`masked`), pictures under noise alone (`noisy`) and separable
linear maps, rows and columns each by a matrix (`separable`: blur, a coarser grid). In the basis of A's right
singular vectors each coefficient X of a picture is seen as Y = g X + noise, with its own gain g, 0 where
nothing is seen (Kawar et al. 2022, 2201.11793, section 3).
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ebm_traj.errors import InputError

TINY = 1e-7  # gains below this share of the largest are 0 in single precision
BLUR_REACH = 4.0  # standard deviations after which a Gaussian kernel is cut off


@dataclasses.dataclass(frozen=True)
class Measurement:
    """y = A x + noise of pictures x (B, C, H, W), in the basis where A is a gain for each coefficient."""

    seen: Tensor
    """(B, C, H, W) coefficients Y of what was seen; 0 where the gain is 0."""
    gains: Tensor
    """Broadcast to seen: the singular values of A."""
    noise: float
    """Standard deviation of the noise in each coefficient, 0 or more."""
    rows: Tensor | None = None
    """(H, H) basis of the rows, orthogonal, a vector in each column; None for single pixels."""
    columns: Tensor | None = None
    """(W, W) basis of the columns."""

    def __post_init__(self) -> None:
        if self.seen.dim() != 4:
            raise InputError(f"measurement of shape {tuple(self.seen.shape)}; accepted is (B, C, H, W)")
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise InputError(f"measurement noise: {self.noise}; accepted are 0 and more")

    @property
    def shape(self) -> torch.Size:
        """(B, C, H, W) of the pictures."""
        return self.seen.shape

    @property
    def whole(self) -> bool:
        """Whether every coefficient is seen with a gain of 1: nothing but noise."""
        return bool((self.gains == 1).all())

    def to(self, device: torch.device | str) -> "Measurement":
        """The same on a device."""
        tensors: dict[str, Any] = {
            name: value for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **{name: value.to(device) for name, value in tensors.items()})

    @property
    def of_pixels(self) -> bool:
        """Whether single pixels are seen or not."""
        return self.rows is None

    def analyse(self, x: Tensor) -> Tensor:
        """Coefficients of pictures, (B, C, H, W) both; an orthogonal map, so noise stays what it is."""
        if self.rows is None or self.columns is None:
            return x
        return self.rows.T @ x @ self.columns

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Pictures of coefficients: the inverse of `analyse`."""
        if self.rows is None or self.columns is None:
            return coefficients
        return self.rows @ coefficients @ self.columns.T

    def energy(self, x: Tensor, sigma: Tensor | float = 0.0, widen: float = 1.0) -> Tensor:
        """-log p(y | x) (B,) up to a constant, for pictures that carry noise of `sigma` (B,) of their own.

        A (x0 + sigma n) - y has a variance of noise^2 + sigma^2 g^2 in each coefficient; `widen` is a factor
        of the second term. Without both kinds of noise it would be infinite: InputError.
        """
        level = sigma.view(-1, 1, 1, 1) if isinstance(sigma, Tensor) else sigma
        variance = self.noise**2 + widen * level**2 * self.gains**2
        off = self.gains * self.analyse(x) - self.seen
        counted = (self.gains > 0).expand_as(off)
        if bool((torch.as_tensor(variance).expand_as(off)[counted] == 0).any()):
            raise InputError(
                "measurement without noise: its energy is infinite off the data; hold the pixels"
            )
        return 0.5 * torch.where(counted, off**2 / variance.clamp_min(1e-30), 0.0).flatten(1).sum(1)

    def draw(self, x: Tensor, spread: float, generator: torch.Generator | None = None) -> Tensor:
        """A draw of z from p(z | y, x) ~ p(y | z) exp(-|z - x|^2 / 2 spread^2), exact (Gaussian)."""
        mean, std = self._given(x, spread)
        fresh = torch.empty_like(mean).normal_(generator=generator)
        return self.synthesise(mean + std * fresh)

    def nearest(self, x: Tensor, spread: float) -> Tensor:
        """The mean of what `draw` draws."""
        return self.synthesise(self._given(x, spread)[0])

    def _given(self, x: Tensor, spread: float) -> tuple[Tensor, Tensor]:
        before = self.analyse(x)
        gains = self.gains.expand_as(before)
        if self.noise == 0:
            exact = gains > 0
            mean = torch.where(exact, self.seen / gains.clamp_min(1e-30), before)
            return mean, torch.where(exact, 0.0, spread)
        precision = gains**2 / self.noise**2 + 1 / spread**2
        mean = (gains * self.seen / self.noise**2 + before / spread**2) / precision
        return mean, precision.rsqrt()

    def replace(self, x: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
        """x at level `sigma` with what is seen put in its place, noised up to that level.

        Coefficients that are seen with more noise than sigma stay as they are.
        """
        before = self.analyse(x)
        gains = self.gains.expand_as(before)
        own = torch.where(gains > 0, self.noise / gains.clamp_min(1e-30), math.inf)
        known = own <= sigma
        extra = (sigma**2 - torch.where(known, own, 0.0) ** 2).clamp_min(0).sqrt()
        fresh = torch.empty_like(before).normal_(generator=generator)
        placed = self.seen / gains.clamp_min(1e-30) + extra * fresh
        return self.synthesise(torch.where(known, placed, before))

    def residual(self, x: Tensor) -> Tensor:
        """Root mean square (B,) of A x - y over what is seen."""
        off = torch.where(self.gains > 0, self.gains * self.analyse(x) - self.seen, 0.0)
        counted = (self.gains > 0).expand_as(off).flatten(1).sum(1)
        return (off.square().flatten(1).sum(1) / counted.clamp_min(1)).sqrt()

    def picture(self) -> Tensor:
        """What was seen, as a picture to look at: 0 where nothing is seen, flat blocks of a coarser grid."""
        return self.synthesise(self.seen / self.gains.max().clamp_min(1e-30))

    def repeat(self, times: int) -> "Measurement":
        """Each picture `times` times in a row."""
        gains = self.gains
        if gains.dim() == 4 and len(gains) > 1:
            gains = gains.repeat_interleave(times, dim=0)
        return dataclasses.replace(self, seen=self.seen.repeat_interleave(times, dim=0), gains=gains)

    def take(self, rows: slice) -> "Measurement":
        """Some of the pictures."""
        gains = self.gains[rows] if self.gains.dim() == 4 and len(self.gains) > 1 else self.gains
        return dataclasses.replace(self, seen=self.seen[rows], gains=gains)


def masked(
    x: Tensor, known: Tensor, noise: float = 0.0, generator: torch.Generator | None = None
) -> Measurement:
    """Pictures x (B, C, H, W) of which the pixels `known` (broadcast to x, boolean) are seen."""
    if known.dtype != torch.bool:
        raise InputError(f"mask of {known.dtype}; accepted is bool, true where the picture is known")
    try:
        gains = known.to(x.dtype) * torch.ones((1, *x.shape[1:]), dtype=x.dtype, device=x.device)
        seen = gains * x
    except RuntimeError:
        raise InputError(
            f"mask of shape {tuple(known.shape)}; it must go with pictures {tuple(x.shape)}"
        ) from None
    return Measurement(gains * _noised(seen, noise, generator), gains, noise)


def noisy(x: Tensor, noise: float, generator: torch.Generator | None = None) -> Measurement:
    """Pictures under noise alone."""
    return masked(x, torch.ones(1, 1, 1, 1, dtype=torch.bool, device=x.device), noise, generator)


def separable(
    x: Tensor, rows: Tensor, columns: Tensor, noise: float, generator: torch.Generator | None = None
) -> Measurement:
    """Pictures seen as R x K^T plus noise, with rows R (h, H) and columns K (w, W), in every channel.

    The noise must be above 0: a linear map that loses detail has none to be trusted without.
    """
    high, wide = x.shape[-2:]
    if rows.shape[1] != high or columns.shape[1] != wide:
        raise InputError(
            f"linear map of {tuple(rows.shape)} and {tuple(columns.shape)} for pictures of {high} x {wide}"
        )
    if not noise > 0:
        raise InputError(f"measurement noise: {noise}; of a linear map it must be above 0")
    bases, values = [], []
    for matrix in (rows, columns):
        _, gains, basis = torch.linalg.svd(matrix.double(), full_matrices=True)
        padded = gains.new_zeros(matrix.shape[1])
        padded[: len(gains)] = gains
        bases.append(basis.T.to(x))
        values.append(padded)
    product = torch.outer(*values)
    product = torch.where(product < TINY * product.max(), 0.0, product).to(x)
    basis_only = Measurement(torch.zeros_like(x), product, noise, *bases)
    seen = _noised(product * basis_only.analyse(x), noise, generator)
    return dataclasses.replace(basis_only, seen=torch.where(product > 0, seen, 0.0))


def gaussian_blur(size: int, width: float) -> Tensor:
    """(size, size) a Gaussian kernel of standard deviation `width` pixels; at the edges the picture is
    mirrored, so a flat picture stays flat."""
    if not width > 0:
        raise InputError(f"blur: {width} pixels; it must be above 0")
    reach = min(math.ceil(BLUR_REACH * width), size - 1)
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / width) ** 2)
    kernel /= kernel.sum()
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for offset, weight in zip(offsets.tolist(), kernel.tolist(), strict=True):
        at = torch.arange(size) + offset
        at = torch.where(at < 0, -1 - at, at)
        at = torch.where(at >= size, 2 * size - 1 - at, at)
        matrix[torch.arange(size), at] += weight
    return matrix


def block_mean(size: int, factor: int) -> Tensor:
    """(size / factor, size) means of neighbouring pixels: a coarser grid."""
    if factor < 1 or size % factor:
        raise InputError(f"coarser by {factor}: a side of {size} pixels cannot be cut so")
    return torch.kron(
        torch.eye(size // factor, dtype=torch.float64), torch.full((1, factor), 1 / factor).double()
    )


def _noised(x: Tensor, noise: float, generator: torch.Generator | None) -> Tensor:
    if not (noise >= 0 and math.isfinite(noise)):
        raise InputError(f"measurement noise: {noise}; accepted are 0 and more")
    return x + noise * torch.empty_like(x).normal_(generator=generator) if noise else x
