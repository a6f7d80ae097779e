"""A replay buffer of chains: each slot keeps a sample together with all that belongs to it, and its age."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ebm_traj.errors import InputError


class ReplayBuffer:
    """Fixed number of slots, each a row of named tensors: the sample, its context, its action, its data.

    A chain goes on under the condition it was started with (Du & Mordatch 2019 restart 5 % of the chains;
    pairing a replayed sample with another row's context would train the energy on pairs that no chain
    reached). Everything lives on one device; drawing and writing are index operations.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise InputError(f"replay buffer: capacity {capacity}; accepted are 1 and more")
        self.capacity = capacity
        self.size = 0
        self.rows: dict[str, Tensor] = {}
        self.born = torch.zeros(0, dtype=torch.int64)
        """(capacity,) the clock's time at which each slot's chain was started."""
        # both beside the rows on their device, where a recorded step can count them
        self.clock = torch.zeros((), dtype=torch.int64)
        """0-d: calls of `add` so far: iterations, where each iteration adds once."""
        self._oldest = torch.zeros((), dtype=torch.int64)

    def __len__(self) -> int:
        return self.size

    def draw(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """`count` distinct filled slots at random: their indices (count,) and their rows.

        Raises InputError if fewer slots are filled.
        """
        if count > self.size:
            raise InputError(f"replay buffer: asked for {count} rows, {self.size} are filled")
        device = next(iter(self.rows.values())).device if self.rows else torch.device("cpu")
        slots = torch.randperm(self.size, generator=generator, device=device)[:count]
        return slots, {name: rows[slots] for name, rows in self.rows.items()}

    def age(self, slots: Tensor) -> Tensor:
        """Calls of `add` since the chains in these slots were started, (n,) integers; 1 for the newest."""
        return self.clock - self.born[slots]

    def update(self, slots: Tensor, name: str, values: Tensor) -> None:
        """Write `values` (n, ...) of one named tensor back to the given slots, the rest of the rows stays."""
        self.rows[name][slots] = values.detach()

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Add new rows: to free slots first, then over the oldest ones."""
        count = len(next(iter(rows.values())))
        if count > self.capacity:
            raise InputError(f"replay buffer: {count} rows at once for {self.capacity} slots")
        if not self.rows:
            self.rows = {
                name: torch.zeros(
                    (self.capacity, *values.shape[1:]), dtype=values.dtype, device=values.device
                )
                for name, values in rows.items()
            }
            device = next(iter(rows.values())).device
            self.born = torch.zeros(self.capacity, dtype=torch.int64, device=device)
            self.clock, self._oldest = self.clock.to(device), self._oldest.to(device)
        if set(rows) != set(self.rows):
            raise InputError(f"replay buffer: rows of {sorted(rows)}; this buffer holds {sorted(self.rows)}")
        device = next(iter(self.rows.values())).device
        slots = (torch.arange(count, device=device) + self._oldest) % self.capacity
        for name, values in rows.items():
            self.rows[name][slots] = values.detach()
        self.born[slots] = self.clock
        self.clock += 1
        self._oldest.add_(count).remainder_(self.capacity)
        self.size = min(self.size + count, self.capacity)

    def clear(self) -> None:
        """Forget all rows."""
        self.size = 0
        self._oldest.zero_()

    def state(self) -> dict[str, Tensor]:
        """All of it as tensors, for a checkpoint."""
        return {
            "counters": torch.tensor([self.size, int(self._oldest), int(self.clock)]),
            "born": self.born,
            **{f"row.{name}": rows for name, rows in self.rows.items()},
        }

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Restore what `state` gave."""
        self.size = int(state["counters"][0])
        self._oldest, self.clock = (state["counters"][i].to(device, copy=True) for i in (1, 2))
        self.born = state["born"].to(device, copy=True)
        prefix = "row."
        self.rows = {
            name.removeprefix(prefix): values.to(device, copy=True)
            for name, values in state.items()
            if name.startswith(prefix)
        }
        for name, values in self.rows.items():
            if len(values) != self.capacity:
                raise InputError(
                    f"replay buffer: the saved '{name}' has {len(values)} slots, this buffer {self.capacity}"
                )
