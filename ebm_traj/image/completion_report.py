"""The page of a completion study: a table for each mask, and the completions as a picture."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ebm_traj.image.completion import Completions
from ebm_traj.image.drawing import GAP, SIDE, Board, as_bytes, inked
from ebm_traj.tables import markdown
from ebm_traj.theme import LIGHT, Theme

LEGEND = (
    "Each picture is completed several times from the part that is seen. Classes are read by a classifier "
    "(with more than 0.5). Two completions are of different kinds if their classes differ, or if in the "
    "masked part they lie farther apart than two training pictures of one class do (median). Ambiguous: "
    "two classes or more have a tenth of the 20 training pictures nearest in what is seen. Spread: mean "
    "distance of two completions in that unit. Energy score: mean distance to the truth less half that "
    "between two completions, lower is better. Seam: mean step over the mask's edge, the truth's being 1. "
    "Misfit: root mean square on what is seen before the truth is put there, of a range of 2. Copies: the "
    "masked part of the training pictures nearest in what is seen."
)
COLUMNS = {
    "classes": ("classes a picture", "{:.2f}"),
    "classes_2": ("2 classes and more", "{:.0%}"),
    "classes_3": ("3 classes and more", "{:.0%}"),
    "kinds": ("kinds a picture", "{:.1f}"),
    "kinds_3": ("3 kinds and more", "{:.0%}"),
    "confident": ("read with > 0.9", "{:.0%}"),
    "true_class": ("true class among them", "{:.0%}"),
    "read_right": ("read as the true class", "{:.0%}"),
    "spread": ("spread", "{:.2f}"),
    "far": ("pairs apart", "{:.0%}"),
    "energy_score": ("energy score", "{:.3f}"),
    "seam": ("seam", "{:.2f}"),
    "misfit": ("misfit", "{:.3f}"),
}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Rows of `completion.summary` in Markdown."""
    lines = []
    for name, figures in rows.items():
        shown = [form.format(figures[key]).replace("%", " %") for key, (_, form) in COLUMNS.items()]
        lines.append([name, *shown])
    return markdown(["", *(title for title, _ in COLUMNS.values())], lines)


def picture(
    found: Completions,
    rows: Sequence[int],
    read: Tensor | None = None,
    names: Sequence[str] = (),
    shown: int = 16,
    theme: Theme = LIGHT,
) -> bytes:
    """PNG: the chosen pictures as they are and as they are seen, and completions, tinted where they are new.

    `read` (N, M) are the classes that a classifier reads, written below; -1 for none.
    """
    shown = min(shown, found.drawn.shape[1])
    hidden = ~found.known.numpy()[None]
    board = Board(theme)
    step, line = SIDE + GAP, SIDE + (0.2 if read is not None else GAP)
    places = [0.02, 0.02 + step, *(0.2 + (2 + i) * step for i in range(shown))]
    for place, title in zip(places, ("truth", "seen", "completions"), strict=False):
        board.words(place, 0.12, title, weight="bold")
    for number, row in enumerate(rows):
        top = 0.24 + number * line
        truth = inked(found.truth[row][None], theme=theme)[0]
        veiled = truth.copy()
        veiled[hidden[0]] = as_bytes(theme.grid)
        completed = inked(found.drawn[row, :shown], hidden, theme)
        for at, pixels in enumerate([truth, veiled, *completed]):
            board.picture(places[at], top, pixels)
            if read is not None and at >= 2:
                name = int(read[row, at - 2])
                text = "?" if name < 0 else (names[name] if names else str(name))
                middle = places[at] + SIDE / 2
                board.words(middle, top + SIDE + 0.075, text, fontsize=7, ha="center", color=theme.muted)
    return board.png(places[-1] + step, 0.24 + len(rows) * line)


def chosen_rows(first: Sequence[int], others: int, most: int) -> list[int]:
    """The rows named first, then the lowest others, `most` in all and none twice."""
    rest = [i for i in range(others) if i not in set(first)]
    return [*first, *rest][:most]


def read_classes(probabilities: Tensor) -> Tensor:
    """The class read (...) of probabilities (..., K), -1 where none has more than a half."""
    highest, read = probabilities.max(-1)
    return torch.where(highest > 0.5, read, -1)
