"""Wishes about futures: their values by hand."""

import numpy as np
import pytest
import torch

from ebm_traj.errors import InputError
from ebm_traj.planning.energies import avoid, goal, margin, reach, smooth, total
from ebm_traj.spec import StateSpec

QUATERNION = ("qw", "qx", "qy", "qz")
PLACE = ("object_x", "object_y", "object_z")
SPEC = StateSpec(
    names=(*PLACE, *QUATERNION, *(f"goal_{part}" for part in (*PLACE, *QUATERNION))),
    kinds=(*["position"] * 3, *["quaternion"] * 4, *["given"] * 7),
    indices=tuple(range(14)),
    observation_size=14,
)
JOINTS = StateSpec(
    names=("a", "b"), kinds=("angle", "angle"), indices=(0, 1), observation_size=2
).with_statistics([0, 0], [1, 2], [0.5, 0.5], low=[-1, -1], high=[1, 1])


def futures(angles: list[float], away: float = 0.0) -> torch.Tensor:
    """One future (1, H, 14) at these angles about z from its goal, `away` metres off."""
    states = np.zeros((1, len(angles), 14))
    states[0, :, 0] = away
    states[0, :, 3], states[0, :, 6] = np.cos(np.array(angles) / 2), np.sin(np.array(angles) / 2)
    states[0, :, 10] = 1.0
    return torch.tensor(states)


def test_goal_by_hand():
    path = futures([0.6, 0.4, 0.2], away=0.03)
    found = goal(SPEC, position=5.0, final=1.0)(path).item()
    assert found == pytest.approx((0.6 + 0.4 + 0.2) / 3 + 0.15 + 0.2 + 0.15, abs=1e-6)
    assert goal(SPEC, rotation=2.0, final=0.0)(path).item() == pytest.approx(0.8, abs=1e-6)


def test_a_quaternions_sign_does_not_matter():
    path = futures([0.6, 0.4])
    flipped = path.clone()
    flipped[..., 3:7] *= -1
    assert goal(SPEC)(flipped).item() == pytest.approx(goal(SPEC)(path).item())


def test_obstacle_target_limits_and_smoothness():
    states = torch.tensor([[[0.0, 0.0], [0.5, 0.0], [0.96, 0.0]]], dtype=torch.float64)
    assert avoid(JOINTS, ["a"], [0.5], 0.25)(states).item() == pytest.approx(1.0)
    assert reach(JOINTS, ["a", "b"], [0.0, 2.0], final=1.0)(states).item() == pytest.approx(
        np.mean([0.5, 0.625, (0.96**2 + 1) / 2]) + (0.96**2 + 1) / 2
    )
    # the ranges are 2, 5 % of them 0.1: at 0.96 the joint is 0.04 from its end
    assert margin(JOINTS)(states).item() == pytest.approx((0.6**2) / 2, abs=1e-6)
    assert smooth(JOINTS)(states).item() == pytest.approx((0.04 / 0.5) ** 2 / 2, abs=1e-6)
    assert smooth(JOINTS)(states[:, :2]).item() == 0


def test_what_cannot_be_asked_is_named():
    with pytest.raises(InputError, match="the state has 0 rotations and 0 goals for one"):
        goal(JOINTS)
    with pytest.raises(InputError, match=r"dimension 'c': not in the state; there are a, b"):
        avoid(JOINTS, ["c"], [0.0], 1.0)
    with pytest.raises(InputError, match=r"avoid: 2 numbers for 1 names"):
        avoid(JOINTS, ["a"], [0.0, 0.0], 1.0)
    with pytest.raises(InputError, match="the spec has no angles"):
        margin(StateSpec.from_size(2).with_statistics(*np.ones((3, 2)), low=-np.ones(2), high=np.ones(2)))
    with pytest.raises(InputError, match=r"energy 'flat': gave shape \(\); accepted is \(1,\)"):
        total({"flat": lambda states: states.sum()}, torch.zeros(1, 3, 2))
