"""The way down from a plan: the best of it is kept, in the box, by the deadline."""

import pytest
import torch

from ebm_traj.errors import InputError
from ebm_traj.planning.descent import DescentConfig, descend


def test_it_finds_the_lowest_point():
    """Of (p - .3)^2 in one number and (p - 2)^2 in another, which the box ends at 1."""
    aim = torch.tensor([0.3, 2.0])
    found = descend(
        torch.zeros(3, 4, 2), lambda plan: (plan - aim).square().sum((1, 2)), DescentConfig(200, rate=0.05)
    )
    assert torch.allclose(found, aim.clamp(max=1.0).expand(3, 4, 2), atol=1e-2)


def test_each_row_goes_its_own_way():
    start = torch.tensor([0.0, 0.5])[:, None, None].expand(2, 3, 1)
    judge = lambda plan: (plan - 0.5).square().sum((1, 2))  # noqa: E731
    together = descend(start, judge, DescentConfig(5))
    alone = torch.cat([descend(row[None], judge, DescentConfig(5)) for row in start])
    assert torch.equal(together, alone) and torch.equal(together[1], start[1])


def test_it_keeps_the_best_of_its_way():
    """A rate far too large leads away from the start, which is the best there is."""
    start = torch.full((2, 3, 1), 0.5)
    seen = []

    def judge(plan):
        seen.append(plan.detach().clone())
        return (plan - 0.5).abs().sum((1, 2)) + 1e-3 * plan.sum((1, 2))

    found = descend(start, judge, DescentConfig(4, rate=0.9))
    assert len(seen) == 5 and torch.equal(found, start) and not torch.equal(seen[-1], start)
    assert all(float(plan.abs().max()) <= 1 for plan in seen)


def test_it_ends_by_the_deadline_and_survives_what_is_no_number():
    calls = []

    def judge(plan):
        calls.append(1)
        return (plan * float("nan")).sum((1, 2)) if len(calls) > 1 else plan.square().sum((1, 2))

    start = torch.full((1, 2, 1), 0.5)
    assert torch.equal(descend(start, judge, DescentConfig(3)), start)
    calls.clear()
    assert torch.equal(descend(start, judge, DescentConfig(3), deadline=0.0), start)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "bad", [{"steps": -1}, {"rate": 0.0}, {"rate": float("nan")}, {"energy_weight": -1.0}]
)
def test_settings_of_a_descent_are_checked(bad):
    with pytest.raises(InputError, match="descent"):
        DescentConfig(**bad)
