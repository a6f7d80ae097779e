"""Faults that befall a hand in mid-episode: a heavier object, a jammed finger, a drop, less friction, ...

A fault is two things, each of which may be nothing: a change of the compiled MuJoCo model, which lasts until
the next reset, and one disturbance of the simulator's state. What follows from a change, such as inverse
weights, is computed anew, so that a changed model is the one that would have been compiled.
"""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from ebm_traj.envs.hand import HandEnv, Observation
from ebm_traj.envs.hand_model import HandModel
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.errors import InputError

Array = NDArray[np.float64]
Finger = Literal["FF", "MF", "RF", "LF", "TH"]

FINGERS: tuple[Finger, ...] = ("FF", "MF", "RF", "LF", "TH")
JAM_TORQUE = 10.0  # newton metres of dry friction; the strongest finger actuator has 2.4
JAM_IMPEDANCE = 0.9999  # of that friction; with MuJoCo's 0.9 a jammed joint creeps by 0.3 radians in 20 steps


@dataclasses.dataclass(frozen=True)
class Fault:
    """What goes wrong; this one changes nothing, a control."""

    name: ClassVar[str] = "none"

    def change(self, model: mujoco.MjModel) -> None:
        """Alter the compiled model."""

    def disturb(self, hand: HandModel, states: Array) -> None:
        """Alter simulator states (..., S) in place, once, when the fault sets in."""

    def changed(self, model: mujoco.MjModel) -> mujoco.MjModel:
        """A copy of the model with this fault, and with all that follows from it."""
        faulty = copy.copy(model)
        self.change(faulty)
        mujoco.mj_setConst(faulty, mujoco.MjData(faulty))
        return faulty


@dataclasses.dataclass(frozen=True)
class HeavierObject(Fault):
    """The object's mass and moments of inertia, times a factor."""

    name: ClassVar[str] = "heavier"
    factor: float = 3.0

    def __post_init__(self) -> None:
        _require_positive(self.name, self.factor)

    def change(self, model: mujoco.MjModel) -> None:
        body = model.body("object").id
        model.body_mass[body] *= self.factor
        model.body_inertia[body] *= self.factor


@dataclasses.dataclass(frozen=True)
class JammedFinger(Fault):
    """All joints of a finger stand still: dry friction above what actuators and object can overcome."""

    name: ClassVar[str] = "jammed"
    finger: Finger = "FF"

    def __post_init__(self) -> None:
        if self.finger not in FINGERS:
            raise InputError(f"fault 'jammed': finger '{self.finger}'; accepted are {', '.join(FINGERS)}")

    def change(self, model: mujoco.MjModel) -> None:
        dofs = self.dofs(model)
        model.dof_frictionloss[dofs] = JAM_TORQUE
        model.dof_solimp[dofs, :2] = JAM_IMPEDANCE

    def dofs(self, model: mujoco.MjModel) -> NDArray[np.intp]:
        """Places of the finger's joints among the degrees of freedom."""
        joints = [model.joint(i) for i in range(model.njnt)]
        return np.array([int(j.dofadr[0]) for j in joints if j.name.startswith(f"robot0:{self.finger}J")])


@dataclasses.dataclass(frozen=True)
class DroppedObject(Fault):
    """The object is out of the hand, beside it on the side away from the thumb, and falls to the ground.

    Curled fingers are a cage: of knocks of 1 to 3 m/s in several directions, 10 to 40 per cent emptied the
    hand within ten steps (measured).
    """

    name: ClassVar[str] = "dropped"
    aside: float = 0.12
    """Metres that the object is moved."""

    def disturb(self, hand: HandModel, states: Array) -> None:
        states[..., hand.time_size + hand.object_qpos.start] += self.aside


@dataclasses.dataclass(frozen=True)
class ChangedFriction(Fault):
    """Friction of all contacts, sliding, turning and rolling, times a factor."""

    name: ClassVar[str] = "friction"
    factor: float = 0.3

    def __post_init__(self) -> None:
        _require_positive(self.name, self.factor)

    def change(self, model: mujoco.MjModel) -> None:
        model.geom_friction[:] *= self.factor  # a contact has the larger of its two geoms' friction
        model.pair_friction[:] *= self.factor


