"""Learning on without forgetting: rows of earlier experience stand beside the new ones in every batch.

Earlier experience is a number of recorded episodes kept (experience replay, Rolnick et al. 2019,
1811.11682), or what the earlier model itself makes of their contexts (its "dreams": generative replay, Shin
et al. 2017, 1705.08690; Robins 1995), of which there is no end.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.datasets.episodes import window_starts
from ebm_traj.datasets.recording import Recording
from ebm_traj.errors import InputError
from ebm_traj.trajectory.model import TrajectoryModel
from ebm_traj.trajectory.windows import ResidentWindows, Windows, open_windows

ROWS = 256  # contexts continued at once; bounds memory


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """How earlier experience is mixed into a training."""

    share: float = 0.5
    """Share of the rows of every batch that comes from earlier data, in equal parts from each set."""
    episodes: int | None = None
    """Training episodes kept of each earlier data set, drawn by the run's seed; None keeps all."""
    dreams: bool = False
    """Rehearse what the model that training goes on from samples after the contexts of the kept episodes,
    instead of what was recorded there."""
    dream_steps: int = 16
    """Length of these continuations, in steps."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"rehearsal share: {self.share}; accepted is above 0 and below 1")
        if self.episodes is not None and self.episodes < 1:
            raise InputError(f"rehearsal episodes: {self.episodes}; accepted are 1 and more, or none for all")
        if self.dream_steps < 1:
            raise InputError(f"dream steps: {self.dream_steps}; accepted are 1 and more")


class MixedWindows:
    """Windows of new and of earlier data in every draw, in random order.

    Objectives that want fewer rows than others take the first ones: these have the same shares.
    """

    def __init__(self, new: Windows, earlier: Sequence[Windows], share: float) -> None:
        """Of each draw the earlier sources together give `share`, as equally as whole rows allow."""
        self.new, self.earlier, self.share = new, list(earlier), share

    def counts(self, count: int) -> list[int]:
        """Rows of a draw that come from the new data and from each earlier source."""
        old = round(count * self.share)
        sources = len(self.earlier)
        return [count - old, *(old * (i + 1) // sources - old * i // sources for i in range(sources))]

    def draw(self, count: int, iteration: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        sources = [self.new, *self.earlier]
        parts = [
            source.draw(rows, iteration, generator)
            for source, rows in zip(sources, self.counts(count), strict=True)
            if rows
        ]
        states, actions = (torch.cat(rows) for rows in zip(*parts, strict=True))
        order = torch.randperm(count, generator=generator, device=states.device)
        return states[order], actions[order]


def kept_episodes(
    recording: Recording, episodes: int | None, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """States (T + 1, D) and actions (T + 1, A) of training episodes drawn by `seed`, or of all.

    Raises InputError if there are fewer.
    """
    rows = recording.episode_rows("train")
    if episodes is not None:
        if episodes > len(rows):
            raise InputError(f"{recording.folder}: {len(rows)} training episodes; asked for {episodes}")
        rng = np.random.default_rng(derive_seed("kept", seed))
        rows = np.sort(rng.choice(rows, episodes, replace=False))
    found = []
    for row in rows:
        states, actions = recording.read_windows(recording.offsets[row : row + 1], recording.lengths[row] + 1)
        found.append((states[0], actions[0]))
    return found


def earlier_windows(
    recording: Recording,
    model: TrajectoryModel,
    rehearsal: Rehearsal,
    length: int,
    device: torch.device,
    seed: int,
) -> Windows:
    """Windows of `length` frames of an earlier data set: of the episodes kept, or dreamt from them.

    Raises InputError if no episode is long enough, or if the model cannot dream.
    """
    if rehearsal.episodes is None and not rehearsal.dreams:
        return open_windows(recording, "train", length, device, seed=seed)
    episodes = kept_episodes(recording, rehearsal.episodes, seed)
    if rehearsal.dreams:
        dreamt = dream(model, episodes, max(rehearsal.dream_steps, model.window_frames), seed)
        episodes = [(states, actions) for states, actions in zip(*dreamt, strict=True)]
    offsets = np.cumsum([0, *(len(states) for states, _ in episodes)])
    starts = window_starts(offsets, length)
    if not len(starts):
        raise InputError(f"{recording.folder}: no kept episode has a window of {length} frames")
    states = np.concatenate([part[0] for part in episodes]).astype(np.float32)
    actions = np.concatenate([part[1] for part in episodes]).astype(np.float32)
    return ResidentWindows(states, actions, starts, length, device)


@torch.no_grad()
def dream(
    model: TrajectoryModel, episodes: Sequence[tuple[np.ndarray, np.ndarray]], steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Continuations by `model` of every context of C frames in the episodes, C at a time.

    Returns states (N, C + steps, D) and actions (N, C + steps, A), the last action of each NaN. A model of
    states alone acts by its inverse dynamics; trained without them, its actions are NaN. Raises InputError
    for an action-conditional model, which does not say what would be done, and if no context fits.
    """
    if model.conditioning == "actions":
        raise InputError("dreams: the model is told its actions; accepted are joint ones and those of states")
    past = model.context_frames
    contexts, before = [], []
    for states, actions in episodes:
        for begin in range(0, len(states) - past, past):
            contexts.append(states[begin : begin + past])
            before.append(actions[begin : begin + past - 1])
    if not contexts:
        raise InputError(f"dreams: no kept episode has a context of {past} frames")
    generator = seeded_generator(model.device, "dreams", seed)
    found = []
    for begin in range(0, len(contexts), ROWS):
        context = torch.from_numpy(np.stack(contexts[begin : begin + ROWS])).to(model.device)
        history = torch.from_numpy(np.stack(before[begin : begin + ROWS])).to(model.device)
        if model.conditioning == "joint":
            futures, taken = model.sample_with_actions(
                context, steps, 1, past_actions=history if model.action_history else None, generator=generator
            )
            frames, taken = torch.cat([context, futures[:, 0]], 1), taken[:, 0]
        else:
            futures = model.sample(context, steps, 1, generator=generator)
            frames = torch.cat([context, futures[:, 0]], 1)
            taken = frames.new_full((len(frames), steps, model.action_size), torch.nan)
            if model.can_act:
                windows = frames.unfold(1, past, 1).transpose(2, 3)[:, :-1]  # (B, steps, C, D)
                acts = model.act(windows.flatten(0, 1), frames[:, past:].flatten(0, 1))
                taken = acts.view_as(taken)
        nothing = taken.new_full((len(taken), 1, taken.shape[2]), torch.nan)
        found.append((frames.cpu().numpy(), torch.cat([history, taken, nothing], 1).cpu().numpy()))
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


