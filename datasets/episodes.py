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


def window_starts(offsets: NDArray[np.int64], length: int, first: int = 0) -> NDArray[np.int64]:
    """Rows, in ascending order, where `length` frames fit inside an episode, from its step `first` on."""
    if length < 1 or first < 0:
        raise InputError(
            f"window of {length} frames from step {first}: needs 1 frame or more, from step 0 on"
        )
    counts = np.maximum(np.diff(offsets) - length + 1 - first, 0)
    begins = np.repeat(offsets[:-1] + first, counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return begins + within
