"""Exploration noise: uniformly random actions in between those of a policy, as in the literature's data.

All draws are a pure function of an episode's seed and the step within it. So an episode does not depend on
the batch it was collected in, and a run begun in mid-episode with the episode's own seed meets the same
noise.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.errors import InputError

NOISE_STREAM = 4  # keeps these draws apart from others with the same seed
BLOCK = 128  # steps drawn at a time for a row

Draw = Callable[[np.random.Generator], NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class NoiseSettings:
    """When the action is a uniformly random one instead of the policy's."""

    every: int = 0
    """At every so many steps; 0 for never."""
    probability: float = 0.0
    """At each step with this probability. With it behaviour is Markov: there is no hidden counter."""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise InputError(f"noise every {self.every} steps: needs a count of 0 (never) or more")
        if not 0 <= self.probability <= 1:
            raise InputError(f"noise probability {self.probability:g}: needs a number from 0 to 1")
        if self.every and self.probability:
            raise InputError(
                f"noise every {self.every} steps and with probability {self.probability:g}: "
                "one of the two must be 0"
            )


class Policy(Protocol):
    """What the collector asks of a behaviour. It acts for a batch of rows, one episode each."""

    goal_conditioned: bool
    """Whether actions depend on the goal in the observation."""
    needs_simulator: bool
    """Whether `act` is to be given the simulator's states."""
    markov: bool
    """Whether what it does follows from what it is given (and its draws), without a memory of its own."""

    def reset(self, seeds: Sequence[int], steps: ArrayLike = 0) -> None:
        """Begin one episode per seed, each with its own draws, `steps` (scalar or (N,)) steps into it."""

    def act(
        self,
        observations: Any,
        previous_actions: NDArray[np.floating],
        simulator_states: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Actions (N, A) within the action box.

        `observations` is a batch of N; `previous_actions` (N, A) are those last applied, NaN where there
        is none yet; `simulator_states` (N, S) are of `get_state`.
        """


class Draws:
    """Random numbers for N rows, those of a row a function of its seed and its step alone.

    Args:
        stream: keeps these draws apart from others with the same seeds.
        draw: gives `BLOCK` steps of numbers (BLOCK, ...) from a generator.
        seeds, steps: of the rows, (N,); `next` begins at `steps`.
    """

    def __init__(self, stream: int, draw: Draw, seeds: Sequence[int], steps: ArrayLike):
        self._stream, self._draw = stream, draw
        self._seeds = [int(seed) for seed in seeds]
        self.steps = np.broadcast_to(np.asarray(steps, dtype=np.int64), len(self._seeds)).copy()
        self._blocks = [self._block(row) for row in range(len(self._seeds))]

    def _block(self, row: int) -> NDArray[np.float64]:
        seed = [self._seeds[row], self._stream, int(self.steps[row]) // BLOCK]
        return self._draw(np.random.default_rng(np.random.SeedSequence(seed)))

    def next(self) -> NDArray[np.float64]:
        """Numbers (N, ...) of the step that each row is at; then all are one step further."""
        now = np.stack([block[step % BLOCK] for block, step in zip(self._blocks, self.steps, strict=True)])
        self.steps += 1
        for row in np.flatnonzero(self.steps % BLOCK == 0):
            self._blocks[row] = self._block(int(row))
        return now


class ExploringPolicy:
    """A policy whose actions are now and then replaced by uniformly random ones.

    Args:
        policy: what acts otherwise.
        noise: when not.
        action_low, action_high: the action box (A,).
    """

    def __init__(
        self,
        policy: Policy,
        noise: NoiseSettings,
        action_low: NDArray[np.floating],
        action_high: NDArray[np.floating],
    ):
        if not (np.isfinite(action_low).all() and np.isfinite(action_high).all()):
            raise InputError("action box without bounds; random actions need finite bounds")
        self.policy, self.noise = policy, noise
        self.low, self.high = np.asarray(action_low, np.float64), np.asarray(action_high, np.float64)
        self.goal_conditioned = policy.goal_conditioned
        self.needs_simulator = policy.needs_simulator
        self.markov = policy.markov

    def reset(self, seeds: Sequence[int], steps: ArrayLike = 0) -> None:
        """Begin an episode per seed; see `Policy`."""
        self.policy.reset(seeds, steps)
        size = len(self.low)
        self._draws = Draws(NOISE_STREAM, lambda rng: rng.random((BLOCK, size + 1)), seeds, steps)

    def act(
        self,
        observations: Any,
        previous_actions: NDArray[np.floating],
        simulator_states: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Actions (N, A); see `Policy`."""
        actions = self.policy.act(observations, previous_actions, simulator_states)
        steps = self._draws.steps.copy()
        draws = self._draws.next()
        if self.noise.every:
            surprised = (steps + 1) % self.noise.every == 0
        else:
            surprised = draws[:, -1] < self.noise.probability
        random = (self.low + (self.high - self.low) * draws[:, :-1]).astype(np.float32)
        random = np.clip(random, self.low, self.high).astype(np.float32)  # rounding may step over a bound
        return np.where(surprised[:, None], random, actions)
