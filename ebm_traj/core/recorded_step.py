"""A whole training step as one CUDA graph: chains, losses, optimiser, averaged weights, replay buffer.

An ordinary step is some hundred small kernels, each launched from Python. Recorded once, they are replayed by
one call: Python then sets what differs from step to step (seed, learning rate, weight of the average) and
launches. What a replay can see are tensors at the places they had when it was recorded; whatever a step
decides in Python is frozen. `Objective.replay_key` says what that is: where it changes, a step is recorded
anew.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator
from typing import cast

import torch
from torch import Tensor

from ebm_traj.core.backends import recording
from ebm_traj.core.graphs import Capture, Replay, capture_cuda
from ebm_traj.core.objectives import Batch
from ebm_traj.errors import InputError

WARM_UP = 3
"""Ordinary steps before one is recorded: libraries, moments of the optimiser and kernels are there then."""

Figures = dict[str, Tensor]
Draw = Callable[[torch.Generator], Batch]
Advance = Callable[[Batch, torch.Generator], Figures]


def require_recordable(world: int, element_clip: float) -> None:
    """InputError unless the steps of a trainer on `world` devices, with this clip of elements, can be
    recorded."""
    if world > 1:
        raise InputError(f"recorded steps: on {world} devices; accepted is 1")
    if element_clip:
        raise InputError(f"recorded steps: with an element clip of {element_clip:g}; accepted is 0")


class RecordedStep:
    """Takes training steps, ordinary ones first, and then replays of a recorded one.

    What is recorded must be all on one CUDA device. If it cannot be recorded that is said once, and steps
    stay ordinary ones.
    """

    def __init__(self, device: torch.device, *, inside: bool = False, capture: Capture | None = None) -> None:
        """`inside`: batches are drawn on the device by the generator alone, so that drawing is recorded too;
        else they are drawn before and copied in. `capture`: the tests put another in place of
        `capture_cuda`. Raises InputError if the device is no GPU."""
        if capture is None and device.type != "cuda":
            raise InputError(f"recorded steps: the device is '{device}'; accepted is cuda")
        self.inside = inside
        self.works = True
        """Until a recording has failed."""
        self._capture = capture or _capture_at_once
        self._own = torch.Generator(device)
        self._key: Hashable = None
        self._ordinary = 0  # steps taken with this key
        self._replay: Replay | None = None
        self._static: tuple[Tensor, ...] = ()
        self._conditions: tuple[str, ...] = ()
        self._names: tuple[str, ...] = ()

    def forget(self) -> None:
        """Record anew: weights, moments or buffer lie elsewhere now."""
        self._key, self._ordinary, self._replay, self._static = None, 0, None, ()

    def __call__(
        self,
        advance: Advance,
        draw: Draw,
        generator: torch.Generator,
        key: Hashable | None,
        count: Callable[[int], None],
    ) -> Figures:
        """One step, advance(draw(generator), generator): its figures, which the next step overwrites.

        `key` is the objective's `replay_key`; `count` its `replayed`.
        """
        if key is None or not self.works:
            return advance(draw(generator), generator)
        if key != self._key:
            self.forget()
            self._key = key
        batch = None if self.inside and self._ordinary >= WARM_UP else draw(generator)
        if self._replay is None:
            if self._ordinary < WARM_UP or not self._recorded(advance, draw, generator, batch, count):
                self._ordinary += 1
                return advance(draw(generator) if batch is None else batch, generator)
        else:
            count(1)
        assert self._replay is not None
        if batch is not None:
            for place, values in zip(self._static, _tensors(batch), strict=True):
                place.copy_(values)
        self._own.set_state(generator.get_state())
        found = self._replay()
        generator.set_state(self._own.get_state())
        return {name: value for name, value in zip(self._names, found, strict=True) if value is not None}

    def _recorded(
        self,
        advance: Advance,
        draw: Draw,
        generator: torch.Generator,
        batch: Batch | None,
        count: Callable[[int], None],
    ) -> bool:
        """Record a step, which is not taken by that, though the objective's Python has counted it."""
        if batch is not None:
            self._conditions = tuple(batch.condition)
            self._static = tuple(values.clone() for values in _tensors(batch))

        called = 0

        def run(*static: Tensor | None, generator: torch.Generator) -> tuple[Tensor | None, ...]:
            nonlocal called
            given = draw(generator) if batch is None else self._batch(static)
            called += 1
            figures = advance(given, generator)
            self._names = tuple(figures)
            return tuple(value.detach() for value in figures.values())

        self._own.set_state(generator.get_state())
        try:
            with recording():
                self._replay = self._capture(run, self._static, self._own)
        except RuntimeError as error:  # of CUDA, or of an operation that waits for the device
            self.works, self._replay = False, None
            count(-called)
            warnings.warn(f"training steps are not recorded: {error}", stacklevel=4)
            return False
        return True

    def _batch(self, static: tuple[Tensor | None, ...]) -> Batch:
        x, *rest = (cast(Tensor, values) for values in static)
        return Batch(x, dict(zip(self._conditions, rest, strict=True)))


def _capture_at_once(
    run: Callable[..., tuple[Tensor | None, ...]], static: object, generator: torch.Generator
) -> Replay:
    return capture_cuda(run, static, generator, warm_up=0)  # type: ignore[arg-type]


def _tensors(batch: Batch) -> Iterator[Tensor]:
    yield batch.x
    yield from batch.condition.values()
