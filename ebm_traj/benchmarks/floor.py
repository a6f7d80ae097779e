"""What no implementation can beat: the arithmetic and the memory traffic of a chain, and its bare products.

A product is (rows, inner, columns): (rows, inner) @ (inner, columns), 2 * rows * inner * columns operations.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ebm_traj.benchmarks.paired import Contender, Row, milliseconds, wait_for

Product = tuple[int, int, int]

SQUARE = {"cpu": 1024, "cuda": 8192}  # side of the matrices that find the peak
COPY_BYTES = {"cpu": 2**27, "cuda": 2**30}  # beyond the caches
TRIES = 5
FLOOR = "floor: "
FP32, BF16 = FLOOR + "bare products, fp32", FLOOR + "bare products, bf16"


@dataclasses.dataclass(frozen=True)
class Floor:
    """Lower bounds of the time of one call, from what this device was measured to do."""

    flop: float
    """Operations of the products."""
    bytes_kept: float
    """Bytes that must move if all but the ends of the chain stays on the chip: weights, start and end."""
    bytes_moved: float
    """Bytes that move if every product reads and writes its operands in memory."""
    peak: float
    """Operations per second of one large square product, fp32."""
    peak_bf16: float
    """The same in bf16."""
    bandwidth: float
    """Bytes per second, read and written, of a large copy."""

    @property
    def arithmetic(self) -> float:
        """Seconds of the operations at the fp32 peak."""
        return self.flop / self.peak

    @property
    def arithmetic_bf16(self) -> float:
        """Seconds of the operations at the bf16 peak."""
        return self.flop / self.peak_bf16

    @property
    def memory(self) -> float:
        """Seconds of the traffic that cannot be avoided."""
        return self.bytes_kept / self.bandwidth

    @property
    def memory_moved(self) -> float:
        """Seconds of the traffic if nothing stays on the chip between two products."""
        return self.bytes_moved / self.bandwidth

    def text(self, rows: Sequence[Row]) -> str:
        """The floor in words, and how far the first row is from it."""
        times = {row.name: row.ratio for row in rows}
        lines = [
            f"- arithmetic: {self.flop / 1e9:.3g} GFLOP, {milliseconds(self.arithmetic)} ms at the measured "
            f"{self.peak / 1e9:,.0f} GFLOP/s (fp32), {milliseconds(self.arithmetic_bf16)} ms at "
            f"{self.peak_bf16 / 1e9:,.0f} (bf16)",
            f"- memory, at the measured {self.bandwidth / 1e9:,.0f} GB/s: {self.bytes_kept / 1e6:.3g} MB "
            f"with all between kept on the chip, {milliseconds(self.memory)} ms; "
            f"{self.bytes_moved / 1e6:,.0f} MB if every product goes through memory, "
            f"{milliseconds(self.memory_moved)} ms",
        ]
        for name in (FP32, BF16):
            if times.get(name):
                lines.append(f"- {rows[0].name}: {1 / times[name]:.2f} x the {name.removeprefix(FLOOR)}")
        return "\n".join(lines)


def chain_products(batch: int, sizes: Sequence[int]) -> list[Product]:
    """Those of one input gradient of a network of layers `sizes` (n, width, ..., width) and one output.

    The last layer, a vector, is left out: its gradient needs no product, and a chain needs no energies.
    """
    layers = list(itertools.pairwise(sizes))
    return [(batch, a, b) for a, b in layers] + [(batch, b, a) for a, b in reversed(layers)]


def loss_products(rows: int, sizes: Sequence[int]) -> list[Product]:
    """Those of the energies of `rows` rows and of their gradient in the weights."""
    layers = list(itertools.pairwise(sizes))
    through = [(rows, b, a) for a, b in reversed(layers[1:])]  # nothing asks for the gradient in x
    return [(rows, a, b) for a, b in layers] + through + [(a, rows, b) for a, b in layers]


def make_floor(products: Sequence[Product], kept: float, device: torch.device | str) -> Floor:
    """The floor of a call made of these products, of which `kept` numbers must be read or written."""
    return Floor(
        flop=float(sum(2 * rows * inner * columns for rows, inner, columns in products)),
        bytes_kept=4.0 * kept,
        bytes_moved=4.0 * sum(r * i + i * c + r * c for r, i, c in products),
        peak=peak_flops(torch.float32, device),
        peak_bf16=peak_flops(torch.bfloat16, device),
        bandwidth=copy_bandwidth(device),
    )


def bare_products(
    name: str, products: Sequence[Product], dtype: torch.dtype, device: torch.device | str
) -> Contender:
    """The products alone, one after another, into outputs that are there already.

    Operands of one shape share their memory, which is the best that a cache can be asked for.
    """
    kept: dict[tuple[str, int, int], Tensor] = {}

    def place(role: str, rows: int, columns: int) -> Tensor:
        if (role, rows, columns) not in kept:
            kept[role, rows, columns] = torch.randn(rows, columns, device=device).to(dtype)
        return kept[role, rows, columns]

    calls = [
        (place("left", rows, inner), place("right", inner, columns), place("out", rows, columns))
        for rows, inner, columns in products
    ]

    @torch.no_grad()
    def run() -> None:
        for left, right, out in calls:
            torch.mm(left, right, out=out)

    return Contender(name, run)


def peak_flops(dtype: torch.dtype, device: torch.device | str) -> float:
    """Operations per second of a large square product, the best of a few tries."""
    side = SQUARE[torch.device(device).type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * side**3 / _best(lambda: torch.mm(left, right, out=out), device)


def copy_bandwidth(device: torch.device | str) -> float:
    """Bytes per second, read and written, of a copy larger than the caches."""
    size = COPY_BYTES[torch.device(device).type]
    source = torch.zeros(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device)


def _best(run: Callable[[], object], device: torch.device | str) -> float:
    run()
    found = []
    for _ in range(TRIES):
        wait_for(device)
        begin = time.perf_counter()
        run()
        wait_for(device)
        found.append(time.perf_counter() - begin)
    return min(found)
