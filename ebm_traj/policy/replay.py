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
Fields = dict[str, NDArray[Any]]
FIELDS = ("observation", "goal", "previous", "action", "episode", "dropped", "cut")


@dataclasses.dataclass(frozen=True)
class Batch:
    """B steps, each with a goal."""

    features: Tensor
    """(B, F)."""
    next_features: Tensor
    """(B, F) where the return is taken up by a value: one or more steps later, for the same goal."""
    change: Tensor
    """(B, A) of the action, in units of the largest change."""
    room: tuple[Tensor, Tensor]
    """(B, A) twice: the lowest and highest change, in these units, that the action box leaves."""
    next_room: tuple[Tensor, Tensor]
    """The same there."""
    reward: Tensor
    """(B,) discounted sum of the rewards until there."""
    discount: Tensor
    """(B,) weight of the value there; 0 where the object was dropped, after which nothing follows."""
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
        discount: weight of a step's return in that of the step before.
    """

    def __init__(
        self, steps: int, streams: int, task: HandTask, form: str, change: float, discount: float
    ) -> None:
        self.task, self.form, self.change, self.discount = task, form, change, discount
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
        cls, parts: Sequence[Fields], task: HandTask, form: str, change: float, discount: float
    ) -> "Replay":
        """A memory of recordings, each of them fields (T, N, ...) of the same N streams."""
        parts = [{name: part[name].copy() for name in FIELDS} for part in parts]
        for number, part in enumerate(parts):
            part["cut"][-1] = True  # what follows the last step is another recording
            part["episode"] += number * 10**6
        whole = {name: np.concatenate([part[name] for part in parts]) for name in FIELDS}
        steps, streams = whole["dropped"].shape
        replay = cls(steps, streams, task, form, change, discount)
        replay._memory, replay.size = whole, steps
        return replay

    def add(self, **fields: NDArray[Any]) -> None:
        """One step of all environments, (N, ...) of each of `FIELDS`; the oldest one is forgotten."""
        for name in FIELDS:
            self._memory[name][self._at] = fields[name]
        self._at = (self._at + 1) % self.steps
        self.size = min(self.size + 1, self.steps)

    @property
    def _oldest(self) -> int:
        """Where the oldest step lies."""
        return self._at if self.size == self.steps else 0

    def sample(
        self,
        count: int,
        rng: np.random.Generator,
        *,
        ahead: int = 1,
        hindsight: float = 0.0,
        earlier: float = 0.0,
        elsewhere: float = 0.0,
    ) -> Fields:
        """Fields of `count` steps and of what followed.

        `path` (B, `ahead` + 1, 7) are the poses from each step on, `acted` and `before` (B, `ahead`, A) the
        actions and those before them, `length` (B,) how many of these steps were taken for the same goal in
        the same episode, `next_observation` what they led to, `lost` (B,) whether the last of them dropped
        the object and `known` (B,) whether what follows is known.

        For a goal, a share `hindsight` of the steps gets a pose met up to `APART` steps later, a share
        `earlier` one met as long before, a share `elsewhere` the goal of any other step. For these it is one
        step that counts: the next actions were not taken for them. `asked` (B,) says which kept their own.
        """
        memory, oldest = self._memory, self._oldest
        # The newest step has no successor yet.
        age, stream = rng.integers(self.size - 1, size=count), rng.integers(self.streams, size=count)
        row = (oldest + age) % self.steps
        found = {name: memory[name][row, stream] for name in FIELDS}
        self._draw_goals(found, age, stream, rng, hindsight, earlier, elsewhere)

        until = np.minimum(age[:, None] + np.arange(ahead + 1), self.size - 1)
        rows, streams = (oldest + until) % self.steps, stream[:, None]
        own = memory["goal"][row, stream][:, None]
        # A further step counts if the one before it did not end the episode and it has a successor itself.
        first, further = rows[:, :-2], rows[:, 1:-1]
        goes_on = ~(memory["dropped"][first, streams] | memory["cut"][first, streams])
        goes_on &= (memory["goal"][further, streams] == own).all(axis=2) & (until[:, 2:] > until[:, 1:-1])
        length = 1 + np.where(found["asked"], np.cumprod(goes_on, axis=1).sum(axis=1), 0)
        each = np.arange(count)
        last, after = rows[each, length - 1], rows[each, length]
        return found | {
            "path": memory["observation"][rows, streams, -POSE:],
            "acted": memory["action"][rows[:, :-1], streams],
            "before": memory["previous"][rows[:, :-1], streams],
            "length": length,
            "next_observation": memory["observation"][after, stream],
            "last_action": memory["action"][last, stream],
            "lost": memory["dropped"][last, stream],
            "known": ~memory["cut"][last, stream] | memory["dropped"][last, stream],
        }

    def _draw_goals(
        self,
        found: Fields,
        age: NDArray[np.int64],
        stream: NDArray[np.int64],
        rng: np.random.Generator,
        hindsight: float,
        earlier: float,
        elsewhere: float,
    ) -> None:
        """Put other goals in place of some of `found`'s, and `asked`: where they were kept."""
        memory, oldest = self._memory, self._oldest
        count, goal = len(age), found["goal"]
        draw = rng.random(count)
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

    def batch(self, rows: Fields) -> Batch:
        """Features and returns of rows of `sample`."""
        goal, path, length = rows["goal"], rows["path"], rows["length"]
        ahead = path.shape[1] - 1
        goals = np.broadcast_to(goal[:, None], path.shape)
        angles = self.task.distance(path, goals).rotation
        each = np.arange(len(length))
        lost = np.zeros((len(length), ahead), dtype=bool)
        lost[each, length - 1] = rows["lost"]
        first = angles[:, :-1]
        second = np.where(lost, first, angles[:, 1:])
        moved = rows["acted"] - rows["before"]
        weight = self.discount ** np.arange(ahead) * (np.arange(ahead) < length[:, None])
        reward = (weight * turning_reward(first, second, moved, lost)).sum(axis=1)
        return Batch(
            tensor(self._features(rows["observation"], goal, rows["previous"])),
            tensor(self._features(rows["next_observation"], goal, rows["last_action"])),
            tensor((rows["action"] - rows["previous"]) / self.change),
            self._room(rows["previous"]),
            self._room(rows["last_action"]),
            tensor(reward),
            tensor(self.discount**length * ~rows["lost"]),
            tensor(rows["known"]),
            tensor(rows["asked"]),
        )

    def _features(self, full: NDArray[Any], goal: NDArray[Any], previous: NDArray[Any]) -> NDArray[Any]:
        seen = {"observation": full, "achieved_goal": full[:, -POSE:], "desired_goal": goal}
        return hand_features(seen, previous, self.form)

    def _room(self, previous: NDArray[Any]) -> tuple[Tensor, Tensor]:
        return tensor((-1 - previous) / self.change), tensor((1 - previous) / self.change)


def tensor(array: NDArray[Any]) -> Tensor:
    """As float32."""
    return torch.from_numpy(np.asarray(array, np.float32))


def joined(first: Fields, second: Fields) -> Fields:
    """Rows of two samples as one."""
    return {name: np.concatenate([first[name], second[name]]) for name in first}
