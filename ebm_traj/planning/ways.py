"""Distinct ways to go on from one present: futures grouped by how the object turns.

A future's path is the object's rotation at K times, evenly spaced. The distance of two paths is the angle
between their rotations, mean over the K times (the same whether rotations are absolute or relative to the
present). Complete linkage (Sorensen 1948) joins futures into *ways*, such that no two futures of a way are
farther apart than a radius: the fewest groups it finds so, and where futures form one broad cloud, a number
of pieces that covers it. Half of the simulator's branches are truth, and the other half, as many, is the row
that a perfect model scores: some ways are taken once in M branches, so that it finds not all of them either.
Recall and precision of ways are those of Sajjadi et al. 2018 (1806.00035), with ways in place of clusters of
features.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from ebm_traj.atomic import write_atomically
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.theme import LIGHT, Theme, save, style
from ebm_traj.trajectory.quaternions import between, rotation_vector
from ebm_traj.yardstick.intervals import draw_counts, ratio_interval

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Interval = tuple[float, float, float]  # value, low and high end; NaN where there is nothing to count

PAGE, FIGURES, FIGURE = "ways.md", "ways.json", "ways.png"
SIMULATOR = "simulator"
NO_WAY = -1
COLUMNS = {
    "ways": "ways",
    "recall": "recall",
    "share": "recall by share",
    "precision": "precision",
    "successful": "successful ways",
    "found": "of the branches' successful ways",
}


@dataclasses.dataclass(frozen=True)
class WaysConfig:
    """What counts as a way, and as success."""

    radius: float = 0.3
    """Radians; two futures of a way are at most so far apart, and so is a future that falls into it."""
    points: int = 8
    """K, times at which paths are compared."""
    threshold: float = 0.1
    """Radians from the goal at some step: success."""
    near: float = 0.4
    """The same where no branch of the context comes within `threshold`."""

    def __post_init__(self) -> None:
        for name in ("radius", "points", "threshold", "near"):
            if not getattr(self, name) > 0:
                raise InputError(f"ways: {name} {getattr(self, name)}; accepted are numbers above 0")


@dataclasses.dataclass(frozen=True)
class Ways:
    """M futures of one present, grouped."""

    labels: Whole
    """(M,) number of each future's way; ways are numbered from the largest on."""
    medoids: Whole
    """(W,) for each way the future that is nearest to the others of it."""
    sizes: Whole
    """(W,) futures in each."""

    @property
    def count(self) -> int:
        """W."""
        return len(self.medoids)


def rotation_paths(futures: ArrayLike, spec: StateSpec, points: int) -> Array:
    """Unit quaternions (..., K, 4) of futures (..., H, D) at K <= H times, the last step among them.

    Raises InputError if the state has not just one rotation, or a future is not finite.
    """
    states = np.asarray(futures)
    if len(spec.quaternions) != 1:
        raise InputError(f"ways: the state has {len(spec.quaternions)} rotations; accepted is one")
    rotations = states[..., spec.quaternions[0]].astype(np.float64)
    if not np.isfinite(rotations).all():
        raise InputError("ways: futures are not finite (NaN or infinity)")
    steps = rotations.shape[-2]
    at = np.unique(np.linspace(0, steps, points + 1).round().astype(int)[1:]) - 1
    chosen = rotations[..., at[at >= 0], :]
    return chosen / np.linalg.norm(chosen, axis=-1, keepdims=True)


def path_distances(one: Array, other: Array) -> Array:
    """Mean angles (M, N) in radians between paths (M, K, 4) and (N, K, 4); q and -q are the same."""
    inner = np.abs(np.einsum("mkq,nkq->mnk", one, other))
    return np.asarray(2 * np.arccos(np.minimum(inner, 1)).mean(-1))


def group(distances: Array, radius: float) -> Ways:
    """Ways by complete linkage of distances (M, M): the nearest two groups are joined while they fit in.

    Of equal distances the first counts, so that the same distances always give the same ways.
    """
    between_groups = distances.astype(np.float64).copy()
    np.fill_diagonal(between_groups, np.inf)
    members: list[list[int]] = [[i] for i in range(len(distances))]
    while True:
        i, j = np.unravel_index(np.argmin(between_groups), between_groups.shape)
        if not between_groups[i, j] <= radius:
            break
        i, j = min(i, j), max(i, j)
        members[i] += members[j]
        members[j] = []
        farthest = np.maximum(between_groups[i], between_groups[j])
        between_groups[i], between_groups[:, i] = farthest, farthest
        between_groups[j], between_groups[:, j], between_groups[i, i] = np.inf, np.inf, np.inf
    groups = sorted((sorted(found) for found in members if found), key=lambda found: (-len(found), found[0]))
    labels = np.zeros(len(distances), np.int64)
    medoids = []
    for number, found in enumerate(groups):
        labels[found] = number
        medoids.append(found[int(distances[np.ix_(found, found)].sum(1).argmin())])
    return Ways(labels, np.array(medoids, np.int64), np.array([len(found) for found in groups], np.int64))


