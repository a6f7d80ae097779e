"""A class asked for more firmly, where the densities are Gaussian."""

import pytest
import torch

from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.errors import InputError
from ebm_traj.image.guidance import Guided, guided
from ebm_traj.image.model import load_image_model
from ebm_traj.image.sampling import draw, sample

MEANS = torch.stack([torch.full((1, 2, 2), -0.3), torch.full((1, 2, 2), 0.3)])


def test_the_energy_is_that_of_the_pictures_and_a_power_of_the_class(class_pictures):
    model = class_pictures(MEANS)
    x = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    level, labels = torch.full((6,), 0.4), torch.tensor([0, 1] * 3)
    plain, of_class = model.energy_at(level)(x), model.energy_at(level, labels)(x)
    found = Guided(model, 3.0).energy_at(level, labels)(x)
    torch.testing.assert_close(found, plain + 3 * (of_class - plain))
    torch.testing.assert_close(Guided(model, 3.0).energy_at(level)(x), plain)
    torch.testing.assert_close(Guided(model, 1.0).energy_at(level, labels)(x), of_class)
    assert guided(model, 1) is model


def test_more_weight_puts_fewer_pictures_on_the_wrong_side(class_pictures):
    # p(x) p(y | x)^w of two wide normals that overlap: the share on the other side falls with w
    start, labels = torch.zeros(2000, 1, 2, 2), torch.ones(2000).long()
    chain = LangevinConfig(steps=150, step_size=0.05)

    def wrong(weight):
        model = guided(class_pictures(MEANS, 0.6, has_levels=False), weight)
        generator = torch.Generator().manual_seed(0)
        return float(
            (draw(model, 2000, labels, sampler=chain, start=start, generator=generator).x.sum((1, 2, 3)) < 0)
            .double()
            .mean()
        )

    alone, firm = wrong(1.0), wrong(3.0)
    # the sum of four pixels is N(1.2, 4 * 0.36): below 0 with probability Phi(-1)
    assert alone == pytest.approx(0.1587, abs=0.03) and firm < 0.4 * alone


def test_it_is_sampled_like_a_model_and_refuses_what_has_no_classes(tiny_models, smooth_pictures):
    model = load_image_model(tiny_models["conditional"])
    labels = torch.tensor([1, 2])
    one = sample(Guided(model, 2.0), 2, labels, seed=1).x
    assert one.isfinite().all() and not torch.equal(one, sample(model, 2, labels, seed=1).x)
    torch.testing.assert_close(
        sample(Guided(model, 1.0), 2, labels, seed=1).x, sample(model, 2, labels, seed=1).x
    )
    with pytest.raises(InputError, match="unconditional"):
        Guided(smooth_pictures(), 2.0)
    with pytest.raises(InputError, match="above 0"):
        Guided(model, 0.0)
