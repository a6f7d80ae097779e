"""Colours and typography of all figures, in a light and a dark theme.

One colour for each row everywhere: truth is ink, the energy model blue, the baseline orange.
"""

import dataclasses
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import matplotlib
from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of ink, grid and rows on a light or a dark page."""

    name: str
    ink: str
    muted: str
    grid: str
    page: str
    energy: str
    baseline: str
    others: tuple[str, ...]
    persistence: str
    shuffled: str


LIGHT = Theme(
    *("light", "#1b1f24", "#68707c", "#e4e6ea", "#ffffff", "#1f62d0", "#d95f1e"),
    others=("#16866a", "#8e44ad", "#a87b00", "#b0305c", "#0f8fb3", "#6b7f1f", "#7a5230", "#4b4fa8"),
    persistence="#8b929c",
    shuffled="#b58fb8",
)
DARK = Theme(
    *("dark", "#eceef1", "#9aa3af", "#30363f", "#15181d", "#6ea8ff", "#ff9455"),
    others=("#4cc9a0", "#c58be0", "#dcb544", "#f07aa0", "#5fd0ee", "#b4cc5c", "#c99a6e", "#9a9df2"),
    persistence="#7e8691",
    shuffled="#a583a8",
)


@contextmanager
def style(theme: Theme) -> Iterator[None]:
    """Matplotlib settings of all figures."""
    settings: dict[str, Any] = {
        "font.size": 9.5,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.ink,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "text.color": theme.ink,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "legend.frameon": False,
        "lines.solid_capstyle": "round",
        "svg.fonttype": "path",  # looks the same wherever the page is opened
        "svg.hashsalt": "ebm_traj",
    }
    with matplotlib.rc_context(cast(Any, settings)):  # typed as a literal union of all names
        yield


def save(figure: Figure, kind: str) -> bytes:
    """SVG or WebP on a transparent ground, or PNG on white; the same bytes for the same figure."""
    options: dict[str, dict[str, Any]] = {
        "svg": {"facecolor": "none", "metadata": {"Date": None}},
        "webp": {"facecolor": "none", "dpi": 130, "pil_kwargs": {"quality": 86}},
        "png": {"facecolor": "white", "dpi": 160, "metadata": {"Software": None}},
    }
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options[kind])
    return buffer.getvalue()
