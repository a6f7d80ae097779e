"""Chains from one class under the energy of another, where both densities are known."""

import math

import pytest
import torch

from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.errors import InputError
from ebm_traj.image.morphing import MorphConfig, distance, morph

MEANS = torch.stack([torch.full((1, 3, 3), -0.6), torch.full((1, 3, 3), 0.6), torch.zeros(1, 3, 3)])


def starts(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return MEANS[0] + 0.2 * torch.randn(count, 1, 3, 3, generator=generator)


def test_chains_end_in_the_density_of_the_new_class_and_pass_between(class_pictures):
    model = class_pictures(MEANS)
    x = starts(600)
    found = morph(model, x, torch.ones(600).long(), MorphConfig(level=0.3, turns=12, steps=10), seed=1)
    assert torch.equal(found.frames[0], x) and found.frames.shape == (13, 600, 1, 3, 3)
    along = found.frames.mean((1, 2, 3, 4))
    assert float(along[-1]) == pytest.approx(0.6, abs=0.02)
    assert float((found.frames[-1] - MEANS[1]).std()) == pytest.approx(0.2, rel=0.06)
    # the flow from noise of s shrinks what lies off the mean to sqrt(v / (v + s^2)) of it
    kept = math.sqrt(0.2**2 / (0.2**2 + 0.3**2))
    expected = 0.6 - 1.2 * kept ** torch.arange(4.0)
    torch.testing.assert_close(along[:4], expected, atol=0.03, rtol=0)
    assert found.gradients == 12 * 10


def test_a_lower_level_keeps_more_of_the_start(class_pictures):
    model = class_pictures(MEANS)
    x = starts(400)
    to = torch.ones(400).long()

    def correlation(level):
        ends = morph(model, x, to, MorphConfig(level=level, turns=2, steps=8)).frames[-1]
        both = torch.stack([(x - x.mean()).flatten(), (ends - ends.mean()).flatten()])
        return float(torch.corrcoef(both)[0, 1])

    assert correlation(0.1) > correlation(0.3) + 0.2 > correlation(2.0) + 0.2
    assert abs(correlation(2.0)) < 0.05


def test_without_levels_langevin_walks_to_each_row_s_own_class(class_pictures):
    model = class_pictures(MEANS, has_levels=False)
    to = torch.tensor([1, 2, 0]).repeat(100)
    config = LangevinConfig(steps=120, step_size=0.01)
    found = morph(model, starts(300), to, config, frames=6)
    assert found.frames.shape[0] == 7 and found.gradients == 120
    means = torch.stack([found.frames[-1][to == k].mean() for k in range(3)])
    torch.testing.assert_close(means, torch.tensor([-0.6, 0.6, 0.0]), atol=0.05, rtol=0)


def test_the_same_seed_gives_the_same_chains(class_pictures):
    model = class_pictures(MEANS)
    one, again, other = (morph(model, starts(3), torch.ones(3).long(), seed=s).frames for s in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert distance(one[0], one[0] + 0.3) == pytest.approx(torch.full((3,), 0.3))


def test_what_cannot_be_morphed_is_refused(class_pictures, smooth_pictures):
    model = class_pictures(MEANS)
    with pytest.raises(InputError, match="unconditional"):
        morph(smooth_pictures(), torch.zeros(1, 1, 4, 4), torch.zeros(1).long())
    with pytest.raises(InputError, match="class of 0 to 2"):
        morph(model, starts(2), torch.tensor([1, 3]))
    with pytest.raises(InputError, match="MorphConfig"):
        morph(model, starts(1), torch.tensor([1]), LangevinConfig())
    with pytest.raises(InputError, match="settings of a chain"):
        morph(class_pictures(MEANS, has_levels=False), starts(1), torch.tensor([1]), MorphConfig())
    for wrong in ({"level": 0.0}, {"turns": 0}, {"steps": 1}):
        with pytest.raises(InputError, match="morph"):
            MorphConfig(**wrong)
