"""Truth in scored form: `Judge` scores the rollouts and futures of every row alike."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.branches import Branches
from ebm_traj.spec import StateSpec
from ebm_traj.yardstick import scores
from ebm_traj.yardstick.baselines import shuffle_branches
from ebm_traj.yardstick.table import Row

Array = NDArray[np.float32]

SCORES = (
    *("fd", "fd_displacement", "energy_score", "diversity", "spread", "motion"),
    *("futures_per_s", "plan_ms"),
)


@dataclasses.dataclass
class EpisodeSet:
    """The true frames of N test episodes, and of N other episodes for the floor."""

    contexts: Array
    """(N, C, D)."""
    truth: Array
    """(N, H, D)."""
    actions: Array
    """(N, H, A) the action that leads to each frame of truth."""
    other: Array
    """(N, 1 + H, D) last context frame and future of other episodes."""


class Judge:
    """Holds truth z-scored: N rollouts and, with branches, futures of each of B contexts.

    Every other branch is truth, the rest is the simulator's own row.
    """

    def __init__(self, spec: StateSpec, episodes: EpisodeSet, branches: Branches | None) -> None:
        self.spec = spec
        self.start = scores.normalise(episodes.contexts[:, -1:], spec)  # (N, 1, P)
        self.truth = scores.normalise(episodes.truth, spec)  # (N, H, P)
        self.path = np.concatenate([self.start, self.truth], 1)
        self.other = scores.normalise(episodes.other, spec)  # (N, 1 + H, P)
        self.scales = scores.displacement_scales(self.path, spec, scores.DISPLACEMENT_STEPS)
        self.branches: NDArray[np.float64] | None = None
        if branches is not None:
            self.branches = scores.normalise(branches.futures, spec)
            self.reference = self.branches[:, ::2]
            self.simulator = self.branches[:, 1::2]
            self.best_score = scores.energy_score(self.simulator, self.reference)  # (B, H)
            self.true_spread = scores.spread(self.reference)

    def floor(self) -> dict[str, Any]:
        """Truth against the N other true rollouts."""
        found, curves = self._rollouts(self.other)
        return {name: found[name] for name in ("fd", "fd_displacement", "motion")} | {"curve": curves["fd"]}

    def row(self, name: str, kind: str, rollouts: Array, futures: Array, **fields: Any) -> Row:
        """The row of one rollout (N, H, D) for each episode and M futures (B, M, H, D) of each context."""
        path = np.concatenate([self.start, scores.normalise(rollouts, self.spec)], 1)
        return self._row(name, kind, self._rollouts(path), scores.normalise(futures, self.spec), **fields)

    def simulator_row(self) -> Row:
        """What a perfect model scores: branches against other branches; it has no FD, see the floor."""
        return self._row("simulator", "simulator", ({}, {}), self.simulator)

    def shuffled_row(self, contexts: int, futures: int) -> Row:
        """True futures of other presents: right in every marginal, no prediction at all."""
        path = np.concatenate([self.start, self.other[:, 1:]], 1)
        if self.branches is not None:
            states = shuffle_branches(self.simulator)
        else:
            pick = np.arange(contexts * futures).reshape(contexts, futures) % len(self.other)
            states = self.other[pick, 1:]
        return self._row("shuffled truth", "shuffled", self._rollouts(path), states)

    def _row(
        self,
        name: str,
        kind: str,
        rollouts: tuple[dict[str, Any], dict[str, list[float]]],
        futures: NDArray[np.float64],
        **fields: Any,
    ) -> Row:
        found, curves = rollouts
        more, more_curves = self._futures(futures)
        return Row(name, kind, dict.fromkeys(SCORES) | found | more, curves | more_curves, **fields)

    def _rollouts(self, path: NDArray[np.float64]) -> tuple[dict[str, Any], dict[str, list[float]]]:
        """Scores and curves of N paths (N, 1 + H, P) that begin with the last context frame."""
        curve = scores.frechet_curve(path[:, 1:], self.truth)
        displacement = scores.displacement_frechet(path, self.path, self.scales)
        found = {
            "fd": float(curve.mean()),
            "fd_displacement": {str(k): value for k, value in displacement.items()},
            "motion": scores.motion_ratio(path, self.path, self.spec),
            "finite": float(np.isfinite(path).all((1, 2)).mean()),
        }
        return found, {"fd": curve.tolist()}

    def _futures(self, states: NDArray[np.float64]) -> tuple[dict[str, Any], dict[str, list[float]]]:
        """Scores and curves of M futures of each context (B, M, H, P)."""
        spread = scores.spread(states)  # (B, H)
        found: dict[str, Any] = {"spread": float(spread.mean())}
        curves = {"spread": spread.mean(0).tolist()}
        if self.branches is not None:
            score = scores.energy_score(states, self.reference)
            for name, value, truth in (
                ("energy_score", score, self.best_score),
                ("diversity", spread, self.true_spread),
            ):
                curves[name] = [scores.ratio(*pair) for pair in zip(value.T, truth.T, strict=True)]
            steps = [k for k in scores.ENERGY_SCORE_STEPS if k <= score.shape[1]]
            found["energy_score"] = {str(k): curves["energy_score"][k - 1] for k in steps}
            found["energy_score"]["mean"] = scores.ratio(score, self.best_score)
            found["diversity"] = scores.ratio(spread, self.true_spread)
            found["diversity_at"] = {str(k): curves["diversity"][k - 1] for k in steps}
        return found, curves
