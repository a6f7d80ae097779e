"""Compact storage: states and actions rounded to a fixed grid and kept as small integers.

Steps of the grid, against the one-step change of the hand and block under random behaviour (the slowest
dimension of each kind; the error of a change is step / sqrt 6):

    kind          step             std of the change    error     range of int16
    angle         2^-14 rad        0.032 rad            0.08 %    4 rad
    position      2^-16 m          0.0032 m             0.20 %    1 m
    quaternion    2^-14            0.016                0.15 %    4

so even behaviour that moves five times as slowly is known to one per cent of its changes. Steps are powers of
two: products with them are exact, and float32 holds every point of the grid that a float32 rounds to.
`given` dimensions are kept as they are. Actions have 255 levels between the bounds of their box; they are
rounded before the step, so the recorded action is the one that was done.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

STEPS = {"angle": 2.0**-14, "position": 2.0**-16, "quaternion": 2.0**-14}
LEVELS = 127  # of an action on either side of the middle of its range
EXACT_IN_FLOAT32 = 2**24  # whole numbers up to here

Arrays = dict[str, NDArray[Any]]


def refusal(spec: StateSpec, low: NDArray[np.float32], high: NDArray[np.float32]) -> str | None:
    """Why data of such states and actions cannot be stored compactly, in words; None if they can."""
    if spec.difference(StateSpec.from_size(spec.observation_size)) is None:
        return "the environment does not say what its numbers are (an attribute state_spec with kinds)"
    for i, (a, b) in enumerate(zip(low, high, strict=True)):
        if not (np.isfinite(a) and np.isfinite(b)):
            return f"action {i} has the bounds {a:g} and {b:g}, which must be finite"
    return None


def state_steps(spec: StateSpec) -> NDArray[np.float64]:
    """Steps (P,) of the grid for the P dimensions that are not `given`."""
    return np.array([STEPS[spec.kinds[dim]] for dim in spec.predicted])


def round_states(spec: StateSpec, states: ArrayLike) -> NDArray[np.float32]:
    """States (..., D) at the nearest points of the grid; `given` dimensions unchanged."""
    rounded = np.array(states, dtype=np.float32)
    steps = state_steps(spec)
    points = np.rint(rounded[..., spec.predicted].astype(np.float64) / steps)
    rounded[..., spec.predicted] = points * steps + 0.0  # no -0.0
    return rounded


@dataclasses.dataclass(frozen=True, eq=False)
class ActionGrid:
    """255 evenly spaced values of each dimension of an action box."""

    low: NDArray[np.float32]
    """(A,) lower bounds."""
    high: NDArray[np.float32]
    """(A,) upper bounds."""
    middle: NDArray[np.float32] = dataclasses.field(init=False)
    half: NDArray[np.float32] = dataclasses.field(init=False)
    _overshoots: bool = dataclasses.field(init=False, default=True)

    def __post_init__(self) -> None:
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        object.__setattr__(self, "middle", ((low + high) / 2).astype(np.float32))
        object.__setattr__(self, "half", ((high - low) / 2).astype(np.float32))
        ends = np.array([[-LEVELS], [LEVELS]]) * np.ones(len(low))
        inside = np.array_equal(self._spread(ends), [self.low, self.high])
        object.__setattr__(self, "_overshoots", not inside)

    def encode(self, actions: ArrayLike) -> NDArray[np.floating]:
        """Numbers (..., A) of the nearest levels, -127 to 127, as floats; NaN for what is not finite."""
        distance = np.asarray(actions, dtype=np.float64) - self.middle
        half = np.where(self.half > 0, self.half, 1)
        levels = np.clip(np.rint(distance / half * LEVELS), -LEVELS, LEVELS) + 0.0  # no -0.0
        return np.where(np.isfinite(distance), levels, np.nan)

    def decode(self, levels: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (..., A) of levels."""
        actions = self._spread(levels)
        if self._overshoots:  # by rounding, at the ends of the box
            np.clip(actions, self.low, self.high, out=actions)
        return actions

    def _spread(self, levels: NDArray[Any]) -> NDArray[np.float32]:
        actions = np.divide(levels, np.float32(LEVELS), dtype=np.float32)
        actions *= self.half
        actions += self.middle
        return actions

    def round(self, actions: ArrayLike) -> NDArray[np.float32]:
        """Actions (..., A) at the nearest levels."""
        return self.decode(self.encode(actions))


