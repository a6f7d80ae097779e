"""`Monitor`: is what happens still what the model knows? Surprise per step, accumulated to an alarm.

Each score of a step (`surprise.Score`) is put in standard deviations of fault-free steps, s_t, and runs into
a sum that forgets what is usual (CUSUM, Page 1954): S_t = max(0, S_{t-1} + s_t - d), d a quantile of s on
fault-free steps, so that light and heavy tails are treated alike. Each sum is in units
of how far it gets in a fault-free episode, and so is the largest of each family of scores: however many
members it has, it has one voice. The monitor's level is the mean over families. The alarm is at
the level which a stated share of fault-free episodes exceeds.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ebm_traj.core.checkpoint import load_json, save_json
from ebm_traj.errors import InputError
from ebm_traj.planning.surprise import EnergyScore, ErrorScore, Score, mixture_known
from ebm_traj.trajectory.ebm import TrajectoryEBM
from ebm_traj.trajectory.files import weights_digest
from ebm_traj.trajectory.model import TrajectoryModel

Array = NDArray[np.float64]

FORMAT = "ebm_traj.monitor"
USUAL = 0.9  # quantile of fault-free steps above which surprise accumulates
UNCALIBRATED_DRIFT = 3.0  # standard deviations, before that quantile is known
LARGEST = 20.0  # standard deviations; a step counts no more than this
SMALLEST_REACH, SMALLEST_FAMILY_REACH = 1.0, 0.1  # of scores that hardly ever accumulate
ROWS = 512  # steps scored at once; bounds memory


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a monitor knows of fault-free episodes, for each of its K scores."""

    mean: Array
    """(K,) of a score over steps."""
    spread: Array
    """(K,) standard deviation over steps."""
    reach: Array
    """(K,) mean over episodes of the largest sum."""
    drift: Array
    """(K,) standard deviations in a step that are not worth remembering."""
    family_reach: Array
    """(F,) mean over episodes of the largest of a family's sums, in units of `reach`."""
    threshold: float
    """Level of the alarm."""
    false_alarm_rate: float
    """Share of fault-free episodes that may exceed it."""
    episodes: int
    """Episodes that threshold was set on."""

    @classmethod
    def none(cls, scores: int, families: int) -> "Calibration":
        """Scores as they are, and no alarm."""
        ones = np.ones(scores)
        return cls(0 * ones, ones, ones, UNCALIBRATED_DRIFT * ones, np.ones(families), math.inf, 0.0, 0)


def alarm_rank(episodes: int, false_alarm_rate: float) -> int:
    """Which of so many ordered levels is the threshold, counted from 1."""
    return math.ceil((episodes + 1) * (1 - false_alarm_rate))


