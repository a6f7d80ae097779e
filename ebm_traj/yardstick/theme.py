"""Which row has which colour, and a figure of a comparison as bytes."""

from collections.abc import Callable

from matplotlib.figure import Figure

from ebm_traj.theme import LIGHT, Theme, save, style
from ebm_traj.yardstick.table import Comparison


def colours(comparison: Comparison, theme: Theme) -> dict[str, str]:
    """The colour of each row by its name."""
    fixed = {
        "simulator": theme.ink,
        "persistence": theme.persistence,
        "shuffled": theme.shuffled,
    }
    found = {row.name: fixed[row.kind] for row in comparison.rows if row.kind in fixed}
    found[comparison.baseline_row.name] = theme.baseline
    found[comparison.energy_row.name] = theme.energy
    rest = [row.name for row in comparison.rows if row.name not in found]
    return found | {name: theme.others[i % len(theme.others)] for i, name in enumerate(rest)}


Drawing = Callable[[Comparison, Theme, bool], Figure]


def draw(figure: Drawing, comparison: Comparison, theme: Theme, narrow: bool, kind: str = "svg") -> bytes:
    """A figure as SVG or WebP (smaller where there are many lines), on a transparent ground."""
    with style(theme):
        return save(figure(comparison, theme, narrow), kind)


def png(figure: Drawing, comparison: Comparison) -> bytes:
    """PNG of the wide, light figure on white."""
    with style(LIGHT):
        return save(figure(comparison, LIGHT, False), "png")
