"""The contact sheet: key figures, episodes in pictures, and a histogram of every dimension."""

import dataclasses
import itertools
import json

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ebm_traj.datasets.recording import Recording
from ebm_traj.describing.frames import Example, Strip
from ebm_traj.describing.measuring import Measured
from ebm_traj.describing.outcomes import noise_share
from ebm_traj.describing.table import dimensions, quaternion_name
from ebm_traj.spec import SMALLEST_SCALE, StateSpec
from ebm_traj.theme import LIGHT, Theme, save, style

WIDTH, MARGIN = 10.4, 0.25  # inches
HEAD, TILES, SECTION, LABEL = 0.62, 0.7, 0.4, 0.27  # heights in inches
STEPS = 0.2  # of the line of steps above the pictures
COLUMNS, PANEL = 8, 0.8  # histograms in a row, and height of one
CURVES, CURVES_IN_ROW, CURVE = 8, 4, 1.25
BINS = (8, 40)  # least and most
MOST_PANELS = 64  # of states, and as many of actions
TITLES = {
    "angle": "Angles, radians",
    "position": "Positions",
    "quaternion": "Positions and rotations",
    "given": "Given, not predicted",
    "action": "Actions",
}


@dataclasses.dataclass
class Panel:
    """A histogram and where it comes from."""

    name: str
    values: NDArray[np.floating]
    constant: bool
    colour: str


