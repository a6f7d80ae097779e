"""Composition of sprites: the world and its held-out cells, the algebra of energies, training, probe."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from ebm_traj.core.denoising import LEVEL, DenoisingConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.objectives import Batch
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.core.trainer import TRAINING_FILE, TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.image.composition import (
    EnergyTrainingConfig,
    PosteriorTrainingConfig,
    SeenSprites,
    SpriteModel,
    load_energy,
    load_posteriors,
    to_picture,
    to_unit,
    train_energy,
    train_posteriors,
)
from ebm_traj.image.composition_posteriors import (
    PLACE_BLUR,
    TURN_BLUR,
    WEIGHTS,
    FactorPosteriors,
    PosteriorLoss,
    PosteriorNetConfig,
    alternatives,
    blurred,
    centred,
)
from ebm_traj.image.composition_sampling import CompositionSampling, composed, sample_sprites
from ebm_traj.image.composition_study import overlap
from ebm_traj.image.factor_energy import FEATURES, TOLD, FactorEnergy, FactorNetConfig, features
from ebm_traj.image.probe import ProbeConfig, SpriteProbe, load_probe, quarter_turned, train_probe
from ebm_traj.image.sprite_world import (
    PLACES,
    draw_factors,
    draw_pictures,
    kind_of,
    read_right,
    third,
)

NET = FactorNetConfig(pixels=16, channels=4, embedding=16)
TRAINER = TrainerConfig(
    iterations=6, warmup=1, log_every=2, checkpoint_every=3, validate_every=0, ema_decay=0.9
)
LEVELS = DenoisingConfig(batch_size=8, sigma_min=0.05, sigma_max=20.0, log_sigma_mean=0.5)
TINY = EnergyTrainingConfig(pictures=40, network=NET, denoising=LEVELS, trainer=TRAINER)
READS = PosteriorNetConfig(pixels=16, channels=4, embedding=8, code=6)
TINY_READS = PosteriorTrainingConfig(pictures=40, network=READS, levels=LEVELS, trainer=TRAINER)
SAMPLING = CompositionSampling(levels=3, sigma_max=20.0, corrector=LangevinConfig(steps=1, step_size=0.1))


def model_of(dtype=torch.float64):
    torch.manual_seed(0)
    posteriors = FactorPosteriors(READS)
    energy = FactorEnergy(NET, posteriors)
    torch.nn.init.normal_(energy.leave.weight, std=0.1)
    for module in (energy, posteriors):
        module.to(dtype).requires_grad_(False)
    return SpriteModel(energy, posteriors)


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


def test_an_energy_that_is_told_nothing_knows_nothing():
    energy = model_of().energy
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    level = torch.full((2,), 1.5, dtype=torch.float64)
    one, other = torch.from_numpy(factors_of(4)[:2]), torch.from_numpy(factors_of(4)[2:])

    def value(factors, told):
        return energy(x, {LEVEL: level, "factors": factors, TOLD: torch.full((2,), told)})

    torch.testing.assert_close(value(one, 0.0), value(other, 0.0))
    torch.testing.assert_close(value(one, 0.0), energy(x, {LEVEL: level}))
    assert not torch.allclose(value(one, 1.0), value(other, 1.0))
    # rows of one batch, told or not, do not mix
    mixed = energy(x, {LEVEL: level, "factors": one, TOLD: torch.tensor([0.0, 1.0])})
    torch.testing.assert_close(mixed, torch.stack([value(one, 0.0)[0], value(one, 1.0)[1]]))


def test_told_nothing_it_is_given_what_is_expected():
    """With posteriors that are sure the energy is the one that is told the factors, but for the flag."""
    energy = model_of().energy
    factors = torch.from_numpy(factors_of(2))
    x, level = torch.randn(2, 1, 16, 16, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    energy.embed[0].weight[:, -1] = 0  # by which it knows that it was told

    class Sure(torch.nn.Module):
        def expected(self, x, level):
            return features(factors)

    nothing = FactorEnergy(NET, Sure()).double()
    nothing.load_state_dict({k: v for k, v in energy.state_dict().items() if "posteriors" not in k})
    told = energy(x, {LEVEL: level, "factors": factors, TOLD: torch.ones(2)})
    torch.testing.assert_close(nothing(x, {LEVEL: level}), told)


def test_expected_features_are_means_over_the_alternatives():
    posteriors = model_of().posteriors
    for parameter in posteriors.say.parameters():
        parameter.mul_(3)
    x, level = torch.randn(1, 1, 16, 16, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    expected = posteriors.expected(x, level).split(list(FEATURES.values()), 1)
    for index, rows in enumerate(alternatives(torch.full((3,), 0.5, dtype=torch.float64))):
        many = x.expand(len(rows), -1, -1, -1)
        likely = (-posteriors.each(many, level.expand(len(rows)), rows)[:, index]).softmax(0)
        mean = likely @ features(rows).split(list(FEATURES.values()), 1)[index]
        torch.testing.assert_close(expected[index][0], mean)


def test_a_posterior_knows_only_its_factor():
    posteriors = model_of().posteriors
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    level = torch.full((2,), 1.5, dtype=torch.float64)
    one = torch.tensor([[0, 0.0, 0.3, 0.2, 0.9], [1, 0.5, 1.3, 0.4, 0.1]], dtype=torch.float64)
    columns = {0: [0], 1: [1], 2: [3, 4], 3: [2]}
    for index, own in columns.items():
        other = torch.tensor([[2, 1.0, 2.5, 0.7, 0.3], [2, 1.0, 2.1, 0.8, 0.6]], dtype=torch.float64)
        other[:, own] = one[:, own]
        told = posteriors.each(x, level, one)
        same = posteriors.each(x, level, other)
        torch.testing.assert_close(told[:, index], same[:, index])
        for another in set(range(4)) - {index}:
            assert not torch.allclose(told[:, another], same[:, another])
    weights = torch.tensor([[1.0, 0, 2, 0], [0, 0.5, 0, 0]], dtype=torch.float64)
    found = posteriors(x, {LEVEL: level, "factors": one, WEIGHTS: weights})
    torch.testing.assert_close(found, (posteriors.each(x, level, one) * weights).sum(1))


def test_posteriors_are_normalised():
    posteriors = model_of().posteriors
    for parameter in posteriors.say.parameters():  # far from uniform
        parameter.mul_(3)
    offset = torch.full((3,), 0.5, dtype=torch.float64)
    for index, rows in enumerate(alternatives(offset)):
        x = torch.randn(1, 1, 16, 16, dtype=torch.float64).expand(len(rows), -1, -1, -1)
        energies = posteriors.each(x, offset.new_ones(len(rows)), rows)[:, index]
        assert float(energies.std()) > 1e-3
        # energies are relative to the uniform law over the alternatives
        assert float((-energies).exp().mean()) == pytest.approx(1)


def test_centring_undoes_moves_and_keeps_noise_white():
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    place = torch.tensor([[0.5, 0.5], [0.1, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(centred(x, place)[0], x[0])
    # two pixels down, four to the left
    moved = place + torch.tensor([-4, 2], dtype=torch.float64) / 16 / (PLACES[1] - PLACES[0])
    torch.testing.assert_close(centred(x.roll((2, -4), (2, 3)), moved), centred(x, place))
    white = torch.randn(500, 1, 16, 16)
    apart = centred(white, torch.rand(500, 2))
    assert float(apart.std()) == pytest.approx(1, abs=0.02)
    assert abs(float((apart[..., 1:] * apart[..., :-1]).mean())) < 0.01


def test_a_sprite_comes_to_the_centre():
    factors = np.array([[2, 1.0, 0.7, 0.1, 0.9]])
    x = torch.from_numpy(draw_pictures(factors))
    found = centred(x, torch.tensor([[0.1, 0.9]]))
    middle = torch.from_numpy(draw_pictures(np.array([[2, 1.0, 0.7, 0.5, 0.5]])))
    assert float((found - middle).abs().mean()) < 0.4 * float((x - middle).abs().mean())


def test_places_and_rotations_are_told_with_noise():
    factors = torch.from_numpy(factors_of(1)).float().repeat(4000, 1)
    noise = blurred(factors, seeded_generator("cpu", 0)) - factors
    assert (noise[:, :2] == 0).all()
    np.testing.assert_allclose(noise[:, 2].std(), TURN_BLUR, rtol=0.05)
    np.testing.assert_allclose(noise[:, 3:].std(0), PLACE_BLUR, rtol=0.05)


def test_cross_entropy_teaches_what_there_is_to_read():
    """Of a bright or a dark picture alone, the size can be told, and the loss falls to that of knowing it."""
    torch.manual_seed(0)
    posteriors = FactorPosteriors(READS)
    loss = PosteriorLoss(posteriors, dataclasses.replace(LEVELS, batch_size=32, sigma_max=0.1))
    optimizer = torch.optim.Adam(posteriors.parameters(), lr=1e-2)
    generator = seeded_generator("cpu", 0)
    for _ in range(60):
        factors = torch.from_numpy(factors_of(32)).float()
        x = (2 * factors[:, 1] - 1).view(-1, 1, 1, 1).expand(-1, 1, 16, 16)
        total, figures = loss(Batch(x, {"factors": factors}), generator)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert float(figures["size"]) < -0.8  # -log 3 at best


@pytest.mark.parametrize("which", ["energy", "posteriors"])
def test_gradients_are_right(which):
    module = getattr(model_of(), which)
    x = torch.randn(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    condition = {LEVEL: torch.tensor([0.7], dtype=torch.float64), "factors": torch.from_numpy(factors_of(1))}
    condition |= {TOLD: torch.ones(1), WEIGHTS: torch.ones(1, 4)}
    (slope,) = torch.autograd.grad(module(x, condition).sum(), x)
    step = torch.randn_like(x) * 1e-5
    with torch.no_grad():
        difference = module(x + step, condition) - module(x - step, condition)
    assert float((slope * step).sum() * 2) == pytest.approx(float(difference), rel=1e-5)


def test_the_sum_is_the_sum():
    """Of E_i = E + f_i: sum_i E_i less as many E(x) as leave one."""
    model = model_of()
    asked = torch.from_numpy(factors_of(2))
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    level = torch.full((2,), 2.0, dtype=torch.float64)
    nothing = model.energy(x, {LEVEL: level})
    each = model.posteriors.each(x, level, asked)
    single = [nothing + each[:, index] for index in range(4)]
    for way, weight, expected in (
        ("sum", 1.0, sum(single) - 3 * nothing),
        ("sum", 1.5, nothing + 1.5 * sum(e - nothing for e in single)),
        ("product", 1.0, sum(single)),
    ):
        (found,) = composed(model, asked, way, 2.0, weight)
        torch.testing.assert_close(found(x), expected)
    for energy, expected in zip(composed(model, asked, "in turn", 2.0), single, strict=True):
        torch.testing.assert_close(energy(x), expected)
    (joint,) = composed(model, asked, "joint", 2.0)
    told = {LEVEL: level, "factors": asked, TOLD: torch.ones(2)}
    torch.testing.assert_close(joint(x), model.energy(x, told))
    with pytest.raises(InputError, match="'both'; accepted are sum, product"):
        composed(model, asked, "both", 2.0)


def test_sampling_follows_a_known_energy():
    """With networks that say nothing the energy is a Gaussian's, and so are the samples."""
    model = model_of(torch.float32)
    torch.nn.init.zeros_(model.energy.leave.weight)
    torch.nn.init.zeros_(model.energy.leave.bias)
    for parameter in model.posteriors.say.parameters():
        torch.nn.init.zeros_(parameter)
    config = dataclasses.replace(SAMPLING, levels=12, corrector=LangevinConfig(steps=2, step_size=0.2))
    asked = torch.from_numpy(factors_of(4))
    x, trace = sample_sprites(model, asked, "sum", config, generator=seeded_generator("cpu", 0), record=True)
    assert x.shape == (4, 1, 16, 16)
    assert trace.shape == (12, 4, 1, 16, 16)
    # E is not |x|^2 / 2 (1 + s^2) but |x s^2 / (1 + s^2)|^2 / 2 s^2: the denoised x is that of its gradient
    inside = to_unit(x)[(x > -1) & (x < 1)]
    assert 0.2 < float(inside.std()) < 1.5
    again, _ = sample_sprites(model, asked, "sum", config, generator=seeded_generator("cpu", 0))
    assert torch.equal(x, again)
    assert config.gradients("sum") == config.gradients("product") == 2 * 12 * 3
    assert config.gradients("joint") == 12 * 3
    assert config.gradients("in turn") == 2 * 12 * (4 * 2 + 1)


