"""Measuring a data set in one pass over its shards, or over a fixed sample of them if they are many."""

import dataclasses
import sys

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.statistics import Moments
from ebm_traj.describing.outcomes import STILL_SHARE, HandJudge, net_rotation, strayed
from ebm_traj.spec import SMALLEST_SCALE

SAMPLE_EPISODES = 20_000  # from more episodes than this, whole shards are drawn until they hold as many
HISTOGRAM_NUMBERS = 4_000_000  # kept for histograms, over all dimensions
SEED = 0
PROGRESS_AFTER = 2.0  # seconds


@dataclasses.dataclass
class Measured:
    """What one pass found; D state dimensions, then A action dimensions, over n episodes."""

    episodes: NDArray[np.intp]
    """(n,) rows of the episodes that were read: all, or a sample by whole shards."""
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    """(D + A,) range and moments of each dimension."""
    change: NDArray[np.float64]
    """(D + A,) standard deviation of the change from one step to the next."""
    values: NDArray[np.float32]
    """(rows, D + A) frames drawn evenly, for histograms; actions are NaN at last frames."""
    still: NDArray[np.bool_]
    """(n,) near-still episodes; see `outcomes`."""
    rotation: NDArray[np.float64]
    """(n, Q) net rotation of each quaternion, in radians."""
    reached: NDArray[np.bool_] | None
    """(n,) success at some step; None if states do not tell."""
    dropped: NDArray[np.bool_] | None
    """(n,) the object fell off the palm; None without a hand."""


def sample_shards(recording: Recording, episodes: int = SAMPLE_EPISODES) -> NDArray[np.intp]:
    """Numbers, in order, of enough shards, drawn with a fixed seed, to hold so many episodes; or all."""
    order = np.random.default_rng(SEED).permutation(len(recording.paths))
    held = np.cumsum(np.diff(recording.shard_episodes)[order])
    return np.sort(order[: int(np.searchsorted(held, episodes)) + 1])


def measure(recording: Recording, *, progress: bool = True) -> Measured:
    """Read a recording shard by shard; InputError, naming the shard, for damaged data."""
    spec, size = recording.spec, recording.spec.size + recording.action_size
    judge = HandJudge.of(recording)
    shards = sample_shards(recording)
    rng = np.random.default_rng(SEED)
    per_shard = -(-HISTOGRAM_NUMBERS // (size * len(shards)))
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    moments = [Moments(spec.size), Moments(recording.action_size)]
    changes = [Moments(spec.size), Moments(recording.action_size)]
    rows: list[NDArray[np.intp]] = []
    values, farthest = list[NDArray[np.float32]](), list[NDArray[np.float32]]()
    rotation: list[NDArray[np.float64]] = []
    reached, dropped, still = (list[NDArray[np.bool_]]() for _ in range(3))
    for shard in tqdm(
        shards, "reading", unit="shard", delay=PROGRESS_AFTER, file=sys.stderr, disable=not progress
    ):
        begin, end = recording.shard_episodes[shard : shard + 2]
        offsets = recording.offsets[begin : end + 1] - recording.offsets[begin]
        states, actions = recording.read_shard(int(shard))
        taken = actions[np.isfinite(actions).all(axis=1)]
        for found, part in zip(moments, (states, taken), strict=True):
            found.add(part)
        for found, part in zip(changes, (states, actions), strict=True):
            step = part[1:].astype(np.float64) - part[:-1]
            step[offsets[1:-1] - 1] = np.nan  # from one episode to the next
            found.add(step[np.isfinite(step).all(axis=1)])
        low = np.minimum(low, np.concatenate([states.min(0), taken.min(0)]))
        high = np.maximum(high, np.concatenate([states.max(0), taken.max(0)]))
        rows.append(np.arange(begin, end))
        kept = rng.choice(len(states), min(per_shard, len(states)), replace=False)
        values.append(np.concatenate([states[kept], actions[kept]], axis=1))
        rotation.append(net_rotation(spec, states, offsets))
        if judge is not None:
            reached.append(judge.reached(states, offsets))
            dropped.append(judge.dropped(states, offsets))
            still.append(judge.still(states, offsets))
        else:
            farthest.append(strayed(states, offsets)[:, spec.predicted])
    std = np.concatenate([m.std for m in moments])
    if judge is None:
        spread = std[spec.predicted]
        within = np.concatenate(farthest) <= STILL_SHARE * spread
        still = [np.logical_and.reduce(within[:, spread > SMALLEST_SCALE], axis=1)]
    return Measured(
        episodes=np.concatenate(rows),
        low=low,
        high=high,
        mean=np.concatenate([m.mean for m in moments]),
        std=std,
        change=np.concatenate([m.std for m in changes]),
        values=np.concatenate(values),
        still=np.concatenate(still),
        rotation=np.concatenate(rotation),
        reached=np.concatenate(reached) if judge else None,
        dropped=np.concatenate(dropped) if judge else None,
    )
