"""Paired timing in one process: in every round everything takes its turn, in another order each time.

Other load on a machine comes and goes; what is compared within a round has met the same load. Hence ratios
are taken in each round, and their median and quartiles over the rounds are reported.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ebm_traj.cli import pick_device
from ebm_traj.errors import InputError

T = TypeVar("T")

MOST_REPEATS = 10_000
QUARTILES = (0.25, 0.5, 0.75)
PEERS = {"torchebm": "torchebm", "ebm": "ebmkit"}
"""Module and name of the nearest libraries."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """Something to be timed."""

    name: str
    run: Callable[[], Any]
    """One call."""
    beside: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the table says of it beside its time, column by column."""


@dataclasses.dataclass(frozen=True)
class Builder:
    """How to make a contender, which may turn out to be impossible on this machine."""

    name: str
    build: Callable[[], Contender]
    optional: bool = False
    """Whether the table goes without it where a package, a compiler or a device is missing."""


@dataclasses.dataclass(frozen=True)
class Absent:
    """A contender that could not run, and why (one line)."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the benchmark; seconds of one call."""

    name: str
    seconds: float
    """Median over the rounds."""
    seconds_low: float
    """Lower quartile over the rounds."""
    seconds_high: float
    """Upper quartile."""
    ratio: float
    """This row's seconds over the first row's, taken in each round: the median over the rounds."""
    ratio_low: float
    """Lower quartile of that."""
    ratio_high: float
    """Upper quartile."""
    beside: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further columns."""


def shown(turns: Iterable[T], desc: str = "benchmark", unit: str = "round") -> Iterator[T]:
    """The turns, with a bar at a terminal; it is drawn between them, not while they are timed."""
    return iter(tqdm(turns, desc=desc, unit=unit, leave=False, disable=None))


def gather(builders: Sequence[Builder]) -> tuple[list[Contender], list[Absent]]:
    """The contenders that can be made and called here, each called once; the others with the reason.

    An optional one may fail in any way, as other people's packages, compilers and drivers do: the table goes
    on without it and says so.
    """
    found: list[Contender] = []
    absent: list[Absent] = []
    for builder in shown(builders, "to be compared", "contender"):
        try:
            contender = builder.build()
            contender.run()
        except Exception as error:
            if not builder.optional:
                raise
            absent.append(Absent(builder.name, reason_of(error)))
        else:
            found.append(contender)
    return found, absent


def reason_of(error: Exception) -> str:
    """Why something is absent: the kind of the error and the first line of its message."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return not_installed(error.name)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def not_installed(module: str) -> str:
    """The reason, and how to get it where the package knows."""
    name = module.split(".")[0]
    return f"{PEERS[name]} is not installed (extra `peers`)" if name in PEERS else f"{name} is not installed"


def measure(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    samples: int = 1,
    block_seconds: float = 0.1,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Seconds of one call, (rounds, samples), of each contender by its name; in a random order in each round.

    A sample is the mean over as many calls in a row as last about `block_seconds`, at least one. Before the
    samples of a round comes one call that is not timed, so that caches hold what this contender needs.
    """
    rng = np.random.default_rng(seed)
    repeats = [_repeats(contender, block_seconds, device) for contender in contenders]
    times = np.zeros((len(contenders), rounds, samples))
    for number in shown(range(rounds)):
        for i in rng.permutation(len(contenders)):
            contenders[i].run()
            for sample in range(samples):
                times[i, number, sample] = _seconds(contenders[i], repeats[i], device)
    return {contender.name: times[i] for i, contender in enumerate(contenders)}


def rows_of(times: Mapping[str, NDArray[np.float64]], contenders: Sequence[Contender] = ()) -> list[Row]:
    """Rows from times (rounds, samples) by name, and what stands beside the contenders of these names.

    A round counts with the median of its samples; ratios are to the first name.
    """
    beside = {contender.name: contender.beside for contender in contenders}
    rounds = {name: np.median(values, axis=1) for name, values in times.items()}
    first = next(iter(rounds.values()))
    rows = []
    for name, mine in rounds.items():
        low, middle, high = (float(value) for value in np.quantile(mine, QUARTILES))
        ratio_low, ratio, ratio_high = (float(value) for value in np.quantile(mine / first, QUARTILES))
        rows.append(Row(name, middle, low, high, ratio, ratio_low, ratio_high, beside.get(name, {})))
    return rows


def markdown(
    rows: Sequence[Row], absent: Sequence[Absent] = (), *, title: str = "", ratio: bool = True
) -> str:
    """The rows as a Markdown table with quartiles in brackets, then a line for each that is absent."""
    columns = list(dict.fromkeys(name for row in rows for name in row.beside))
    heads = [title, "ms", *([f"{rows[0].name} is x times as fast"] if ratio else []), *columns]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for row in rows:
        cells = [row.name, _band(row.seconds, row.seconds_low, row.seconds_high, milliseconds)]
        if ratio:
            cells.append(_band(row.ratio, row.ratio_low, row.ratio_high, lambda value: f"{value:.2f}"))
        cells += [text_of(row.beside.get(name)) for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    if absent:
        lines += ["", *(f"- without {one.name}: {one.reason}" for one in absent)]
    return "\n".join(lines)


def milliseconds(seconds: float) -> str:
    """Seconds as a number of milliseconds."""
    value = 1e3 * seconds
    return f"{value:,.1f}" if value >= 10 else f"{value:.3f}"


def text_of(value: Any) -> str:
    """A cell of a table."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def find_device(name: str | None) -> torch.device:
    """The device of this name, or a GPU if there is one; InputError if this machine has none such."""
    device = torch.device(pick_device(name))
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: accepted are cpu and cuda")
    return torch.empty(0, device=device).device  # cuda with its number


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Run torch on so many threads for a while. Raises InputError unless it is 1 or more."""
    require_positive("threads", count)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_positive(name: str, value: float) -> None:
    """InputError, naming the option, unless a number is 1 or more."""
    if value < 1:
        raise InputError(f"--{name.replace('_', '-')} {value}: accepted are 1 and more")


def wait_for(device: torch.device | str) -> None:
    """Return when the device has done all that it was asked."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _repeats(contender: Contender, block_seconds: float, device: torch.device | str) -> int:
    single = _seconds(contender, 1, device)
    return min(MOST_REPEATS, max(1, math.ceil(block_seconds / max(single, 1e-9)) if block_seconds else 1))


def _seconds(contender: Contender, repeats: int, device: torch.device | str) -> float:
    wait_for(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        contender.run()
    wait_for(device)
    return (time.perf_counter() - begin) / repeats


def _band(middle: float, low: float, high: float, show: Callable[[float], str]) -> str:
    return f"{show(middle)} ({show(low)}-{show(high)})"
