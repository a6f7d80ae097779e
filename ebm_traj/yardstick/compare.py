"""Compare models on the test episodes of a recording: every row from the same contexts, N and seed.

Two sets of contexts. *Episodes*: the first frames of N test episodes, one rollout each, for the Frechet
distances and motion. *Contexts*: fewer of them, M futures each, for spread and, where the simulator could
be re-run from them (`Branches`), for diversity and energy score.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ebm_traj.datasets.branches import Branches, require_branches_of
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import Split, split_code
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.yardstick import scores
from ebm_traj.yardstick.baselines import Persistence
from ebm_traj.yardstick.intervals import RESAMPLES
from ebm_traj.yardstick.judge import EpisodeSet, Judge
from ebm_traj.yardstick.ranks import RESOLUTION
from ebm_traj.yardstick.table import Comparison, Drawn
from ebm_traj.yardstick.validity import Validity, state_measure

Array = NDArray[np.float32]

LONGEST_DEFAULT = 96
FEWEST_ROLLOUTS = 2  # a covariance needs two
RESERVED = ("simulator", "persistence", "shuffled truth")
FUTURES_AT_ONCE = 2048  # sampled together; bounds memory
FAN_FUTURES = 64
SPEED_STEPS, SPEED_BATCH, PLAN_FUTURES = 16, 256, 64


def _starts(recording: Recording, split: Split, frames: int) -> NDArray[np.int64]:
    """First rows of the episodes of a split that have at least so many frames; none if the split is empty."""
    inside = (recording.split == split_code(split)) & (recording.lengths + 1 >= frames)
    return recording.offsets[:-1][inside]


def _windows(recording: Recording, starts: NDArray[np.int64], frames: int) -> tuple[Array, Array]:
    """States (n, frames, D) and actions (n, frames, A) of the recording; InputError if not finite."""
    states, actions = recording.read_windows(starts, frames)
    if not np.isfinite(states).all() or not np.isfinite(actions[:, :-1]).all():
        raise InputError(f"{recording.folder}: states or actions are not finite (NaN or infinity)")
    return states, actions


def context_frames(models: Mapping[str, Any]) -> int:
    """Frames that the longest context needs; models with a shorter one see the last of them."""
    return max(model.context_frames for model in models.values())


def check_models(recording: Recording, models: Mapping[str, Any]) -> None:
    """Raise InputError unless every model fits the recording and has a name of its own."""
    if not models:
        raise InputError("no run to compare: give at least one trained model")
    for name, model in models.items():
        if name in RESERVED:
            raise InputError(f"run '{name}': this name is a row of the table; rename the run's folder")
        difference = model.spec.difference(recording.spec)
        if difference is not None:
            raise InputError(f"run '{name}' does not fit the data set: model and data differ, {difference}")


def plan_horizon(
    recording: Recording, models: Mapping[str, Any], horizon: int | None, split: Split = "test"
) -> int:
    """Steps to predict: `horizon`, or as many as the shortest episode of the split allows, at most 96.

    Raises InputError if the split has no episodes or none is long enough.
    """
    frames = recording.lengths[recording.episode_rows(split)] + 1
    context = context_frames(models)
    longest = int(frames.max()) - context
    asked = 1 if horizon is None else horizon
    if not 1 <= asked <= longest:
        raise InputError(
            f"{recording.folder}: horizon {asked}; its {split} episodes have up to {frames.max()} frames "
            f"with {context} of context, so that 1 to {longest} are accepted"
        )
    return max(1, min(LONGEST_DEFAULT, int(frames.min()) - context)) if horizon is None else horizon


def episode_set(
    recording: Recording,
    context: int,
    horizon: int,
    rollouts: int | None = None,
    split: Split = "test",
) -> EpisodeSet:
    """Contexts, futures and the floor's other truth, with N as large as the episodes of the split allow.

    The other truth is taken from episodes of the split beyond the first N, then from those of the other
    splits (never test, unless it is the one scored): it only meets truth, never a model, so that nothing
    leaks, and splitting the episodes in halves would double the bias of every distance. Raises InputError
    when N would be below 2.
    """
    frames = context + horizon
    test = _starts(recording, split, frames)
    others: tuple[Split, ...] = ("validation", "train")
    spare = np.concatenate([_starts(recording, other, frames) for other in others if other != split])
    n = min(len(test), (len(test) + len(spare)) // 2, rollouts or len(test))
    if n < FEWEST_ROLLOUTS:
        raise InputError(
            f"{recording.folder}: {len(test)} {split} and {len(spare)} other episodes of {frames} frames or "
            f"more give {n} rollouts; needed are {FEWEST_ROLLOUTS} or more, and as many other episodes"
        )
    states, actions = _windows(recording, test[:n], frames)
    other, _ = _windows(recording, np.concatenate([test[n:], spare])[:n], frames)
    return EpisodeSet(
        contexts=states[:, :context],
        past=actions[:, : context - 1],
        truth=states[:, context:],
        actions=actions[:, context - 1 : context - 1 + horizon],
        other=other[:, context - 1 :],
    )


def past_actions(recording: Recording, branches: Branches, context: int) -> Array:
    """The actions (B, C - 1, A) between the last C frames of each context of the branches."""
    if context == 1:
        return np.zeros((len(branches.t), 0, recording.action_size), dtype=np.float32)
    starts = recording.offsets[recording.rows_of(branches.episode)] + branches.t - (context - 1)
    return recording.read_windows(starts, context)[1][:, : context - 1]


class Sampler:
    """Draws futures of one model in batches of bounded size, from one seeded generator."""

    def __init__(
        self,
        model: Any,
        seed: int,
        device: torch.device,
        advance: Callable[[int], Any],
        told_actions: bool = False,
    ) -> None:
        """`told_actions`: a model that draws actions of its own is told those taken instead, if it can be."""
        self.model, self.device, self.advance = model, device, advance
        self.told_actions = model.conditioning == "actions" or (
            told_actions and getattr(model, "follows_actions", False)
        )
        self.generator = torch.Generator(device=device).manual_seed(seed)

    @torch.no_grad()
    def __call__(self, contexts: Array, past: Array, horizon: int, futures: int, actions: Array) -> Array:
        """Contexts (B, C, D), the actions (B, C - 1, A) between their frames, and those (B, 1 | M, H, A) to
        come -> (B, M, H, D)."""
        step = max(1, FUTURES_AT_ONCE // futures)
        pieces = []
        for first in range(0, len(contexts), step):
            part = slice(first, first + step)
            pieces.append(self._sample(contexts[part], past[part], horizon, futures, actions[part]))
            self.advance(len(pieces[-1]) * futures)
        return np.concatenate(pieces)

    def _sample(self, contexts: Array, past: Array, horizon: int, futures: int, actions: Array) -> Array:
        def tensor(array: Array) -> torch.Tensor:
            return torch.as_tensor(array, dtype=torch.float32).to(self.device)

        told: dict[str, Any] = {"actions": None}
        if self.told_actions:
            told["actions"] = tensor(actions)
        if getattr(self.model, "action_history", 0):
            told["past_actions"] = tensor(past)
        context = tensor(contexts[:, -self.model.context_frames :])
        drawn = self.model.sample(context, horizon, futures, generator=self.generator, **told)
        return drawn.float().cpu().numpy()

    def seconds(
        self, contexts: Array, past: Array, horizon: int, futures: int, actions: Array, repeats: int
    ) -> float:
        """Median seconds of a call, results on the host, after one warm call."""
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            self._sample(contexts, past, horizon, futures, actions)
            times.append(time.perf_counter() - start)
        return float(np.median(times[1:]))


def compare(
    recording: Recording,
    models: Mapping[str, Any],
    *,
    branches: Branches | None = None,
    horizon: int | None = None,
    rollouts: int | None = None,
    contexts: int = 32,
    futures: int = 16,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
    split: Split = "test",
    told_actions: bool = False,
) -> Comparison:
    """Score models (by row name) on the test episodes (or those of another `split`) of a recording.

    `horizon` steps are predicted from the last context frame on (default: `plan_horizon`), for at most
    `rollouts` episodes (default: all). Spread, and with `branches` diversity and energy score, are taken over
    `futures` of each of `contexts` contexts; branches, if given, decide both numbers. Everything is scored in
    the scales of the first model, its training split's. Action-conditional models are given the actions
    that were taken: one future for each branch under the branch's own actions. With `told_actions` so are
    joint models that can follow actions; the others of them are refused.

    On branches every score has a 95 % interval by bootstrap over contexts, and each model's energy score its
    difference to the first energy model's, see `intervals`. Environments of this package also say which
    sampled states could not be, see `validity`; without them or MuJoCo that column is left out.

    Raises InputError, before any sampling, for models that do not fit the recording, for too few or too
    short test episodes, and for action-conditional models with branches that hold no actions.
    """
    check_models(recording, models)
    if told_actions:
        _require_followers(models)
    steps = plan_horizon(recording, models, horizon, split)
    device = torch.device(device)
    spec = next(iter(models.values())).spec
    episodes = episode_set(recording, context_frames(models), steps, rollouts, split)
    if branches is None:
        count = min(contexts, len(episodes.truth))
        present, true_futures = episodes.contexts[:count], episodes.truth[:count, None]
        past = episodes.past[:count]
        taken = simulator_actions = episodes.actions[:count, None]
    else:
        _check_branches(recording, branches, context_frames(models), split)
        present, true_futures = branches.contexts, branches.futures
        past = past_actions(recording, branches, context_frames(models))
        futures = branches.futures.shape[1] // 2
        taken = branches.actions
        simulator_actions = taken[:, 1::2]

    measure = state_measure(recording.env_id, recording.env_kwargs, recording.spec)
    validity = None if isinstance(measure, str) else Validity(measure, episodes.truth, seed)
    judge = Judge(spec, episodes, branches, validity=validity, seed=seed)
    pick = _lively(spec, present, true_futures)
    future_steps = int(true_futures.shape[2])
    rows = [] if branches is None else [judge.simulator_row()]
    named = {**models, "persistence": Persistence(spec)}
    total = len(named) * (len(episodes.truth) + len(present) * futures + FAN_FUTURES)
    with tqdm(total=total, unit="futures", disable=not progress) as bar:
        for name, model in named.items():
            bar.set_description(name)
            sampler = Sampler(model, seed, device, bar.update, told_actions)
            single = sampler(episodes.contexts, episodes.past, steps, 1, episodes.actions[:, None])[:, 0]
            many = sampler(present, past, future_steps, futures, simulator_actions)
            one = slice(pick, pick + 1)
            fan = sampler(present[one], past[one], future_steps, FAN_FUTURES, taken[one, :1])[0]
            row = judge.row(
                name,
                model.kind,
                single,
                many,
                card=dict(model.card),
                conditioning="actions" if sampler.told_actions else model.conditioning,
                fan=fan,
            )
            if model.kind != "persistence":
                row.scores |= _speed(sampler, episodes)
            rows.append(row)
    rows.append(judge.shuffled_row(len(present), futures))

    lively = "its branches spread" if branches is not None else "its recorded future moves"
    speed_steps = min(SPEED_STEPS, steps)
    comparison = Comparison(
        rows=rows,
        floor=judge.floor(),
        n=len(episodes.truth),
        steps=steps,
        settings={
            "seed": seed,
            "contexts": len(present),
            "futures": futures,
            "branch_steps": future_steps if branches is not None else None,
            "context_frames": context_frames(models),
            "intervals": None if branches is None else f"95 %, {RESAMPLES} bootstrap resamples of contexts",
            "rank_resolution": None if branches is None else f"{RESOLUTION} of a one-step change",
            "validity": f"none ({measure})" if validity is None else f"{len(validity.pick)} frames of a row",
            "scales": f"training split of '{next(iter(models))}'",
            "speed_steps": speed_steps,
            "speed": f"{SPEED_BATCH} contexts x 1 future of {speed_steps} steps in one call, on {device}",
            "plan": f"1 context x {PLAN_FUTURES} futures of {speed_steps} steps, on {device}",
            "threads": torch.get_num_threads(),
        },
        spec=spec,
        env_id=recording.env_id,
        env_kwargs=recording.env_kwargs,
        drawn=Drawn(
            context=present[pick],
            truth=true_futures[pick, 0],
            branches=None if branches is None else true_futures[pick],
            reason=f"{lively} more than those of nine in ten {split} contexts",
        ),
    )
    judge.add_differences(comparison.rows, comparison.energy_row)
    return comparison


def _require_followers(models: Mapping[str, Any]) -> None:
    """InputError unless each joint model can be told its actions."""
    for name, model in models.items():
        if model.conditioning == "joint" and not model.follows_actions:
            raise InputError(
                f"told actions: '{name}' is a joint {model.kind} model and draws its own; accepted are joint "
                "energy models on a mixture of Gaussians, and models of other conditionings"
            )


def _check_branches(recording: Recording, branches: Branches, frames: int, split: Split) -> None:
    require_branches_of(branches, recording, split)
    contexts, futures = branches.futures.shape[:2]
    if contexts < 2 or futures < 4 or branches.contexts.shape[1] < frames:
        raise InputError(
            f"branches: {futures} futures of {contexts} contexts of {branches.contexts.shape[1]} frames; "
            f"needed are at least 4 futures of 2 contexts of {frames} frames"
        )


def _lively(spec: StateSpec, present: Array, futures: Array) -> int:
    """The context to draw: more happens in it than in 9 of 10, by truth alone."""
    states = scores.normalise(futures, spec)
    if states.shape[1] > 1:
        liveliness = scores.spread(states).mean(1)
    else:
        liveliness = np.abs(states[:, 0] - scores.normalise(present[:, -1:], spec)).mean((1, 2))
    return int(np.argsort(liveliness)[int(0.9 * (len(liveliness) - 1))])


def _speed(sampler: Sampler, episodes: EpisodeSet) -> dict[str, float]:
    rows = np.arange(SPEED_BATCH) % len(episodes.contexts)
    steps = min(SPEED_STEPS, episodes.actions.shape[1])  # a short recording has no actions for more
    actions = episodes.actions[rows, None, :steps]
    past = episodes.past[rows]
    batch = sampler.seconds(episodes.contexts[rows], past, steps, 1, actions, repeats=3)
    plan = sampler.seconds(episodes.contexts[:1], past[:1], steps, PLAN_FUTURES, actions[:1], repeats=5)
    return {"futures_per_s": SPEED_BATCH / batch, "plan_ms": 1e3 * plan}
