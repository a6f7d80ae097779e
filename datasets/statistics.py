"""Mean and scale of the training split, in one pass over the shards."""

import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import split_code
from ebm_traj.spec import StateSpec


class Moments:
    """Running count, mean and sum of squared deviations of rows, merged batch by batch (Chan et al. 1983).

    Sums of squares would lose the small scale of a dimension with a large mean.
    """

    def __init__(self, size: int):
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(size)
        self.squares: NDArray[np.float64] = np.zeros(size)

    def add(self, rows: NDArray[np.floating]) -> None:
        """Add rows (n, size)."""
        if not len(rows):
            return
        values = rows.astype(np.float64)
        mean = values.mean(0)
        total = self.count + len(values)
        shift = mean - self.mean
        self.squares += ((values - mean) ** 2).sum(0) + shift**2 * self.count * len(values) / total
        self.mean = self.mean + shift * len(values) / total
        self.count = total

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation (size,) over all rows added."""
        return np.sqrt(self.squares / max(self.count, 1))


def with_training_statistics(recording: Recording) -> StateSpec:
    """The recording's spec with mean, std and one-step change of its training split.

    Reads one shard at a time. Raises InputError if there is no training episode.
    """
    recording.episode_rows("train")
    states, changes = Moments(recording.spec.size), Moments(recording.spec.size)
    for shard in range(len(recording.paths)):
        begin, end = recording.shard_episodes[shard : shard + 2]
        frames = recording.read_shard(shard)[0]
        offsets = recording.offsets[begin : end + 1] - recording.offsets[begin]
        train = np.repeat(recording.split[begin:end] == split_code("train"), np.diff(offsets))
        states.add(frames[train])
        same_episode = np.ones(len(frames) - 1, dtype=bool)
        same_episode[offsets[1:-1] - 1] = False
        kept = train[1:] & same_episode
        changes.add(frames[1:][kept].astype(np.float64) - frames[:-1][kept])
    return recording.spec.with_statistics(states.mean, states.std, changes.std)
