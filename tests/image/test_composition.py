"""Composition of sprites: the world and its held-out cells, the algebra of energies, training, probe."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from ebm_traj.core.denoising import LEVEL, DenoisingConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.core.trainer import TRAINING_FILE, TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.image.composition import (
    FactorTrainingConfig,
    SpriteModel,
    load_sprites,
    told_mask,
    train_sprites,
)
from ebm_traj.image.composition_sampling import CompositionSampling, composed, sample_sprites
from ebm_traj.image.composition_study import overlap, wilson
from ebm_traj.image.factor_energy import TOLD, FactorEnergy, FactorNetConfig
from ebm_traj.image.probe import ProbeConfig, SpriteProbe, load_probe, quarter_turned, train_probe
from ebm_traj.image.sprite_world import draw_factors, draw_pictures, kind_of, read_right, third

NET = FactorNetConfig(pixels=16, channels=4, embedding=16)
TRAINER = TrainerConfig(
    iterations=6, warmup=1, log_every=2, checkpoint_every=3, validate_every=0, ema_decay=0.9
)
TINY = FactorTrainingConfig(
    pictures=40,
    network=NET,
    denoising=DenoisingConfig(batch_size=8, sigma_min=0.05, sigma_max=20.0, log_sigma_mean=0.5),
    trainer=TRAINER,
)
SAMPLING = CompositionSampling(levels=3, sigma_max=20.0, corrector=LangevinConfig(steps=1, step_size=0.1))


def model_of(telling):
    torch.manual_seed(0)
    energy = FactorEnergy(NET).double()
    torch.nn.init.normal_(energy.leave.weight, std=0.1)
    return SpriteModel(energy.requires_grad_(False), -0.7, 0.6, telling)


def factors_of(count=3, kind="any"):
    return draw_factors(count, np.random.default_rng(0), kind)


def test_held_out_cells_are_a_latin_square_and_one_pair():
    factors = factors_of(6000)
    kinds = kind_of(factors)
    seen = factors[kinds == "seen"]
    cells = {(int(f[0]), round(2 * f[1]), int(third(f[3]))) for f in seen}
    # every pair of shape and size but the held-out one, of shape and third, of size and third is seen
    assert {(a, b) for a, b, _ in cells} == {(a, b) for a in range(3) for b in range(3)} - {(2, 2)}
    assert {(a, c) for a, _, c in cells} == {(a, c) for a in range(3) for c in range(3)}
    assert {(b, c) for _, b, c in cells} == {(b, c) for b in range(3) for c in range(3)}
    for kind in ("seen", "triple", "pair"):
        assert (kind_of(factors_of(50, kind)) == kind).all()
    assert np.mean(kinds == "triple") == pytest.approx(8 / 27, abs=0.02)
    assert np.mean(kinds == "pair") == pytest.approx(3 / 27, abs=0.02)


def test_pictures_show_the_factors():
    factors = np.array([[0, 0.0, 0.0, 0.0, 0.5], [0, 1.0, 0.0, 1.0, 0.5]])
    x = draw_pictures(factors, 32)
    assert x.shape == (2, 1, 32, 32)
    assert x.min() == -1
    assert x.max() == 1
    mass = (x[:, 0] + 1) / 2
    across = (mass.sum(1) * (np.arange(32) + 0.5)).sum(1) / mass.sum((1, 2)) / 32
    np.testing.assert_allclose(across, [0.36, 0.64], atol=0.01)
    # sides of the squares: 0.36 x scale of the picture
    np.testing.assert_allclose(mass.sum((1, 2)), [(32 * 0.36 * s) ** 2 for s in (0.8, 1.4)], rtol=0.06)


def test_reading_allows_for_symmetry_and_tolerance():
    asked = np.array([[0, 0.5, 0.1, 0.5, 0.5], [1, 0.5, 0.1, 0.5, 0.5], [2, 0.5, 0.1, 0.5, 0.5]])
    quarter = asked + np.array([0, 0, math.pi / 2, 0, 0])
    assert read_right(quarter, asked).rotation.tolist() == [True, False, False]
    half = asked + np.array([0, 0, math.pi, 0, 0])
    assert read_right(half, asked).rotation.tolist() == [True, True, False]
    near = asked + np.array([0, 0.2, math.radians(14), 0.15, -0.15])
    assert read_right(near, asked).all.tolist() == [True] * 3
    for change, name in (
        ([0, 0.3, 0, 0, 0], "size"),
        ([0, 0, math.radians(16), 0, 0], "rotation"),
        ([0, 0, 0, 0, 0.18], "position"),
        ([1, 0, 0, 0, 0], "shape"),
    ):
        right = read_right(asked[:1] + np.array(change), asked[:1])
        assert not getattr(right, name)[0]
        assert right.shares()["all"] == 0


def test_an_energy_knows_only_what_it_is_told():
    energy = model_of("one").energy
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    level = torch.full((2,), 1.5, dtype=torch.float64)
    one, other = torch.from_numpy(factors_of(4)[:2]), torch.from_numpy(factors_of(4)[2:])
    other[:, 1] = one[:, 1]  # the same sizes, all else differs
    told = torch.tensor([[0.0, 1, 0, 0]]).repeat(2, 1)

    def value(factors, mask):
        return energy(x, {LEVEL: level, "factors": factors, TOLD: mask})

    torch.testing.assert_close(value(one, told), value(other, told))
    assert not torch.allclose(value(one, torch.ones(2, 4)), value(other, torch.ones(2, 4)))
    torch.testing.assert_close(value(one, torch.zeros(2, 4)), energy(x, {LEVEL: level}))


def test_the_gradient_of_an_energy_is_right():
    energy = model_of("one").energy
    x = torch.randn(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    condition = {LEVEL: torch.tensor([0.7], dtype=torch.float64)}
    (slope,) = torch.autograd.grad(energy(x, condition).sum(), x)
    step = torch.randn_like(x) * 1e-5
    with torch.no_grad():
        difference = energy(x + step, condition) - energy(x - step, condition)
    assert float((slope * step).sum() * 2) == pytest.approx(float(difference), rel=1e-5)


def test_the_sum_is_the_sum():
    model = model_of("one")
    asked = torch.from_numpy(factors_of(2))
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    level = torch.full((2,), 2.0, dtype=torch.float64)

    def told(mask):
        masks = torch.tensor([mask], dtype=torch.float64).repeat(2, 1)
        return model.energy(x, {LEVEL: level, "factors": asked, TOLD: masks})

    nothing, single = told([0, 0, 0, 0]), [told([int(i == k) for i in range(4)]) for k in range(4)]
    model_32 = dataclasses.replace(model, energy=model.energy.float())
    x32, asked32 = x.float(), asked.float()
    for way, weight, expected in (
        ("sum", 1.0, nothing + sum(e - nothing for e in single)),
        ("sum", 1.5, nothing + 1.5 * sum(e - nothing for e in single)),
        ("product", 1.0, sum(single)),
    ):
        (found,) = composed(model_32, asked32, way, 2.0, weight)
        torch.testing.assert_close(found(x32), expected.float(), rtol=1e-3, atol=0.5)
    turn = composed(model_32, asked32, "in turn", 2.0)
    for energy, expected in zip(turn, single, strict=True):
        torch.testing.assert_close(energy(x32), expected.float(), rtol=1e-3, atol=0.1)
    with pytest.raises(InputError, match="needs a model told all"):
        composed(model_32, asked32, "joint", 2.0)
    with pytest.raises(InputError, match="'both'; accepted are sum, product"):
        composed(model_32, asked32, "both", 2.0)


def test_sampling_follows_a_known_energy():
    """With a network that says nothing the energy is a Gaussian's, and so are the samples."""
    energy = FactorEnergy(NET).requires_grad_(False)  # its last layer is 0
    model = SpriteModel(energy, 0.0, 0.1, "one")
    config = dataclasses.replace(SAMPLING, levels=12, corrector=LangevinConfig(steps=2, step_size=0.2))
    asked = torch.from_numpy(factors_of(4))
    x, trace = sample_sprites(model, asked, "sum", config, generator=seeded_generator("cpu", 0), record=True)
    # E is not |x|^2 / 2 (1 + s^2) but |x s^2 / (1 + s^2)|^2 / 2 s^2: the denoised x is that of its gradient
    assert x.shape == (4, 1, 16, 16)
    assert trace.shape == (12, 4, 1, 16, 16)
    assert 0.05 < float(x.std()) < 0.2
    again, _ = sample_sprites(model, asked, "sum", config, generator=seeded_generator("cpu", 0))
    assert torch.equal(x, again)
    assert config.gradients("sum") == 5 * 12 * 3
    assert config.gradients("joint") == 12 * 3
    assert config.gradients("in turn") == 12 * (4 * 2 + 1)


