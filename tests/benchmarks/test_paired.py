"""Paired timing: turns, ratios and what is left out."""

import numpy as np
import pytest
import torch

from ebm_traj.benchmarks.paired import (
    Builder,
    Contender,
    find_device,
    gather,
    markdown,
    measure,
    rows_of,
    using_threads,
)
from ebm_traj.errors import InputError


def test_ratios_are_taken_within_each_round():
    # the second round was disturbed, for both alike
    times = {"ours": np.array([[1.0], [10.0], [1.2]]), "theirs": np.array([[2.0], [20.0], [3.0]])}
    ours, theirs = rows_of(times)
    assert ours.ratio == ours.ratio_low == ours.ratio_high == 1
    assert theirs.ratio == pytest.approx(2) and theirs.ratio_high == pytest.approx(2.25)
    assert theirs.seconds == 3.0 and theirs.seconds_low <= theirs.seconds <= theirs.seconds_high


def test_a_round_counts_with_the_median_of_its_samples():
    (row,) = rows_of({"ours": np.array([[1.0, 2.0, 90.0], [1.0, 4.0, 90.0]])})
    assert row.seconds == 3.0


def test_everything_takes_its_turn_in_every_round():
    calls: list[str] = []
    contenders = [Contender(name, lambda name=name: calls.append(name)) for name in "abc"]
    times = measure(contenders, rounds=8, samples=2, block_seconds=0)
    assert all(values.shape == (8, 2) and (values > 0).all() for values in times.values())
    turns = calls[3:]  # after one call of each to see how long it takes
    rounds = [turns[i : i + 9] for i in range(0, len(turns), 9)]
    assert len(rounds) == 8
    for one in rounds:  # one call to warm up, then two samples
        assert sorted(one) == sorted("abc" * 3)
        assert all(len(set(one[i : i + 3])) == 1 for i in (0, 3, 6))
    assert len({tuple(one) for one in rounds}) > 1, "the order differs between rounds"


def test_what_is_missing_is_left_out_with_a_line_but_a_failure_of_ours_is_raised():
    def missing():
        raise ModuleNotFoundError("No module named 'peer'", name="peer")

    def fails_when_called():
        raise RuntimeError("no compiler\nand much more")

    builders = [
        Builder("ours", lambda: Contender("ours", lambda: None)),
        Builder("peer", missing, optional=True),
        Builder("compiled", lambda: Contender("compiled", fails_when_called), optional=True),
    ]
    found, absent = gather(builders)
    assert [one.name for one in found] == ["ours"]
    text = markdown(rows_of({"ours": np.ones((1, 1))}), absent)
    assert "- without peer: peer is not installed" in text
    assert "- without compiled: RuntimeError: no compiler" in text and "much more" not in text
    with pytest.raises(RuntimeError, match="no compiler"):
        gather([Builder("ours", lambda: Contender("ours", fails_when_called))])


def test_the_number_of_threads_is_set_back():
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(InputError, match="--threads 0"), using_threads(0):
        pass


@pytest.mark.parametrize("name", ["nowhere", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match=f"--device {name}"):
        find_device(name)
