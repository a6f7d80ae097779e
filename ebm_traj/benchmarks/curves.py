"""Cost curves: the time of a chain, or of a step of training, against one of its settings."""

import dataclasses
import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ebm_traj.benchmarks.chain import (
    OURS,
    PLAIN,
    ChainSettings,
    chain_builders,
    floor_builders,
    product_builders,
)
from ebm_traj.benchmarks.floor import FLOOR, FP32
from ebm_traj.benchmarks.paired import (
    PEERS,
    Builder,
    Contender,
    Row,
    gather,
    measure,
    milliseconds,
    require_positive,
    rows_of,
)
from ebm_traj.benchmarks.train import StepSettings, train_builders
from ebm_traj.errors import InputError
from ebm_traj.theme import LIGHT, save, style

CHAIN_VALUES: dict[str, tuple[int, ...]] = {
    "batch": (64, 128, 256, 512, 1024, 2048, 4096),
    "width": (32, 64, 128, 256, 512),
    "steps": (5, 10, 20, 40, 80, 160),
    "depth": (1, 2, 3, 4, 6, 8),
}
STEP_VALUES: dict[str, tuple[int, ...]] = {
    "window": (1, 2, 4, 8, 16, 32),
    "data": (1_000, 10_000, 100_000, 1_000_000, 3_000_000),
}
LABELS = {
    "batch": "chains in a batch",
    "width": "units of a hidden layer",
    "steps": "Langevin steps",
    "depth": "hidden layers",
    "window": "frames in a window",
    "data": "frames in the data set",
}
SIZE = (5.2, 3.4)  # inches

Settings = ChainSettings | StepSettings


@dataclasses.dataclass(frozen=True)
class Curve:
    """Times against one setting."""

    parameter: str
    values: list[int]
    settings: Any
    """All others."""
    rows: list[list[Row]]
    """For each value: ours, the peer, the bare products."""

    def text(self) -> str:
        """Markdown, a line for each value."""
        names = [row.name for row in self.rows[0]]
        heads = [LABELS[self.parameter], *(f"{name}, ms" for name in names), f"{names[0]} is x times as fast"]
        lines = ["| " + " | ".join(heads) + " |", "|---:" * len(heads) + "|"]
        for value, rows in zip(self.values, self.rows, strict=True):
            peer = rows[1]
            band = f"{peer.ratio:.2f} ({peer.ratio_low:.2f}-{peer.ratio_high:.2f})"
            cells = [f"{value:,}", *(milliseconds(row.seconds) for row in rows), band]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)


def benchmark_curve(
    settings: Settings,
    parameter: str,
    values: Sequence[int] | None = None,
    *,
    rounds: int = 10,
    device: torch.device | str = "cpu",
    block_seconds: float = 0.1,
    seed: int = 0,
) -> Curve:
    """Ours, one peer and the bare products (fp32) at each value of a setting, the rest as in `settings`.

    The peer is torchebm, or else ebmkit, or the plain loop where neither is installed.
    Raises InputError if the setting has no curve, or a value is not accepted.
    """
    known = CHAIN_VALUES if isinstance(settings, ChainSettings) else STEP_VALUES
    if parameter not in known:
        raise InputError(f"--curve {parameter}: accepted are {', '.join(known)}")
    require_positive("rounds", rounds)
    chosen = list(values or known[parameter])
    each = [_with(settings, parameter, value) for value in chosen]
    contenders = [curve_contenders(one, device, seed) for one in each]
    turns = [  # all values take their turns in the same rounds, so that other load bends no curve
        dataclasses.replace(contender, name=f"{i} {contender.name}")
        for i, these in enumerate(contenders)
        for contender in these
    ]
    times = measure(turns, rounds=rounds, block_seconds=block_seconds, device=device, seed=seed)
    rows = [
        rows_of({contender.name: times[f"{i} {contender.name}"] for contender in these}, these)
        for i, these in enumerate(contenders)
    ]
    return Curve(parameter, chosen, settings, rows)


def curve_contenders(settings: Settings, device: torch.device | str, seed: int) -> list[Contender]:
    """Ours, the peer, the bare products."""
    peer = next((name for module, name in PEERS.items() if find_spec(module)), PLAIN)
    builders: dict[str, Builder]
    if isinstance(settings, ChainSettings):
        builders, floors = chain_builders(settings, device, seed), floor_builders(settings, device)
    else:
        builders, floors = train_builders(settings, device, seed), product_builders(settings.products, device)
    floor = next(builder for builder in floors if builder.name == FP32)
    return gather([builders[OURS], dataclasses.replace(builders[peer], optional=False), floor])[0]


def draw_curve(curve: Curve) -> bytes:
    """The curve as a PNG: medians, with the quartiles as a band, both axes logarithmic."""
    with style(LIGHT):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        colours = (LIGHT.energy, LIGHT.baseline, LIGHT.muted)
        for i, colour in zip(range(len(curve.rows[0])), colours, strict=False):
            points = [rows[i] for rows in curve.rows]
            middle, low, high = (
                [1e3 * getattr(row, name) for row in points]
                for name in ("seconds", "seconds_low", "seconds_high")
            )
            name = points[0].name
            line = "--" if name.startswith(FLOOR) else "-"
            axes.plot(curve.values, middle, line, color=colour, marker="o", markersize=3, label=name)
            axes.fill_between(curve.values, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(curve.values, [_short(value) for value in curve.values])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(LABELS[curve.parameter])
        axes.set_title(f"Milliseconds against {LABELS[curve.parameter]}")
        axes.legend()
        return save(figure, "png")


def _with(settings: Settings, parameter: str, value: int) -> Settings:
    change: dict[str, Any] = {parameter: value}
    if isinstance(settings, ChainSettings):
        return dataclasses.replace(settings, **change)
    return dataclasses.replace(settings, **change)


def _short(value: int) -> str:
    if value < 10_000:
        return f"{value:,}"
    power = int(math.log10(value))
    return f"{value // 10**6} M" if power >= 6 else f"{value // 10**3} k"