def contact_sheet(
    recording: Recording,
    measured: Measured,
    examples: list[Example],
    strips: list[Strip] | str,
    theme: Theme = LIGHT,
) -> bytes:
    """The sheet as PNG; the same bytes for the same data set.

    Where `strips` is a line that says why there are no pictures, `examples` are drawn as curves.
    """
    blocks = histogram_sections(recording, measured, theme)
    curves = _first_moving(recording, measured)
    if isinstance(strips, list):
        cell = (WIDTH - 2 * MARGIN) / len(strips[0].steps)
        picture = cell * strips[0].pictures[0].shape[0] / strips[0].pictures[0].shape[1]
        episodes = SECTION + STEPS + len(strips) * (picture + LABEL)
    else:
        episodes = SECTION + LABEL + CURVE * -(-len(curves) // CURVES_IN_ROW)
    histograms = sum(SECTION + PANEL * -(-len(panels) // COLUMNS) for _, panels in blocks)
    with style(theme):
        sheet = _Sheet(HEAD + TILES + episodes + histograms + MARGIN, theme)
        sheet.head(recording, measured)
        if isinstance(strips, list):
            sheet.strips(strips, cell, picture)
        else:
            sheet.curves(strips, recording, examples, curves)
        for title, panels in blocks:
            sheet.histograms(title, panels)
        return save(sheet.figure, "png")


def histogram_sections(
    recording: Recording, measured: Measured, theme: Theme
) -> list[tuple[str, list[Panel]]]:
    """Histograms by kind: of episodes first, then states, then actions."""
    spec, (names, kinds) = recording.spec, dimensions(recording)
    titles = dict(TITLES)
    if spec.quaternions:  # a pose is one thing: its position and its rotation stand together
        titles["position"] = titles["quaternion"]
    elif spec.difference(StateSpec.from_size(spec.observation_size)) is None:
        titles["position"] = "Observation"
    colours = {"given": theme.persistence, "action": theme.baseline}

    def panel(dim: int) -> Panel:
        values = measured.values[:, dim]
        constant = bool(measured.std[dim] <= SMALLEST_SCALE)
        return Panel(names[dim], values[np.isfinite(values)], constant, colours.get(kinds[dim], theme.energy))

    sections = [("Episodes", _of_episodes(recording, measured, theme))]
    for dims in (range(spec.size), range(spec.size, len(names))):
        for title, group in itertools.groupby(dims[:MOST_PANELS], lambda dim: titles[kinds[dim]]):
            sections.append((title, [panel(dim) for dim in group]))
        if len(dims) > MOST_PANELS:
            title, panels = sections[-1]
            sections[-1] = (f"{title} ({len(dims) - MOST_PANELS} further dimensions are not shown)", panels)
    return [section for section in sections if section[1]]


def _first_moving(recording: Recording, measured: Measured) -> NDArray[np.intp]:
    """The first predicted dimensions that change within episodes."""
    dims = recording.spec.predicted
    return dims[measured.change[dims] > SMALLEST_SCALE][:CURVES]


def _of_episodes(recording: Recording, measured: Measured, theme: Theme) -> list[Panel]:
    colour = theme.others[0]
    panels = [
        Panel(
            f"{quaternion_name(recording.spec.names[dims[0]])} net rotation, °",
            np.degrees(measured.rotation[:, i]),
            False,
            colour,
        )
        for i, dims in enumerate(recording.spec.quaternions)
    ]
    lengths = recording.lengths
    if lengths.min() < lengths.max():
        panels.append(Panel("length, steps", lengths.astype(float), False, colour))
    return panels


class _Sheet:
    """A figure that is filled from the top, with places in inches."""

    def __init__(self, height: float, theme: Theme) -> None:
        self.figure = Figure(figsize=(WIDTH, height))
        self.height, self.theme = height, theme
        self.top = 0.0  # inches used so far

    def head(self, recording: Recording, measured: Measured) -> None:
        """Name and origin, then the figures that matter most."""
        policy = recording.policy["name"]
        origin = f"{recording.env_id} {_short(recording.env_kwargs)}   policy {policy}"
        used, held = len(measured.episodes), recording.num_episodes
        if used < held:
            origin += f"   figures and histograms from {used:,} of the {held:,} episodes"
        self._write(MARGIN, 0.36, recording.folder.resolve().name, size=15, weight="bold")
        self._write(MARGIN, HEAD, origin, colour=self.theme.muted)
        self.top = HEAD
        tiles = _tiles(recording, measured)
        wide = (WIDTH - 2 * MARGIN) / len(tiles)
        for i, (number, label) in enumerate(tiles):
            self._write(MARGIN + i * wide, self.top + 0.4, number, size=15, weight="bold")
            self._write(MARGIN + i * wide, self.top + 0.58, label, size=8.5, colour=self.theme.muted)
        self.top += TILES

    def strips(self, strips: list[Strip], cell: float, picture: float) -> None:
        """Pictures: rows are episodes, columns are steps."""
        self._write(MARGIN, self.top + 0.3, "Episodes drawn at random", weight="bold")
        self.top += SECTION + STEPS
        for j, step in enumerate(strips[0].steps):
            where = MARGIN + (j + 0.5) * cell
            self._write(where, self.top, f"step {step}", colour=self.theme.muted, align="center")
        gap = 0.015 * cell
        for strip in strips:
            self._write(MARGIN + gap, self.top + 0.2, strip.label, weight="bold", colour=self.theme.energy)
            self._write(MARGIN + 1.35, self.top + 0.2, strip.note, colour=self.theme.muted)
            self.top += LABEL
            for j, image in enumerate(strip.pictures):
                ax = self._axes(MARGIN + j * cell + gap, self.top + gap, cell - 2 * gap, picture - 2 * gap)
                ax.imshow(image, aspect="auto", interpolation="lanczos")
                ax.set(xticks=[], yticks=[])
                ax.grid(False)
                for side in ("top", "right", "left", "bottom"):
                    ax.spines[side].set_visible(False)
            self.top += picture

    def curves(self, why: str, recording: Recording, examples: list[Example], dims: NDArray[np.intp]) -> None:
        """Some dimensions over time, a line for each episode."""
        self._write(MARGIN, self.top + 0.3, "Episodes drawn at random", weight="bold")
        self._write(MARGIN, self.top + 0.3 + 0.2, why[:1].upper() + why[1:], colour=self.theme.muted)
        self.top += SECTION + LABEL
        wide = (WIDTH - 2 * MARGIN) / CURVES_IN_ROW
        lines = (self.theme.energy, self.theme.baseline, *self.theme.others)
        for i, dim in enumerate(dims):
            row, column = divmod(i, CURVES_IN_ROW)
            left, top = MARGIN + column * wide, self.top + row * CURVE
            self._write(left, top + 0.14, recording.spec.names[dim], size=7.5)
            ax = self._axes(left + 0.3, top + 0.2, wide - 0.45, CURVE - 0.5)
            for example, colour in zip(examples, lines, strict=False):
                ax.plot(example.states[:, dim], color=colour, linewidth=1.0)
            ax.tick_params(labelsize=6.5, pad=1.5, length=0)
            ax.locator_params(axis="y", nbins=3)
            ax.locator_params(axis="x", nbins=5, integer=True)
            ax.margins(x=0)
        self.top += CURVE * -(-len(dims) // CURVES_IN_ROW)

    def histograms(self, title: str, panels: list[Panel]) -> None:
        """Small multiples, the ends of each range beneath."""
        self._write(MARGIN, self.top + 0.3, title, weight="bold")
        self.top += SECTION
        wide = (WIDTH - 2 * MARGIN) / COLUMNS
        for i, panel in enumerate(panels):
            row, column = divmod(i, COLUMNS)
            left, top = MARGIN + column * wide, self.top + row * PANEL
            self._write(left, top + 0.14, panel.name, size=7.5)
            ax = self._axes(left, top + 0.19, 0.88 * wide, PANEL - 0.42)
            self._histogram(ax, panel)
        self.top += PANEL * -(-len(panels) // COLUMNS)

    def _histogram(self, ax: Axes, panel: Panel) -> None:
        ax.set(yticks=[])
        ax.grid(False)
        ax.tick_params(axis="x", labelsize=6.5, pad=1.5, length=0)
        if panel.constant:
            ax.set(xticks=[], xlim=(0, 1), ylim=(0, 1))
            text = f"constant {panel.values[0]:.3g}" if len(panel.values) else "none"
            ax.text(0.5, 0.35, text, ha="center", fontsize=7, color=self.theme.muted)
            return
        low, high = float(panel.values.min()), float(panel.values.max())
        high = max(high, low + SMALLEST_SCALE)
        bins = int(np.clip(2 * len(panel.values) ** 0.5, *BINS))
        counts, edges = np.histogram(panel.values.astype(np.float64), bins, (low, high))
        ax.stairs(counts, edges, fill=True, color=panel.colour, alpha=0.85, linewidth=0)
        ax.set(xlim=(low, high), ylim=(0, 1.05 * counts.max()), xticks=[low, high])
        ax.set_xticklabels([f"{low:.3g}", f"{high:.3g}"])
        left, right = ax.get_xticklabels()
        left.set_horizontalalignment("left")
        right.set_horizontalalignment("right")

    def _axes(self, left: float, top: float, wide: float, high: float) -> Axes:
        return self.figure.add_axes(
            (left / WIDTH, 1 - (top + high) / self.height, wide / WIDTH, high / self.height)
        )

    def _write(
        self,
        left: float,
        top: float,
        text: str,
        *,
        size: float = 9.5,
        weight: str = "normal",
        colour: str | None = None,
        align: str = "left",
    ) -> None:
        """A line of text whose foot is `top` inches from the upper edge."""
        self.figure.text(
            *(left / WIDTH, 1 - top / self.height, text),
            fontsize=size,
            fontweight=weight,
            color=colour or self.theme.ink,
            ha=align,
            parse_math=False,
        )


def _short(kwargs: dict[str, object], most: int = 90) -> str:
    text = json.dumps(kwargs) if kwargs else ""
    return text if len(text) <= most else text[: most - 1] + "…"


def _tiles(recording: Recording, measured: Measured) -> list[tuple[str, str]]:
    """Figures that say whether the data are worth modelling: (number, label)."""
    tiles = [(f"{recording.num_episodes:,}", "episodes"), (f"{recording.num_steps:,}", "steps")]
    if measured.reached is not None:
        tiles.append((f"{measured.reached.mean():.1%}", "success, any step"))
    if measured.reached is not None or recording.success.any():  # else the environment may not tell
        tiles.append((f"{recording.success.mean():.1%}", "success, last step"))
    if measured.dropped is not None:
        tiles.append((f"{measured.dropped.mean():.1%}", "dropped"))
    tiles.append((f"{measured.still.mean():.1%}", "near-still"))
    if measured.rotation.size:
        tiles.append((f"{np.median(np.degrees(measured.rotation)):.0f}°", "net rotation"))
    share = noise_share(recording.policy)
    if share is not None:
        tiles.append((f"{share:.0%}", "random actions"))
    return tiles
