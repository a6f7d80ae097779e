"""What all shards of a data set share, and how it is written in each of them."""

import dataclasses
import json
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.datasets.compact import ActionGrid, refusal, round_states
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

FORMAT = "ebm_traj recording"
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # version 1 knew exact storage only

ABSENT = "(not given)"
UNKNOWN_BEFORE = ("policy.module_sha256",)
"""What older data sets do not tell; compared where both do."""

Storage = Literal["exact", "compact"]


@dataclasses.dataclass(frozen=True, eq=False)
class Manifest:
    """What all shards of a data set share: enough to make each of them again."""

    env_id: str
    env_kwargs: dict[str, Any]
    policy: dict[str, Any]
    """What `envs.behaviour.policy_record` and `identified` say of it."""
    spec: StateSpec
    """How states were read; without statistics, which belong to a training split."""
    action_low: NDArray[np.float32]
    """(A,) lower bounds of the actions."""
    action_high: NDArray[np.float32]
    """(A,) upper bounds of the actions."""
    run_seed: int
    episodes: int
    """Episodes planned for the whole data set; a run in progress holds fewer."""
    steps: int
    """Longest episode."""
    episodes_per_shard: int
    test_fraction: float
    validation_fraction: float
    sim_state_every: int
    """Simulator states of validation and test episodes are kept at every so many steps; 0 for none."""
    versions: dict[str, str]
    """Versions of the packages that decide the numbers."""
    storage: Storage = "exact"
    """`exact`: float32 to the bit. `compact`: rounded to a grid, see `ebm_traj.datasets.compact`."""

    def __post_init__(self) -> None:
        if self.storage not in get_args(Storage):
            raise InputError(f"storage '{self.storage}' is unknown; known: {', '.join(get_args(Storage))}")
        problem = refusal(self.spec, self.action_low, self.action_high) if self.storage == "compact" else None
        if problem:
            raise InputError(f"storage compact, environment '{self.env_id}': {problem}; use --storage exact")

    @cached_property
    def action_grid(self) -> ActionGrid:
        """The actions that compact storage holds."""
        return ActionGrid(self.action_low, self.action_high)

    def round_actions(self, actions: ArrayLike) -> NDArray[np.float32]:
        """Actions (..., A) as the storage will hold them: unchanged, or the nearest of 255 levels.

        To be called before every step, so that what is recorded is what was done, to the bit. Compact storage
        makes NaN of what is not finite, and the nearest bound of what lies outside the box.
        """
        if self.storage == "exact":
            return np.asarray(actions, dtype=np.float32)
        return self.action_grid.round(actions)

    def round_states(self, states: ArrayLike) -> NDArray[np.float32]:
        """States (..., D) as the storage will hold them: unchanged, or the nearest points of its grid.

        A simulator run that repeats a recorded episode, its states aligned (`StateSpec.align`) and rounded
        by this function, equals the recording to the bit.
        """
        if self.storage == "exact":
            return np.asarray(states, dtype=np.float32)
        return round_states(self.spec, states)

    @property
    def num_shards(self) -> int:
        """Shards of the finished data set."""
        return -(-self.episodes // self.episodes_per_shard)

    def episodes_of(self, shard: int) -> range:
        """Numbers of the episodes that a shard holds."""
        first = shard * self.episodes_per_shard
        return range(first, min(first + self.episodes_per_shard, self.episodes))

    def attributes(self) -> dict[str, Any]:
        """As HDF5 attributes, the same for the same manifest."""
        values: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                value = json.dumps(value, sort_keys=True)
            values[field.name] = value.to_json() if isinstance(value, StateSpec) else value
        return values

    @classmethod
    def from_attributes(cls, attributes: dict[str, Any]) -> "Manifest":
        """The manifest written by `attributes`."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name == "storage" and attributes["format_version"] == 1:
                continue
            value = attributes[field.name]
            if field.name == "spec":
                value = StateSpec.from_json(value)
            elif field.name in ("env_kwargs", "policy", "versions"):
                value = json.loads(value)
            values[field.name] = value.item() if isinstance(value, np.generic) else value
        return cls(**values)

    def difference(self, other: "Manifest", ignore: tuple[str, ...] = ()) -> str | None:
        """What differs from `other`, in words; None if nothing does."""
        spec_difference = self.spec.difference(other.spec)
        if spec_difference:
            return f"state spec: {spec_difference}"
        for field in dataclasses.fields(self):
            if field.name in ignore or field.name == "spec":
                continue
            mine, theirs = (_plain(getattr(one, field.name)) for one in (self, other))
            found = _difference(field.name, mine, theirs)
            if found:
                return found
        return None


def _difference(name: str, mine: Any, theirs: Any) -> str | None:
    """Where two settings differ, dicts entry by entry: `policy.settings.noise_every 4 against 3`."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted({*mine, *theirs}):
            at = f"{name}.{key}"
            if at in UNKNOWN_BEFORE and (key not in mine or key not in theirs):
                continue
            # an environment may tell an argument that is null from none; policies have settings of ours
            absent = None if name.startswith("policy") else ABSENT
            found = _difference(at, mine.get(key, absent), theirs.get(key, absent))
            if found:
                return found
        return None
    return None if mine == theirs else f"{name} {mine} against {theirs}"


def _plain(value: Any) -> Any:
    """A setting as it is when read from a file: lists for tuples and arrays, keys of text."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return json.loads(json.dumps(value)) if isinstance(value, dict | tuple) else value
