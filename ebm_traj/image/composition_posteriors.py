"""What a noisy picture says of each factor alone: -log p(c_i | x, s), learnt by cross-entropy.

Denoising barely teaches the difference E(x, s | c) - E(x, s) = -log p(c | x, s) + log p(c): over all levels
it is worth the information that x has of c (Guo et al. 2005), a nat or two beside the hundreds that a picture
has. Cross-entropy teaches nothing else. Added to E(x, s) it makes an energy that is told one factor.

Where combinations are held out the factors depend on each other, and a posterior that sees all of a picture
learns that too: p(shape | x, s) of noisy pictures comes to say that what was never shown is not there. So
shape, size and rotation are read in the picture moved to where the sprite seems to be in the centre: they
cannot know its place.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ebm_traj.core.denoising import LEVEL, DenoisingConfig
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.errors import InputError
from ebm_traj.image.factor_energy import FACTORS, FEATURES, LEVEL_FEATURES, Block, features, level_features
from ebm_traj.image.sprite_world import PLACES

WEIGHTS = "weights"
"""Name in a condition of the weights (B, 4) of the factors."""
PLACE_BLUR, TURN_BLUR = 0.05, 0.07
"""Standard deviations of the noise that places (shares of their range) and rotations (radians) are told with:
a third and a quarter of what counts as right, and enough for sums over the grids below to be integrals."""
PLACE = FACTORS.index("position")
TURNS, PLACES_ACROSS, MARGIN = 72, 16, 0.15
"""Alternatives of rotation, of place in each coordinate, and how far these go beyond 0..1."""


@dataclasses.dataclass(frozen=True)
class PosteriorNetConfig:
    """The network of `FactorPosteriors`."""

    pixels: int = 16
    """Side of the pictures; a multiple of 4."""
    channels: int = 32
    """At half the pictures' resolution, twice as many at a quarter; half as many where places are read."""
    embedding: int = 128
    """Width of what the level is turned into."""
    code: int = 64
    """Length of the vectors whose inner product scores a factor's value."""

    def __post_init__(self) -> None:
        if self.pixels < 8 or self.pixels % 4:
            raise InputError(f"posterior pixels: {self.pixels}; accepted are multiples of 4 from 8")
        for name, least in (("channels", 2), ("embedding", 1), ("code", 1)):
            if getattr(self, name) < least:
                raise InputError(f"posterior {name}: {getattr(self, name)}; accepted are {least} and more")


