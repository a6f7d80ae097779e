"""The grid of fully connected networks on MNIST (Zhao et al. 2016, 1609.03126, table 1), whole or in part."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from ebm_traj.core.seeding import derive_seed
from ebm_traj.ebgan.model import AdversarialConfig, NetworkConfig
from ebm_traj.ebgan.step import Optimiser, OptimiserConfig
from ebm_traj.errors import InputError

Family = Literal["ebgan", "ebgan-pt", "gan", "gan-adam"]
"""The published three; and gan-adam, the part of the GAN's grid with the optimiser that EBGAN's has."""

LAYERS = (2, 3, 4, 5)
GENERATOR_WIDTHS = (400, 800, 1600, 3200)
DISCRIMINATOR_WIDTHS = (128, 256, 512, 1024)
DROPOUT = (False, True)
OPTIMISERS: tuple[Optimiser, ...] = ("adam", "sgd")
LEARNING_RATES = (0.01, 0.001, 0.0001)
EBGAN_RATE = 0.001
MARGIN = 10.0
PULL_AWAY = 0.1


@dataclasses.dataclass(frozen=True)
class GridPoint:
    """One configuration."""

    family: Family
    layers_generator: int
    width_generator: int
    layers_discriminator: int
    width_discriminator: int
    dropout: bool
    optimiser_generator: Optimiser = "adam"
    optimiser_discriminator: Optimiser = "adam"
    learning_rate: float = EBGAN_RATE

    @property
    def key(self) -> str:
        """A name of its own: `gan-g3x800-d2x128-drop-adam-sgd-0.01`."""
        drop = "drop" if self.dropout else "keep"
        return (
            f"{self.family}-{self.networks}-{drop}-{self.optimiser_generator}-"
            f"{self.optimiser_discriminator}-{self.learning_rate:g}"
        )

    @property
    def networks(self) -> str:
        """Layers and widths: `g3x800-d2x128`."""
        return (
            f"g{self.layers_generator}x{self.width_generator}-"
            f"d{self.layers_discriminator}x{self.width_discriminator}"
        )

    @property
    def architecture(self) -> tuple[int, int, int, int, bool]:
        """What all families share."""
        return (
            self.layers_generator,
            self.width_generator,
            self.layers_discriminator,
            self.width_discriminator,
            self.dropout,
        )

    def model_config(self, latent: int = 100) -> AdversarialConfig:
        """What is trained at this point."""
        network = NetworkConfig("fc", latent, *self.architecture[:4], dropout=self.dropout)
        energy_based = self.family in ("ebgan", "ebgan-pt")
        return AdversarialConfig(
            loss="ebgan" if energy_based else "gan",
            pull_away=PULL_AWAY if self.family == "ebgan-pt" else 0.0,
            margin=MARGIN,
            network=network,
        )

    def optimiser_config(self, betas: tuple[float, float] = (0.5, 0.999)) -> OptimiserConfig:
        """How it is trained."""
        return OptimiserConfig(
            self.learning_rate, self.optimiser_generator, self.optimiser_discriminator, betas
        )


def grid(family: Family) -> list[GridPoint]:
    """All points of a family, in a fixed order: 512, and 6,144 of `gan`."""
    if family not in get_args(Family):
        raise InputError(f"family: '{family}'; accepted are {', '.join(get_args(Family))}")
    ways: list[tuple[Any, ...]] = [("adam", "adam", EBGAN_RATE)]
    if family == "gan":
        ways = list(itertools.product(OPTIMISERS, OPTIMISERS, LEARNING_RATES))
    shapes = itertools.product(LAYERS, GENERATOR_WIDTHS, LAYERS, DISCRIMINATOR_WIDTHS, DROPOUT)
    return [GridPoint(family, *shape, *way) for shape, way in itertools.product(shapes, ways)]


def stratified(points: Sequence[GridPoint], count: int, seed: int = 0) -> list[GridPoint]:
    """`count` different points in which the levels of each setting are as equally often as can be.

    One after another, the point whose levels were taken least often so far, at random among equals: the
    first k of a sample are balanced, too, so that an interrupted study is. Families of the same grid are
    given the same networks by the same seed.
    """
    if not 1 <= count <= len(points):
        raise InputError(f"sample {count}: accepted are 1 to the grid's {len(points)} points")
    names = [field.name for field in dataclasses.fields(GridPoint) if field.name != "family"]
    levels = np.stack(
        [np.unique([getattr(p, name) for p in points], return_inverse=True)[1] for name in names], 1
    )
    rng = np.random.default_rng(derive_seed("grid", seed))
    taken = [np.zeros(column.max() + 1) for column in levels.T]
    left = np.ones(len(points), bool)
    found = []
    for _ in range(count):
        # squares: a level that is behind by two counts more than two that are behind by one
        cost = sum(counts[column] ** 2 * len(counts) for counts, column in zip(taken, levels.T, strict=True))
        cost = np.where(left, cost, np.inf)
        pick = int(rng.choice(np.flatnonzero(cost == cost.min())))
        left[pick] = False
        for counts, level in zip(taken, levels[pick], strict=True):
            counts[level] += 1
        found.append(points[pick])
    return found


def part(points: Sequence[GridPoint], text: str) -> list[GridPoint]:
    """Part i/n of the points, counted from 1: each n-th one, so that parts take about equally long."""
    found = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"part '{text}': needed is i/n with 1 <= i <= n, such as 2/8")
    return list(points[int(found[1]) - 1 :: int(found[2])])
