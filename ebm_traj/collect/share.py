"""The share of a collection that one of several machines makes."""

import dataclasses
import re

from ebm_traj.errors import InputError


@dataclasses.dataclass(frozen=True)
class Share:
    """Share `number` of `of`, counted from 1: the shards k with k % of == number - 1.

    Who makes a shard does not change it. So any scheduler can start `of` calls with the same settings, on as
    many machines, into one folder or into folders whose shards are afterwards put into one.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise InputError(f"shard {self.number}/{self.of}: needed is i/n with 1 <= i <= n, such as 2/8")

    @classmethod
    def parse(cls, text: str) -> "Share":
        """The share written as `i/n`; InputError for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
        if not found:
            raise InputError(f"shard '{text}': needed is i/n with 1 <= i <= n, such as 2/8")
        return cls(int(found[1]), int(found[2]))

    def __contains__(self, shard: int) -> bool:
        return shard % self.of == self.number - 1


ALL = Share()
