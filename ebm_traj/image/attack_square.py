"""An attack that reads no gradient: random squares, kept where they help (Square Attack, 1912.00049).

A defence whose gradients say nothing looks robust to every attack that follows them; this one does not.
"""

import math

import torch
from torch import Tensor

from ebm_traj.errors import InputError
from ebm_traj.image.attacks import WIDTH, Attacked, Logits, margin, read

LARGEST_SHARE = 0.3  # of the picture that the first squares cover


def square(
    logits: Logits,
    x: Tensor,
    y: Tensor,
    radius: float,
    queries: int,
    generator: torch.Generator,
    *,
    draws: int = 1,
) -> Attacked:
    """The picture within l-inf `radius` (units of [0, 1]) of x (B, C, H, W) of the largest mean margin found.

    Begins with stripes; each query changes one square in every picture, ever smaller, to + or - the radius,
    one sign for each channel. Each margin is averaged over `draws` of the classifier's noise.
    """
    if not (radius >= 0 and math.isfinite(radius)):
        raise InputError(f"attack radius: {radius}; accepted are 0 and more")
    if queries < 1:
        raise InputError(f"square attack queries: {queries}; accepted are 1 and more")
    size, (rows, channels, height, width) = WIDTH * radius, x.shape

    def judge(point: Tensor) -> tuple[Tensor, Tensor]:
        margins = torch.stack([margin(read(logits, point, generator), y) for _ in range(draws)])
        return margins.mean(0), (margins > 0).to(x.dtype).mean(0)

    def signs(*shape: int) -> Tensor:
        drawn = torch.randint(0, 2, shape, generator=generator, device=x.device)
        return size * (2 * drawn - 1).to(x.dtype)

    best = (x + signs(rows, channels, 1, width)).clamp(-1, 1)
    worst, misread = judge(best)
    down, across = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    for query in range(queries - 1):
        share = LARGEST_SHARE * 2 ** -(6 * query / queries)
        side = max(1, min(height, width, round(math.sqrt(share * height * width))))
        top = torch.randint(0, height - side + 1, (rows, 1), generator=generator, device=x.device)
        left = torch.randint(0, width - side + 1, (rows, 1), generator=generator, device=x.device)
        inside = ((down >= top) & (down < top + side))[:, :, None] & (
            (across >= left) & (across < left + side)
        )[:, None, :]
        changed = (x + signs(rows, channels, 1, 1)).clamp(-1, 1)
        point = torch.where(inside[:, None], changed, best)
        found, share_misread = judge(point)
        better = found > worst
        best = torch.where(better.view(-1, 1, 1, 1), point, best)
        worst, misread = torch.where(better, found, worst), torch.where(better, share_misread, misread)
    return Attacked(best, misread, worst)
