"""Gradients said are gradients taken, and quality rises with them where the density is known."""

import numpy as np
import pytest
import torch

from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.hmc import HMCConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.errors import InputError
from ebm_traj.image.classifier import load_classifier
from ebm_traj.image.model import load_image_model
from ebm_traj.image.sampling_report import mixing_table, picture, table
from ebm_traj.image.sampling_study import chain_settings, chains_down_levels, curve, flow_settings, mixing
from ebm_traj.image.scores import Reference


class Settings:
    annealing = AnnealConfig(steps=8, sigma_max=5.0, sigma_min=0.02, solver="multistep")
    generation = LangevinConfig(steps=8, step_size=0.05)


def counted(model):
    taken, plain = [0], model.energy_at

    def energy_at(sigma=None, labels=None):
        energy = plain(sigma, labels)

        def counting(x):
            taken[0] += 1
            return energy(x)

        return counting

    model.energy_at, model.config = energy_at, Settings()
    return model, taken


def drawn(setting, model, count, seed=0):
    return setting.draw(model, count, None, generator=torch.Generator().manual_seed(seed))


def test_every_setting_takes_the_gradients_it_says_and_not_more_than_asked(smooth_pictures):
    for has_levels in (True, False):
        model, taken = counted(smooth_pictures(has_levels=has_levels))
        settings = chain_settings(model, (60, 130), levels=5, leapfrog=3)
        if has_levels:
            settings += flow_settings(model, ("euler", "heun", "multistep"), (1, 3, 8, 9))
        assert len(settings) == (6 + 3 * 3 if has_levels else 6)
        for setting in settings:
            taken[0] = 0
            chain = drawn(setting, model, 2)
            assert taken[0] == setting.gradients == chain.gradients, setting.line
            assert setting.gradients <= 131
    flows = [s.gradients for s in flow_settings(model_with_levels(smooth_pictures), ("heun",), (8, 9))]
    assert flows == [7, 9]


def model_with_levels(smooth_pictures):
    return counted(smooth_pictures())[0]


def test_more_gradients_come_nearer_to_the_density(smooth_pictures):
    model = model_with_levels(smooth_pictures)

    def off(setting):
        flat = drawn(setting, model, 1500).x.flatten(1).double()
        return float((torch.cov(flat.T) - model.covariance).norm() / model.covariance.norm())

    for solver in ("euler", "heun", "multistep"):
        few, many = (off(s) for s in flow_settings(model, (solver,), (5, 41)))
        assert many < 0.12 and few > 2 * many, solver
    found = {s.line: off(s) for s in chain_settings(model, (400,), levels=10, leapfrog=4)}
    assert found["HMC, adapted"] < 0.25 and found["Langevin, adapted"] < 1.0


def test_a_chain_that_adapts_goes_on_with_its_step_at_the_next_level(smooth_pictures):
    model = model_with_levels(smooth_pictures)
    config = HMCConfig(steps=6, step_size=1e-3, leapfrog=2, adapt=4)
    chain = chains_down_levels(model, 50, None, config, 6, torch.Generator().manual_seed(0))
    assert chain.gradients == 6 * config.gradients + 1
    still = HMCConfig(steps=6, step_size=1e-3, leapfrog=2)
    frozen = chains_down_levels(model, 50, None, still, 6, torch.Generator().manual_seed(0))
    # a step of a thousandth never leaves the noise it began with, an adapted one does
    assert chain.x.std() < 0.6 * frozen.x.std()


def test_jumps_are_measured_at_each_level_and_hmc_jumps_farther(smooth_pictures):
    model = smooth_pictures((1, 6, 6), length=3.0)
    root = torch.linalg.cholesky(model.covariance)
    flat = model.flat_mean + torch.randn(64, 36, generator=torch.Generator().manual_seed(0)).double() @ root.T
    rows = mixing(model, flat.view(64, 1, 6, 6), None, (0.1, 0.5), gradients=60, leapfrog=6)
    assert [(row["line"][:3], row["level"]) for row in rows] == [
        ("Lan", 0.1), ("HMC", 0.1), ("Lan", 0.5), ("HMC", 0.5)
    ]  # fmt: skip
    assert all(0.3 < row["acceptance"] <= 1 and row["jump"] > 0 for row in rows)
    assert rows[1]["jump"] > rows[0]["jump"]
    assert mixing_table(rows).count("\n") == 5


@pytest.fixture(scope="module")
def points(tiny_models):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (60, 8, 8, 1), dtype=np.uint8)
    y = np.arange(60) % 10
    real = PictureSet("noise", "test", x, y, tuple("0123456789"), np.arange(60))
    reference = Reference.of(real, load_classifier(tiny_models["classifier"]), 30)
    model = load_image_model(tiny_models["conditional"])
    settings = flow_settings(model, ("euler", "multistep"), (3, 5))
    settings += chain_settings(model, (40,), levels=2, leapfrog=3)
    return curve(model, settings, reference, seed=1), reference.floor(), (model, settings, reference)


def test_a_curve_has_a_point_for_each_setting_and_is_drawn(points):
    found, floor, (model, settings, reference) = points
    assert [(p.line, p.gradients) for p in found] == [(s.line, s.gradients) for s in settings]
    assert all(np.isfinite(p.figures["classifier_fd"]) for p in found)
    assert picture(found, floor)[:4] == b"\x89PNG"
    text = table(found, floor)
    assert text.count("\n") == len(found) + 2 and "floor" in text
    again = curve(model, settings[:1], reference, seed=1)
    assert again[0].figures == found[0].figures


def test_what_a_model_cannot_do_is_refused(smooth_pictures):
    with pytest.raises(InputError, match="no noise levels"):
        flow_settings(counted(smooth_pictures(has_levels=False))[0], ("heun",), (4,))
    with pytest.raises(InputError, match="line of their own"):
        flow_settings(model_with_levels(smooth_pictures), ("langevin",), (4,))
    with pytest.raises(InputError, match="none"):
        chains_down_levels(smooth_pictures(has_levels=False), 2, None, LangevinConfig(), 3)