def test_rows_are_told_one_factor_or_none():
    generator = seeded_generator("cpu", 0)
    told = told_mask(4000, "one", 0.25, generator)
    assert set(told.sum(1).tolist()) == {0.0, 1.0}
    assert float((told.sum(1) == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    np.testing.assert_allclose(told.mean(0), 0.75 / 4, atol=0.03)
    assert (told_mask(3, "all", 0.25, generator) == 1).all()


def test_training_resumes_to_the_same_weights_and_loads(tmp_path):
    whole = train_sprites(TINY, "one", tmp_path / "whole")
    short = dataclasses.replace(TINY, trainer=dataclasses.replace(TRAINER, iterations=6))
    train_sprites(short, "one", tmp_path / "cut")
    # as if it had been killed: only the checkpoint is there
    (tmp_path / "cut" / "settings.json").unlink()
    again = train_sprites(short, "one", tmp_path / "cut", resume=True)
    loaded = load_sprites(tmp_path / "cut")
    x, level = torch.randn(2, 1, 16, 16), torch.ones(2)
    for model in (again, loaded):
        torch.testing.assert_close(model.energy(x, {LEVEL: level}), whole.energy(x, {LEVEL: level}))
    assert (loaded.centre, loaded.spread, loaded.telling) == (whole.centre, whole.spread, "one")
    with pytest.raises(InputError, match="exists already"):
        train_sprites(TINY, "one", tmp_path / "whole")
    other = dataclasses.replace(TINY, untold=0.5)
    with pytest.raises(InputError, match=r"untold is 0\.5 now and was 0\.2"):
        train_sprites(other, "one", tmp_path / "whole", resume=True)
    assert (tmp_path / "whole" / TRAINING_FILE).is_file()


def test_turning_pictures_turns_their_factors():
    factors = factors_of(6)
    x = torch.from_numpy(draw_pictures(factors, 32))
    for times in range(4):
        turned, said = quarter_turned(x, torch.from_numpy(factors), times)
        drawn = torch.from_numpy(draw_pictures(said.numpy(), 32))
        torch.testing.assert_close(turned, drawn, atol=0.02, rtol=0)


def test_a_probe_reads_what_its_outputs_say(tmp_path):
    probe = SpriteProbe(ProbeConfig(pixels=16, channels=2))
    last = probe.network[-1]
    torch.nn.init.zeros_(last.weight)
    angle = 0.3
    said = [0.0, 5, 0, 0.4, 0.2, 0.9, 0, 0, math.cos(2 * angle), math.sin(2 * angle), 0, 0]
    last.bias.data = torch.tensor(said)
    np.testing.assert_allclose(probe.read(torch.zeros(1, 1, 16, 16))[0], [1, 0.4, 0.3, 0.2, 0.9], atol=1e-6)
    config = ProbeConfig(pixels=16, channels=2, pictures=20, batch_size=8, trainer=TRAINER)
    trained = train_probe(config, tmp_path / "probe")
    x = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(load_probe(tmp_path / "probe")(x), trained(x))
    with pytest.raises(InputError, match="exists already"):
        train_probe(config, tmp_path / "probe")


def test_scores_of_the_study():
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))
    a, b = -torch.ones(1, 1, 4, 4), -torch.ones(1, 1, 4, 4)
    a[0, 0, :2], b[0, 0, 1:3] = 1, 1
    assert overlap(a, b).tolist() == [pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FactorNetConfig(pixels=20), "multiples of 16"),
        (lambda: FactorNetConfig(channels=0), "channels: 0"),
        (lambda: FactorTrainingConfig(pictures=1), "a batch and more"),
        (lambda: FactorTrainingConfig(untold=1.0), "untold: 1.0"),
        (lambda: CompositionSampling(levels=1), "levels: 1"),
        (lambda: CompositionSampling(weight=0), "weight: 0"),
        (lambda: CompositionSampling(sigma_min=100.0), "sigma_min <= sigma_max"),
        (lambda: ProbeConfig(pixels=12), "multiples of 8"),
        (lambda: factors_of(0), "sprites: 0"),
        (lambda: factors_of(1, "all"), "accepted are seen"),
        (lambda: train_sprites(TINY, "two", None), "accepted are one, all"),
    ],
)
def test_bad_input_is_answered(make, message):
    with pytest.raises(InputError, match=message):
        make()


