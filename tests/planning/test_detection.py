"""AUROC, delays and false alarms in cases where they are known."""

import math

import numpy as np
import pytest

from ebm_traj.errors import InputError
from ebm_traj.planning.detection import auroc, auroc_interval, delays, highest_after, roc_curve
from ebm_traj.yardstick.intervals import draw_counts


def test_auroc_of_normals_is_that_of_theory_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    expected = 0.5 * (1 + math.erf(1.0 / 2))  # Phi(shift / sqrt(2)), shift 1
    held = 0
    for _ in range(40):
        faulty, free = rng.normal(1.0, 1.0, 100), rng.normal(0.0, 1.0, 100)
        value, low, high = auroc_interval(faulty, free, draw_counts(100, 0, 300))
        assert value == auroc(faulty, free) and low < value < high
        held += low <= expected <= high
    assert held >= 34


def test_auroc_of_what_is_apart_equal_or_the_other_way_round():
    assert auroc([2, 3], [0, 1]) == 1
    assert auroc([1, 1], [1, 1]) == 0.5
    assert auroc([0, 1], [2, 3]) == 0


def test_levels_that_are_no_number_are_refused_and_infinite_ones_are_not():
    assert auroc([np.inf, 5.0], [1.0, 2.0]) == 1
    for unknown in ([np.nan, 5.0], [np.nan, np.nan]):
        with pytest.raises(InputError, match="levels are NaN"):
            auroc(unknown, [1.0, 2.0])
        with pytest.raises(InputError, match="levels are NaN"):
            roc_curve([1.0, 2.0], unknown)
    with pytest.raises(InputError, match="8 of 8 levels are NaN"):
        delays(np.full((2, 4), np.nan), [1, 1], 1.0, 3, 3)


def test_the_area_under_the_roc_curve_is_auroc():
    rng = np.random.default_rng(1)
    faulty, free = rng.normal(0.7, 1, 300), rng.normal(0, 1, 200)
    false, true = roc_curve(faulty, free)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    area = np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2)
    assert area == pytest.approx(auroc(faulty, free))


def test_highest_after_looks_at_the_window_alone():
    levels = np.array([[9.0, 1, 2, 3, 9], [9, 9, 5, 4, 9]])
    np.testing.assert_array_equal(highest_after(levels, [1, 2], 2), [2, 5])
    with pytest.raises(InputError, match="3 steps from step 3 on; episodes have 5"):
        highest_after(levels, [1, 3], 3)


def test_delays_count_from_1_and_leave_out_early_alarms():
    levels = np.zeros((4, 10))
    levels[0, 3] = 2  # at the fault's first step
    levels[1, 7] = 2  # four steps later
    levels[2, 1] = 2  # before the fault
    found = delays(levels, [3, 3, 3, 3], 1.0, within=4, watched=6)
    assert found.early == 0.25
    assert found.detected == pytest.approx(1 / 3)  # of the three others
    assert found.in_time == pytest.approx(2 / 3)
    assert found.median == 5
