"""Behaviour policies: what moves the environment while data are collected.

To add a policy, write the class and name it in `POLICIES`. It has the attributes and methods of `Policy`, its
settings are the fields of a frozen dataclass `Settings`, and it is made as `cls(action_low, action_high,
settings, env_id=..., env_kwargs=...)`.
"""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.envs.exploration import BLOCK, Draws, ExploringPolicy, NoiseSettings, Policy
from ebm_traj.errors import InputError

__all__ = ["POLICIES", "NoiseSettings", "Policy", "RandomPolicy", "make_policy", "policy_record"]

POLICY_STREAM = 2  # keeps a policy's draws apart from those of the environment, which has the same seed

# Entry points are strings: a policy is imported when it is used.
POLICIES = {
    "random": "ebm_traj.envs.behaviour:RandomPolicy",
    "expert": "ebm_traj.envs.expert:ExpertPolicy",
    "trained": "ebm_traj.envs.trained:TrainedPolicy",
    "planner": "ebm_traj.planning.planned:PlannedPolicy",
    "function": "ebm_traj.envs.custom_policies:FunctionPolicy",
    "sb3": "ebm_traj.envs.custom_policies:SB3Policy",
}


@dataclasses.dataclass(frozen=True)
class RandomSettings:
    """Smooth random behaviour."""

    correlation: float = 0.9
    """Correlation of the smooth actions from one step to the next."""
    spread: float = 0.5
    """Standard deviation of the smooth actions in the long run, in half-widths of the action box."""

    def __post_init__(self) -> None:
        if not 0 <= self.correlation < 1 or not self.spread > 0:
            raise InputError(
                f"correlation {self.correlation:g} and spread {self.spread:g}: needed are "
                "0 <= correlation < 1 and spread > 0"
            )


class RandomPolicy:
    """An Ornstein-Uhlenbeck process on the actions, begun anew from the action last applied.

    After a uniformly random action it therefore wanders on from that action, and what comes next depends
    on the past through the last action alone (and, with `NoiseSettings.every`, the phase of the counter).
    """

    goal_conditioned = False
    needs_simulator = False
    markov = True
    Settings: ClassVar = RandomSettings

    def __init__(
        self,
        action_low: NDArray[np.floating],
        action_high: NDArray[np.floating],
        settings: RandomSettings | None = None,
        *,
        env_id: str = "",
        env_kwargs: dict[str, Any] | None = None,
    ):
        self.settings = settings or RandomSettings()
        low, high = np.asarray(action_low, np.float64), np.asarray(action_high, np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise InputError("action box without bounds; random behaviour needs finite bounds")
        self.low, self.high = low.astype(np.float32), high.astype(np.float32)
        self.center, self.half = (high + low) / 2, np.maximum((high - low) / 2, np.finfo(np.float32).tiny)
        self._rows = 0

    def reset(self, seeds: Sequence[int], steps: ArrayLike = 0) -> None:
        """Begin an episode per seed; see `Policy`."""
        size = len(self.low)
        self._draws = Draws(POLICY_STREAM, lambda rng: rng.standard_normal((BLOCK, size)), seeds, steps)
        self._rows = len(seeds)

    def act(
        self,
        observations: Any,
        previous_actions: NDArray[np.floating],
        simulator_states: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Actions (N, A); see `Policy`. Looks at the previous actions only."""
        expected = (self._rows, len(self.low))
        if np.shape(previous_actions) != expected:
            raise InputError(f"previous actions of shape {np.shape(previous_actions)}; needed is {expected}")
        settings = self.settings
        previous = (np.asarray(previous_actions, dtype=np.float64) - self.center) / self.half
        innovation = np.sqrt(1 - settings.correlation**2)
        kick = self._draws.next() * settings.spread
        unit = settings.correlation * previous + innovation * kick
        unit = np.where(np.isnan(previous), kick, unit)  # the first action: from the long-run distribution
        actions = (self.center + self.half * np.clip(unit, -1, 1)).astype(np.float32)
        return np.clip(actions, self.low, self.high)  # rounding to float32 may step over a bound


def policy_record(name: str, settings: Any, noise: NoiseSettings | None = None) -> dict[str, Any]:
    """What a recording keeps of a policy: enough for `make_policy` to build it again."""
    policy = policy_class(name)
    return {
        "name": name,
        "settings": dataclasses.asdict(settings),
        "noise": dataclasses.asdict(noise or NoiseSettings()),
        "goal_conditioned": policy.goal_conditioned,
        "markov": policy.markov,
    }


def make_policy(
    record: dict[str, Any],
    action_low: NDArray[np.floating],
    action_high: NDArray[np.floating],
    env_id: str,
    env_kwargs: dict[str, Any],
) -> Policy:
    """The policy of a record, exploration noise included, for an environment.

    Raises InputError for an unknown name or settings, and whatever the policy says of the environment.
    """
    policy = policy_class(record["name"])
    try:
        settings = policy.Settings(**{name: _frozen(v) for name, v in record["settings"].items()})
        noise = NoiseSettings(**record.get("noise", {}))
    except TypeError as error:
        raise InputError(f"policy '{record['name']}': {error}") from None
    if "sha256" in record and hasattr(policy, "recorded"):
        settings = policy.recorded(settings, record["sha256"])
    made: Any = policy(action_low, action_high, settings, env_id=env_id, env_kwargs=env_kwargs)
    if "sha256" in record and record["sha256"] != getattr(made, "sha256", None):
        raise InputError(
            f"policy '{record['name']}': its network is not the one that the data set was made with"
        )
    if not noise.every and not noise.probability:
        return made
    return ExploringPolicy(made, noise, action_low, action_high)


def identified(record: dict[str, Any], policy: Any) -> dict[str, Any]:
    """The record with what only the policy itself can say: whether it looks at goals and has a memory, the
    sha256 of the file that it came from, if it came from one, and that of the module of a user's function,
    of which only a collection that goes on takes notice."""
    record = record | {"goal_conditioned": policy.goal_conditioned, "markov": policy.markov}
    inner = getattr(policy, "policy", policy)
    for name in ("sha256", "module_sha256"):
        if found := getattr(inner, name, None):
            record[name] = found
    return record


def policy_class(name: str) -> Any:
    """The class of a policy; InputError for a name that is not in `POLICIES`."""
    if name not in POLICIES:
        raise InputError(f"policy '{name}' is unknown; known: {', '.join(sorted(POLICIES))}")
    module, attribute = POLICIES[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def _frozen(value: Any) -> Any:
    """A setting as it was before JSON made a list of a tuple."""
    return tuple(value) if isinstance(value, list) else value
