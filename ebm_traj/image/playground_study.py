"""The study behind the playground: how near learnt energies are to the truth, alone and composed."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebm_traj.atomic import write_atomically
from ebm_traj.core.energy import Energy
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.image.plane_composition import bar, both, either, normalised, without
from ebm_traj.image.plane_paths import PathRow, path_study, path_table
from ebm_traj.image.playground import Grid, Learnt, PlaneConfig, Scores, learn, of_x, score, walk_anywhere
from ebm_traj.image.playground_figures import draw_paths, landscape, points, sheet, walks
from ebm_traj.image.toy import ToyDensity, toy
from ebm_traj.theme import LIGHT, Theme, save, style

PAGE, FIGURES = "playground.md", "playground.json"
LANDSCAPES, COMPOSED, PATHS = "landscapes.png", "composed.png", "paths.png"

Compose = Callable[[Energy, Energy], Energy]
OPERATIONS: dict[str, Compose] = {"ring and bar": both, "ring or bar": either, "ring, not bar": without}


@dataclasses.dataclass(frozen=True)
class PlaneRow:
    """A density, an energy learnt of it, and some of its samples."""

    density: str
    learning: str
    scores: Scores
    seconds: float
    """Of CPU, for training and scoring."""
    learnt: Learnt
    samples: Tensor
    trace: Tensor
    """(T, 4, 2) chains on its landscape."""


def plane_row(name: str, config: PlaneConfig, folder: Path, count: int = 2000) -> PlaneRow:
    """Learn an energy of one density, score it, sample it, walk on it."""
    began = time.process_time()
    density = toy(name)
    learnt = learn(density, config, folder)
    found = score(density, learnt.energy)
    seconds = time.process_time() - began
    samples = learnt.sample(count, seeded_generator("cpu", "plane samples", name)).x
    return PlaneRow(name, config.learning, found, seconds, learnt, samples, chains_on(learnt.energy, density))


def chains_on(energy: Energy, density: ToyDensity, chains: int = 4, steps: int = 150) -> Tensor:
    """(T, chains, 2) Metropolis-corrected Langevin chains from the corners of the landscape."""
    corner = 0.8 * density.extent
    start = corner * torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])[:chains]
    walk = LangevinConfig(steps=steps, step_size=0.01, metropolis=True)
    chain = langevin(of_x(energy), start, walk, generator=seeded_generator("cpu", "walks"), record=True)
    assert chain.trace is not None
    return torch.cat([start[None], chain.trace])


@dataclasses.dataclass(frozen=True)
class ComposedRow:
    """One operation on two learnt energies, against the same on the exact ones."""

    name: str
    kl: float
    """KL(exact || learnt) over the plane, in nats, by quadrature."""
    energy: Energy
    samples: Tensor
    inside: tuple[float, float]
    """Mass of the right half of the plane above -1: of the learnt composition by quadrature, and the share of
    samples there."""


def composed_rows(
    ring: ToyDensity, learnt_ring: Energy, learnt_bar: Energy, count: int = 1000
) -> list[ComposedRow]:
    """And, or, not of ring and bar. Mixtures are of normalised energies."""
    grid = Grid(ring.extent + 1.0, 200)
    exact, found = (ring, bar()), (normalised(learnt_ring, grid), normalised(learnt_bar, grid))
    rows = []
    for name, compose in OPERATIONS.items():
        energy = compose(*found)
        generator = seeded_generator("cpu", "composed", name)
        x = walk_anywhere(energy, ring.extent, count, generator).x
        place = (grid.points[:, 0] > 0) & (grid.points[:, 1] > -1)
        mass = float(grid.log_density(of_x(energy)).exp()[place].sum()) * grid.area
        share = float(((x[:, 0] > 0) & (x[:, 1] > -1)).float().mean())
        kl = grid.kl(of_x(compose(*exact)), of_x(energy))
        rows.append(ComposedRow(name, kl, energy, x, (mass, share)))
    return rows


def score_table(rows: Sequence[PlaneRow]) -> str:
    """The learnt energies in Markdown."""
    lines = [["density", "learnt by", "log-likelihood", "of the truth", "KL(truth, learnt)"], ["---"] * 7]
    lines[0] += ["KL(learnt, truth)", "CPU s"]
    for row in rows:
        s = row.scores
        cells = [f"{value:.3f}" for value in (s.log_likelihood, s.truth, s.kl, s.kl_reverse)]
        lines.append([row.density, row.learning, *cells, f"{row.seconds:.0f}"])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def composed_table(rows: Sequence[ComposedRow]) -> str:
    """The compositions in Markdown."""
    lines = [
        ["composed", "KL(exact, learnt)", "mass at the right, y > -1", "share of samples there"],
        ["---"] * 4,
    ]
    for row in rows:
        lines.append([row.name, f"{row.kl:.3f}", f"{row.inside[0]:.3f}", f"{row.inside[1]:.3f}"])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


LEGEND = (
    "Energies learnt of 20,000 samples of densities known exactly, in nats. The normalising constant is the "
    "integral over a grid, so that log-likelihood (of 20,000 new samples) and Kullback-Leibler divergences "
    "are those of normalised densities."
)


def write_report(
    rows: Sequence[PlaneRow],
    composed: Sequence[ComposedRow],
    paths: Sequence[PathRow],
    out: Path,
    settings: Mapping[str, Any],
    command: str,
) -> Path:
    """Write playground.md, .json and three figures into `out`; return the page's path."""
    content = {
        "command": command,
        "settings": dict(settings),
        "learnt": [
            {"density": r.density, "learning": r.learning, **vars(r.scores), "seconds": r.seconds}
            for r in rows
        ],
        "composed": [{"name": r.name, "kl": r.kl, "inside": r.inside} for r in composed],
        "paths": [{k: v for k, v in vars(r).items() if k != "points"} for r in paths],
    }
    write_atomically(out / FIGURES, json.dumps(content, indent=1, default=str) + "\n")
    write_atomically(out / LANDSCAPES, landscapes_picture(rows))
    page = [f"# Playground\n\n`{command}`", LEGEND, score_table(rows), f"![Landscapes]({LANDSCAPES})"]
    if composed:
        write_atomically(out / COMPOSED, composed_picture(composed))
        page += ["## And, or, not", composed_table(composed), f"![Composed energies]({COMPOSED})"]
    if paths:
        ring = best_ring(rows)
        assert ring is not None  # else there were no paths
        write_atomically(out / PATHS, paths_picture(paths, ring.energy))
        page += ["## Paths", path_table(list(paths)), f"![Paths]({PATHS})"]
    write_atomically(out / PAGE, "\n\n".join(page) + "\n")
    return out / PAGE