def require_same_spaces(like: TrajectoryModel | Recording, recordings: Sequence[Recording]) -> None:
    """InputError, naming what differs, unless recordings have the states and actions of `like`."""
    name = "the model to go on from" if isinstance(like, TrajectoryModel) else like.folder
    for recording in recordings:
        if difference := like.spec.difference(recording.spec):
            raise InputError(f"{recording.folder}: not the states of {name}: {difference}")
        if not (
            np.array_equal(recording.action_low, like.action_low)
            and np.array_equal(recording.action_high, like.action_high)
        ):
            raise InputError(f"{recording.folder}: its action box is not that of {name}")


def require_same_kind(model: TrajectoryModel, kind: str, conditioning: str) -> None:
    """InputError unless a model to go on from is of this kind and conditioning."""
    for name, found in (("kind", kind), ("conditioning", conditioning)):
        theirs = getattr(model, name)
        if found != theirs:
            raise InputError(f"{name}: {found}; the model to go on from has {theirs}, accepted is the same")


def take_weights(model: TrajectoryModel, trained: TrajectoryModel) -> None:
    """Give a model the weights of a trained one; InputError if a network differs."""
    try:
        model.load_state_dict(model.weights_of(trained))
    except RuntimeError as error:
        apart = _apart(model.network_config, trained.network_config) or _apart(model.config, trained.config)
        reason = apart or str(error).splitlines()[1].strip()[:200]
        raise InputError(
            f"model to go on from: its networks are others ({reason}); accepted are the same"
        ) from error


def _apart(ours: Any, theirs: Any) -> str:
    """Which plain settings of two configurations of one class differ."""
    return "; ".join(
        f"{field.name.replace('_', ' ')} {getattr(theirs, field.name)}, here {getattr(ours, field.name)}"
        for field in dataclasses.fields(ours)
        if getattr(ours, field.name) != getattr(theirs, field.name)
        and not dataclasses.is_dataclass(getattr(ours, field.name))
    )