def test_pictures_have_unit_spread_and_are_seen():
    rows = SeenSprites(2000, 16, 0)
    assert float(rows.x.mean()) == pytest.approx(0, abs=0.02)
    assert float(rows.x.std()) == pytest.approx(1, abs=0.02)
    assert (kind_of(rows.factors.double().numpy()) == "seen").all()
    x, factors = rows.draw(50, seeded_generator("cpu", 0))
    drawn = torch.from_numpy(draw_pictures(factors.double().numpy()))
    assert float((to_picture(x) - drawn).abs().mean()) < 1e-4


def test_the_second_round_trains_the_energy_and_not_the_posteriors(tmp_path):
    reads = FactorPosteriors(READS)
    before = {name: value.clone() for name, value in reads.state_dict().items()}
    assert TINY.refinement is not None
    energy = train_energy(TINY, tmp_path / "energy", reads)
    first = load_energy(tmp_path / "energy" / "first", FactorPosteriors(READS))
    moved = [not torch.equal(a, b) for a, b in zip(energy.parameters(), first.parameters(), strict=True)]
    assert any(moved)
    assert all(torch.equal(value, before[name]) for name, value in reads.state_dict().items())
    assert not any(parameter.requires_grad for parameter in energy.parameters())


def test_each_round_draws_batches_of_its_own_size(tmp_path, monkeypatch):
    counts, draw = [], SeenSprites.draw
    monkeypatch.setattr(SeenSprites, "draw", lambda self, n, g: counts.append(n) or draw(self, n, g))
    config = dataclasses.replace(TINY, refinement=dataclasses.replace(TINY.refinement, batch_size=11))
    train_energy(config, tmp_path / "energy", FactorPosteriors(READS))
    rounds = [TINY.denoising.batch_size, 11]
    assert counts == [size for size in rounds for _ in range(TINY.trainer.iterations)]