@dataclasses.dataclass(frozen=True)
class OtherObject(Fault):
    """Another object in place of the first: of other size, and perhaps an ellipsoid, of the same density."""

    name: ClassVar[str] = "object"
    size: float = 0.8
    """Factor of all lengths."""
    shape: Literal["same", "ellipsoid"] = "same"
    """ellipsoid: the one that just fits into a box's place; an object with other geoms cannot become one."""

    def __post_init__(self) -> None:
        _require_positive(self.name, self.size)
        if self.shape not in ("same", "ellipsoid"):
            raise InputError(f"fault 'object': shape '{self.shape}'; accepted are same, ellipsoid")

    def change(self, model: mujoco.MjModel) -> None:
        body = model.body("object")
        geoms = np.arange(body.geomadr[0], body.geomadr[0] + body.geomnum[0])
        box, ellipsoid = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_ELLIPSOID
        for array in (model.geom_size, model.geom_pos, model.geom_rbound, model.geom_aabb):
            array[geoms] *= self.size
        first = model.body_bvhadr[body.id]
        model.bvh_aabb[first : first + model.body_bvhnum[body.id]] *= self.size
        mass, inertia = self.size**3, np.full(3, self.size**5)
        if self.shape == "ellipsoid" and np.all(model.geom_type[geoms] == box):
            model.geom_type[geoms] = ellipsoid
            model.geom_rbound[geoms] = model.geom_size[geoms].max(axis=1)
            # half axes a, b, c: mass 4/3 pi abc rho, inertia m (b^2 + c^2) / 5; a box: 8 abc rho, m (..) / 3
            mass, inertia = mass * np.pi / 6, inertia * np.pi / 6 * 3 / 5
        model.body_mass[body.id] *= mass
        model.body_inertia[body.id] *= inertia


FAULTS: dict[str, type[Fault]] = {
    cls.name: cls for cls in (Fault, HeavierObject, JammedFinger, DroppedObject, ChangedFriction, OtherObject)
}
"""Faults by their name."""


def make_fault(fault: Fault | str, **settings: Any) -> Fault:
    """A fault by its name; InputError for a name or a setting that is not known."""
    if isinstance(fault, Fault):
        return fault
    if fault not in FAULTS:
        raise InputError(f"fault '{fault}' is unknown; accepted are {', '.join(FAULTS)}")
    try:
        return FAULTS[fault](**settings)
    except TypeError:
        known = [field.name for field in dataclasses.fields(FAULTS[fault])]
        raise InputError(
            f"fault '{fault}': settings {', '.join(settings)}; accepted are {', '.join(known) or 'none'}"
        ) from None


class FaultyEnv(gymnasium.Wrapper[Observation, NDArray[np.float32], Observation, NDArray[np.float32]]):
    """A hand environment in which a fault sets in before step `at` of every episode; a reset undoes it.

    Args:
        env: a `HandEnv`, wrapped or not.
        fault: a fault or its name.
        at: steps of an episode that are free of it; `options={"fault_at": at}` of a reset says otherwise for
            one episode.

    Raises:
        InputError: for another environment, an unknown fault, or a step below 0.
    """

    def __init__(self, env: gymnasium.Env, fault: Fault | str, at: int) -> None:
        super().__init__(env)
        if not isinstance(env.unwrapped, HandEnv):
            raise InputError(
                f"faulty environment: {type(env.unwrapped).__name__}; accepted are hand environments, such "
                "as ebm_traj/HandBlock-v0"
            )
        self.fault = make_fault(fault)
        self.at = self._at = _require_step(at)
        self._hand: HandEnv = env.unwrapped
        self._healthy = copy.copy(self._hand.model)
        self._faulty = self.fault.changed(self._healthy)
        self._steps = 0

    @property
    def faulty(self) -> bool:
        """Whether the fault has set in."""
        return self._steps > self._at

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode without the fault."""
        options = dict(options or {})
        self._at = _require_step(options.pop("fault_at", self.at))
        self._steps = 0
        write_model(self._hand.model, self._healthy)
        return self.env.reset(seed=seed, options=options or None)

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """One step; `info["fault"]` says whether the fault has set in."""
        if self._steps == self._at:
            write_model(self._hand.model, self._faulty)
            state = self._hand.get_state()
            self.fault.disturb(self._hand._hand, state)
            self._hand.set_state(state)
        self._steps += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "fault": self.faulty}

    def close(self) -> None:
        """Close the environment, with its model as it was."""
        write_model(self._hand.model, self._healthy)
        super().close()


def break_all(envs: HandVectorEnv, fault: Fault | str) -> None:
    """Let a fault set in, now and for good, in all environments of a vector environment.

    They share one model: no reset undoes the change, so make a vector environment for each fault.
    """
    fault = make_fault(fault)
    write_model(envs.model, fault.changed(envs.model))
    states = envs.get_state()
    fault.disturb(envs._hand, states)
    envs.set_state(states)


def model_arrays(model: mujoco.MjModel) -> Iterator[tuple[str, NDArray[Any]]]:
    """All arrays of a compiled model, by name."""
    for name in dir(model):
        if not name.startswith("_") and isinstance(value := getattr(model, name), np.ndarray):
            yield name, value


def write_model(model: mujoco.MjModel, other: mujoco.MjModel) -> None:
    """Overwrite a compiled model by another of the same sizes; all who hold it then have the new one."""
    for name, values in model_arrays(model):
        if values.size and values.flags.writeable:
            np.copyto(values, getattr(other, name))
    model.stat.meaninertia = other.stat.meaninertia


def _require_step(at: Any) -> int:
    if not isinstance(at, int | np.integer) or at < 0:
        raise InputError(f"fault: at step {at!r}; accepted: a whole number from 0 up")
    return int(at)


def _require_positive(name: str, factor: float) -> None:
    if not (np.isfinite(factor) and factor > 0):
        raise InputError(f"fault '{name}': factor {factor}; accepted are numbers above 0")
