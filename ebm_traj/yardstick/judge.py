"""Truth in scored form: `Judge` scores the rollouts and futures of every row alike."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.branches import Branches
from ebm_traj.spec import StateSpec
from ebm_traj.yardstick import intervals, scores
from ebm_traj.yardstick.baselines import shuffle_branches
from ebm_traj.yardstick.ranks import RESOLUTION, RankJudge
from ebm_traj.yardstick.table import Row
from ebm_traj.yardstick.validity import Validity

Array = NDArray[np.float32]
Values = dict[str, NDArray[np.float64]]

SCORES = (
    *("fd", "fd_displacement", "energy_score", "energy_score_object", "diversity", "diversity_at"),
    *("min_ade", "spread", "motion", "ranks", "validity", "futures_per_s", "plan_ms"),
)
COMPARED = ("energy_score", "energy_score_object")  # paired between rows


@dataclasses.dataclass
class EpisodeSet:
    """The true frames of N test episodes, and of N other episodes for the floor."""

    contexts: Array
    """(N, C, D)."""
    past: Array
    """(N, C - 1, A) the actions between the frames of a context."""
    truth: Array
    """(N, H, D)."""
    actions: Array
    """(N, H, A) the action that leads to each frame of truth."""
    other: Array
    """(N, 1 + H, D) last context frame and future of other episodes."""


@dataclasses.dataclass
class Found:
    """What is known of a row: its fields of `Row`, growing."""

    scores: dict[str, Any] = dataclasses.field(default_factory=dict)
    curves: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    bands: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)
    intervals: dict[str, Any] = dataclasses.field(default_factory=dict)
    contexts: dict[str, Values] = dataclasses.field(default_factory=dict)


class Judge:
    """Holds truth z-scored: N rollouts and, with branches, futures of each of B contexts.

    Every other branch is truth, the rest is the simulator's own row. What is scored on branches is a ratio of
    sums over contexts, `values` of a row over `best`, both (B, H) or (B,).
    """

    def __init__(
        self,
        spec: StateSpec,
        episodes: EpisodeSet,
        branches: Branches | None,
        *,
        validity: Validity | None = None,
        seed: int = 0,
    ) -> None:
        self.spec = spec
        self.validity = validity
        self.start = scores.normalise(episodes.contexts[:, -1:], spec)  # (N, 1, P)
        self.path = np.concatenate([self.start, scores.normalise(episodes.truth, spec)], 1)
        self.truth = self.path[:, 1:]  # (N, H, P)
        self.raw_other = episodes.other[:, 1:]  # (N, H, D)
        self.other = scores.normalise(episodes.other, spec)  # (N, 1 + H, P)
        self.scales = scores.displacement_scales(self.path, spec, scores.DISPLACEMENT_STEPS)
        self.object_dims = scores.object_dims(spec)
        self.branches: NDArray[np.float64] | None = None
        if branches is not None:
            self.branches = scores.normalise(branches.futures, spec)
            self.reference = self.branches[:, ::2]
            self.simulator = self.branches[:, 1::2]
            self.counts = intervals.draw_counts(len(self.branches), seed)
            self.best = self._values(self.simulator)
            self.best["diversity"] = scores.spread(self.reference)
            steps = [k for k in scores.ENERGY_SCORE_STEPS if k <= self.branches.shape[2]]
            assert spec.change_std is not None
            assert spec.std is not None
            blur = RESOLUTION * (spec.change_std / spec.std)[spec.predicted]
            self.ranks = RankJudge(self.reference, steps, seed, blur)
            self.ranks.calibrate(self.simulator, self.counts)

    def floor(self) -> dict[str, Any]:
        """Truth against the N other true rollouts, and the interval of a perfect model's ranks."""
        found = self._rollouts(self.other, self.raw_other)
        floor = {name: found.scores.get(name) for name in ("fd", "fd_displacement", "motion", "validity")}
        floor["ranks"] = None if self.branches is None else self.ranks.interval()
        return floor | {"curve": found.curves["fd"]}

    def row(self, name: str, kind: str, rollouts: Array, futures: Array, **fields: Any) -> Row:
        """The row of one rollout (N, H, D) for each episode and M futures (B, M, H, D) of each context."""
        path = np.concatenate([self.start, scores.normalise(rollouts, self.spec)], 1)
        found = self._rollouts(path, rollouts)
        return self._row(name, kind, found, scores.normalise(futures, self.spec), **fields)

    def simulator_row(self) -> Row:
        """What a perfect model scores: branches against other branches; it has no FD, see the floor."""
        return self._row("simulator", "simulator", Found(), self.simulator)

    def shuffled_row(self, contexts: int, futures: int) -> Row:
        """True futures of other presents: right in every marginal, no prediction at all."""
        path = np.concatenate([self.start, self.other[:, 1:]], 1)
        if self.branches is not None:
            states = shuffle_branches(self.simulator)
        else:
            pick = np.arange(contexts * futures).reshape(contexts, futures) % len(self.other)
            states = self.other[pick, 1:]
        return self._row("shuffled truth", "shuffled", self._rollouts(path, self.raw_other), states)

    def add_differences(self, rows: list[Row], reference: Row) -> None:
        """Write into each row how far its energy scores are above the reference row's, with intervals."""
        for row in rows:
            if row is reference:
                continue
            for name, best in self.best.items() if self.branches is not None else ():
                if name in COMPARED:
                    below = scores.horizons(best)
                    row.differences[name] = {
                        key: intervals.ratio_difference(
                            value, reference.contexts[name][key], below[key], self.counts
                        )
                        for key, value in row.contexts[name].items()
                    }

    def _row(self, name: str, kind: str, found: Found, futures: NDArray[np.float64], **fields: Any) -> Row:
        self._futures(found, futures)
        found.scores = dict.fromkeys(SCORES) | found.scores
        return Row(name=name, kind=kind, **vars(found), **fields)

    def _rollouts(self, path: NDArray[np.float64], raw: Array) -> Found:
        """Scores of N paths (N, 1 + H, P) that begin with the last context frame; (N, H, D) not z-scored."""
        curve = scores.frechet_curve(path[:, 1:], self.truth)
        displacement = scores.displacement_frechet(path, self.path, self.scales)
        found = {
            "fd": float(curve.mean()),
            "fd_displacement": {str(k): value for k, value in displacement.items()},
            "motion": scores.motion_ratio(path, self.path, self.spec),
            "finite": float(np.isfinite(path).all((1, 2)).mean()),
            "validity": None if self.validity is None else self.validity(raw),
        }
        return Found(found, {"fd": curve.tolist()})

    def _values(self, states: NDArray[np.float64]) -> Values:
        """What is scored on branches, of M futures of each context (B, M, H, P): (B, H), and minADE (B,)."""
        distance, nearest = scores.distances_to_branches(states, self.reference)
        spread = scores.spread(states)
        found = {"energy_score": distance - spread / 2, "diversity": spread, "min_ade": nearest}
        pose = self.object_dims
        if len(pose):
            found["energy_score_object"] = scores.energy_score(states[..., pose], self.reference[..., pose])
        return found

    def _futures(self, found: Found, states: NDArray[np.float64]) -> None:
        """Add scores, curves and intervals of M futures of each context (B, M, H, P)."""
        values = {"diversity": scores.spread(states)} if self.branches is None else self._values(states)
        found.scores["spread"] = float(values["diversity"].mean())
        found.curves["spread"] = values["diversity"].mean(0).tolist()
        if self.branches is None:
            return
        for name, value in values.items():
            best = self.best[name]
            if value.ndim == 1:
                found.scores[name] = scores.ratio(value, best)
                found.intervals[name] = intervals.ratio_interval(value, best, self.counts)
                continue
            found.curves[name] = [scores.ratio(*pair) for pair in zip(value.T, best.T, strict=True)]
            low, high = intervals.interval(intervals.resampled_ratio(value, best, self.counts))
            found.bands[name] = {"low": low.tolist(), "high": high.tolist()}
            above, below = scores.horizons(value), scores.horizons(best)
            found.contexts[name] = above
            found.scores[name] = {key: scores.ratio(above[key], below[key]) for key in above}
            found.intervals[name] = {
                key: intervals.ratio_interval(above[key], below[key], self.counts) for key in above
            }
        for kept in (found.scores, found.intervals):  # the mean by its plain name
            kept["diversity_at"] = kept["diversity"]
            kept["diversity"] = kept["diversity_at"]["mean"]
        found.scores["ranks"] = self.ranks.row(states)
