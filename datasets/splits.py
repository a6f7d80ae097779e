"""Seeds and splits of episodes: pure functions of the run's seed and the episode's number."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ebm_traj.errors import InputError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SPLIT_STREAM = 1  # keeps the draws of the split apart from the seeds of the episodes
BLOCK = 20  # of so many episodes in a row, 5 % are exactly one


def episode_seed(run_seed: int, episode: int) -> int:
    """Seed of an episode, 63 bits, so that seeds do not collide in a large run (32 bits would)."""
    return int(np.random.SeedSequence([run_seed, episode]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def split_codes(
    run_seed: int, episodes: Sequence[int] | range, test_fraction: float, validation_fraction: float
) -> NDArray[np.uint8]:
    """Split of each episode as an index into `SPLITS`.

    Stratified: in each block of 20 episodes the places are dealt evenly over [0, 1), so that small data
    sets too have a test split of nearly the fraction asked for.
    """
    if not (test_fraction >= 0 and validation_fraction >= 0 and test_fraction + validation_fraction < 1):
        raise InputError(
            f"test fraction {test_fraction:g} and validation fraction {validation_fraction:g}: "
            "neither may be negative and their sum must be below 1"
        )
    numbers = np.asarray(episodes, dtype=np.int64)
    places = np.empty(len(numbers))
    for block in np.unique(numbers // BLOCK):
        rng = np.random.default_rng(np.random.SeedSequence([run_seed, int(block), SPLIT_STREAM]))
        dealt = (rng.permutation(BLOCK) + rng.random(BLOCK)) / BLOCK
        inside = numbers // BLOCK == block
        places[inside] = dealt[numbers[inside] % BLOCK]
    codes = np.zeros(len(numbers), dtype=np.uint8)
    codes[places < test_fraction + validation_fraction] = SPLITS.index("validation")
    codes[places < test_fraction] = SPLITS.index("test")
    return codes


def split_code(split: str) -> int:
    """Index into `SPLITS`; InputError for an unknown name."""
    if split not in SPLITS:
        raise InputError(f"split '{split}' is unknown; known: {', '.join(SPLITS)}")
    return SPLITS.index(split)