@pytest.mark.parametrize("which", ["energy", "posteriors"])
def test_training_resumes_to_the_same_weights_and_loads(tmp_path, which):
    train, load, config = train_posteriors, load_posteriors, TINY_READS
    if which == "energy":
        reads = FactorPosteriors(READS)
        before = {name: value.clone() for name, value in reads.state_dict().items()}
        config = TINY

        def train(config, out, resume=False):
            return train_energy(config, out, reads, resume=resume)

        def load(folder):
            return load_energy(folder, FactorPosteriors(READS))

    whole = train(config, tmp_path / "whole")
    train(config, tmp_path / "cut")
    # as if it had been killed: only the checkpoint is there
    (tmp_path / "cut" / "settings.json").unlink()
    again = train(config, tmp_path / "cut", resume=True)
    x, level = torch.randn(2, 1, 16, 16), torch.ones(2)
    condition = {LEVEL: level, "factors": torch.from_numpy(factors_of(2)).float()}
    condition |= {TOLD: torch.ones(2), WEIGHTS: torch.ones(2, 4)}
    for module in (again, load(tmp_path / "cut")):
        torch.testing.assert_close(module(x, condition), whole(x, condition))
    with pytest.raises(InputError, match="exists already"):
        train(config, tmp_path / "whole")
    other = dataclasses.replace(config, pictures=50)
    with pytest.raises(InputError, match="pictures is 50 now and was 40"):
        train(other, tmp_path / "whole", resume=True)
    assert (tmp_path / "whole" / TRAINING_FILE).is_file()
    if which == "energy":
        assert all(torch.equal(value, before[name]) for name, value in reads.state_dict().items())


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


