"""Behaviour policies: what moves the environment while data are collected.

A policy acts for a batch of rows, one episode each, but each row draws from its own stream, so that an
episode does not depend on the batch it was collected in. To add a policy, write the class and name it in
`POLICIES`; its settings are the fields of a dataclass.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.errors import InputError

POLICY_STREAM = 2  # keeps a policy's draws apart from those of the environment, which has the same seed
NOISE_BLOCK = 128  # steps of noise drawn at a time for a row


class Policy(Protocol):
    """What the collector asks of a behaviour."""

    goal_conditioned: bool
    """Whether actions depend on the goal in the observation."""

    def reset(self, seeds: Sequence[int], steps: ArrayLike = 0) -> None:
        """Begin one episode per seed, each with its own stream, `steps` (scalar or (N,)) steps into it."""

    def act(self, observations: Any, previous_actions: NDArray[np.floating]) -> NDArray[np.float32]:
        """Actions (N, A) within the action box.

        `observations` is a batch of N; `previous_actions` (N, A) are those last applied, NaN where there
        is none yet.
        """


@dataclasses.dataclass(frozen=True)
class RandomSettings:
    """Smooth random behaviour with unforeseen actions in between."""

    noise_every: int = 4
    """Every so many steps the action is uniformly random; 0 for never."""
    noise_probability: float = 0.0
    """Instead, at each step with this probability. With it behaviour is Markov: no hidden counter."""
    correlation: float = 0.9
    """Correlation of the smooth actions from one step to the next."""
    spread: float = 0.5
    """Standard deviation of the smooth actions in the long run, in half-widths of the action box."""

    def __post_init__(self) -> None:
        if self.noise_every < 0:
            raise InputError(f"noise every {self.noise_every} steps: needs a count of 0 (never) or more")
        if not 0 <= self.noise_probability <= 1:
            raise InputError(f"noise probability {self.noise_probability:g}: needs a number from 0 to 1")
        if not 0 <= self.correlation < 1 or not self.spread > 0:
            raise InputError(
                f"correlation {self.correlation:g} and spread {self.spread:g}: needed are "
                "0 <= correlation < 1 and spread > 0"
            )
        if self.noise_every and self.noise_probability:
            raise InputError(
                f"noise every {self.noise_every} steps and with probability {self.noise_probability:g}: "
                "one of the two must be 0"
            )


class RandomPolicy:
    """An Ornstein-Uhlenbeck process on the actions, begun anew from the action last applied.

    After a uniformly random action it therefore wanders on from that action, and what comes next depends
    on the past through the last action alone (and, with `noise_every`, the phase of the counter).
    """

    goal_conditioned = False
    Settings: ClassVar = RandomSettings

    def __init__(
        self,
        action_low: NDArray[np.floating],
        action_high: NDArray[np.floating],
        settings: RandomSettings | None = None,
    ):
        self.settings = settings or RandomSettings()
        low, high = np.asarray(action_low, np.float64), np.asarray(action_high, np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise InputError("action box without bounds; random behaviour needs finite bounds")
        self.low, self.high = low.astype(np.float32), high.astype(np.float32)
        self.center, self.half = (high + low) / 2, np.maximum((high - low) / 2, np.finfo(np.float32).tiny)
        self._streams: list[np.random.Generator] = []

    def reset(self, seeds: Sequence[int], steps: ArrayLike = 0) -> None:
        """Begin an episode per seed; see `Policy`."""
        self._streams = [
            np.random.default_rng(np.random.SeedSequence([int(seed), POLICY_STREAM])) for seed in seeds
        ]
        self._steps = np.broadcast_to(np.asarray(steps, dtype=np.int64), len(self._streams)).copy()
        self._used = NOISE_BLOCK  # nothing drawn yet

    def act(self, observations: Any, previous_actions: NDArray[np.floating]) -> NDArray[np.float32]:
        """Actions (N, A); see `Policy`. Does not look at the observations."""
        expected = (len(self._streams), len(self.low))
        if np.shape(previous_actions) != expected:
            raise InputError(f"previous actions of shape {np.shape(previous_actions)}; needed is {expected}")
        if self._used == NOISE_BLOCK:
            self._draw()
        settings, i = self.settings, self._used
        previous = (np.asarray(previous_actions, dtype=np.float64) - self.center) / self.half
        innovation = np.sqrt(1 - settings.correlation**2)
        kick = self._normal[:, i] * settings.spread
        unit = settings.correlation * previous + innovation * kick
        unit = np.where(np.isnan(previous), kick, unit)  # the first action: from the long-run distribution
        if settings.noise_every:
            surprised = (self._steps + 1) % settings.noise_every == 0
        else:
            surprised = self._chance[:, i] < settings.noise_probability
        unit = np.where(surprised[:, None], self._uniform[:, i], unit)
        self._used += 1
        self._steps += 1
        actions = (self.center + self.half * np.clip(unit, -1, 1)).astype(np.float32)
        return np.clip(actions, self.low, self.high)  # rounding to float32 may step over a bound

    def _draw(self) -> None:
        """Draw the noise of the next `NOISE_BLOCK` steps, row by row, each from its own stream."""
        rows, size = len(self._streams), len(self.low)
        self._normal = np.empty((rows, NOISE_BLOCK, size))
        self._uniform = np.empty((rows, NOISE_BLOCK, size))
        self._chance = np.empty((rows, NOISE_BLOCK))
        for row, stream in enumerate(self._streams):
            stream.standard_normal(out=self._normal[row])
            stream.random(out=self._uniform[row])
            stream.random(out=self._chance[row])
        self._uniform = 2 * self._uniform - 1
        self._used = 0


POLICIES: dict[str, type[RandomPolicy]] = {"random": RandomPolicy}


def policy_record(name: str, settings: Any) -> dict[str, Any]:
    """What a recording keeps of a policy: enough for `make_policy` to build it again."""
    return {
        "name": name,
        "settings": dataclasses.asdict(settings),
        "goal_conditioned": _policy_class(name).goal_conditioned,
    }


def make_policy(
    record: dict[str, Any], action_low: NDArray[np.floating], action_high: NDArray[np.floating]
) -> Policy:
    """The policy of a record, for an action box. InputError for an unknown name or unknown settings."""
    policy = _policy_class(record["name"])
    try:
        settings = policy.Settings(**record["settings"])
    except TypeError as error:
        raise InputError(f"policy '{record['name']}': {error}") from None
    return policy(action_low, action_high, settings)


def _policy_class(name: str) -> type[RandomPolicy]:
    if name not in POLICIES:
        raise InputError(f"policy '{name}' is unknown; known: {', '.join(sorted(POLICIES))}")
    return POLICIES[name]
