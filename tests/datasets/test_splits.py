import numpy as np
import pytest

from ebm_traj.datasets.splits import episode_seed, split_codes
from ebm_traj.errors import InputError


def test_the_split_of_an_episode_does_not_depend_on_the_others():
    together = split_codes(3, range(100), 0.1, 0.05)
    alone = np.concatenate([split_codes(3, [episode], 0.1, 0.05) for episode in range(100)])
    np.testing.assert_array_equal(together, alone)
    assert not np.array_equal(together, split_codes(4, range(100), 0.1, 0.05))


@pytest.mark.parametrize("episodes", [20, 400])
def test_small_data_sets_have_exactly_the_fractions(episodes: int):
    assert np.bincount(split_codes(0, range(episodes), 0.1, 0.05)).tolist() == [
        episodes * 17 // 20,
        episodes // 20,
        episodes // 10,
    ]


def test_fractions_finer_than_a_block_hold_on_average():
    codes = split_codes(0, range(20_000), 0.013, 0.0)
    assert np.mean(codes == 2) == pytest.approx(0.013, abs=0.003)
    assert not np.any(codes == 1)


@pytest.mark.parametrize(("test", "validation"), [(-0.1, 0), (0.6, 0.4), (0, -1), (float("nan"), 0)])
def test_impossible_fractions_are_refused(test: float, validation: float):
    with pytest.raises(InputError, match="fraction"):
        split_codes(0, range(3), test, validation)


def test_seeds_differ_between_episodes_and_runs_and_fit_63_bits():
    seeds = {episode_seed(run, episode) for run in range(3) for episode in range(1000)}
    assert len(seeds) == 3000
    assert min(seeds) >= 0 and max(seeds) < 2**63 and max(seeds) > 2**60
