"""Composition: two energies trained apart are summed, to reach what neither data set showed together.

A configuration x is how the object is turned (two columns of its rotation matrix, Zhou et al. 2019) and the
hand's joints. Each of the two factors is in one of two halves: the object's turn about the vertical axis to
the left or to the right, and the hand's first principal posture above or below its median. Data set A has
left turns with low postures, data set B right turns with high ones. One energy reads only the turn, in A, the
other only the joints, in B; exp(-E_A(turn) - E_B(joints)) are left turns with high postures, which neither
data set has (products of experts, Hinton 2002; Du, Li & Mordatch 2020, 2004.06030). Beside it stand energies
of all of x, trained on A, on B and on both. Noise-conditional energies of parts that do not overlap add up
exactly at every noise level; others would need MCMC there (Du et al. 2023, 2302.11552).
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ebm_traj.atomic import write_atomically
from ebm_traj.core.annealing import AnnealConfig, anneal
from ebm_traj.core.denoising import LEVEL, DenoisingConfig, DenoisingScoreMatching
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy, EnergyOfX
from ebm_traj.core.objectives import Batch
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.theme import LIGHT, Theme, save, style
from ebm_traj.trajectory.quaternions import matrix

Array = NDArray[np.float64]

PAGE, FIGURES, FIGURE = "composition.md", "composition.json", "composition.png"
TURN = [0, 3, 6, 1, 4, 7]  # of the nine entries of a rotation matrix: its first two columns
FEWEST = 50  # frames in each quarter
RESAMPLES = 200
HALVES = 20
COLUMNS = 4  # of the figure


@dataclasses.dataclass(frozen=True)
class CompositionConfig:
    """How each energy is trained and sampled."""

    width: int = 128
    """Of two hidden layers."""
    iterations: int = 2000
    """Of Adam."""
    learning_rate: float = 2e-3
    """At first; it falls linearly to a hundredth."""
    samples: int = 1000
    """Drawn from every energy."""
    denoising: DenoisingConfig = dataclasses.field(default_factory=lambda: DenoisingConfig(batch_size=256))
    annealing: AnnealConfig = dataclasses.field(
        default_factory=lambda: AnnealConfig(steps=24, sigma_max=10.0)
    )

    def __post_init__(self) -> None:
        for name in ("width", "iterations", "samples"):
            if getattr(self, name) < 2:
                raise InputError(f"composition {name}: {getattr(self, name)}; accepted are 2 and more")


class FactorEnergy(Energy):
    """E(x, s) = |x_d - h(x_d, s)|^2 / (2 s^2) of some dimensions d of x; the others are free.

    h is what a denoiser would say, x / (1 + s^2) + s / sqrt(1 + s^2) F(x / sqrt(1 + s^2), log s), with the
    scales of Karras et al. 2022; as an energy it is that of Du et al. 2023, section 5.
    """

    def __init__(self, dims: Sequence[int], width: int) -> None:
        super().__init__()
        self.dims = list(dims)
        sizes = [len(self.dims) + 1, width, width, len(self.dims)]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        nn.init.zeros_(layers[-1].weight)
        self.network = nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        level = condition[LEVEL][:, None]
        part, spread = x[:, self.dims], (1 + level**2).sqrt()
        said = self.network(torch.cat([part / spread, level.log() / 4], 1))
        off = part - part / spread**2 - level / spread * said
        return off.square().sum(1) / (2 * level[:, 0] ** 2)


@dataclasses.dataclass
class Frames:
    """Configurations z-scored by what A and B show, and the two halves each of them is in."""

    x: Array
    """(N, 6 + J)."""
    factors: Array
    """(N, 2) turn in radians and first principal posture."""
    parts: tuple[list[int], list[int]]
    """Dimensions of x that are the turn, and those that are joints."""
    limit: float
    """Postures above it are high; turns above 0 are left."""
    scale: Array
    """(2, 6 + J) mean and standard deviation of raw configurations."""
    posture: Array
    """(2, J) what is taken off raw joints, and the direction of the first principal posture."""

    def quarter(self, left: bool, high: bool) -> NDArray[np.bool_]:
        """(N,) which frames are there."""
        return quarter(self.factors, self.limit, left, high)

    def factors_of(self, x: ArrayLike) -> Array:
        """(n, 2) turn and posture of z-scored configurations (n, 6 + J)."""
        raw = np.asarray(x, float) * self.scale[1] + self.scale[0]
        return _factors(raw, self.posture)


def quarter(factors: Array, limit: float, left: bool, high: bool) -> NDArray[np.bool_]:
    """(N,) whether turn and posture (N, 2) are in the named halves."""
    return np.asarray(((factors[:, 0] > 0) == left) & ((factors[:, 1] > limit) == high))


def read_frames(states: ArrayLike, spec: StateSpec) -> Frames:
    """Configurations of raw states (N, D).

    Raises InputError if the state has not just one rotation and some angles, or a quarter is nearly empty.
    """
    values = np.asarray(states, float)
    joints = [i for i in spec.predicted if spec.kinds[i] == "angle"]
    if len(spec.quaternions) != 1 or not joints:
        raise InputError(
            f"composition: the state has {len(spec.quaternions)} rotations and {len(joints)} angles; "
            "needed are one rotation and one angle or more"
        )
    turned = matrix(torch.as_tensor(values[:, spec.quaternions[0]])).numpy()[:, TURN]
    raw = np.concatenate([turned, values[:, joints]], 1)
    centre, spread = values[:, joints].mean(0), np.maximum(values[:, joints].std(0), 1e-6)
    direction = np.linalg.svd((values[:, joints] - centre) / spread, full_matrices=False)[2][0] / spread
    posture = np.stack([centre, direction * (1 if direction[np.abs(direction).argmax()] > 0 else -1)])
    factors = _factors(raw, posture)
    limit = float(np.median(factors[:, 1]))
    for left in (True, False):
        for high in (True, False):
            if quarter(factors, limit, left, high).sum() < FEWEST:
                raise InputError(f"composition: fewer than {FEWEST} frames of a combination; give more")
    shown = quarter(factors, limit, True, False) | quarter(factors, limit, False, True)
    std = np.maximum(raw[shown].std(0), 1e-6)
    std[:6] = np.sqrt((std[:6] ** 2).mean())  # one scale: entries of a rotation belong together
    scale = np.stack([raw[shown].mean(0), std])
    parts = (list(range(6)), list(range(6, raw.shape[1])))
    return Frames((raw - scale[0]) / scale[1], factors, parts, limit, scale, posture)


def _factors(raw: Array, posture: Array) -> Array:
    turn = np.arctan2(raw[:, 1], raw[:, 0])  # of the object's first axis, seen from above
    return np.stack([turn, (raw[:, 6:] - posture[0]) @ posture[1]], 1)


def fit(dims: Sequence[int], x: Array, config: CompositionConfig, seed: int) -> FactorEnergy:
    """An energy of some dimensions by denoising score matching on rows x (N, n)."""
    generator = seeded_generator("cpu", seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        energy = FactorEnergy(range(len(dims)), config.width)
    objective = DenoisingScoreMatching(energy, config.denoising)  # on rows that hold no other dimensions
    rows = torch.as_tensor(x[:, list(dims)], dtype=torch.float32)
    optimizer = torch.optim.Adam(energy.parameters(), lr=config.learning_rate)
    for iteration in range(config.iterations):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - 0.99 * iteration / config.iterations)
        pick = torch.randint(len(rows), (config.denoising.batch_size,), generator=generator)
        loss, _ = objective(Batch(rows[pick], {}), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    energy.dims = list(dims)
    return energy.requires_grad_(False)


def draw(energy: Energy, size: int, config: CompositionConfig, seed: int) -> Array:
    """Samples (n, size) of a noise-conditional energy or a sum of such."""

    def at(level: Tensor) -> EnergyOfX:
        return lambda x: energy(x, {LEVEL: level.expand(len(x))})

    start = torch.zeros(config.samples, size)
    return anneal(at, start, config.annealing, generator=seeded_generator("cpu", seed)).x.double().numpy()


def energy_distance(one: Array, other: Array) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| over different pairs; 0 if and only if the two are alike."""

    def mean(a: Array, b: Array, pairs: float) -> float:
        return float(torch.cdist(torch.as_tensor(a), torch.as_tensor(b)).sum() / pairs)

    n, m = len(one), len(other)
    return 2 * mean(one, other, n * m) - mean(one, one, n * (n - 1)) - mean(other, other, m * (m - 1))