def require_calibration(episodes: int, false_alarm_rate: float) -> None:
    """Raise InputError for a rate outside (0, 1) or too few episodes for it."""
    if not 0 < false_alarm_rate < 1:
        raise InputError(f"false alarm rate: {false_alarm_rate}; accepted are numbers between 0 and 1")
    rest = episodes - episodes // 2
    if episodes < 2 or alarm_rank(rest, false_alarm_rate) > rest:
        needed = 2
        while alarm_rank(needed - needed // 2, false_alarm_rate) > needed - needed // 2:
            needed += 1
        raise InputError(
            f"calibration: {episodes} episodes; a false alarm rate of {false_alarm_rate:g} needs {needed}"
        )


class Monitor:
    """Watches an environment through a model; feed it each step by `update`.

    By default by energies (`EnergyScore`), or, of a model without a density, by prediction errors.
    Before `calibrate` a surprise is the score as it is, and there is no alarm.
    """

    def __init__(
        self, model: TrajectoryModel, score: Score | None = None, *, usual: float | None = None, seed: int = 0
    ) -> None:
        """`usual` is the share of fault-free steps that accumulate to nothing; by default 0.9."""
        if usual is not None and not 0 <= usual < 1:
            raise InputError(f"usual share of steps: {usual}; accepted are numbers from 0 up and below 1")
        self.model = model
        self.score = score or default_score(model, seed)
        self.usual = USUAL if usual is None else usual
        names, families = self.score.names, self.score.families
        self._families = [[names.index(name) for name in family] for family in families]
        self.calibration = Calibration.none(len(names), len(families))
        self.reset()

    def reset(self) -> None:
        """Forget what has accumulated, for a new episode."""
        self.sums: Array = np.zeros(len(self.score.names))

    @property
    def level(self) -> float:
        """What has accumulated in all families, in units of a fault-free episode's largest."""
        return float(self._level(self.sums))

    @property
    def alarm(self) -> bool:
        """Whether the level is above the threshold."""
        return self.level > self.calibration.threshold

    def update(
        self,
        context: ArrayLike | Tensor,
        next_frame: ArrayLike | Tensor,
        action: ArrayLike | Tensor | None = None,
        past_actions: ArrayLike | Tensor | None = None,
    ) -> float:
        """Take in one step and return its surprise, that of the whole state, in standard deviations.

        `next_frame` (D,) followed the context (C, D) after `action` (A,); `past_actions` (K, A) led to the
        context's last frame. A leading dimension of one is accepted. A step with a NaN or infinity, and one
        so far off that the model's answer is none, is infinitely surprising, and counts as the most that a
        step may. Raises InputError for other shapes.
        """
        step = [
            self._one(value, dims)
            for value, dims in ((context, 2), (next_frame, 1), (action, 1), (past_actions, 2))
        ]
        standard = self.standard(self._scored(*step)[0])
        self.sums = self._add(self.sums, standard)
        return float(standard[0])

    def _one(self, value: ArrayLike | Tensor | None, dims: int) -> Tensor | None:
        if value is None:
            return None
        tensor = torch.as_tensor(value if isinstance(value, Tensor) else np.asarray(value))
        tensor = tensor.to(self.model.device, torch.float32)
        if tensor.dim() == dims:
            tensor = tensor[None]
        if tensor.dim() != dims + 1 or len(tensor) != 1:
            raise InputError(
                f"monitor: shape {tuple(tensor.shape)}; accepted is one step of {dims} dimensions"
            )
        return tensor

    def _scored(self, *step: Tensor | None) -> Array:
        """Scores (B, K) of steps; infinite where a step or what the model makes of it is no number."""
        found = self.score(*step)  # type: ignore[arg-type]
        known = torch.stack([part.flatten(1).isfinite().all(1) for part in step if part is not None]).all(0)
        return found.masked_fill(found.isnan() | ~known[:, None], math.inf).cpu().double().numpy()

    # --- whole episodes -----------------------------------------------------------------------------------

    def scores(
        self,
        states: ArrayLike,
        actions: ArrayLike,
        begin: ArrayLike | None = None,
        end: ArrayLike | None = None,
    ) -> Array:
        """Scores (N, T, K) of episodes of states (N, T + 1, D) and actions (N, T, A).

        [n, t] is of the step from frame t to t + 1; NaN while a context is not full, and outside of steps
        `begin` (N,) to `end` (N,), not included.
        """
        frames, done = self._check(states, actions)
        episodes, steps = done.shape[:2]
        first = np.broadcast_to(0 if begin is None else np.asarray(begin), episodes)
        last = np.broadcast_to(steps if end is None else np.asarray(end), episodes)
        least = self._least
        found = np.full((episodes, steps, len(self.score.names)), np.nan)
        time = np.arange(steps)
        chosen = (time >= np.maximum(first, least)[:, None]) & (time < last[:, None])
        rows = np.argwhere(chosen)
        for i in range(0, len(rows), ROWS):
            n, t = rows[i : i + ROWS].T
            found[n, t] = self._scored(*self._steps(frames, done, n, t))
        return found

    @property
    def _least(self) -> int:
        """Steps of an episode before the model knows what it looks at."""
        return max(self.model.context_frames - 1, self.model.action_history)

    def _steps(
        self, frames: Tensor, done: Tensor, n: NDArray[np.intp], t: NDArray[np.intp]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        back, history = self.model.context_frames, self.model.action_history
        context = frames[n[:, None], t[:, None] + np.arange(1 - back, 1)]
        past = done[n[:, None], t[:, None] + np.arange(-history, 0)] if history else None
        return context, frames[n, t + 1], done[n, t], past

    def surprise(self, states: ArrayLike, actions: ArrayLike) -> Array:
        """Surprise (N, T) of each step of episodes, as `update` gives it; NaN before a context is full."""
        return self.standard(self.scores(states, actions))[..., 0]

    def levels(self, states: ArrayLike, actions: ArrayLike) -> Array:
        """The accumulated level (N, T) after each step of whole episodes."""
        return self.accumulate(self.scores(states, actions))

    def accumulate(self, scores: Array) -> Array:
        """Levels (N, T) from scores (N, T, K); a NaN adds nothing."""
        return self._level(self._sums(scores))

    def _level(self, sums: Array) -> Array:
        """(...) of sums (..., K)."""
        return (self._largest(sums) / self.calibration.family_reach).mean(-1)

    def _largest(self, sums: Array) -> Array:
        """(..., F) of each family's sums (..., K)."""
        return np.stack([sums[..., members].max(-1) for members in self._families], axis=-1)

    def _sums(self, scores: Array) -> Array:
        standard = self.standard(scores)
        sums, found = np.zeros(scores.shape[::2]), np.empty(scores.shape)
        for t in range(scores.shape[1]):
            found[:, t] = sums = self._add(sums, standard[:, t])
        return found

    def standard(self, scores: Array) -> Array:
        """Scores (..., K) in standard deviations of fault-free steps."""
        return (scores - self.calibration.mean) / self.calibration.spread

    def _add(self, sums: Array, standard: Array) -> Array:
        """Sums after one more step, in units of their reach."""
        known = self.calibration
        step = np.nan_to_num(np.minimum(standard, LARGEST) - known.drift)
        return np.maximum(0, sums + step / known.reach)

    def calibrate(self, states: ArrayLike, actions: ArrayLike, false_alarm_rate: float = 0.05) -> "Monitor":
        """Learn from fault-free episodes what is usual, and set the alarm; returns the monitor.

        The first half of the episodes sets the scales. The threshold is the k-th smallest of the largest
        levels in the n others, k = ceil((n + 1) (1 - rate)): a further fault-free episode of as many steps
        exceeds it with at most this probability (split conformal prediction, Vovk et al. 2005).

        Raises InputError for a rate outside (0, 1), too few episodes for it, too short ones, or a NaN.
        """
        require_calibration(len(states), false_alarm_rate)  # type: ignore[arg-type]
        frames, done = self._check(states, actions)
        if done.shape[1] <= self._least:
            raise InputError(f"calibration: episodes of {done.shape[1]} steps; needed are {self._least + 1}")
        whole = frames.flatten(1).isfinite().all(1) & done.flatten(1).isfinite().all(1)
        if not whole.all():
            broken = int(whole.logical_not().nonzero()[0])
            raise InputError(f"calibration: episode {broken} holds NaN or infinite values")
        half = len(done) // 2
        rest = len(done) - half
        rank = alarm_rank(rest, false_alarm_rate)
        if isinstance(self.score, ErrorScore):
            self._fit_errors(self.score, frames[:half], done[:half])
        scores = self.scores(frames, done)
        mean = np.nanmean(scores[:half], axis=(0, 1))
        spread = np.maximum(np.nanstd(scores[:half], axis=(0, 1)), 1e-9)
        drift = np.nanquantile((scores[:half] - mean) / spread, self.usual, axis=(0, 1))
        known = Calibration.none(len(mean), len(self._families))
        self.calibration = dataclasses.replace(known, mean=mean, spread=spread, drift=drift)
        usual = self._sums(scores[:half])
        reach = np.maximum(usual.max(1).mean(0), SMALLEST_REACH)
        family_reach = self._largest(usual / reach).max(1).mean(0)
        self.calibration = dataclasses.replace(
            self.calibration,
            reach=reach,
            family_reach=np.maximum(family_reach, SMALLEST_FAMILY_REACH),
            false_alarm_rate=false_alarm_rate,
            episodes=rest,
        )
        highest = np.sort(self.accumulate(scores[half:]).max(1))
        self.calibration = dataclasses.replace(self.calibration, threshold=float(highest[rank - 1]))
        self.reset()
        return self

    def save(self, path: str | Path) -> None:
        """Write what `calibrate` found to a JSON file; InputError if nothing was calibrated."""
        if not self.calibration.episodes:
            raise InputError(f"{path}: this monitor is not calibrated, there is nothing to save")
        scale = self.score.scale.tolist() if isinstance(self.score, ErrorScore) else None
        content = {
            "format": FORMAT,
            "score": type(self.score).__name__,
            "names": list(self.score.names),
            "weights": weights_digest(self.model),
            "draws": getattr(self.score, "draws", None),
            "usual": self.usual,
            "scale": scale,
            **{
                name: np.asarray(value).tolist()
                for name, value in dataclasses.asdict(self.calibration).items()
            },
        }
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_json(Path(path), content)

    @classmethod
    def load(
        cls, path: str | Path, model: TrajectoryModel, score: Score | None = None, *, seed: int = 0
    ) -> "Monitor":
        """The monitor saved in `path`, of the same model and the same kind of score.

        Raises InputError if the file is no calibration, or of other weights or another score.
        """
        saved = load_json(Path(path))
        if not isinstance(saved, dict) or saved.get("format") != FORMAT:
            raise InputError(f"{path}: not a calibration of a monitor (format '{FORMAT}')")
        if "family_reach" not in saved:  # before names are compared, which were others, too
            raise InputError(f"{path}: a calibration of an earlier version; calibrate anew")
        monitor = cls(model, score, usual=saved["usual"], seed=seed)
        ours = {
            "score": type(monitor.score).__name__,
            "names": list(monitor.score.names),
            "weights": weights_digest(model),
            "draws": getattr(monitor.score, "draws", None),
        }
        for name, value in ours.items():
            if saved.get(name, value) != value:  # earlier files do not tell the draws
                raise InputError(f"{path}: its {name} are {saved[name]}; this monitor has {value}")
        if isinstance(monitor.score, ErrorScore):
            monitor.score.scale = torch.tensor(saved["scale"], device=model.device)
        mean, spread, reach, drift, family_reach = (
            np.asarray(saved[name], float) for name in ("mean", "spread", "reach", "drift", "family_reach")
        )
        alarm = (saved["threshold"], saved["false_alarm_rate"], saved["episodes"])
        monitor.calibration = Calibration(mean, spread, reach, drift, family_reach, *alarm)
        monitor.reset()
        return monitor

    def _fit_errors(self, score: ErrorScore, frames: Tensor, done: Tensor) -> None:
        steps = done.shape[1]
        rows = np.array([(n, t) for n in range(len(done)) for t in range(self._least, steps)])
        parts = [
            score.errors(*self._steps(frames, done, *rows[i : i + ROWS].T)) for i in range(0, len(rows), ROWS)
        ]
        score.fit(torch.cat(parts))

    def _check(self, states: ArrayLike, actions: ArrayLike) -> tuple[Tensor, Tensor]:
        model = self.model
        frames = torch.as_tensor(states if isinstance(states, Tensor) else np.asarray(states))
        done = torch.as_tensor(actions if isinstance(actions, Tensor) else np.asarray(actions))
        fits = (
            frames.dim() == done.dim() == 3
            and len(frames) == len(done)
            and frames.shape[1] == done.shape[1] + 1
            and (frames.shape[2], done.shape[2]) == (model.spec.size, model.action_size)
        )
        if not fits:
            raise InputError(
                f"episodes: states {tuple(frames.shape)}, actions {tuple(done.shape)}; accepted are "
                f"(N, T + 1, {model.spec.size}) and (N, T, {model.action_size})"
            )
        return frames.to(model.device, torch.float32), done.to(model.device, torch.float32)


def default_score(model: TrajectoryModel, seed: int = 0) -> Score:
    """Energies where the model has a density of the next state, else errors of its mean prediction."""
    staged = model.conditioning != "joint" or mixture_known(model)
    if mixture_known(model) or (isinstance(model, TrajectoryEBM) and staged):
        return EnergyScore(model, seed=seed)
    return ErrorScore(model, seed=seed)


def surprise(model: TrajectoryModel, states: ArrayLike, actions: ArrayLike, *, seed: int = 0) -> Array:
    """Surprise (N, T) of each step of recorded episodes: states (N, T + 1, D), actions (N, T, A).

    In standard deviations of the model's own energies under the same context and action, see `EnergyScore`.
    """
    return Monitor(model, seed=seed).surprise(states, actions)
