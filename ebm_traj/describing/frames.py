"""A few episodes, and rendered frames of them."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.recording import Recording
from ebm_traj.describing.outcomes import HandJudge, net_rotation
from ebm_traj.envs.render import RenderError, state_renderer
from ebm_traj.yardstick.filmstrip import crop, without_goal

Image = NDArray[np.uint8]

EPISODES, COLUMNS = 6, 7
WIDE, HIGH = 520, 400  # pixels of a picture, with room for a goal beside the hand; cropped to what is in it
SEED = 0


@dataclasses.dataclass
class Strip:
    """One episode in pictures."""

    label: str
    note: str
    """What the episode came to."""
    steps: list[int]
    """Step of each column; those beyond the end of the episode have no picture."""
    pictures: list[Image]
    """(h, w, 3), all of one size over all strips."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One recorded episode."""

    row: int
    """Its row in the recording."""
    states: NDArray[np.float32]
    """(T + 1, D)."""


def draw_examples(recording: Recording) -> list[Example]:
    """A few episodes, drawn with a fixed seed, in order."""
    rng = np.random.default_rng(SEED)
    rows = rng.choice(recording.num_episodes, min(EPISODES, recording.num_episodes), replace=False)
    frames = recording.lengths + 1
    examples = [
        Example(int(row), recording.read_windows([recording.offsets[row]], int(frames[row]))[0][0])
        for row in sorted(rows)
    ]
    recording.close()
    return examples


def make_strips(recording: Recording, examples: list[Example]) -> list[Strip] | str:
    """Pictures of episodes, or a line that says why there are none."""
    judge = HandJudge.of(recording)
    try:
        draw = state_renderer(recording.env_id, recording.env_kwargs, WIDE, HIGH)
    except RenderError as error:
        return f"no frames: {error}"
    if draw is None or judge is None:
        return f"no frames: '{recording.env_id}' cannot be drawn from its recorded states"
    # a goal beside the hand is welcome; one in the hand would hide the object
    aside = judge.task.target_position == "ignore"
    longest = max(len(example.states) for example in examples) - 1
    steps = sorted({round(step) for step in np.linspace(0, longest, COLUMNS)})
    strips = []
    for example in examples:
        states = example.states
        shown = [states[step] for step in steps if step < len(states)]
        pictures = [draw(state if aside else without_goal(state, recording.spec)) for state in shown]
        label = f"episode {recording.episode[example.row]:,}"
        strips.append(Strip(label, _outcome(recording, judge, example), steps, pictures))
    for strip, pictures in zip(strips, crop([strip.pictures for strip in strips]), strict=True):
        strip.pictures = pictures
    return strips


def _outcome(recording: Recording, judge: HandJudge, example: Example) -> str:
    """What an episode came to, in words."""
    states, bounds = example.states, np.array([0, len(example.states)])
    turned = np.degrees(net_rotation(recording.spec, states, bounds)[0, 0])
    words = [f"turned {turned:.0f}°"]
    if recording.success[example.row]:
        words.append("success at the end")
    elif judge.reached(states, bounds)[0]:
        words.append("success on the way")
    words += ["dropped"] if judge.dropped(states, bounds)[0] else []
    words += ["near-still"] if judge.still(states, bounds)[0] else []
    return ", ".join(words)