def falls_into(distances: Array, ways: Ways, radius: float) -> Whole:
    """(M,) the way that each of M futures falls into, or NO_WAY; of distances (M, N) to N grouped ones.

    It is the way whose medoid is nearest, if that is within the radius.
    """
    to_medoids = distances[:, ways.medoids]
    nearest = to_medoids.argmin(1)
    inside = to_medoids[np.arange(len(distances)), nearest] <= radius
    return np.where(inside, nearest, NO_WAY)


def goal_angles(futures: ArrayLike, contexts: ArrayLike, spec: StateSpec) -> Array | None:
    """(B, M, H) radians from the goal that the last frame of contexts (B, C, D) carries; None without one."""
    if len(spec.given_quaternions) != 1:
        return None
    goal = np.asarray(contexts)[:, -1, spec.given_quaternions[0]].astype(np.float64)
    at = np.asarray(futures)[..., spec.quaternions[0]].astype(np.float64)
    inner = np.abs(np.einsum("bmhq,bq->bmh", at, goal)) / np.linalg.norm(at, axis=-1)
    return np.asarray(2 * np.arccos(np.minimum(inner / np.linalg.norm(goal, axis=-1)[:, None, None], 1)))


@dataclasses.dataclass
class Row:
    """What one row of the table found, by context."""

    name: str
    values: dict[str, Array]
    """(B,) for each of ways, recall, share, precision and, where there is a goal, successful and found."""
    scores: dict[str, Interval]
    """Means over contexts with 95 % intervals."""


class WaysJudge:
    """Holds the simulator's branches; scores M futures of each of B contexts."""

    def __init__(
        self,
        spec: StateSpec,
        contexts: ArrayLike,
        branches: ArrayLike,
        config: WaysConfig | None = None,
        seed: int = 0,
    ) -> None:
        """Contexts (B, C, D), branches (B, 2 M, H, D): every other one is truth, the rest the first row."""
        self.spec, self.config = spec, config or WaysConfig()
        self.contexts, self.branches = np.asarray(contexts), np.asarray(branches)[:, ::2]
        self.counts = draw_counts(len(self.contexts), seed)
        self.paths = rotation_paths(self.branches, spec, self.config.points)
        self.ways = [group(path_distances(paths, paths), self.config.radius) for paths in self.paths]
        self.reached: NDArray[np.bool_] | None = None
        angles = goal_angles(self.branches, self.contexts, spec)
        if angles is not None:
            start = goal_angles(self.contexts[:, None, -1:], self.contexts, spec)
            assert start is not None
            some = (angles.min((1, 2)) < self.config.threshold)[:, None]
            self.within = np.where(some, self.config.threshold, self.config.near)
            """(B, 1) radians from the goal that count as success."""
            self.open = start[:, 0, 0] >= self.within[:, 0]
            """(B,) contexts that are not there already; only these count for success."""
            self.reached = angles.min(2) < self.within
        self.rows = [self.row(SIMULATOR, np.asarray(branches)[:, 1::2])]

    def row(self, name: str, futures: ArrayLike) -> Row:
        """Score futures (B, M, H, D)."""
        radius = self.config.radius
        states = np.asarray(futures)
        paths = rotation_paths(states, self.spec, self.config.points)
        angles = goal_angles(states, self.contexts, self.spec)
        names = list(COLUMNS) if self.reached is not None else list(COLUMNS)[:4]
        values = {name: np.zeros(len(paths)) for name in [*names, "true_successful"]}
        for b, (mine, truth, ways) in enumerate(zip(paths, self.paths, self.ways, strict=True)):
            own, across = group(path_distances(mine, mine), radius), path_distances(mine, truth)
            found = np.isin(np.arange(ways.count), falls_into(across, ways, radius))
            exists = across[own.medoids].min(1) <= radius
            values["ways"][b] = own.count
            values["recall"][b] = found.mean()
            values["share"][b] = ways.sizes[found].sum() / ways.sizes.sum()
            values["precision"][b] = exists.mean()
            if self.reached is None or angles is None or not self.open[b]:
                continue
            good = np.isin(np.arange(ways.count), ways.labels[self.reached[b]])
            values["successful"][b] = len(set(own.labels[angles[b].min(1) < self.within[b]].tolist()))
            values["found"][b] = (good & found).sum()
            values["true_successful"][b] = good.sum()
        everywhere = np.ones(len(paths))
        below = dict.fromkeys(names, everywhere)
        if self.reached is not None:
            below |= {"successful": self.open.astype(np.float64), "found": values["true_successful"]}
        return Row(name, values, {name: self._mean(values[name], below[name]) for name in names})

    def _mean(self, above: Array, below: Array) -> Interval:
        if not below.sum() > 0:
            return (np.nan, np.nan, np.nan)
        low, high = ratio_interval(above, below, self.counts)
        return (float(above.sum() / below.sum()), low, high)

    def truth(self) -> dict[str, float]:
        """What the branches themselves have: mean ways and successful ways, and contexts that count."""
        found = {"contexts": float(len(self.ways)), "ways": float(np.mean([w.count for w in self.ways]))}
        if self.reached is not None:
            true = self.rows[0].values["true_successful"]
            found |= {"open": float(self.open.sum()), "successful": float(true[self.open].mean())}
            found |= {"beyond_threshold": float((self.within[:, 0] > self.config.threshold)[self.open].sum())}
        return found


