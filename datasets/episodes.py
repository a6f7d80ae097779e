"""Whole episodes in memory, and where windows fit into them."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ebm_traj.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Episodes:
    """Whole episodes in memory, end to end, nothing padded."""

    states: NDArray[np.float32]
    """(F, D) frames of all episodes."""
    actions: NDArray[np.float32]
    """(F, A) the action taken at each frame; the last frame of an episode has none: NaN."""
    offsets: NDArray[np.int64]
    """(N + 1,) episode i has the rows offsets[i]:offsets[i + 1]."""
    episode: NDArray[np.int64]
    """(N,) number of each episode in the whole run."""

    def __len__(self) -> int:
        return len(self.episode)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) steps of each episode: one less than its frames."""
        return np.diff(self.offsets) - 1

    def window_starts(self, length: int, first: int = 0) -> NDArray[np.int64]:
        """Rows at which a window of `length` frames begins that lies inside one episode.

        Windows start at step `first` of an episode or later.
        """
        return window_starts(self.offsets, length, first)


class WindowPlaces:
    """All windows of `length` frames that lie inside one of some episodes, numbered but not listed.

    They are numbered episode by episode, in the order of their frames; `len` is how many there are.
    """

    def __init__(
        self, begins: NDArray[np.int64], frames: NDArray[np.int64], length: int, first: int = 0
    ) -> None:
        """Episodes begin at rows `begins` (N,), have `frames` (N,); windows start at step `first` or on."""
        if length < 1 or first < 0:
            raise InputError(
                f"window of {length} frames from step {first}: needs 1 frame or more, from step 0 on"
            )
        self.begins = begins + first
        self.before: NDArray[np.int64] = np.concatenate(
            [[0], np.cumsum(np.maximum(frames - length + 1 - first, 0))]
        ).astype(np.int64)

    def __len__(self) -> int:
        return int(self.before[-1])

    def at(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (n,) at which the windows of these numbers (n,) begin."""
        episodes = np.searchsorted(self.before, numbers, side="right") - 1
        return self.begins[episodes] + numbers - self.before[episodes]


def window_starts(offsets: NDArray[np.int64], length: int, first: int = 0) -> NDArray[np.int64]:
    """Rows, in ascending order, where `length` frames fit inside an episode, from its step `first` on."""
    places = WindowPlaces(offsets[:-1], np.diff(offsets), length, first)
    return places.at(np.arange(len(places)))