class Reader(nn.Module):
    """Pictures (B, 1, H, W) and the embedding (B, e) of their levels to (B, out)."""

    def __init__(self, pixels: int, channels: int, embedding: int, out: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, channels, 3, padding=1))
        self.wide = Block(channels, embedding)
        self.deeper = nn.Conv2d(channels, 2 * channels, 4, 2, 1)
        self.deep = Block(2 * channels, embedding)
        self.read = nn.Sequential(
            *[nn.Linear(2 * channels * (pixels // 4) ** 2 + embedding, 256), nn.SiLU()],
            *[nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, out)],
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.deep(self.deeper(self.wide(self.enter(x), embedding)), embedding)
        return self.read(torch.cat([nn.functional.silu(hidden).flatten(1), embedding], 1))


class FactorPosteriors(Energy):
    """f(x, s | c) = sum_i w_i (-log p(c_i | x, s) + log p(c_i)) of pictures x (B, 1, H, W).

    p(c_i | x, s) is the softmax of <a_i(c_i), b_i(x, s)> over all values of factor i: the three shapes, the
    three sizes, a grid of places, a grid of rotations; p(c_i) is uniform over them. The condition holds
    `level` (B,), `factors` (B, 5) and `weights` (B, 4).

    For shape, size and rotation b_i is read in the picture moved by the mean of p(position | x, s).
    """

    def __init__(self, config: PosteriorNetConfig) -> None:
        super().__init__()
        self.config = config
        side, width, emb, code = config.pixels, config.channels, config.embedding, config.code
        self.embed = nn.Sequential(nn.Linear(LEVEL_FEATURES, emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU())
        self.locate = Reader(side, width // 2, emb, code)
        self.read = Reader(side, width, emb, 3 * code)
        self.say = nn.ModuleList(
            nn.Sequential(nn.Linear(size, 128), nn.SiLU(), nn.Linear(128, config.code))
            for size in FEATURES.values()
        )

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        each = self.each(x, condition[LEVEL], condition["factors"])
        return (each * condition[WEIGHTS].to(each.dtype)).sum(1)

    def each(
        self, x: Tensor, level: Tensor, factors: Tensor, offset: Sequence[float] = (0.5, 0.5, 0.5)
    ) -> Tensor:
        """(B, 4) -log p(c_i | x, s) + log p(c_i); `offset` shifts the grids by parts of their spacing."""
        asked, found = self.vectors(factors), []
        for index, (code, scores, _) in enumerate(self._scores(x, level, offset)):
            own = (code * asked[index]).sum(1) / self.config.code**0.5
            found.append(scores.logsumexp(1) - math.log(scores.shape[1]) - own)
        return torch.stack(found, 1)

    def expected(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, 32) `features` of the factors, their mean under p(c_i | x, s)."""
        means = []
        for index, (_, scores, rows) in enumerate(self._scores(x, level, (0.5, 0.5, 0.5))):
            each = features(rows).split(list(FEATURES.values()), 1)[index]
            means.append(scores.softmax(1) @ each)
        return torch.cat(means, 1)

    def _scores(
        self, x: Tensor, level: Tensor, offset: Sequence[float]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each factor b_i (B, code), its products (B, K) with the alternatives' vectors, and these."""
        rows = alternatives(x.new_tensor(list(offset)))
        among = [vectors[index] for index, vectors in enumerate(map(self.vectors, rows))]
        x, embedding = x / (1 + level.view(-1, 1, 1, 1) ** 2).sqrt(), self.embed(level_features(level))
        place = self.locate(x, embedding)
        root = self.config.code**0.5
        likely = (place @ among[PLACE].T / root).softmax(1) @ rows[PLACE][:, 3:]
        shape, size, turn = self.read(centred(x, likely), embedding).chunk(3, 1)
        codes = (shape, size, place, turn)
        return [(code, code @ a.T / root, some) for code, a, some in zip(codes, among, rows, strict=True)]

    def vectors(self, factors: Tensor) -> list[Tensor]:
        """a_i(c_i), four of (N, code), of factors (N, 5)."""
        parts = features(factors).split(list(FEATURES.values()), 1)
        return [say(part) for say, part in zip(self.say, parts, strict=True)]


def centred(x: Tensor, place: Tensor) -> Tensor:
    """Pictures (B, 1, H, W) moved, closed around at their edges, so that `place` (B, 2) comes to the centre.

    By a phase in the Fourier domain: smooth in `place`, and white noise stays white.
    """
    side = x.shape[-1]
    shift = (0.5 - place) * (PLACES[1] - PLACES[0])  # shares of the side, x and y
    waves = torch.fft.fftfreq(side, 1 / side, dtype=x.dtype, device=x.device)
    waves = torch.where(waves == -side // 2, 0.0, waves)  # that one has no direction
    angle = -2 * math.pi * (shift[:, 1:, None] * waves[:, None] + shift[:, :1, None] * waves)
    return torch.fft.ifft2(torch.fft.fft2(x) * torch.polar(torch.ones_like(angle), angle)[:, None]).real


def alternatives(offset: Tensor) -> list[Tensor]:
    """For each factor the values it could have, as rows (K, 5) whose other columns are 0."""
    shape, size = offset.new_zeros(3, 5), offset.new_zeros(3, 5)
    shape[:, 0] = torch.arange(3)
    size[:, 1] = torch.arange(3) / 2
    turn = offset.new_zeros(TURNS, 5)
    turn[:, 2] = (torch.arange(TURNS) + offset[0]) * (2 * math.pi / TURNS)
    across = (torch.arange(PLACES_ACROSS)[:, None] + offset[1:]) / PLACES_ACROSS
    across = across * (1 + 2 * MARGIN) - MARGIN
    place = offset.new_zeros(PLACES_ACROSS**2, 5)
    place[:, 3:] = torch.cartesian_prod(across[:, 0], across[:, 1])
    return [shape, size, place, turn]


class PosteriorLoss(Objective):
    """Mean over rows of sum_i f_i: cross-entropies of all factors, at levels drawn as for denoising."""

    def __init__(self, posteriors: FactorPosteriors, levels: DenoisingConfig) -> None:
        super().__init__()
        self.posteriors = posteriors
        self.levels = levels
        self.new_rows = self.batch_size = levels.batch_size

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        level = self.levels.draw(len(batch), batch.x.device, generator)
        normal = torch.empty_like(batch.x).normal_(generator=generator)
        factors = blurred(batch.condition["factors"], generator)
        offset = torch.rand(3, generator=generator).tolist()
        each = self.posteriors.each(batch.x + level.view(-1, 1, 1, 1) * normal, level, factors, offset).mean(
            0
        )
        return each.sum(), dict(zip(FACTORS, each.detach(), strict=True))


def blurred(factors: Tensor, generator: torch.Generator) -> Tensor:
    """Factors (B, 5) with `PLACE_BLUR` and `TURN_BLUR` on them."""
    normal = torch.empty_like(factors[:, 2:]).normal_(generator=generator)
    spread = factors.new_tensor([TURN_BLUR, PLACE_BLUR, PLACE_BLUR])
    return torch.cat([factors[:, :2], factors[:, 2:] + spread * normal], 1)
