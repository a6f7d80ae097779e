"""What each episode came to, read from its recorded states."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.recording import Recording
from ebm_traj.envs.hand_model import PALM_HEIGHT
from ebm_traj.envs.hand_task import HandTask
from ebm_traj.registration import OBJECTS
from ebm_traj.spec import StateSpec, state_names

STILL_METRES, STILL_RADIANS = 0.01, 0.1
"""A near-still object never gets so far from its first pose: the tolerances of the hand's tasks."""
STILL_SHARE = 0.1
"""Without a known object, a near-still episode keeps every predicted dimension within this share of the
dimension's standard deviation from its first value."""

POSE = ("x", "y", "z", "qw", "qx", "qy", "qz")
Frames = NDArray[np.float32]
Bounds = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class HandJudge:
    """Success, drops and stillness of hand episodes, from object and goal poses in the states."""

    task: HandTask
    pose: NDArray[np.intp]
    """(7,) dimensions of the object's pose."""
    goal: NDArray[np.intp]
    """(7,) dimensions of the goal's."""

    @classmethod
    def of(cls, recording: Recording) -> "HandJudge | None":
        """The judge of a recording of a hand environment; None for any other."""
        name = recording.env_id.rpartition(":")[2]
        names = [state_names(prefix, POSE) for prefix in ("object", "goal")]
        if name not in OBJECTS or not set(names[0] + names[1]) <= set(recording.spec.names):
            return None
        known = {field.name for field in dataclasses.fields(HandTask)}
        settings = {"object": OBJECTS[name], **recording.env_kwargs}
        task = HandTask(**{key: value for key, value in settings.items() if key in known})
        pose, goal = (np.array([recording.spec.names.index(n) for n in part]) for part in names)
        return cls(task, pose, goal)

    def reached(self, states: Frames, offsets: Bounds) -> NDArray[np.bool_]:
        """(N,) whether each episode was a success after some step.

        A step is judged by the goal its action was taken for, which the frame before it shows.
        """
        distance = self.task.distance(states[1:, self.pose], states[:-1, self.goal])
        success = np.append(False, self.task.success(distance))
        success[offsets[:-1]] = False  # first frames follow no step
        return np.logical_or.reduceat(success, offsets[:-1])

    def dropped(self, states: Frames, offsets: Bounds) -> NDArray[np.bool_]:
        """(N,) whether the object's centre ever was below the palm."""
        return np.minimum.reduceat(states[:, self.pose[2]], offsets[:-1]) < PALM_HEIGHT

    def still(self, states: Frames, offsets: Bounds) -> NDArray[np.bool_]:
        """(N,) whether the object always stayed within 1 cm and 0.1 rad of its first pose."""
        pose = states[:, self.pose].astype(np.float64)
        first = np.repeat(pose[offsets[:-1]], np.diff(offsets), axis=0)
        far = np.linalg.norm(pose[:, :3] - first[:, :3], axis=1)
        turned = angle_between(pose[:, 3:], first[:, 3:])
        moved = (far > STILL_METRES) | (turned > STILL_RADIANS)
        return ~np.logical_or.reduceat(moved, offsets[:-1])


def angle_between(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Angle (...) in radians between rotations (..., 4), in [0, pi].

    By the sine of half the angle where that is small: the cosine of float32 quaternions cannot tell angles
    below a milliradian.
    """
    q, p = a.astype(np.float64), b.astype(np.float64)
    p = np.where((q * p).sum(-1, keepdims=True) < 0, -p, p)
    return 4 * np.arctan2(np.linalg.norm(q - p, axis=-1), np.linalg.norm(q + p, axis=-1))


def net_rotation(spec: StateSpec, states: Frames, offsets: Bounds) -> NDArray[np.float64]:
    """(N, Q) radians between the first and the last frame of each episode, for each quaternion."""
    first, last = states[offsets[:-1]], states[offsets[1:] - 1]
    turned = [angle_between(first[:, dims], last[:, dims]) for dims in spec.quaternions]
    return np.stack(turned, axis=1) if turned else np.empty((len(first), 0))


def strayed(states: Frames, offsets: Bounds) -> Frames:
    """(N, D) the farthest each dimension gets from its first value in an episode."""
    first = np.repeat(states[offsets[:-1]], np.diff(offsets), axis=0)
    return np.maximum.reduceat(np.abs(states - first), offsets[:-1], axis=0)


def noise_share(policy: Mapping[str, Any]) -> float | None:
    """Share of actions that were uniformly random, as the record of a policy says; None if it does not."""
    noise = policy.get("noise")
    if noise is None:
        return None
    return 1 / noise["every"] if noise["every"] else float(noise["probability"])