def table(judge: WaysJudge) -> str:
    """The rows in Markdown."""
    rows = judge.rows
    names = list(rows[0].scores)
    lines = [["row", *(COLUMNS[name] for name in names)], ["---"] * (1 + len(names))]
    lines += [[row.name, *(_text(name, row.scores[name]) for name in names)] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def legend(judge: WaysJudge) -> str:
    """What the columns of the table are, in words."""
    config, truth = judge.config, judge.truth()
    words = (
        f"{truth['contexts']:g} contexts, {judge.branches.shape[1]} futures of {judge.branches.shape[2]} "
        f"steps each; means over contexts with 95 % intervals by bootstrap. A way: rotation paths at most "
        f"{config.radius:g} rad apart (mean angle over {judge.paths.shape[2]} times). The branches that are "
        f"truth have {truth['ways']:.2f} ways; row '{SIMULATOR}' is their other half. Recall: share of the "
        "branches' ways that a future falls into, each way alike or by its share of the branches. "
        "Precision: share of the row's ways that some branch takes."
    )
    if "successful" in truth:
        words += (
            f" A way is successful if a future of it comes within {config.threshold:g} rad of the goal, or "
            f"{config.near:g} rad where no branch does ({truth['beyond_threshold']:g} contexts); it counts "
            f"in the {truth['open']:g} contexts that are not there already. The branches that are truth have "
            f"{truth['successful']:.2f} successful ways; the last column is the share of these found."
        )
    return words


def _text(name: str, values: Interval) -> str:
    value, low, high = values
    if np.isnan(value):
        return ""
    digits = 1 if name == "ways" else 2
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def write_report(
    judges: Sequence[WaysJudge],
    out: Path,
    drawn: Mapping[str, ArrayLike],
    settings: Mapping[str, Any],
    command: str,
    notes: str = "",
) -> Path:
    """Write ways.md, ways.json and ways.png into `out`; return the page's path.

    The first judge's table comes first, those of other radii follow. `drawn` are futures (B, M, H, D) by the
    name of their row.
    """
    first = judges[0]
    parts = [f"# Distinct ways\n\n`{command}`\n\n{legend(first)}{notes}\n\n{table(first)}"]
    parts += [f"## At a radius of {j.config.radius:g} rad\n\n{table(j)}" for j in judges[1:]]
    parts += [f"![Paths of rotation of three presents, coloured by way]({FIGURE})\n"]
    content = {
        "command": command,
        "settings": dict(settings),
        "results": [
            {
                "config": dataclasses.asdict(judge.config),
                "branches": judge.truth(),
                "rows": [
                    {"name": row.name, **{k: _plain(v) for k, v in row.scores.items()}} for row in judge.rows
                ],
            }
            for judge in judges
        ],
    }
    write_atomically(out / FIGURES, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_atomically(out / FIGURE, picture(first, drawn))
    write_atomically(out / PAGE, "\n\n".join(parts))
    return out / PAGE


def _plain(values: Interval) -> list[float] | None:
    return None if np.isnan(values[0]) else list(values)


# --- the figure -----------------------------------------------------------------------------------------


def pick_presents(judge: WaysJudge, count: int = 3) -> list[int]:
    """Contexts to draw, by truth alone: with many ways, with more than most, and with a usual number."""
    order = np.argsort([ways.count for ways in judge.ways], kind="stable")
    at = [0.95, 0.75, 0.5][:count]
    return list(dict.fromkeys(int(order[int(share * (len(order) - 1))]) for share in at))


def picture(judge: WaysJudge, drawn: Mapping[str, ArrayLike], theme: Theme = LIGHT) -> bytes:
    """PNG: for a few presents the paths of rotation of the branches beside those of each row.

    A path has the colour of the branches' way that it falls into, grey for none; medoids of ways are thick.
    The star is the goal; hollow, and at the edge, where it lies farther out.
    """
    from matplotlib.figure import Figure

    presents = pick_presents(judge)
    columns = {"branches": judge.branches, **{name: np.asarray(found) for name, found in drawn.items()}}
    size = (2.15 * len(columns) + 0.4, 2.25 * len(presents) + 0.6)
    with style(theme), matplotlib.rc_context({"font.size": 8.5}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(presents), len(columns), squeeze=False, sharex="row", sharey="row")
        for i, b in enumerate(presents):
            plane = Plane(judge, b)
            for panel, (name, futures) in zip(axes[i], columns.items(), strict=True):
                _panel(panel, judge, b, plane, futures[b], f"{name}\n" if i == 0 else "", theme)
            if judge.reached is not None:
                _goal(axes[i], plane(judge.contexts[b, -1, judge.spec.given_quaternions[0]]), theme)
            axes[i, 0].set_ylabel("second direction, °")
        for panel in axes[-1]:
            panel.set_xlabel("turn from the present, °")
        return save(figure, "png")


class Plane:
    """The two directions along which the branches of a context turn most; others are seen in it, too."""

    def __init__(self, judge: WaysJudge, context: int) -> None:
        self.dims = judge.spec.quaternions[0]
        self.present = torch.as_tensor(judge.contexts[context, -1, self.dims]).double()
        turns = self.turns(judge.branches[context][..., self.dims])
        self.axes = np.linalg.svd(turns.reshape(-1, 3), full_matrices=False)[2][:2]
        self.axes *= np.where((turns[:, -1] @ self.axes.T).mean(0) < 0, -1, 1)[:, None]

    def turns(self, rotations: NDArray[Any]) -> Array:
        """Axis times angle (..., 3) in degrees from the present to rotations (..., 4)."""
        ends = torch.as_tensor(np.ascontiguousarray(rotations)).double()
        turned = rotation_vector(between(self.present.expand_as(ends), ends))
        return np.degrees(turned.numpy())

    def __call__(self, rotations: NDArray[Any]) -> Array:
        """(..., 2) degrees."""
        return np.asarray(self.turns(rotations) @ self.axes.T)


def _panel(
    panel: Axes, judge: WaysJudge, b: int, plane: Plane, futures: NDArray[Any], name: str, theme: Theme
) -> None:
    """Paths of one present at the times that are compared."""
    radius, ways = judge.config.radius, judge.ways[b]
    paths = rotation_paths(futures, judge.spec, judge.config.points)
    own = group(path_distances(paths, paths), radius)
    into = falls_into(path_distances(paths, judge.paths[b]), ways, radius)
    if np.array_equal(paths, judge.paths[b]):
        into = ways.labels
    palette = [theme.energy, theme.baseline, *theme.others]
    for i in [*np.flatnonzero(~np.isin(np.arange(len(paths)), own.medoids)), *own.medoids]:
        colour = theme.muted if into[i] == NO_WAY else palette[into[i] % len(palette)]
        line = np.concatenate([np.zeros((1, 2)), plane(paths[i])])
        thick = i in own.medoids
        panel.plot(*line.T, color=colour, linewidth=1.6 if thick else 0.6, alpha=0.9 if thick else 0.5)
        panel.plot(*line[-1], "o", color=colour, markersize=3.5 if thick else 2)
    panel.plot(0, 0, "o", color=theme.ink, markersize=4)
    seen = len(set(into.tolist()) - {NO_WAY})
    words = "1 way" if own.count == 1 else f"{own.count} ways"
    if into is not ways.labels:
        words += f"; {seen} of {ways.count} found"
    panel.set_title(name + words, fontsize=8.5)


def _goal(panels: Sequence[Axes], goal: Array, theme: Theme) -> None:
    """A star at the goal in panels that share their limits."""
    limits = np.array([panels[0].get_xlim(), panels[0].get_ylim()])
    edge = 0.05 * np.diff(limits, axis=1)[:, 0]
    shown = np.clip(goal, limits[:, 0] + edge, limits[:, 1] - edge)
    face = theme.ink if np.array_equal(shown, goal) else "none"
    for panel in panels:
        panel.plot(*shown, "*", color=theme.ink, markerfacecolor=face, markersize=9)
