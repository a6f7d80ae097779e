"""The attack study on tiny networks: what stands beside what, curves that fall, baselines of one network."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from ebm_traj.core.denoising import LEVEL
from ebm_traj.datasets.pictures import open_pictures
from ebm_traj.errors import InputError
from ebm_traj.image.attacks import PGDConfig
from ebm_traj.image.model import ImageConfig, ImageModel
from ebm_traj.image.networks import NetworkConfig
from ebm_traj.image.refinement import RefinementConfig
from ebm_traj.image.robust_training import BaselineConfig, train_baseline
from ebm_traj.image.robustness import (
    AROUND,
    ENERGY,
    REFINED,
    Arm,
    RobustnessConfig,
    areas,
    curves,
    energy_arms,
    plain_logits,
)
from ebm_traj.image.robustness_report import (
    FIGURE,
    FIGURES,
    picture_of_studies,
    read_curves,
    write_report,
)
from ebm_traj.image.same_network import SameNetwork, class_logits, load_any_classifier, training_attack

SMALL = NetworkConfig(channels=(8, 12), embedding=8, patch=2)
QUICK = RobustnessConfig(
    linf=(0.0, 0.05, 0.2),
    l2=(0.5,),
    attack=PGDConfig(steps=6, restarts=1),
    adaptive=PGDConfig(steps=2, restarts=0, eot=2, recheck=2),
    draws=2,
    batch=8,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = ImageModel(ImageConfig(network=SMALL, conditional=True), (1, 8, 8), 10, std=0.5)
    return made.eval().requires_grad_(False)


def test_class_logits_are_the_energies_up_to_what_classes_share(model):
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for sigma in (0.05, 0.7):
        short = class_logits(model.energy, x, sigma).log_softmax(1)
        whole = -model.energy.class_energies(x, {LEVEL: torch.full((5,), sigma)})
        torch.testing.assert_close(short, whole.log_softmax(1), rtol=1e-4, atol=1e-4)
        features, _ = model.energy.net.encode(x, model.energy.net.embed(torch.full((5,), sigma)))
        assert torch.equal(features, model.energy.net(x, model.energy.net.embed(torch.full((5,), sigma)))[1])
        with torch.no_grad():
            _, log_shares = model.energy.with_logits(x, {LEVEL: torch.full((5,), sigma)})
        assert torch.equal(class_logits(model.energy, x, sigma).log_softmax(1), log_shares)
    deep = dataclasses.replace(SMALL, mixing=1, middle=1)  # all that a U-Net may have, and padding
    odd = ImageModel(ImageConfig(network=deep, conditional=True), (1, 7, 9), 3).energy
    x = torch.randn(2, 1, 7, 9)
    whole = -odd.class_energies(x, {LEVEL: torch.full((2,), 0.3)})
    torch.testing.assert_close(
        class_logits(odd, x, 0.3).log_softmax(1), whole.log_softmax(1), rtol=1e-4, atol=1e-4
    )


def linear_arm(width):
    weight = torch.zeros(2, 4, dtype=torch.float64)
    weight[0, 0] = width
    return plain_logits(lambda x: x.flatten(1) @ weight.T)


def test_curves_of_a_linear_classifier_are_those_of_the_closed_form():
    """Class 0 where the first pixel is above 0: misread once the radius (in [0, 1]) is half its value."""
    values = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    x = torch.zeros(25, 1, 2, 2, dtype=torch.float64)
    x[:, 0, 0, 0] = values
    y = torch.zeros(25, dtype=torch.int64)
    config = RobustnessConfig(
        linf=(0.0, 0.1, 0.3), l2=(0.2,), attack=PGDConfig(steps=40, restarts=3), batch=7
    )
    found = curves({"a": Arm(linear_arm(1.0)), "b": Arm(linear_arm(9.0))}, x, y, config)
    for norm in found:
        for name in ("a", "b"):
            for point in found[norm][name]:
                assert point.accuracy == pytest.approx(float((values > 2 * point.radius).double().mean()))
                assert point.low < point.accuracy < point.high or point.accuracy in (0, 1)
    at = [point.accuracy for point in found["linf"]["a"]]
    area = (0.5 * (at[0] + at[1]) * 0.1 + 0.5 * (at[1] + at[2]) * 0.2) / 0.3
    assert areas(found)["linf"]["a"] == pytest.approx(area)


def test_a_study_holds_the_attack_around_beside_the_one_through(model, tmp_path):
    digits = open_pictures("digits", "test")
    x = torch.from_numpy(digits.x[:12].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    with torch.no_grad():
        y = model.classify(x).argmax(1)  # an untrained model is right about what it says
    arms = energy_arms(model, RefinementConfig(steps=2, level=0.2, lowest=0.1))
    assert list(arms) == [ENERGY, AROUND, REFINED]
    found = curves(arms, x, y, QUICK, seed=1)
    assert found == curves(arms, x, y, QUICK, seed=1)
    at = [point.accuracy for point in found["linf"][ENERGY]]
    assert at[0] == 1.0 and at[0] >= at[1] >= at[2]
    assert found["linf"][REFINED][-1].accuracy <= found["linf"][AROUND][-1].accuracy + 0.2
    page = write_report(found, {"pictures": "12"}, tmp_path / "out", {}, "python x").read_text()
    assert "refined, adaptive attack" in page and "l-2, accuracy" in page
    saved = json.loads((tmp_path / "out" / FIGURES).read_text())
    assert saved["accuracy"]["linf"][ENERGY][0]["accuracy"] == 1.0
    assert (tmp_path / "out" / FIGURE).read_bytes().startswith(b"\x89PNG")
    assert read_curves(tmp_path / "out") == found
    both = picture_of_studies({"one": found, "two": {"linf": found["linf"]}})
    assert both.startswith(b"\x89PNG") and len(both) > len(picture_of_studies({"one": found}))
    with pytest.raises(InputError, match=r"attack\.json is missing"):
        read_curves(tmp_path)
    with pytest.raises(InputError, match="does not stand before it"):
        curves({REFINED: arms[REFINED]}, x, y, QUICK)


def test_training_under_attack_is_what_makes_a_classifier_robust(model, tmp_path):
    train, validation, test = (open_pictures("digits", split) for split in ("train", "validation", "test"))
    config = BaselineConfig(
        iterations=250, adversarial_iterations=120, batch_size=48, radius=0.15, steps=2, learning_rate=5e-3
    )
    x = torch.from_numpy(test.x[:80].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    arms, found = {}, None
    for name in ("ordinary", "adversarial"):
        folder, start = tmp_path / name, found
        found = train_baseline(
            model, train, validation, folder, config, adversarial=name == "adversarial", start=start
        )
        again = load_any_classifier(folder)
        assert isinstance(again, SameNetwork)
        assert torch.equal(found(x), again(x))
        arms[name] = Arm(plain_logits(again))
    quick = RobustnessConfig(linf=(0.0, 0.12), l2=(), attack=PGDConfig(steps=8, restarts=1))
    at = curves(arms, x, torch.from_numpy(test.y[:80]), quick)["linf"]
    assert at["ordinary"][0].accuracy > 0.8
    assert at["adversarial"][1].accuracy > at["ordinary"][1].accuracy + 0.1


def test_the_attack_of_training_stays_in_its_ball_and_raises_the_loss(model):
    x = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    network = SameNetwork(SMALL, (1, 8, 8), 10, 0.05)
    y = network(x).argmax(1)
    for steps in (1, 3):
        found = training_attack(0.1, steps)(network, x, y, torch.Generator().manual_seed(0))
        assert (found - x).abs().max() <= 0.2 + 1e-6 and found.abs().max() <= 1

        def loss(p):
            return float(torch.nn.functional.cross_entropy(network(p), y).detach())

        assert loss(found) > loss(x)
    low = training_attack(0.1, 3, bfloat16=True)(network, x, y, torch.Generator().manual_seed(0))
    assert (low - x).abs().max() <= 0.2 + 1e-6 and loss(low) > loss(x)


def test_a_share_of_the_radii_of_training_is_smaller(model):
    x = torch.zeros(400, 1, 8, 8)
    network = SameNetwork(SMALL, (1, 8, 8), 10, 0.05)
    y = torch.zeros(400, dtype=torch.int64)
    for share in (0.0, 0.4):
        found = training_attack(0.1, 2, share)(network, x, y, torch.Generator().manual_seed(0))
        reached = found.flatten(1).abs().amax(1) / 0.2
        assert reached.max() <= 1 + 1e-6
        assert float((reached > 0.999).float().mean()) == pytest.approx(1 - share, abs=0.08)
        if share:
            assert float(reached[reached < 0.999].mean()) == pytest.approx(0.5, abs=0.08)  # uniform below it


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RobustnessConfig(linf=(0.2, 0.1)), "linf radii: .*; accepted are rising"),
        (lambda: RobustnessConfig(linf=(), l2=()), "radii: none given"),
        (lambda: RobustnessConfig(draws=0), "draws: 0"),
        (lambda: BaselineConfig(steps=0), "baseline steps: 0"),
        (lambda: RefinementConfig(level=0.1, lowest=0.2), "refinement levels: 0.1 to 0.2"),
        (lambda: RefinementConfig(walk="x"), "refinement walk: 'x'; accepted are ancestral, langevin"),
        (lambda: training_attack(0, 1), "adversarial radius: 0"),
    ],
)
def test_bad_settings_are_named(make, said):
    with pytest.raises(InputError, match=said):
        make()
