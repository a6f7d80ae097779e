"""Projected gradient descent (PGD) on a classifier: l-inf and l-2, restarts, averages over its noise.

Madry et al. 2018 (1706.06083) with what Athalye et al. 2018 (1802.00420) and Carlini et al. 2019 (1902.06705)
ask of an attack on a defence: the gradient goes through the whole pipeline, its randomness is averaged over
(expectation over transformation, EOT), restarts take turns between two losses, and points that another attack
found are among the starts, so that a stronger attack is never the weaker one.

Radii are in units of pixels in [0, 1], as the literature has them; pictures are in [-1, 1], twice as wide.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ebm_traj.errors import InputError

Norm = Literal["linf", "l2"]
Loss = Literal["margin", "cross-entropy", "both"]

Logits = Callable[[Tensor, torch.Generator | None], Tensor]
"""Pictures (B, C, H, W) in [-1, 1] to logits (B, K), differentiable; random where a generator is read."""

WIDTH = 2.0  # of [-1, 1], in units of [0, 1]
TIE = 1e-3  # below the share of one draw among a thousand
LARGEST_STEP = 2.5  # times the radius over the number of steps, Madry et al. 2018


@dataclasses.dataclass(frozen=True)
class PGDConfig:
    """How an adversarial picture is looked for."""

    norm: Norm = "linf"
    """What the radius bounds: the largest change of a pixel, or the length of the change."""
    steps: int = 20
    """Gradient steps of each restart."""
    restarts: int = 2
    """Walks from random points of the ball, beside those from the starts given."""
    eot: int = 1
    """Draws of the defence's noise that each gradient is averaged over."""
    loss: Loss = "both"
    """What is raised: the best wrong logit above the right one, the cross-entropy, or each in turn."""
    momentum: float = 0.0
    """Share of the last direction that the next one keeps (Dong et al. 2018), which averages noisy
    gradients."""
    recheck: int = 0
    """Fresh draws by which the points found are compared at the end, for answers that are random: the largest
    of many noisy margins is a lucky one. 0 for a classifier without noise."""
    step_size: float | None = None
    """Share of the radius a step moves by; None gives min(1, 2.5 / steps)."""
    bfloat16: bool = False
    """Take the gradients of the walks in that precision, in two thirds of the time on processors that have
    it; what is found is judged in full precision."""

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise InputError(f"attack norm: '{self.norm}'; accepted are {', '.join(get_args(Norm))}")
        if self.loss not in get_args(Loss):
            raise InputError(f"attack loss: '{self.loss}'; accepted are {', '.join(get_args(Loss))}")
        for name in ("steps", "eot"):
            if getattr(self, name) < 1:
                raise InputError(f"attack {name}: {getattr(self, name)}; accepted are 1 and more")
        for name in ("restarts", "recheck"):
            if getattr(self, name) < 0:
                raise InputError(f"attack {name}: {getattr(self, name)}; accepted are 0 and more")
        if not 0 <= self.momentum < 1:
            raise InputError(f"attack momentum: {self.momentum}; accepted is 0 to below 1")
        if self.step_size is not None and not self.step_size > 0:
            raise InputError(f"attack step size: {self.step_size}; it must be above 0, or None")

    @property
    def relative_step(self) -> float:
        """Share of the radius that a step moves by."""
        return min(1.0, LARGEST_STEP / self.steps) if self.step_size is None else self.step_size


