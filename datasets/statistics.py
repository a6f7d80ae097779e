"""Mean and scale of the training split, in one pass over the shards."""

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import split_code
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

BLOCK = 2048  # rows taken together: they stay in the cache of a core
SILENT_SECONDS = 2


class Moments:
    """Running count, mean, squared deviations and range of rows, merged batch by batch (Chan et al. 1983).

    Sums of squares would lose the small scale of a dimension with a large mean.
    """

    def __init__(self, size: int):
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(size)
        self.squares: NDArray[np.float64] = np.zeros(size)
        self.low: NDArray[np.float64] = np.full(size, np.inf)
        self.high: NDArray[np.float64] = np.full(size, -np.inf)

    def add(self, rows: NDArray[np.floating]) -> None:
        """Add rows (n, size)."""
        for begin in range(0, len(rows), BLOCK):
            values = rows[begin : begin + BLOCK].astype(np.float64)
            mean = values.mean(0)
            self.low, self.high = np.minimum(self.low, values.min(0)), np.maximum(self.high, values.max(0))
            values -= mean
            total = self.count + len(values)
            shift = mean - self.mean
            self.squares += (
                np.einsum("ij,ij->j", values, values) + shift**2 * self.count * len(values) / total
            )
            self.mean = self.mean + shift * len(values) / total
            self.count = total

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation (size,) over all rows added."""
        return np.sqrt(self.squares / max(self.count, 1))

    @property
    def scale(self) -> NDArray[np.float64]:
        """(size,) the standard deviation, or the root mean square of what has a mean beyond it (a clock)."""
        return np.where(np.abs(self.mean) > self.std, np.hypot(self.mean, self.std), self.std)


def with_training_statistics(recording: Recording) -> StateSpec:
    """The recording's spec with mean, std, range and one-step change of its training split.

    Reads one shard at a time, with a progress bar if it takes longer than seconds. Raises InputError if there
    is no training episode, and for an angle that wraps: its jumps by 2 pi would be learnt as motion.
    """
    recording.episode_rows("train")
    states, changes = Moments(recording.spec.size), Moments(recording.spec.size)
    shards = range(len(recording.paths))
    for shard in tqdm(shards, desc="statistics", delay=SILENT_SECONDS, leave=False, disable=None):
        begin, end = recording.shard_episodes[shard : shard + 2]
        frames = recording.read_shard(shard)[0]
        offsets = recording.offsets[begin : end + 1] - recording.offsets[begin]
        train = np.repeat(recording.split[begin:end] == split_code("train"), np.diff(offsets))
        states.add(frames[train])
        same_episode = np.ones(len(frames) - 1, dtype=bool)
        same_episode[offsets[1:-1] - 1] = False
        before = np.flatnonzero(train[1:] & same_episode)
        for part in np.split(before, range(BLOCK, len(before), BLOCK)):
            changes.add(frames[part + 1].astype(np.float64) - frames[part])
    farthest = np.maximum(np.abs(changes.low), np.abs(changes.high))
    for i in recording.spec.predicted:
        if recording.spec.kinds[i] == "angle" and farthest[i] > np.pi:
            raise InputError(
                f"{recording.folder}: the angle '{recording.spec.names[i]}' changes by {farthest[i]:.3g} rad "
                "in one step, it wraps; accepted are angles that do not (record it unwrapped, or its cosine "
                "and sine as positions)"
            )
    return recording.spec.with_statistics(
        states.mean,
        states.std,
        changes.scale,
        low=states.low,
        high=states.high,
        change_limit=np.where(np.isfinite(farthest), farthest, 0.0),
    )
