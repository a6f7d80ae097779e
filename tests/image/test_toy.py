"""Toy densities: normalised, sampled exactly, with the gradients that chains need."""

import math

import pytest
import torch

from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.image.playground import Grid, of_x
from ebm_traj.image.toy import TOYS, Checkerboard, Gaussians, ring, toy


@pytest.mark.parametrize("name", TOYS)
def test_densities_integrate_to_one(name):
    density = toy(name)
    assert Grid(density.extent + 2, 200).log_z(of_x(density)) == pytest.approx(0, abs=5e-4)


@pytest.mark.parametrize("name", TOYS)
def test_samples_are_of_the_density(name):
    density = toy(name)
    x = density.sample(5_000, seeded_generator("cpu", name))
    grid = Grid(density.extent + 1, 150)
    p = grid.log_density(of_x(density)).exp() * grid.area
    # mass of quadrants and of a disc, and the mean of log p, which is minus the entropy
    for inside in (lambda x: (x[:, 0] > 0) & (x[:, 1] > 0.3), lambda x: x.square().sum(1) < 4):
        share, mass = float(inside(x).double().mean()), float(p[inside(grid.points)].sum())
        assert share == pytest.approx(mass, abs=4 * math.sqrt(0.25 / len(x)))
    entropy = -float((p * grid.log_density(of_x(density))).nansum())
    with torch.no_grad():
        assert -float(density.log_prob(x).double().mean()) == pytest.approx(entropy, abs=0.06)


@pytest.mark.parametrize("name", TOYS)
def test_gradients_agree_with_differences(name):
    density = toy(name).double()
    x = density.sample(6, seeded_generator("cpu", 0)).double().requires_grad_(True)
    assert torch.autograd.gradcheck(density.log_prob, (x,), eps=1e-6, atol=1e-5)


def test_the_checkerboard_is_finite_far_from_its_squares():
    board = Checkerboard().double()
    far = torch.tensor([[8.0, 8.0], [-9.0, 0.5]], dtype=torch.float64)
    assert torch.isfinite(board.log_prob(far)).all()
    assert (board.log_prob(far) < -100).all()


def test_the_ring_is_a_mixture_written_out():
    density = ring(modes=2, radius=1.0, scale=0.5).double()
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    each = [math.exp(-((0.3 - m) ** 2 + 0.2**2) / (2 * 0.25)) / (2 * math.pi * 0.25) for m in (1.0, -1.0)]
    assert float(density(x)) == pytest.approx(-math.log(sum(each) / 2), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy("banana"), "'banana'; accepted are ring, checkerboard"),
        (lambda: Gaussians(torch.zeros(0, 2), 1.0), "K of 1 and more"),
        (lambda: Gaussians(torch.zeros(1, 2), 0.0), "scale: 0.0"),
        (lambda: ring(0), "modes: 0"),
        (lambda: Checkerboard(blur=-1), "blur: -1"),
    ],
)
def test_bad_input_is_answered(make, message):
    with pytest.raises(InputError, match=message):
        make()
