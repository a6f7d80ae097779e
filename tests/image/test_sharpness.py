"""Sharpened samples: the settings do what they say, and are drawn and refused as they should be."""

import dataclasses
import importlib
import json
import math

import numpy as np
import pytest
import torch

from ebm_traj.cli import BAD_INPUT, run
from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.errors import InputError
from ebm_traj.image.model import load_image_model
from ebm_traj.image.presets import PRESETS
from ebm_traj.image.sampling import own_sampler, sharpened
from ebm_traj.image.sampling_study import Point, flow_settings
from ebm_traj.image.sharpness_study import picture, sharpness_settings, table


class Settings:
    annealing = AnnealConfig(steps=40, sigma_max=5.0, sigma_min=0.01, rho=4.0, solver="multistep")


def drawn(setting, model, count=3000):
    x = setting.draw(model, count, None, generator=torch.Generator().manual_seed(0)).x
    return torch.cov(x.flatten(1).double().T)


def test_spread_of_gaussian_pictures_falls_by_the_closed_form(smooth_pictures):
    model = smooth_pictures()
    model.config = Settings()
    plain, all_levels, low = sharpness_settings(model, (1.0, 1.2), (math.inf, 1.0))
    assert [s.line for s in (plain, all_levels, low)] == ["1", "1.2", "1.2 below 1"]
    assert all(s.gradients == Settings.annealing.gradients for s in (plain, all_levels, low))
    axes, values = model.vectors, model.values
    own = axes.T @ drawn(plain, model) @ axes
    for setting, highest in ((all_levels, 5.0), (low, 1.0)):
        along = axes.T @ drawn(setting, model) @ axes
        # d (d / sqrt(d^2 + s^2))^(k - 1), of a variance
        expected = (values / (values + highest**2)) ** 0.2
        found = along.diagonal() / own.diagonal()
        assert (found / expected - 1).abs().max() < 0.1, setting.line


def test_classes_asked_for_are_sharpened_too(class_pictures):
    means = torch.stack([torch.full((1, 2, 2), value) for value in (-0.8, 0.8)])
    model = class_pictures(means, spread=0.3)
    model.config = Settings()
    labels = torch.tensor([0, 1] * 1000)
    spread = []
    for factor in (1.0, 1.5):
        (setting,) = sharpness_settings(model, (factor,), (1.0,))
        x = setting.draw(model, 2000, labels, generator=torch.Generator().manual_seed(0)).x
        off = x - means[labels]
        assert off.mean().abs() < 0.02
        spread.append(float(off.std()))
    assert spread[1] / spread[0] == pytest.approx((0.09 / 1.09) ** 0.25, rel=0.1)


def test_a_sampler_is_sharpened_and_one_without_levels_is_refused(smooth_pictures):
    own = AnnealConfig(sharpness=1.3, sharp_below=2.0)
    assert sharpened(own, None, None) is own
    assert sharpened(own, 1.0, None) == dataclasses.replace(own, sharpness=1.0)
    assert sharpened(own, None, 4.0) == dataclasses.replace(own, sharp_below=4.0)
    with pytest.raises(InputError, match="no noise levels"):
        sharpened(LangevinConfig(), 1.2, None)
    with pytest.raises(InputError, match="no noise levels"):
        sharpness_settings(smooth_pictures(has_levels=False), (1.2,), (1.0,))
    with pytest.raises(InputError, match="sharpness: -1"):
        sharpened(own, -1.0, None)


def test_solvers_are_compared_on_the_density_as_it_is(smooth_pictures):
    model = smooth_pictures()
    model.config = Settings()
    plain = flow_settings(model, ("euler",), (9,))[0]
    model.config = type("Sharp", (), {"annealing": dataclasses.replace(Settings.annealing, sharpness=2.0)})
    assert torch.equal(drawn(plain, model, 50), drawn(flow_settings(model, ("euler",), (9,))[0], model, 50))


def test_page_names_the_factors_and_the_truth():
    figures = {"confident": 0.5, "classes_lowest": 0.01, "classes_highest": 0.2, "precision": 0.7}
    figures |= {"recall": 0.6, "coverage": 0.5, "classifier_fd": 12.0}
    points = [Point("1", 4, 0.1, figures), Point("1.2 below 6", 4, 0.1, {})]
    lines = table(points, figures).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["1", "1.2 below 6", "floor"]
    assert "50.0 %" in lines[2] and "20.0 %" in lines[4]
    assert picture(points, figures)[:4] == b"\x89PNG"


def call(command, *argv):
    module = importlib.import_module(f"ebm_traj.image.commands.{command}")
    run(module.main, module.Args, [str(arg) for arg in argv])


def test_steps_has_a_table_of_factors_alone(tiny_models, tmp_path):
    call(
        *("steps", "--model", tiny_models["unconditional"], "--classifier", tiny_models["classifier"]),
        *("--out", tmp_path / "out", "--count", 14, "--gradients", "--chain-gradients", "--mixing-levels"),
        *("--sharpness", 1, 1.5, "--sharp-below", 1, 2),
    )
    found = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert [point["line"] for point in found["sharpness"]] == ["1", "1.5 below 1", "1.5 below 2"]
    assert found["points"] == [] and not (tmp_path / "out" / "steps.png").exists()
    assert (tmp_path / "out" / "sharpness.png").read_bytes()[:4] == b"\x89PNG"


def test_generate_and_score_take_a_factor_and_leave_classes_out(tiny_models, tmp_path, capsys):
    conditional = tiny_models["conditional"]
    options = {"own": [], "one": ["--sharpness", 1], "two": ["--sharpness", 2], "high": ["--sharp-below", 1]}
    pictures = {}
    for name, more in options.items():
        call("generate", "--model", conditional, "--out", tmp_path / name, "--count", 4, *more)
        pictures[name] = np.load(tmp_path / name / "samples.npz")["x"]
    assert (pictures["own"] == pictures["one"]).all() and (pictures["own"] == pictures["high"]).all()
    assert (pictures["own"] != pictures["two"]).any()
    call(
        *("score", "--model", conditional, "--classifier", tiny_models["classifier"], "--count", 20),
        *("--out", tmp_path / "scored", "--unconditional", "--sharpness", 2),
    )
    samples = np.load(tmp_path / "scored" / "samples.npz")
    assert "y" not in samples
    bare = load_image_model(conditional).unconditional()
    assert own_sampler(bare).sharpness == 1.0
    with pytest.raises(SystemExit) as stopped:
        call("generate", "--model", tiny_models["chain"], "--out", tmp_path / "x", "--sharpness", 2)
    assert stopped.value.code == BAD_INPUT and "no noise levels" in capsys.readouterr().err


def test_the_shipped_energy_is_sampled_as_its_preset_says():
    annealing = load_image_model("mnist").config.annealing
    assert annealing == PRESETS["mnist"].config.annealing and annealing.sharpness > 1
    assert PRESETS["digits"].config.annealing.sharpness == 1
