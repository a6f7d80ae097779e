"""What was lived through, given out again with other goals.

A step teaches what it is worth for any goal: rewards and features are computed anew for each. Hindsight
(Andrychowicz et al. 2017, arXiv 1707.01495) takes goals that were met later. Where what an action leads to is
uncertain, that picks the steps that happened to go there, and values run away with progress in the reward
(measured: RESULTS.md); poses met earlier, and goals of other episodes, pick nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_traj.envs.hand_features import hand_features
from ebm_traj.envs.hand_model import ACTIONS, JOINTS
from ebm_traj.envs.hand_task import POSE, HandTask
from ebm_traj.policy.task import turning_reward

OBSERVATION = 2 * JOINTS + 6 + POSE
APART = 40  # steps at most that a pose taken for a goal lies ahead or back
FIELDS = ("observation", "goal", "previous", "action", "episode", "dropped", "cut")


@dataclasses.dataclass(frozen=True)
class Batch:
    """B steps, each with a goal."""

    features: Tensor
    """(B, F)."""
    next_features: Tensor
    """(B, F) one step later, for the same goal."""
    change: Tensor
    """(B, A) of the action, in units of the largest change."""
    room: tuple[Tensor, Tensor]
    """(B, A) twice: the lowest and highest change, in these units, that the action box leaves."""
    next_room: tuple[Tensor, Tensor]
    """The same one step later."""
    reward: Tensor
    """(B,)."""
    ended: Tensor
    """(B,) 1 where the object was dropped, after which nothing follows."""
    weight: Tensor
    """(B,) 0 where what follows is not known, because the episode was cut there."""
    asked: Tensor
    """(B,) 1 where the goal is the one that was acted for."""


class Replay:
    """The last `steps` steps of `streams` environments.

    Args:
        steps, streams: T and N.
        task: the task, by which rewards are computed.
        form: of the features.
        change: largest change of an action in a step.
        progress: weight of progress in the rewards.
    """

    def __init__(
        self, steps: int, streams: int, task: HandTask, form: str, change: float, progress: float = 1.0
    ) -> None:
        self.task, self.form, self.change, self.progress = task, form, change, progress
        self.size, self._at = 0, 0  # steps in memory, and where the next one goes
        self.steps, self.streams = steps, streams
        kinds: dict[str, tuple[tuple[int, ...], Any]] = {
            "observation": ((OBSERVATION,), np.float32),
            "goal": ((POSE,), np.float32),
            "previous": ((ACTIONS,), np.float32),
            "action": ((ACTIONS,), np.float32),
            "episode": ((), np.int64),
            "dropped": ((), bool),
            "cut": ((), bool),
        }
        self._memory = {
            name: np.zeros((steps, streams, *shape), kind) for name, (shape, kind) in kinds.items()
        }

    @classmethod
    def of(
        cls, parts: Sequence[dict[str, NDArray[Any]]], task: HandTask, form: str, change: float
    ) -> "Replay":
        """A memory of recordings, each of them fields (T, N, ...) of the same N streams."""
        parts = [{name: part[name].copy() for name in FIELDS} for part in parts]
        for number, part in enumerate(parts):
            part["cut"][-1] = True  # what follows the last step is another recording
            part["episode"] += number * 10**6
        whole = {name: np.concatenate([part[name] for part in parts]) for name in FIELDS}
        steps, streams = whole["dropped"].shape
        replay = cls(steps, streams, task, form, change)
        replay._memory, replay.size = whole, steps
        return replay

    def add(self, **fields: NDArray[Any]) -> None:
        """One step of all environments, (N, ...) of each of `FIELDS`; the oldest one is forgotten."""
        for name in FIELDS:
            self._memory[name][self._at] = fields[name]
        self._at = (self._at + 1) % self.steps
        self.size = min(self.size + 1, self.steps)

    def sample(
        self,
        count: int,
        rng: np.random.Generator,
        *,
        hindsight: float = 0.0,
        earlier: float = 0.0,
        elsewhere: float = 0.0,
    ) -> dict[str, NDArray[Any]]:
        """Fields of `count` steps, `next_observation` and `asked` among them.

        For a goal, a share `hindsight` of them gets a pose met up to `APART` steps later, a share `earlier`
        one met as long before, a share `elsewhere` the goal of any other step.
        """
        memory, oldest = self._memory, (self._at if self.size == self.steps else 0)
        # The newest step has no successor yet.
        age = rng.integers(self.size - 1, size=count)
        row, stream = (oldest + age) % self.steps, rng.integers(self.streams, size=count)
        found = {name: memory[name][row, stream] for name in FIELDS}
        found["next_observation"] = memory["observation"][(row + 1) % self.steps, stream]
        draw, goal = rng.random(count), found["goal"]
        apart = 1 + (APART * rng.random(count) ** 1.5).astype(int)
        met = age + np.where(draw < hindsight, apart, -apart)
        when = (oldest + np.clip(met, 0, self.size - 1)) % self.steps
        seen = (draw < hindsight + earlier) & (memory["episode"][when, stream] == found["episode"])
        poses = memory["observation"][when, stream, -POSE:]
        first = 3 if self.task.target_position == "ignore" else 0  # the place asked for stays
        goal[seen, first:] = poses[seen, first:]
        other = draw > 1 - elsewhere
        goal[other, 3:] = memory["goal"][rng.integers(self.size, size=count), stream, 3:][other]
        found["asked"] = ~(seen | other)
        return found

    def batch(self, rows: dict[str, NDArray[Any]]) -> Batch:
        """Features and rewards of rows of `sample`."""
        task, goal = self.task, rows["goal"]
        before, after = rows["observation"], rows["next_observation"]
        dropped = rows["dropped"]
        first = task.distance(before[:, -POSE:], goal).rotation
        second = np.where(dropped, first, task.distance(after[:, -POSE:], goal).rotation)
        moved = rows["action"] - rows["previous"]
        tensor = lambda array: torch.from_numpy(np.asarray(array, np.float32))  # noqa: E731
        return Batch(
            tensor(self._features(before, goal, rows["previous"])),
            tensor(self._features(after, goal, rows["action"])),
            tensor(moved / self.change),
            self._room(rows["previous"], tensor),
            self._room(rows["action"], tensor),
            tensor(turning_reward(first, second, moved, dropped, self.progress)),
            tensor(dropped),
            tensor(~rows["cut"] | dropped),
            tensor(rows["asked"]),
        )

    def _features(self, full: NDArray[Any], goal: NDArray[Any], previous: NDArray[Any]) -> NDArray[Any]:
        seen = {"observation": full, "achieved_goal": full[:, -POSE:], "desired_goal": goal}
        return hand_features(seen, previous, self.form)

    def _room(self, previous: NDArray[Any], tensor: Any) -> tuple[Tensor, Tensor]:
        return tensor((-1 - previous) / self.change), tensor((1 - previous) / self.change)


def joined(first: dict[str, NDArray[Any]], second: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Rows of two samples as one."""
    return {name: np.concatenate([first[name], second[name]]) for name in first}
