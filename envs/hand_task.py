"""What the hand is asked to do: where object and goal start, how far apart they are, and what that is worth.

Draws and distances follow gymnasium-robotics' HandManipulate environments (Plappert et al. 2018,
arXiv 1802.09464), draw for draw, with one correction: q and -q are the same rotation, so the angle between
two of them is 2 arccos|q.q'|. The original omits the absolute value and may read up to 2 pi.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.envs import rotations
from ebm_traj.errors import InputError

Array = NDArray[np.float64]

OBJECTS = ("block", "egg", "pen")
TARGET_ROTATIONS = ("xyz", "z", "parallel", "fixed", "ignore")
TARGET_POSITIONS = ("random", "fixed", "ignore")
REWARD_TYPES = ("sparse", "dense")

GOAL_OFFSET = np.array([[-0.04, 0.04], [-0.06, 0.02], [0.0, 0.06]])  # metres from the object, low and high
START_JITTER = 0.005  # metres, standard deviation of the object's first position
DENSE_POSITION_WEIGHT = 10.0  # a radian counts as much as a tenth of a metre
POSE = 7  # position and quaternion
Z_AXIS = (0.0, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far poses are from their goals, over any batch shape."""

    position: Array
    """Metres; 0 where the target position is ignored."""
    rotation: Array
    """Radians in [0, pi]; 0 where the target rotation is ignored."""
    rotation_original: Array
    """Radians in [0, 2 pi]: gymnasium-robotics' reading, which tells q from -q."""