@dataclasses.dataclass(frozen=True)
class Attacked:
    """The worst pictures an attack found, by its own estimate."""

    x: Tensor
    """(B, C, H, W)."""
    misread: Tensor
    """(B,) share of the attack's draws in which each is misread."""
    margin: Tensor
    """(B,) best wrong logit less the right one there, averaged over draws."""


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) the best wrong logit less that of the right class y (B,); above 0 where the picture is misread."""
    right = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -math.inf).amax(1) - right


def project(x: Tensor, centre: Tensor, radius: float, norm: Norm, low: float = -1, high: float = 1) -> Tensor:
    """The nearest point to x in the ball of `radius` (in x's own units) around `centre` and in [low, high].

    For l-2 the box is applied after the ball: the result lies in both, as `centre` is in the box.
    """
    change = x - centre
    if norm == "linf":
        change = change.clamp(-radius, radius)
    else:
        change = change * (radius / _length(change).clamp_min(1e-12)).clamp_max(1)
    return (centre + change).clamp(low, high)


def pgd(
    logits: Logits,
    x: Tensor,
    y: Tensor,
    radius: float,
    config: PGDConfig,
    generator: torch.Generator,
    *,
    starts: Sequence[Tensor] = (),
    low: float = -1,
    high: float = 1,
) -> Attacked:
    """Look for the picture within `radius` (units of [0, 1]) of x (B, C, H, W) that is misread the most.

    Of all points visited the one misread in the largest share of draws is kept, the larger mean margin where
    shares are equal; the picture itself and the `starts` (each projected to the ball) are among them. Against
    a classifier without noise the attack is never weaker than any of its starts. Against one with noise the
    picture, the starts and for each walk its end and its best point are compared anew, by `recheck` draws.
    """
    if not (radius >= 0 and math.isfinite(radius)):
        raise InputError(f"attack radius: {radius}; accepted are 0 and more")
    radius = WIDTH * radius
    points = [project(start.detach(), x, radius, config.norm, low, high) for start in starts]
    points += [
        project(_somewhere(x, radius, config.norm, generator), x, radius, config.norm, low, high)
        for _ in range(config.restarts)
    ]
    seen: list[Tensor] = []
    if radius > 0:
        for number, point in enumerate(points):
            by_margin = config.loss == "margin" or (config.loss == "both" and number % 2 == 0)
            seen += [point] if config.recheck else []
            seen += _walk(logits, x, y, point, radius, by_margin, config, generator, low, high)
    best, margins = x, [_margins(logits, x, y, config.recheck or config.eot, generator)]
    worst = _success(margins[0])
    for candidate in seen:
        margins.append(_margins(logits, candidate, y, config.recheck or config.eot, generator))
        better = _success(margins[-1]) > worst
        best = torch.where(_wide(better, x), candidate, best)
        margins[0] = torch.where(better, margins[-1], margins[0])
        worst = _success(margins[0])
    return Attacked(best, (margins[0] > 0).to(x.dtype).mean(0), margins[0].mean(0))


def _walk(
    logits: Logits,
    x: Tensor,
    y: Tensor,
    point: Tensor,
    radius: float,
    by_margin: bool,
    config: PGDConfig,
    generator: torch.Generator,
    low: float,
    high: float,
) -> list[Tensor]:
    """The point with the largest margin on the way, and the end where the comparison is noisy."""
    best, worst = point, torch.full((len(x),), -math.inf, dtype=x.dtype, device=x.device)
    direction = torch.zeros_like(x)
    for step in range(config.steps + 1):
        gradient, margins = _ascent(logits, point, y, by_margin, config.eot, generator, config.bfloat16)
        found = _success(margins)
        better = found > worst
        best = torch.where(_wide(better, x), point, best)
        worst = torch.where(better, found, worst)
        if step == config.steps:
            break
        # full steps across the ball (2 radii), then smaller ones, by which the walk settles
        size = config.relative_step * radius * (1 if step < 0.75 * config.steps else 0.25)
        direction = config.momentum * direction + gradient / _length(gradient).clamp_min(1e-12)
        if config.norm == "linf":
            move = size * direction.sign()
        else:
            move = size * direction / _length(direction).clamp_min(1e-12)
        point = project(point + move, x, radius, config.norm, low, high)
    return [best, point] if config.recheck else [best]


def accuracy(
    logits: Logits, x: Tensor, y: Tensor, generator: torch.Generator | None, draws: int = 1
) -> Tensor:
    """(B,) share of `draws` of the classifier's noise in which each picture is read rightly."""
    right = [(read(logits, x, generator).argmax(1) == y).float() for _ in range(draws)]
    return torch.stack(right).mean(0)


def read(logits: Logits, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Logits (B, K) without a graph."""
    with torch.no_grad():
        return logits(x, generator).detach()


def _ascent(
    logits: Logits,
    x: Tensor,
    y: Tensor,
    by_margin: bool,
    eot: int,
    generator: torch.Generator,
    bfloat16: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gradient of the loss by x, averaged over the noise, and the margins (draws, B)."""
    with torch.enable_grad():
        point = x.detach().requires_grad_(True)
        gradient, margins = torch.zeros_like(x), []
        for _ in range(eot):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
                said = logits(point, generator).to(x.dtype)
            margins.append(margin(said, y))
            wrong = margins[-1] if by_margin else functional.cross_entropy(said, y, reduction="none")
            gradient += torch.autograd.grad(wrong.sum(), point)[0] / eot
    return gradient, torch.stack(margins).detach()


def _margins(logits: Logits, x: Tensor, y: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """(draws, B) margins."""
    return torch.stack([margin(read(logits, x, generator), y) for _ in range(draws)])


def _success(margins: Tensor) -> Tensor:
    """(B,) how well a point does: the share of draws (draws, B) misread, then the mean margin."""
    mean = margins.mean(0)
    return (margins > 0).to(mean.dtype).mean(0) + TIE * mean / (1 + mean.abs())


def _somewhere(x: Tensor, radius: float, norm: Norm, generator: torch.Generator) -> Tensor:
    """A point drawn uniformly from the ball around x."""
    if norm == "linf":
        return x + radius * torch.empty_like(x).uniform_(-1, 1, generator=generator)
    direction = torch.empty_like(x).normal_(generator=generator)
    share = torch.rand(len(x), generator=generator, device=x.device) ** (1 / x[0].numel())
    return x + radius * _wide(share, x) * direction / _length(direction)


def _length(change: Tensor) -> Tensor:
    return change.flatten(1).norm(dim=1).view(-1, *[1] * (change.dim() - 1))


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
