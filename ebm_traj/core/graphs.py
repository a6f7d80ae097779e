"""CUDA-graph replay of chains: the launches of an eager walk are recorded once and replayed as one.

A replay repeats the same kernels at the same addresses. So what a walk reads (start, condition, scale) is
copied into buffers that were there at capture, and what it returns is cloned out of the graph's memory.
Weights are read where they lie: an optimiser that updates them in place is seen by the next replay.

A walk that is captured must not depend on values the host would have to read and must not change its number
of launches. Its random numbers come from a generator that belongs to the graph
(torch.cuda.CUDAGraph.register_generator_state): each replay takes the caller's seed and offset before and
hands the offset back after, so that a seeded generator gives the same noise as without a graph, and fresh
noise each time.
"""

import collections
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ebm_traj.core.backends import use
from ebm_traj.core.energy import Condition, Energy
from ebm_traj.core.gradients import BoundEnergy
from ebm_traj.core.langevin import Chain, LangevinConfig, langevin
from ebm_traj.errors import InputError


class Run(Protocol):
    """A walk as a function of tensors and a generator; a result that it does not know is None."""

    def __call__(self, *inputs: Tensor | None, generator: torch.Generator) -> tuple[Tensor | None, ...]: ...


Replay = Callable[[], tuple[Tensor | None, ...]]
"""Walk again on what the static inputs hold now; the outputs are the graph's own memory."""

Capture = Callable[[Run, Sequence[Tensor | None], torch.Generator], Replay]
"""Record run(*static inputs, generator=...); the tests put another in place of `capture_cuda`."""


def capture_cuda(
    run: Run, static: Sequence[Tensor | None], generator: torch.Generator, warm_up: int = 2
) -> Replay:
    """Record a walk into a CUDA graph.

    The warm-up runs, on a side stream as PyTorch asks, make libraries and autograd allocate what they keep.
    """
    device = generator.device
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warm_up):
                run(*static, generator=generator)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)
        # thread_local: other threads, a data loader's say, may use the device meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = run(*static, generator=generator)

    def replay() -> tuple[Tensor | None, ...]:
        with torch.cuda.device(device):
            graph.replay()
        return outputs

    return replay


@dataclasses.dataclass(frozen=True)
class _Entry:
    static: tuple[Tensor | None, ...]
    generator: torch.Generator
    replay: Replay
    places: tuple[int, ...]
    kept: tuple[object, ...]
    """So that nothing else gets an address or id that the graph or the key refers to."""


class GraphedChain:
    """A cache of captured walks, keyed by the walk and its inputs' shapes, types and devices.

    Each entry keeps its graph and the memory that its walk touches; the least recently used goes first.
    Not for several threads at once.
    """

    def __init__(self, capacity: int = 16, capture: Capture = capture_cuda) -> None:
        if capacity < 1:
            raise InputError(f"graphs kept: {capacity}; accepted are 1 and more")
        self.capacity = capacity
        self._capture = capture
        self._entries: collections.OrderedDict[Hashable, _Entry] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __call__(
        self,
        run: Run,
        inputs: Sequence[Tensor | None],
        *,
        key: Hashable,
        generator: torch.Generator | None = None,
        weights: Sequence[Tensor] = (),
        keep: object = None,
    ) -> tuple[Tensor | None, ...]:
        """run(*inputs, generator=...) by replay; the first time with this key it is captured.

        `inputs` begin with the start of the chain. `key` names all else that the walk depends on: its
        settings, and its network by `id`, which is then given as `keep`. `weights` are the tensors that
        `run` reads besides its inputs: where one of them has moved, the walk is captured anew. `generator`
        None is the default one of the start's device. Raises InputError if the start is no tensor, or the
        generator is on another device.
        """
        start = inputs[0] if inputs else None
        if start is None:
            raise InputError("graph replay: the first input is no tensor; expected the start of the chain")
        source = _default_generator(start.device) if generator is None else generator
        if source.device.type != start.device.type:
            raise InputError(f"graph replay: generator on '{source.device}', chain on '{start.device}'")
        full_key = (key, tuple(map(_kind, inputs)))
        places = tuple(tensor.data_ptr() for tensor in weights)
        entry = self._entries.get(full_key)
        if entry is None or entry.places != places:
            self._entries.pop(full_key, None)  # frees its memory before the next one takes as much
            while len(self._entries) >= self.capacity:
                self._entries.popitem(last=False)
            entry = self._entries[full_key] = self._captured(run, inputs, start.device, places, keep)
        self._entries.move_to_end(full_key)
        with torch.no_grad():
            for buffer, tensor in zip(entry.static, inputs, strict=True):
                if buffer is not None and tensor is not None:
                    buffer.copy_(tensor)
            entry.generator.set_state(source.get_state())
            outputs = tuple(None if output is None else output.clone() for output in entry.replay())
            source.set_state(entry.generator.get_state())
        return outputs

    def clear(self) -> None:
        """Forget all graphs and free their memory."""
        self._entries.clear()

    def _captured(
        self,
        run: Run,
        inputs: Sequence[Tensor | None],
        device: torch.device,
        places: tuple[int, ...],
        keep: object,
    ) -> _Entry:
        static = tuple(None if tensor is None else tensor.detach().clone() for tensor in inputs)
        own = torch.Generator(device)
        return _Entry(static, own, self._capture(run, static, own), places, (run, keep))


GRAPHS = GraphedChain()
"""The graphs of this process."""


def graphed_langevin(
    energy: Energy,
    condition: Condition,
    start: Tensor,
    config: LangevinConfig,
    *,
    scale: Tensor | None = None,
    generator: torch.Generator | None = None,
    graphs: GraphedChain = GRAPHS,
) -> Chain:
    """`langevin` on `energy.bind(condition)` by graph replay; other values of the condition replay the same.

    Binding is part of the graph. The energy's weights may change in place between calls. Raises InputError
    as `langevin` does, and if the chain is not on a CUDA device (unless `graphs` captures otherwise).
    """
    if graphs is GRAPHS and not start.is_cuda:
        raise InputError(f"graph replay: the chain is on '{start.device}'; accepted is cuda")
    names = tuple(condition)

    def run(*inputs: Tensor | None, generator: torch.Generator) -> tuple[Tensor | None, ...]:
        walked, around, *values = inputs
        assert walked is not None
        known = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        bound = energy.bind(known)
        # not a backend that draws its seed on the host: each replay would repeat it
        with use("manual" if isinstance(bound, BoundEnergy) and walked.dim() == 2 else "autograd"):
            chain = langevin(bound, walked, config, scale=around, generator=generator)
        return chain.x, chain.acceptance, chain.energy, chain.adapted_step_size

    x, acceptance, value, step_size = graphs(
        run,
        (start, scale, *condition.values()),
        key=(id(energy), energy.training, names, config),
        generator=generator,
        weights=[*energy.parameters(), *energy.buffers()],
        keep=energy,
    )
    assert x is not None and acceptance is not None
    return Chain(x, acceptance, config.gradients, value, step_size)


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[
        torch.cuda.current_device() if device.index is None else device.index
    ]


def _kind(tensor: Tensor | None) -> Hashable:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype, tensor.device)