@dataclasses.dataclass(frozen=True)
class HandTask:
    """The task of a hand environment.

    Raises InputError for a value that is not among the accepted ones.
    """

    object: str = "block"
    """`block`, `egg` or `pen`."""
    target_rotation: str = "xyz"
    """`xyz` any rotation, `z` about the vertical, `parallel` about the vertical with any face up, `fixed` the
    rotation at the start of the episode, `ignore` the same but not asked for."""
    target_position: str = "random"
    """`random` around the object, `fixed` its position at the start, `ignore` the same but not asked for."""
    reward_type: str = "sparse"
    """`sparse`: 0 on success, else -1. `dense`: -(10 x metres + radians)."""
    distance_threshold: float | None = None
    """Metres within which a position counts as reached; None: 0.05 for the pen, else 0.01."""
    rotation_threshold: float = 0.1
    """Radians within which a rotation counts as reached."""
    ignore_z_target_rotation: bool | None = None
    """Whether the turn about the object's own z axis is free; None: for the pen only."""
    randomize_initial_position: bool = True
    """Whether the object starts at a random place (unless the target position is `fixed`)."""
    randomize_initial_rotation: bool | None = None
    """Whether the object starts in a random rotation; None: for block and egg."""
    goal_every: int | None = None
    """Draw a new goal after every so many steps of an episode; None: one goal for all of it."""

    def __post_init__(self) -> None:
        for field, accepted in (
            ("object", OBJECTS),
            ("target_rotation", TARGET_ROTATIONS),
            ("target_position", TARGET_POSITIONS),
            ("reward_type", REWARD_TYPES),
        ):
            if (value := getattr(self, field)) not in accepted:
                raise InputError(f"hand environment: {field} is {value!r}; accepted: {', '.join(accepted)}")
        pen = self.object == "pen"
        for field, default in (
            ("distance_threshold", 0.05 if pen else 0.01),
            ("ignore_z_target_rotation", pen),
            ("randomize_initial_rotation", not pen),
        ):
            if getattr(self, field) is None:
                object.__setattr__(self, field, default)
        for field in ("ignore_z_target_rotation", "randomize_initial_position", "randomize_initial_rotation"):
            if not isinstance(value := getattr(self, field), bool | np.bool_):
                raise InputError(f"hand environment: {field} is {value!r}; accepted: true and false")
        if self.goal_every is not None and not (
            isinstance(self.goal_every, int | np.integer)
            and not isinstance(self.goal_every, bool)
            and self.goal_every >= 1
        ):
            raise InputError(
                f"hand environment: goal_every is {self.goal_every!r}; "
                "accepted: None or a whole number from 1 up"
            )
        for field in ("distance_threshold", "rotation_threshold"):
            value = getattr(self, field)
            known = isinstance(value, float | int | np.number) and not isinstance(value, bool)
            if not (known and 0 < value < math.inf):
                raise InputError(f"hand environment: {field} is {value!r}; accepted: a number above 0")

    @classmethod
    def from_settings(cls, **settings: Any) -> "HandTask":
        """A task of these fields; InputError also for a name that is none of them."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise InputError(f"hand environment: unknown setting {name!r}; accepted: {', '.join(known)}")
        return cls(**settings)

    def draw_object_pose(self, rng: np.random.Generator, pose: Array) -> Array:
        """A first pose (7,) for the object, around the model's own (7,)."""
        position, rotation = pose[:3], pose[3:]
        if self.randomize_initial_rotation and self.target_rotation != "fixed":
            rotation = rotations.multiply(rotation, self._draw_rotation(rng))
        if self.randomize_initial_position and self.target_position != "fixed":
            position = position + rng.normal(size=3, scale=START_JITTER)
        return np.concatenate([position, rotations.unit(rotation)])

    def draw_goal(self, rng: np.random.Generator, object_pose: Array) -> Array:
        """A goal pose (7,) for an episode that starts with the object at `object_pose` (7,)."""
        position, rotation = object_pose[:3], object_pose[3:]
        if self.target_position == "random":
            position = position + rng.uniform(GOAL_OFFSET[:, 0], GOAL_OFFSET[:, 1])
        if self.target_rotation in ("xyz", "z", "parallel"):
            rotation = self._draw_rotation(rng)
        return np.concatenate([position, rotations.unit(rotation)])

    def draw_goal_seed(self, rng: np.random.Generator) -> int:
        """The number that all later goals of an episode follow from; 0, not drawn, without `goal_every`.

        It is small enough to stand in a simulator state among other floats.
        """
        return int(rng.integers(2**53)) if self.goal_every else 0

    def next_goal(self, goal_seed: float, steps: float, goal: Array, object_pose: Array) -> Array:
        """The goal (7,) to act on after `steps` steps: `goal` itself, or a new one if one is due.

        A new one depends on `goal_seed`, `steps` and the object's pose (7,) alone. Where the task does not
        ask for a position, the goal keeps its own.
        """
        if not self.goal_every or steps % self.goal_every:
            return goal
        position = object_pose if self.target_position == "random" else goal
        start = np.concatenate([position[:3], goal[3:]])
        return self.draw_goal(np.random.default_rng([int(goal_seed), int(steps)]), start)

    def _draw_rotation(self, rng: np.random.Generator) -> Array:
        angle = rng.uniform(-np.pi, np.pi)
        if self.target_rotation == "z":
            return rotations.about_axis(angle, Z_AXIS)
        if self.target_rotation == "parallel":
            face = rotations.AXIS_ALIGNED[rng.integers(len(rotations.AXIS_ALIGNED))]
            return rotations.multiply(rotations.about_axis(angle, Z_AXIS), face)
        return rotations.about_axis(angle, rng.uniform(-1.0, 1.0, size=3))

    def distance(self, achieved: ArrayLike, desired: ArrayLike) -> Distance:
        """Distance between poses (..., 7) and goals (..., 7); each of its parts is (...).

        Raises InputError for other shapes.
        """
        pose, goal = np.asarray(achieved, dtype=np.float64), np.asarray(desired, dtype=np.float64)
        if pose.shape != goal.shape or pose.shape[-1:] != (POSE,):
            raise InputError(
                f"goals: achieved {pose.shape}, desired {goal.shape}; accepted is one (..., {POSE}) for both"
            )
        nothing = np.zeros(pose.shape[:-1])
        position, angle, original = nothing, nothing, nothing
        if self.target_position != "ignore":
            offset = pose[..., :3] - goal[..., :3]
            position = np.sqrt(rotations.dot(offset, offset))
        if self.target_rotation != "ignore":
            rotation, goal_rotation = pose[..., 3:], goal[..., 3:]
            if self.ignore_z_target_rotation:
                x, y, _ = rotations.to_euler(rotation)
                rotation = rotations.from_euler(x, y, rotations.to_euler(goal_rotation)[2])
            cosine = np.minimum(np.maximum(rotations.dot(rotation, goal_rotation), -1.0), 1.0)
            angle, original = 2 * np.arccos(np.abs(cosine)), 2 * np.arccos(cosine)
        return Distance(position, angle, original)

    def success(self, distance: Distance) -> NDArray[np.bool_]:
        """Whether position and rotation are both within their thresholds."""
        return self._near(distance) & (distance.rotation < self.rotation_threshold)

    def success_original(self, distance: Distance) -> NDArray[np.bool_]:
        """Success as gymnasium-robotics reads it: never for a quaternion of the goal's opposite sign."""
        return self._near(distance) & (distance.rotation_original < self.rotation_threshold)

    def _near(self, distance: Distance) -> NDArray[np.bool_]:
        assert self.distance_threshold is not None  # set by __post_init__
        return distance.position < self.distance_threshold

    def reward(self, distance: Distance) -> Array:
        """Reward of `reward_type`, of the shape of the distance."""
        if self.reward_type == "sparse":
            return self.success(distance).astype(np.float64) - 1.0
        return -(DENSE_POSITION_WEIGHT * distance.position + distance.rotation)

    def info(self, distance: Distance) -> dict[str, Any]:
        """What an environment reports beside the reward, each entry of the shape of the distance."""
        return {
            "is_success": self.success(distance),
            "is_success_original": self.success_original(distance),
            "position_distance": distance.position,
            "rotation_distance": distance.rotation,
        }
