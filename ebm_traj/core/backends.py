"""How a chain is computed: the same walk by autograd, by written-out gradients, or in one launch on a GPU."""

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args

from ebm_traj.errors import InputError

SamplerBackend = Literal["auto", "autograd", "manual", "graph", "triton"]
"""autograd: the reference. manual: written-out gradients, and quick noise (`core.noise`). graph: gradients
replayed as a CUDA graph. triton: one launch for the whole chain, for MLP energies on a GPU. auto: the fastest
that fits energy and device."""

NEED_GPU = ("graph", "triton")

_chosen: SamplerBackend = "auto"
_recording = False


def set_backend(name: SamplerBackend) -> None:
    """Choose for all chains of this process.

    Raises InputError if the name is unknown, or if it needs a GPU and there is none.
    """
    global _chosen
    if name not in get_args(SamplerBackend):
        raise InputError(f"sampler backend '{name}'; accepted are {', '.join(get_args(SamplerBackend))}")
    if name in NEED_GPU:
        import torch  # takes a second, which --help need not

        if not torch.cuda.is_available():
            here = ", ".join(each for each in get_args(SamplerBackend) if each not in NEED_GPU)
            raise InputError(
                f"sampler backend '{name}': needs a CUDA device, and there is none; accepted here are {here}"
            )
    _chosen = name


def backend() -> SamplerBackend:
    """What is chosen."""
    return _chosen


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """While a whole training step is recorded as a graph: chains within it are no graphs of their own."""
    global _recording
    _recording = True
    try:
        yield
    finally:
        _recording = False


def is_recording() -> bool:
    """Whether a whole training step is being recorded."""
    return _recording


@contextlib.contextmanager
def use(name: SamplerBackend) -> Iterator[None]:
    """Choose for a while."""
    before = _chosen
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)
