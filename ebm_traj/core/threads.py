"""Independent pieces of work side by side on a CPU, each on one thread of torch."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")


def side_by_side(work: Callable[..., T], arguments: Sequence[tuple]) -> list[T]:
    """work(*a) for each a, in order, on as many threads as torch uses.

    Two threads that each run whole chains beat one chain whose every operation is split over two: nothing
    waits between operations.
    """
    threads = min(torch.get_num_threads(), len(arguments))
    if threads < 2:
        return [work(*given) for given in arguments]
    return list(_pool(torch.get_num_threads()).map(lambda given: work(*given), arguments))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "chains", initializer=torch.set_num_threads, initargs=(1,))