def encode(
    where: str, spec: StateSpec, grid: ActionGrid, arrays: Arrays
) -> tuple[Arrays, dict[str, dict[str, Any]]]:
    """The arrays of a shard as they are stored compactly, and the attributes of each that decode it.

    States (F, D) become `states` (F, P) integers, `given` (R, G) float32 and the frames `given_rows` (R,)
    from which each row of `given` holds. Other arrays but `actions` stay as they are.

    Raises InputError for states too far apart for 32 bits and for actions that are not on the grid.
    """
    states, offsets = arrays["states"], arrays["offsets"]
    codes, scale, offset = _encode_states(where, spec, states)
    given = states[:, spec.given]
    begins = np.ones(len(states), dtype=bool)
    # compared bit by bit, so that they come back to the bit
    begins[1:] = np.any(given[1:].view(np.uint32) != given[:-1].view(np.uint32), axis=1)
    begins[offsets[:-1]] = True
    levels = grid.encode(arrays["actions"]).astype(np.int8)
    if not np.array_equal(grid.decode(levels), arrays["actions"]):
        raise InputError(
            f"{where}: actions are not on the grid of compact storage; "
            "round them by manifest.round_actions before the step"
        )
    stored = arrays | {
        "states": codes,
        "given": given[begins],
        "given_rows": np.flatnonzero(begins).astype(np.int64),
        "actions": levels,
    }
    actions_scale = grid.half.astype(np.float64) / LEVELS
    return stored, {
        "given": {},
        "given_rows": {},
        "states": {"scale": scale, "offset": offset},
        "actions": {"scale": actions_scale, "offset": grid.middle.astype(np.float64)},
    }


def _encode_states(
    where: str, spec: StateSpec, states: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Integers (F, P), and scale and offset (P,): state = offset + scale * integer."""
    dims, steps = spec.predicted, state_steps(spec)
    points = np.rint(states[:, dims].astype(np.float64) / steps)
    low, high = points.min(0), points.max(0)
    middle = np.floor((low + high + 1) / 2)
    if np.any(high - low >= 2**32):
        dim = int(np.argmax(high - low))
        raise InputError(
            f"{where}: state '{spec.names[dims[dim]]}' runs from {low[dim] * steps[dim]:g} to "
            f"{high[dim] * steps[dim]:g}, too far for compact storage; accepted by --storage exact"
        )
    narrow = np.all(high - low < 2**16) and np.all(np.maximum(abs(low), abs(high)) <= EXACT_IN_FLOAT32)
    return (points - middle).astype(np.int16 if narrow else np.int32), steps, middle * steps


def decode_states(
    codes: NDArray[Any], scale: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float32]:
    """States (..., P) of integers (..., P); `offset` broadcasts with them."""
    if codes.dtype != np.int16:
        return (codes * scale + offset).astype(np.float32)
    # whole numbers below 2^24 times powers of two: float32 is exact, and twice as fast
    states = np.add(codes, (offset / scale).astype(np.float32), dtype=np.float32)
    states *= scale.astype(np.float32)
    return states


def decode(
    where: str,
    spec: StateSpec,
    grid: ActionGrid,
    stored: Arrays,
    scale: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """States (F, D) and actions (S, A) of the arrays made by `encode`; `scale` and `offset` of the states.

    Raises InputError if they do not fit together.
    """
    codes, given, rows = stored["states"], stored["given"], stored["given_rows"]
    if (
        codes.shape[1:] != scale.shape
        or given.shape != (len(rows), len(spec.given))
        or not len(rows)
        or rows[0] != 0
        or np.any(np.diff(rows, append=len(codes)) < 1)
        or stored["actions"].shape[1:] != grid.low.shape
    ):
        raise InputError(f"{where}: its states, given dimensions and actions do not fit together")
    states = np.empty((len(codes), spec.size), dtype=np.float32)
    states[:, columns(spec.predicted)] = decode_states(codes, scale, offset)
    states[:, columns(spec.given)] = np.repeat(given, np.diff(rows, append=len(codes)), axis=0)
    return states, grid.decode(stored["actions"])


def columns(dims: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Dimensions as a slice where they are neighbours, which numpy copies much faster."""
    if len(dims) and np.all(np.diff(dims) == 1):
        return slice(int(dims[0]), int(dims[-1]) + 1)
    return dims
