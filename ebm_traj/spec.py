"""`StateSpec`: which numbers of an observation are the state, what each one is, and its scale.

It needs numpy alone, because environments, recordings and checkpoints all carry it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.errors import InputError

KINDS = ("position", "angle", "quaternion", "given")
SMALLEST_SCALE = 1e-6  # below this a dimension is constant; it is shifted but not stretched


def flatten_observation(observation: Any) -> NDArray[np.floating]:
    """One float vector (..., n) from a Box or (nested) Dict observation, keys in sorted order.

    The order is that of `gymnasium.spaces.flatten`. Batches keep their leading dimensions.
    """
    if isinstance(observation, Mapping):
        return np.concatenate([flatten_observation(observation[key]) for key in sorted(observation)], axis=-1)
    return np.asarray(observation, dtype=np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class StateSpec:
    """How a state (D,) is read from an observation, and what its dimensions are.

    `given` dimensions (a goal pose, say) are inputs of a model; they are never predicted nor scored.
    Quaternions are four neighbouring dimensions of kind `quaternion`, scalar part first.
    """

    names: tuple[str, ...]
    """One name for each of the D dimensions."""
    kinds: tuple[str, ...]
    """`position`, `angle` (radians), `quaternion` or `given`, for each dimension."""
    indices: tuple[int, ...]
    """Where each dimension stands in the flattened observation."""
    observation_size: int
    """Length of the flattened observation; an environment of another length is refused."""
    mean: NDArray[np.float64] | None = None
    """(D,) mean over the training split, once known."""
    std: NDArray[np.float64] | None = None
    """(D,) standard deviation over the training split."""
    change_std: NDArray[np.float64] | None = None
    """(D,) standard deviation of the one-step change s_{t+1} - s_t over the training split, or its root mean
    square where the mean is larger (a clock); 0 where a dimension never changes within an episode."""
    low: NDArray[np.float64] | None = None
    """(D,) lowest value in the training split; models do not predict beyond."""
    high: NDArray[np.float64] | None = None
    """(D,) highest value in the training split."""
    change_limit: NDArray[np.float64] | None = None
    """(D,) largest one-step change, up or down, in the training split."""

    def __post_init__(self) -> None:
        size = len(self.names)
        if not size or len(self.kinds) != size or len(self.indices) != size:
            raise InputError(
                f"state spec: {size} names, {len(self.kinds)} kinds and {len(self.indices)} indices; "
                "needed is the same number of each, at least one"
            )
        if len(set(self.names)) < size:
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise InputError(f"state spec: two dimensions are named '{twice}'; names must differ")
        for name, kind in zip(self.names, self.kinds, strict=True):
            if kind not in KINDS:
                raise InputError(
                    f"state spec: dimension '{name}' is of kind '{kind}'; known: {', '.join(KINDS)}"
                )
        if min(self.indices) < 0 or max(self.indices) >= self.observation_size:
            raise InputError(
                f"state spec: indices run from {min(self.indices)} to {max(self.indices)}, "
                f"the flattened observation has {self.observation_size} numbers"
            )
        if len(self.quaternion_dims) % 4 or any(np.any(np.diff(q) != 1) for q in self.quaternions):
            raise InputError("state spec: the dimensions of a quaternion must be four neighbours")

    @classmethod
    def from_size(cls, size: int) -> "StateSpec":
        """A spec that takes all `size` numbers of a flattened observation as plain positions."""
        return cls(
            names=tuple(f"obs_{i}" for i in range(size)),
            kinds=("position",) * size,
            indices=tuple(range(size)),
            observation_size=size,
        )

    @property
    def size(self) -> int:
        """D, the number of dimensions of a state."""
        return len(self.names)

    @property
    def predicted(self) -> NDArray[np.intp]:
        """Indices into the state of all dimensions that a model predicts."""
        return np.flatnonzero([kind != "given" for kind in self.kinds])

    @property
    def moving(self) -> NDArray[np.intp]:
        """Indices of the predicted dimensions that ever change within an episode; the others are held."""
        if self.change_std is None:
            raise InputError("state spec: has no statistics of a training split yet")
        return self.predicted[self.change_std[self.predicted] > 0]

    @property
    def given(self) -> NDArray[np.intp]:
        """Indices into the state of the dimensions that a model is only told."""
        return np.flatnonzero([kind == "given" for kind in self.kinds])

    @property
    def quaternion_dims(self) -> NDArray[np.intp]:
        """Indices into the state of all dimensions of kind `quaternion`."""
        return np.flatnonzero([kind == "quaternion" for kind in self.kinds])

    @property
    def quaternions(self) -> list[NDArray[np.intp]]:
        """For each quaternion its four indices into the state."""
        dims = self.quaternion_dims
        return [dims[i : i + 4] for i in range(0, len(dims), 4)]

    @property
    def given_quaternions(self) -> list[NDArray[np.intp]]:
        """Four indices for each quaternion among the given dimensions: neighbours named *_qw, *_qx, ..."""
        endings = ("_qw", "_qx", "_qy", "_qz")
        return [
            np.arange(i, i + 4)
            for i in self.given
            if set(range(i, i + 4)) <= set(self.given.tolist())
            and all(self.names[i + j].endswith(ending) for j, ending in enumerate(endings))
        ]

    def rotation_and_goal(self, who: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Four indices each of the object's quaternion and of its goal's.

        Raises InputError, on behalf of `who`, unless there is one of each.
        """
        turned, wanted = self.quaternions, self.given_quaternions
        if len(turned) != 1 or len(wanted) != 1:
            raise InputError(
                f"{who}: the state has {len(turned)} rotations and {len(wanted)} goals for one; "
                "accepted are one each"
            )
        return turned[0], wanted[0]

    def read(self, observation: Any) -> NDArray[np.float32]:
        """State(s) (..., D) of an observation or a batch of observations.

        Raises InputError if the observation does not have the length the spec was made for.
        """
        flat = flatten_observation(observation)
        if flat.shape[-1] != self.observation_size:
            raise InputError(
                f"observation: {flat.shape[-1]} numbers when flattened; "
                f"this state spec reads {self.observation_size}"
            )
        return flat[..., list(self.indices)].astype(np.float32)

    def align(self, states: ArrayLike) -> NDArray[np.float32]:
        """Trajectory (..., T, D) with each quaternion of one sign along time, the first with w >= 0.

        q and -q are the same rotation; without this a trajectory may jump between the two.
        """
        aligned = np.array(states, dtype=np.float32)
        for dims in self.quaternions:
            q = aligned[..., dims]
            sign = np.ones(q.shape[:-1], dtype=np.float32)
            sign[..., 0] = np.where(q[..., 0, 0] < 0, -1, 1)
            sign[..., 1:] = np.where((q[..., 1:, :] * q[..., :-1, :]).sum(-1) < 0, -1, 1)
            aligned[..., dims] = q * np.cumprod(sign, axis=-1)[..., None]
        return aligned

    def with_statistics(
        self,
        mean: ArrayLike,
        std: ArrayLike,
        change_std: ArrayLike,
        *,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        change_limit: ArrayLike | None = None,
    ) -> "StateSpec":
        """The same spec with the scales of a training split and, if given, its range.

        A constant dimension gets std 1, so that its z-score is 0; one that never changes within an episode
        gets change_std 0, see `moving`.
        """
        spread, change = np.asarray(std, dtype=np.float64), np.asarray(change_std, dtype=np.float64)
        return dataclasses.replace(
            self,
            mean=np.asarray(mean, dtype=np.float64),
            std=np.where(spread > SMALLEST_SCALE, spread, 1.0),
            change_std=np.where(change > SMALLEST_SCALE, change, 0.0),
            low=None if low is None else np.asarray(low, dtype=np.float64),
            high=None if high is None else np.asarray(high, dtype=np.float64),
            change_limit=None if change_limit is None else np.asarray(change_limit, dtype=np.float64),
        )

    def difference(self, other: "StateSpec") -> str | None:
        """What differs from `other` in names, kinds or places, in words; None if nothing does."""
        if self.size != other.size:
            return f"{self.size} dimensions against {other.size}"
        for field in ("names", "kinds", "indices"):
            for i, (mine, theirs) in enumerate(zip(getattr(self, field), getattr(other, field), strict=True)):
                if mine != theirs:
                    return f"dimension {i} ('{self.names[i]}') has {field[:-1]} {mine!r} against {theirs!r}"
        if self.observation_size != other.observation_size:
            return f"observations of {self.observation_size} numbers against {other.observation_size}"
        return None

    def to_json(self) -> str:
        """JSON text, the same for the same spec."""
        return json.dumps(
            {
                field.name: value.tolist() if isinstance(value, np.ndarray) else value
                for field in dataclasses.fields(self)
                for value in [getattr(self, field.name)]
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "StateSpec":
        """The spec written by `to_json`."""
        values = json.loads(text)
        for name in ("mean", "std", "change_std", "low", "high", "change_limit"):
            known = values.get(name)  # the last three are newer than the rest
            values[name] = None if known is None else np.asarray(known, dtype=np.float64)
        for name in ("names", "kinds", "indices"):
            values[name] = tuple(values[name])
        return cls(**values)


def state_names(prefix: str, parts: Sequence[str]) -> tuple[str, ...]:
    """`prefix_part` for every part, as in `object_x`."""
    return tuple(f"{prefix}_{part}" for part in parts)
