"""Noise from a table of few bits a number: its moments, its chances, and what it leaves of a chain's law."""

import math

import numpy as np
import pytest
import torch

from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.core.noise import BITS, QUICK_FROM, TABLE, exact_noise, quick_noise


def drawn(draws: int, size: int = QUICK_FROM, seed: int = 0) -> torch.Tensor:
    draw = quick_noise(torch.empty(size), torch.Generator().manual_seed(seed))
    return torch.stack([draw().clone() for _ in range(draws)])


def test_the_table_is_normal_up_to_its_fourth_moment():
    values = TABLE.astype(np.float64)
    assert len(values) == 1 << BITS and (np.diff(values) > 0).all()
    assert np.allclose(values, -values[::-1], atol=1e-6)
    assert np.mean(values**2) == pytest.approx(1, abs=1e-6)
    assert np.mean(values**4) == pytest.approx(3, abs=0.003)
    normal = torch.distributions.Normal(0.0, 1.0)
    shares = normal.cdf(torch.from_numpy(values)).numpy()  # each value lies in its own cell of equal chance
    assert (np.floor(shares * len(values)) == np.arange(len(values))).all()


def test_every_value_is_as_likely_and_draws_do_not_depend_on_each_other():
    found = drawn(128)
    counts = np.bincount(np.searchsorted(TABLE, found.numpy().ravel()), minlength=len(TABLE))
    mean = found.numel() / len(TABLE)
    chi = ((counts - mean) ** 2 / mean).sum()
    assert abs(chi - len(TABLE)) < 5 * math.sqrt(2 * len(TABLE))
    apart = 5 / math.sqrt(found.numel())
    for shifted in (found[:-1] * found[1:], found[:, :-1] * found[:, 1:], found[:, :-4] * found[:, 4:]):
        assert abs(float(shifted.mean())) < apart
        assert abs(float((shifted.square() - 1).mean())) < 3 * apart


def test_noise_is_of_the_generator_and_moves_it_on():
    assert torch.equal(drawn(3), drawn(3)) and not torch.equal(drawn(3), drawn(3, seed=1))
    generator = torch.Generator().manual_seed(0)
    first, second = (quick_noise(torch.empty(QUICK_FROM), generator)() for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(QUICK_FROM - 1,), (3, 5, 601), (2, QUICK_FROM + 3)])
def test_any_shape_is_filled_and_a_small_one_by_torch(shape):
    like = torch.empty(shape)
    found = quick_noise(like, torch.Generator().manual_seed(3))()
    assert found.shape == like.shape and float(found.std()) == pytest.approx(1, abs=0.05)
    usual = exact_noise(like, torch.Generator().manual_seed(3))()
    assert torch.equal(found, usual) == (like.numel() < QUICK_FROM)


def test_numbers_of_another_width_are_torchs():
    like = torch.empty(QUICK_FROM, dtype=torch.float64)
    found = quick_noise(like, torch.Generator().manual_seed(3))()
    assert torch.equal(found, exact_noise(like, torch.Generator().manual_seed(3))())


class Bowl:
    """x^2 / 2 by coordinate, with its gradient written out."""

    def __call__(self, x):
        return 0.5 * x.square().sum(1)

    def value_and_gradient(self, x, need_value=True):
        return self(x), x.clone()


@pytest.mark.parametrize("steps", [1, 40])
def test_a_chain_keeps_the_law_that_is_known_in_closed_form(steps):
    """Of x' = (1 - h) x + sqrt(2 h) n from 0: after k steps (1 - (1 - h)^2k) / (1 - h / 2)."""
    h, shape = 0.3, (4000, 64)
    config = LangevinConfig(steps=steps, step_size=h)
    x = langevin(Bowl(), torch.zeros(shape), config, generator=torch.Generator().manual_seed(0)).x.double()
    variance = (1 - (1 - h) ** (2 * steps)) / (1 - h / 2)
    count = x.numel()
    assert abs(float(x.mean())) < 5 * math.sqrt(variance / count)
    assert float(x.var()) == pytest.approx(variance, abs=5 * variance * math.sqrt(2 / count))
    assert float((x / math.sqrt(variance)).pow(4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / count))


def test_a_chain_with_a_correction_draws_torchs_numbers():
    config = LangevinConfig(steps=1, step_size=0.3, metropolis=True)
    start, ends = torch.zeros(200, 64), []
    for seed in (0, 0, 1):
        ends.append(langevin(Bowl(), start, config, generator=torch.Generator().manual_seed(seed)).x)
    noise = torch.empty(200, 64).normal_(generator=torch.Generator().manual_seed(0))
    moved = (ends[0] != start).any(1)
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
    assert torch.allclose(ends[0][moved], math.sqrt(0.6) * noise[moved])
