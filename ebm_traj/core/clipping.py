"""What clipping to [-1, 1] leaves of a Gaussian, and which one leaves what is wanted."""

import functools

import torch
from torch import Tensor

WIDEST_CLIPPED = 0.75  # standard deviation in [-1, 1] that a draw may be widened to keep


def before_clipping(scale: Tensor) -> Tensor:
    """Scales (...) of Gaussians about 0 that, clipped to [-1, 1], have the standard deviations `scale` (...).

    Those above `WIDEST_CLIPPED` stay as they are: no exploration of a box is as wide.
    """
    wide, left = _clipped_scales(scale.dtype, scale.device)
    place = torch.searchsorted(left, scale.clamp_max(WIDEST_CLIPPED).contiguous()).clamp(1, len(left) - 1)
    below, above = left[place - 1], left[place]
    found = torch.lerp(wide[place - 1], wide[place], (scale - below) / (above - below))
    return torch.where((scale < left[0]) | (scale > WIDEST_CLIPPED), scale, found)


@functools.cache
@torch.inference_mode(False)
def _clipped_scales(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scales (T,) of Gaussians about 0, and what is left of each by clipping to [-1, 1]."""
    scales = torch.linspace(0.2, 2.0, 256, dtype=torch.float64)
    edge, normal = 1 / scales, torch.distributions.Normal(*torch.tensor([0.0, 1.0], dtype=torch.float64))
    outside = 2 * (1 - normal.cdf(edge))
    inside = 1 - outside - 2 * edge * normal.log_prob(edge).exp()  # of the variance of a unit normal
    left = (scales.square() * inside + outside).sqrt()
    return scales.to(device, dtype), left.to(device, dtype)