@dataclasses.dataclass
class CompositionRow:
    """What one energy, or the data, has."""

    name: str
    factors: Array
    """(n, 2)."""
    share: tuple[float, float, float]
    """In the combination held out, with a 95 % interval."""
    distance: tuple[float, float, float]
    """Energy distance to the frames held out, with a 95 % interval over samples (by half-samples)."""


def study(frames: Frames, config: CompositionConfig, seed: int = 0) -> list[CompositionRow]:
    """Train five energies on A, B and both, sum two of them, and compare with the frames held out."""
    data_a, data_b = frames.x[frames.quarter(True, False)], frames.x[frames.quarter(False, True)]
    turn, joints = frames.parts
    size = frames.x.shape[1]
    rng = np.random.default_rng(seed)
    held = rng.permutation(frames.x[frames.quarter(True, True)])
    half = min(len(held) // 2, config.samples)
    truth, other = held[:half], held[half : 2 * half]
    both = np.concatenate([data_a, data_b])
    energies: dict[str, Energy] = {
        "all of x, data A": fit(range(size), data_a, config, seed),
        "all of x, data B": fit(range(size), data_b, config, seed + 1),
        "all of x, both": fit(range(size), both, config, seed + 2),
        "E_A(turn) + E_B(joints)": fit(turn, data_a, config, seed + 3)
        + fit(joints, data_b, config, seed + 4),
    }
    found = {"frames held out, other half": other, "data A": data_a, "data B": data_b}
    found |= {name: draw(energy, size, config, seed) for name, energy in energies.items()}
    return [_row(name, x, frames, truth, rng) for name, x in found.items()]


def _row(name: str, x: Array, frames: Frames, truth: Array, rng: np.random.Generator) -> CompositionRow:
    if not np.isfinite(x).all():
        raise InputError(f"composition: samples of '{name}' are not finite; train longer or more carefully")
    x = rng.permutation(x)[: max(len(truth), 2)]
    factors = frames.factors_of(x)
    inside = quarter(factors, frames.limit, True, True)
    picks = rng.integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.percentile(inside[picks].mean(1), (2.5, 97.5))
    # halves drawn without replacement vary as whole samples do; with replacement there are pairs of twins
    halves = [energy_distance(rng.permutation(x)[: max(2, len(x) // 2)], truth) for _ in range(HALVES)]
    value, spread = energy_distance(x, truth), float(np.std(halves))
    bounds = (value, value - 1.96 * spread, value + 1.96 * spread)
    return CompositionRow(name, factors, (float(inside.mean()), float(low), float(high)), bounds)


def table(rows: Sequence[CompositionRow]) -> str:
    """The rows in Markdown."""
    lines = [["row", "in the combination held out", "energy distance to its frames"], ["---"] * 3]
    for row in rows:
        share = "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * value for value in row.share))
        lines.append([row.name, share, "{:.3f} ({:.3f} to {:.3f})".format(*row.distance)])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


LEGEND = (
    "Configurations are the object's turn and the hand's joints. Data A: left turns, low postures; data B: "
    "right turns, high postures; held out: left turns, high postures (low postures with right turns are in "
    "no data set either). Samples of energies trained on A, on B and on both, and of the sum of one that "
    "reads only the turn, in A, and one that reads only the joints, in B."
)


def write_report(
    rows: Sequence[CompositionRow], frames: Frames, out: Path, settings: Mapping[str, Any], command: str
) -> Path:
    """Write composition.md, composition.json and composition.png into `out`; return the page's path."""
    content = {
        "command": command,
        "settings": dict(settings),
        "rows": [{"name": r.name, "share": list(r.share), "energy_distance": list(r.distance)} for r in rows],
    }
    write_atomically(out / FIGURES, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_atomically(out / FIGURE, picture(rows, frames.limit))
    page = f"# Composition\n\n`{command}`\n\n{LEGEND}\n\n{table(rows)}\n\n![Turns and postures]({FIGURE})\n"
    write_atomically(out / PAGE, page)
    return out / PAGE


def picture(rows: Sequence[CompositionRow], limit: float, theme: Theme = LIGHT, shown: int = 500) -> bytes:
    """PNG: turn and posture of each row's samples; what is held out is shaded."""
    from matplotlib.figure import Figure

    with style(theme), matplotlib.rc_context({"font.size": 8.5}):
        lines = -(-len(rows) // COLUMNS)
        figure = Figure(figsize=(2.3 * COLUMNS + 0.4, 2.5 * lines), layout="constrained")
        grid = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True, sharey=True)
        axes = grid.flatten()
        for panel in axes[len(rows) :]:
            panel.set_visible(False)
        low, high = np.percentile(np.concatenate([row.factors[:, 1] for row in rows]), (0.5, 99.5))
        for panel, row in zip(axes, rows, strict=False):
            data = row.name.startswith(("data", "frames"))
            colour = theme.muted if data else theme.baseline if row.name.startswith("all") else theme.energy
            panel.fill_between([0, 180], limit, high, color=theme.grid, linewidth=0)
            points = row.factors[:shown]
            panel.plot(np.degrees(points[:, 0]), points[:, 1], ".", color=colour, markersize=2.5)
            panel.set_title(f"{row.name}\n{100 * row.share[0]:.0f} % inside", fontsize=8)
            panel.set_xlabel("turn, °")
        axes[0].set(xlim=(-180, 180), ylim=(low, high), xticks=[-180, 0, 180])
        for panel in grid[:, 0]:
            panel.set_ylabel("first principal posture")
        return save(figure, "png")