def landscapes_picture(rows: Sequence[PlaneRow], theme: Theme = LIGHT) -> bytes:
    """PNG: for each density the truth, the learnt landscapes with chains, and samples."""
    names = list(dict.fromkeys(row.density for row in rows))
    kinds = list(dict.fromkeys(row.learning for row in rows))
    with style(theme):
        figure, axes = sheet(len(names), 1 + 2 * len(kinds))
        for line, name in enumerate(names):
            density = toy(name)
            landscape(axes[line, 0], of_x(density), density.extent, f"{name}: exact")
            for column, kind in enumerate(kinds):
                pair = axes[line, 1 + 2 * column : 3 + 2 * column]
                found = [row for row in rows if (row.density, row.learning) == (name, kind)]
                if not found:
                    pair[0].set_visible(False), pair[1].set_visible(False)
                    continue
                title = f"{kind}: KL {found[0].scores.kl:.3f}"
                landscape(pair[0], of_x(found[0].learnt.energy), density.extent, title)
                walks(pair[0], found[0].trace, [theme.baseline, *theme.others])
                points(pair[1], found[0].samples, density.extent, "its samples", theme.energy)
        return save(figure, "png")


def composed_picture(rows: Sequence[ComposedRow], theme: Theme = LIGHT) -> bytes:
    """PNG: the landscape of each composition, with samples of long chains on it."""
    with style(theme):
        figure, axes = sheet(1, len(rows))
        for axis, row in zip(axes[0], rows, strict=True):
            landscape(axis, of_x(row.energy), 4.0, f"{row.name}: KL {row.kl:.3f}")
            some = row.samples[:300].numpy()
            axis.plot(some[:, 0], some[:, 1], ".", color=theme.baseline, markersize=1.6)
        return save(figure, "png")


def paths_picture(rows: Sequence[PathRow], ring: Energy, theme: Theme = LIGHT) -> bytes:
    """PNG: the paths under each energy."""
    with style(theme):
        figure, axes = sheet(1, len(rows), title_lines=2)
        draw_paths(list(axes[0]), rows, of_x(ring), theme)
        return save(figure, "png")


def run(
    names: Sequence[str],
    kinds: Sequence[PlaneConfig],
    out: Path,
    sample_count: int,
    path_count: int,
    seed: int,
) -> tuple[list[PlaneRow], list[ComposedRow], list[PathRow]]:
    """All of the study. Compositions and paths are of the ring, if learnt, by the better of its energies."""
    rows = [
        plane_row(name, kind, out / "runs" / f"{name}-{kind.learning}") for name in names for kind in kinds
    ]
    ring = best_ring(rows)
    if ring is None:
        return rows, [], []
    learnt_bar = learn(bar(), ring.config, out / "runs" / "bar").energy
    composed = composed_rows(toy("ring"), ring.energy, learnt_bar, sample_count)
    paths = path_study(ring.energy, path_count, seed) if path_count else []
    return rows, composed, paths


def best_ring(rows: Sequence[PlaneRow]) -> Learnt | None:
    """The ring as learnt best, by KL(truth || learnt); None if it was not learnt."""
    ring = [row for row in rows if row.density == "ring"]
    return min(ring, key=lambda row: row.scores.kl).learnt if ring else None
