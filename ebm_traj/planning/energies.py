"""Wishes about futures, to be added to a model's energy or chosen by: goal, obstacle, limits, smoothness.

Each is made for a `StateSpec` and maps raw states (M, H, D) to (M,), low where the wish is met. Any such
function of a user's own will do as well.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

FutureEnergy = Callable[[Tensor], Tensor]
"""Raw states (M, H, D) to energies (M,)."""

ANGLE_GUARD = 1e-6  # keeps the slope of arccos finite


def goal(
    spec: StateSpec, *, rotation: float = 1.0, position: float = 0.0, final: float = 2.0
) -> FutureEnergy:
    """Distance of the object from the goal pose that the state carries.

    mean_t d_t + final * d_H with d_t = rotation * angle (radians) + position * distance (metres): the cost
    of the expert, see `envs.expert`, without its extra weight near the goal. Raises InputError if the state
    has no goal pose.
    """
    at, to = map(list, spec.rotation_and_goal("goal"))
    names = list(spec.names)
    places = [list(range(first - 3, first)) for first in (at[0], to[0])]
    if position and not all(names[i][-2:] in ("_x", "_y", "_z") for place in places for i in place):
        raise InputError("goal: the state has no positions of object and goal; use position=0")

    def energy(states: Tensor) -> Tensor:
        distance = rotation * quaternion_angle(states[..., at], states[..., to])
        if position:
            distance = distance + position * (states[..., places[0]] - states[..., places[1]]).norm(dim=-1)
        return distance.mean(-1) + final * distance[..., -1]

    return energy


def avoid(spec: StateSpec, names: Sequence[str], centre: Sequence[float], radius: float) -> FutureEnergy:
    """An obstacle: a hinge on the distance of the named dimensions from a point, 1 at it, 0 beyond `radius`.

    For "avoid this pose" name all dimensions of the pose. The sum over steps is taken.
    """
    dims = find(spec, names)
    point = torch.tensor([float(value) for value in centre])
    if len(point) != len(dims) or not radius > 0:
        raise InputError(f"avoid: {len(point)} numbers for {len(dims)} names, radius {radius}; they must fit")

    def energy(states: Tensor) -> Tensor:
        away = (states[..., dims] - point.to(states)).norm(dim=-1)
        return (1 - away / radius).clamp_min(0).square().sum(-1)

    return energy


def reach(
    spec: StateSpec, names: Sequence[str], target: Sequence[float], *, final: float = 2.0
) -> FutureEnergy:
    """Named dimensions near given values: mean squared z-scored distance, and the last step's."""
    if spec.std is None:
        raise InputError("reach: the spec has no statistics; take that of a model or a data set")
    dims = find(spec, names)
    point = torch.tensor([float(value) for value in target])
    if len(point) != len(dims):
        raise InputError(f"reach: {len(point)} numbers for {len(dims)} names")
    spread = torch.as_tensor(np.asarray(spec.std)[dims], dtype=torch.float32)

    def energy(states: Tensor) -> Tensor:
        off = ((states[..., dims] - point.to(states)) / spread.to(states)).square().mean(-1)
        return off.mean(-1) + final * off[..., -1]

    return energy


def margin(spec: StateSpec, share: float = 0.05) -> FutureEnergy:
    """Joint-limit margin: how far angles come within `share` of their range to its ends (as in training)."""
    if spec.low is None or spec.high is None:
        raise InputError("margin: the spec has no ranges; take that of a model")
    dims = [i for i in spec.predicted if spec.kinds[i] == "angle"]
    if not dims:
        raise InputError("margin: the spec has no angles, whose ranges it could keep")
    low, high = np.asarray(spec.low)[dims], np.asarray(spec.high)[dims]
    keep = torch.as_tensor(share * (high - low), dtype=torch.float32).clamp_min(1e-6)
    bottom, top = (torch.as_tensor(v, dtype=torch.float32) for v in (low, high))

    def energy(states: Tensor) -> Tensor:
        values, room = states[..., dims], keep.to(states)
        inside = torch.minimum(values - bottom.to(states), top.to(states) - values)
        return (1 - inside / room).clamp_min(0).square().mean(-1).sum(-1)

    return energy


def smooth(spec: StateSpec) -> FutureEnergy:
    """Mean squared second difference of the predicted dimensions, z-scored by the one-step change."""
    if spec.change_std is None:
        raise InputError("smooth: the spec has no statistics; take that of a model or a data set")
    dims = list(spec.moving)
    scale = torch.as_tensor(np.asarray(spec.change_std)[dims], dtype=torch.float32)

    def energy(states: Tensor) -> Tensor:
        if states.shape[1] < 3:
            return states.new_zeros(len(states))
        bends = states[..., dims].diff(dim=1).diff(dim=1) / scale.to(states)
        return bends.square().mean((1, 2))

    return energy


def named(energies: Mapping[str, FutureEnergy] | FutureEnergy | None) -> dict[str, FutureEnergy]:
    """Energies by name; a single one is called 'energy', none are none. InputError if one is no function."""
    if energies is None:
        return {}
    found = dict(energies) if isinstance(energies, Mapping) else {"energy": energies}
    for name, energy in found.items():
        if not callable(energy):
            raise InputError(
                f"energies: '{name}' is a {type(energy).__name__}; accepted are a function of futures "
                "(M, H, D), or a dict of them by name"
            )
    return found


def total(energies: Mapping[str, FutureEnergy], states: Tensor) -> Tensor:
    """Sum of the energies (M,) of states (M, H, D), infinite for what must not be.

    Raises InputError that names the energy that gives another shape, NaN or -infinity.
    """
    added = states.new_zeros(len(states))
    for name, energy in energies.items():
        value = energy(states)
        if not isinstance(value, Tensor):
            raise InputError(f"energy '{name}': gave a {type(value).__name__}; accepted is a torch.Tensor")
        if value.shape != (len(states),):
            raise InputError(
                f"energy '{name}': gave shape {tuple(value.shape)}; accepted is ({len(states)},)"
            )
        if bool((value.isnan() | value.isneginf()).any()):
            gave = "NaN" if bool(value.isnan().any()) else "-infinity"
            raise InputError(f"energy '{name}': gave {gave}; accepted are numbers and infinity")
        added = added + value
    return added


def unknown_last(values: Tensor) -> Tensor:
    """Values of which the least is chosen, with infinity for NaN: the energy of a future that ran away."""
    return values.masked_fill(values.isnan(), torch.inf)


def quaternion_angle(p: Tensor, q: Tensor) -> Tensor:
    """Angle (...,) in radians between rotations (..., 4); p and -p are the same."""
    inner = (torch.nn.functional.normalize(p, dim=-1) * torch.nn.functional.normalize(q, dim=-1)).sum(-1)
    return 2 * torch.acos(inner.abs().clamp(max=1 - ANGLE_GUARD))


def find(spec: StateSpec, names: Sequence[str]) -> list[int]:
    """Indices of named dimensions; InputError names the first that is unknown."""
    known = list(spec.names)
    for name in names:
        if name not in known:
            raise InputError(f"dimension '{name}': not in the state; there are {', '.join(known)}")
    return [known.index(name) for name in names]
