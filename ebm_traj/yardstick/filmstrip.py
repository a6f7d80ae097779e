"""The film strip: truth, three sampled futures and the baseline's prediction, drawn in MuJoCo."""

import dataclasses

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ebm_traj.spec import StateSpec
from ebm_traj.theme import LIGHT, Theme, save, style
from ebm_traj.yardstick.table import Comparison
from ebm_traj.yardstick.theme import colours

Image = NDArray[np.uint8]

FUTURES = 3
PICTURE = 400  # pixels; cropped to what is in it
WIDE, NARROW = 6, 3  # columns, the present included
OUT_OF_SIGHT = -100.0  # metres
ASPECT = 1.15  # width over height of a picture


@dataclasses.dataclass
class Film:
    """Pictures of the drawn context: one row a future, one column a step."""

    labels: list[str]
    colours_of: list[str]
    """Name of the table's row that gives each line its colour; `truth` for ink."""
    steps: list[int]
    """Step of each column; 0 is the present."""
    pictures: list[list[Image]]
    """[row][column] (h, w, 3), all of one size."""


def make_film(comparison: Comparison) -> Film | str:
    """Draw the film, or say in a line why it cannot be drawn (no scene for these states, no OpenGL)."""
    # only here does the trajectory package know of environments
    from ebm_traj.envs.render import RenderError, state_renderer

    front, back, drawn = comparison.energy_row, comparison.baseline_row, comparison.drawn
    try:
        draw = state_renderer(comparison.env_id, comparison.env_kwargs, PICTURE, PICTURE)
    except RenderError as error:
        return f"No pictures: {error}"
    if draw is None:
        return f"No pictures: the scene of '{comparison.env_id}' cannot be drawn from its states alone."
    assert front.fan is not None and back.fan is not None
    futures = min(FUTURES, len(front.fan))
    lines = [("truth", "truth", drawn.truth)]
    lines += [(f"{front.name} {i + 1}", front.name, front.fan[i]) for i in range(futures)]
    lines += [(back.name, back.name, back.fan[0])]
    last = len(drawn.truth)
    steps = sorted({round(step) for step in np.linspace(0, last, WIDE)})
    pictures = [
        [
            draw(without_goal(drawn.context[-1] if step == 0 else future[step - 1], comparison.spec))
            for step in steps
        ]
        for _, _, future in lines
    ]
    return Film([line[0] for line in lines], [line[1] for line in lines], steps, crop(pictures))


def without_goal(state: NDArray[np.float32], spec: StateSpec) -> NDArray[np.float32]:
    """The state with given places out of sight: a goal is not part of a prediction."""
    moved = np.nan_to_num(state)
    for i in spec.given:
        if spec.names[i].endswith(("_x", "_y", "_z")):
            moved[i] = OUT_OF_SIGHT
    return moved


def crop(pictures: list[list[Image]]) -> list[list[Image]]:
    """All pictures cut to the one window that holds whatever differs from the ground in any of them."""
    stack = np.stack([picture for line in pictures for picture in line]).astype(np.int16)
    filled = (np.abs(stack - stack[:1, :1, :1]).sum(-1) > 12).any(0)
    if not filled.any():
        return pictures
    rows, columns = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
    most_high, most_wide = filled.shape
    high, wide = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    wide = min(most_wide, max(round(1.06 * wide), round(1.06 * high * ASPECT)))
    high = min(most_high, round(wide / ASPECT))
    top = int(np.clip((rows[0] + rows[-1] - high) // 2, 0, most_high - high))
    left = int(np.clip((columns[0] + columns[-1] - wide) // 2, 0, most_wide - wide))
    return [[picture[top : top + high, left : left + wide] for picture in line] for line in pictures]


def draw_film(film: Film, comparison: Comparison, theme: Theme, narrow: bool) -> Figure:
    """The strip: rows are futures, columns are steps from the present."""
    count = len(film.steps)
    shown = sorted({round(i) for i in np.linspace(0, count - 1, NARROW)}) if narrow else list(range(count))
    lines = len(film.pictures)
    high, wide = film.pictures[0][0].shape[:2]
    cell = (4.3 if narrow else 10.4) / len(shown)  # inches
    head, label = 0.3, 0.27
    total = head + lines * (cell * high / wide + label)
    figure = Figure(figsize=(cell * len(shown), total))
    palette = {**colours(comparison, theme), "truth": theme.ink}
    gap = 0.02 * cell
    for i, line in enumerate(film.pictures):
        top = total - head - i * (cell * high / wide + label)
        colour = palette[film.colours_of[i]]
        figure.text(
            *(gap / figure.get_figwidth(), (top - 0.19) / total, film.labels[i]),
            color=colour,
            fontsize=10,
            fontweight="bold",
        )
        for j, column in enumerate(shown):
            box = (
                j * cell + gap,
                top - label - cell * high / wide + gap,
                cell - 2 * gap,
                cell * high / wide - 2 * gap,
            )
            ax = figure.add_axes(
                (
                    box[0] / figure.get_figwidth(),
                    box[1] / total,
                    box[2] / figure.get_figwidth(),
                    box[3] / total,
                )
            )
            ax.imshow(line[column], aspect="auto", interpolation="lanczos")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            for side in ("top", "right", "left", "bottom"):
                ax.spines[side].set(visible=True, color=colour, linewidth=1.4)
    for j, column in enumerate(shown):
        step = film.steps[column]
        figure.text(
            *((j + 0.5) * cell / figure.get_figwidth(), (total - 0.2) / total),
            "now" if step == 0 else f"step {step}",
            ha="center",
            color=theme.muted,
            fontsize=9.5,
        )
    return figure


def film_picture(film: Film, comparison: Comparison, theme: Theme, narrow: bool, kind: str = "webp") -> bytes:
    """The strip as WebP on a transparent ground, or as PNG on white."""
    with style(theme):
        return save(draw_film(film, comparison, theme, narrow), kind)


def film_png(film: Film, comparison: Comparison) -> bytes:
    """PNG of the wide, light strip on white."""
    return film_picture(film, comparison, LIGHT, False, "png")