def test_overlap_is_intersection_over_union():
    a, b = -torch.ones(1, 1, 4, 4), -torch.ones(1, 1, 4, 4)
    a[0, 0, :2], b[0, 0, 1:3] = 1, 1
    assert overlap(a, b).tolist() == [pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FactorNetConfig(pixels=20), "multiples of 16"),
        (lambda: FactorNetConfig(channels=0), "channels: 0"),
        (lambda: EnergyTrainingConfig(pictures=1), "a batch and more"),
        (lambda: EnergyTrainingConfig(untold=1.0), "untold: 1.0"),
        (lambda: PosteriorTrainingConfig(pictures=1), "a batch and more"),
        (lambda: PosteriorNetConfig(pixels=14), "multiples of 4"),
        (lambda: PosteriorNetConfig(channels=1), "channels: 1; accepted are 2"),
        (lambda: CompositionSampling(levels=1), "levels: 1"),
        (lambda: CompositionSampling(weight=0), "weight: 0"),
        (lambda: CompositionSampling(sigma_min=100.0), "sigma_min <= sigma_max"),
        (lambda: ProbeConfig(pixels=12), "multiples of 8"),
        (lambda: factors_of(0), "sprites: 0"),
        (lambda: factors_of(1, "all"), "accepted are seen"),
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
    tiny = "--samples 8 --other-samples 8 --energy.pictures 70 --energy.network.channels 4"
    tiny += " --energy.network.embedding 8 --energy.trainer.iterations 2"
    tiny += " --energy.denoising.batch-size 4"
    tiny += " --posteriors.pictures 70 --posteriors.network.channels 4 --posteriors.trainer.iterations 2"
    tiny += " --posteriors.levels.batch-size 4 --sampling.weight 1.5"
    tiny += " --probe.pixels 16 --probe.channels 2 --probe.pictures 10"
    tiny += " --probe.batch-size 4 --probe.trainer.iterations 2 --sampling.levels 2"
    tiny += " --sampling.corrector.steps 1"
    out = tmp_path / "out"
    command("--out", out, *tiny.split())
    content = json.loads((out / "composition.json").read_text())
    assert len(content["rows"]) == 18
    assert {row["kind"] for row in content["rows"]} == {"triple", "pair", "seen"}
    assert all(0 <= row["shares"]["all"] <= 1 for row in content["rows"])
    assert (out / "composition.png").stat().st_size > 2000
    assert "all four" in (out / "composition.md").read_text()
    before = (out / "energy" / "model.safetensors").stat().st_mtime_ns
    command("--out", out, *tiny.split(), "--resume")
    assert (out / "energy" / "model.safetensors").stat().st_mtime_ns == before
    capsys.readouterr()
    for argv, message in (
        (("--out", out), "exists"),
        (("--out", out, *tiny.split(), "--resume", "--seed", "7"), "trainer.seed is 7 now and was 0"),
        (
            ("--out", out, *tiny.split(), "--resume", "--probe.pictures", "11"),
            "probe: pictures is 11 now and was 10",
        ),
        (("--out", tmp_path / "new", "--samples", "3"), "accepted are 8 and more"),
        (("--out", tmp_path / "new", "--probe.pixels", "32"), "the energy's pictures have 16"),
    ):
        with pytest.raises(SystemExit) as stop:
            command(*argv)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