def command(*argv):
    from ebm_traj.cli import run
    from ebm_traj.image.commands import compose

    run(compose.main, compose.Args, [str(word) for word in argv])


def test_the_command_trains_composes_resumes_and_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ebm_traj.image.probe.probe_accuracy", lambda probe, pixels: {"all": 1.0})
    tiny = "--samples 8 --other-samples 8 --training.pictures 70 --training.network.pixels 16"
    tiny += " --training.network.channels 4 --training.network.embedding 8 --training.trainer.iterations 2"
    tiny += " --training.denoising.batch-size 4 --probe.pixels 16 --probe.channels 2 --probe.pictures 10"
    tiny += " --probe.batch-size 4 --probe.trainer.iterations 2 --sampling.levels 2"
    tiny += " --sampling.corrector.steps 1"
    out = tmp_path / "out"
    command("--out", out, *tiny.split())
    content = json.loads((out / "composition.json").read_text())
    assert len(content["rows"]) == 15
    assert {row["kind"] for row in content["rows"]} == {"triple", "pair", "seen"}
    assert all(0 <= row["shares"]["all"] <= 1 for row in content["rows"])
    assert (out / "composition.png").stat().st_size > 2000
    assert "all four" in (out / "composition.md").read_text()
    before = (out / "one" / "model.safetensors").stat().st_mtime_ns
    command("--out", out, *tiny.split(), "--resume")
    assert (out / "one" / "model.safetensors").stat().st_mtime_ns == before
    capsys.readouterr()
    for argv, message in (
        (("--out", out), "exists"),
        (("--out", tmp_path / "new", "--samples", "3"), "accepted are 8 and more"),
        (("--out", tmp_path / "new", "--probe.pixels", "32"), "the energies' pictures have 16"),
    ):
        with pytest.raises(SystemExit) as stop:
            command(*argv)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
