"""The image model: sampling of known densities, energies added, classes, saving and loading, bad input."""

import dataclasses
import json

import pytest
import torch

from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.langevin import Chain, LangevinConfig, langevin
from ebm_traj.errors import InputError
from ebm_traj.image.chains import bounded_langevin, frozen
from ebm_traj.image.model import BUFFER_FILE, CONFIG_FILE, ImageConfig, ImageModel, load_image_model
from ebm_traj.image.networks import NetworkConfig
from ebm_traj.image.presets import PRESETS

SHAPE = (1, 6, 6)
UNET = NetworkConfig(channels=(4, 6), patch=1, embedding=8)
CONV = NetworkConfig(kind="conv", channels=(4, 6), dense=5)
RESIDUAL = NetworkConfig(kind="residual", channels=(4, 6))
ANNEALING = AnnealConfig(steps=30, sigma_max=20.0, sigma_min=0.02, rho=5.0)
LEVELS = ImageConfig(network=UNET, annealing=ANNEALING)
CHAINS = ImageConfig(network=CONV, training="contrastive", generation=LangevinConfig(steps=5, step_size=0.1))


def make(config, classes=0, **more):
    torch.manual_seed(0)
    return ImageModel(config, SHAPE, classes, mean=torch.linspace(-0.5, 0.5, 36).view(SHAPE), std=0.3, **more)


def gaussian():
    """A model with levels whose network is silent: exactly Gaussian pictures."""
    model = make(LEVELS)
    torch.nn.init.zeros_(model.energy.net.last.weight)
    return model


def of(seed):
    return torch.Generator().manual_seed(seed)


def test_samples_of_a_silent_network_are_gaussian_pictures():
    x = gaussian().sample(4000, generator=of(0))
    assert x.shape == (4000, *SHAPE)
    torch.testing.assert_close(x.mean(0), gaussian().energy.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(x.std(0), torch.full(SHAPE, 0.3), atol=0.02, rtol=0)


def test_an_added_energy_shifts_the_samples_to_the_product_of_densities():
    # exp(-|x - 1|^2 / 2 t^2) blurred by s is a Gaussian of variance t^2 + s^2; the sum of two blurred
    # energies is near the blurred product at the low levels, which decide
    target, wide = 1.0, 0.3

    def extra(x, sigma):
        return 0.5 * ((x - target) ** 2 / (wide**2 + sigma.view(-1, 1, 1, 1) ** 2)).flatten(1).sum(1)

    sampler = dataclasses.replace(ANNEALING, solver="langevin", langevin_steps=10, langevin_step_size=0.2)
    x = gaussian().sample(500, extra=extra, sampler=sampler, generator=of(0))
    expected = (gaussian().energy.mean + target) / 2
    torch.testing.assert_close(x.mean(0), expected, atol=0.06, rtol=0)


def test_a_start_is_kept_as_far_as_little_noise_is_put_on_it():
    start = torch.rand(8, *SHAPE, generator=of(1)) - 0.5
    little = dataclasses.replace(ANNEALING, sigma_max=0.03)
    x = gaussian().sample(8, start=start, sampler=little, generator=of(0))
    assert float((x - start).abs().max()) < 0.2
    far = gaussian().sample(8, start=start, generator=of(0))
    assert float((far - start).abs().max()) > 0.5


def test_same_generator_same_samples_and_steps_are_counted():
    for model in (make(LEVELS), make(CHAINS)):
        assert torch.equal(model.sample(3, generator=of(5)), model.sample(3, generator=of(5)))
        chain = model.sample(3, steps=4, generator=of(5), record=True)
        assert isinstance(chain, Chain) and chain.trace is not None
        assert torch.equal(chain.trace[-1], chain.x)
        assert chain.gradients == dataclasses.replace(ANNEALING, steps=4).gradients * model.has_levels or 4


def test_chains_of_a_model_without_levels_stay_within_bounds_and_go_on_from_saved_ones(tmp_path):
    model = make(dataclasses.replace(CHAINS, conditional=True), 3)
    strong = LangevinConfig(steps=3, step_size=1.0, noise=2.0)
    x = model.sample(10, torch.arange(10) % 3, sampler=strong, generator=of(0))
    assert float(x.abs().max()) == 1.0
    label = torch.arange(30) % 3
    chain = (label.float() / 4)[:, None, None, None].expand(30, *SHAPE).contiguous()
    model.chains = {"chain": chain, "label": label}
    model.save(tmp_path / "m")
    loaded = load_image_model(tmp_path / "m")
    still = LangevinConfig(steps=0)
    x = loaded.sample(20, torch.full((20,), 2), sampler=still, generator=of(0))
    assert torch.equal(x, torch.full((20, *SHAPE), 0.5))


def test_the_bounded_chain_is_the_cores_where_bounds_do_not_bind():
    model = make(CHAINS)
    config = LangevinConfig(steps=4, step_size=0.1, clip=0.01)
    start = torch.zeros(3, *SHAPE)
    mine = bounded_langevin(model.energy_at(), start, config, 100.0, generator=of(0))
    core = langevin(model.energy_at(), start, config, generator=of(0))
    torch.testing.assert_close(mine.x, core.x)


def test_frozen_weights_ask_for_gradients_again():
    model = make(CHAINS)
    model.energy.last.bias.requires_grad_(False)
    asked = [p.requires_grad for p in model.parameters()]
    with pytest.raises(RuntimeError), frozen(model):
        assert not any(p.requires_grad for p in model.parameters())
        raise RuntimeError
    assert [p.requires_grad for p in model.parameters()] == asked


@pytest.mark.parametrize("config", [LEVELS, CHAINS])
def test_logits_are_minus_the_energies_of_the_classes(config):
    model = make(dataclasses.replace(config, conditional=True), 3)
    x = torch.rand(4, *SHAPE, generator=of(0)).requires_grad_(True)
    logits = model.classify(x)
    for y in range(3):
        energy = model.energy_at(None, torch.full((4,), y))
        torch.testing.assert_close(logits[:, y], -energy(x))
    assert torch.autograd.grad(logits.sum(), x)[0].abs().sum() > 0


@pytest.mark.parametrize("network", [CONV, RESIDUAL])
def test_without_levels_an_energy_of_no_class_is_summed_over_classes(network):
    # what the networks would give without a class is never trained: chains and data all have theirs
    model = make(dataclasses.replace(CHAINS, network=network, conditional=True), 3)
    x = torch.rand(4, *SHAPE, generator=of(0))
    summed = -torch.logsumexp(model.classify(x), 1)
    torch.testing.assert_close(model.energy_at()(x), summed)
    of_two = model.energy_at(None, torch.full((4,), 2))(x)
    mixed = model.energy_at(None, torch.tensor([2, -1, -1, 2]))(x)
    torch.testing.assert_close(mixed, torch.stack([of_two[0], summed[1], summed[2], of_two[3]]))
    for name, weight in model.named_parameters():
        if name.endswith("table.weight"):
            weight.data[-1] = torch.nan
    assert model.energy_at()(x).isfinite().all()
    assert model.sample(2, generator=of(0)).isfinite().all()


def test_the_datas_own_level_is_the_samplers_lowest():
    model = make(LEVELS)
    x = torch.rand(4, *SHAPE, generator=of(0))
    torch.testing.assert_close(model.energy_at()(x), model.energy_at(torch.full((4,), 0.02))(x))
    assert (model.energy_at()(x) - model.energy_at(1.0)(x)).abs().min() > 1e-3


@pytest.mark.parametrize("config", [LEVELS, CHAINS])
def test_a_saved_model_is_the_same_model(config, tmp_path):
    model = make(dataclasses.replace(config, conditional=True), 3, class_names=("a", "b", "c"))
    model.card = {"iterations": 3}
    model.save(tmp_path / "m")
    loaded = load_image_model(tmp_path / "m")
    assert loaded.config == model.config and loaded.card == model.card and loaded.shape == SHAPE
    assert loaded.class_names == ("a", "b", "c") and not loaded.training
    x, labels = torch.rand(4, *SHAPE, generator=of(0)), torch.tensor([0, 1, 2, -1])
    assert torch.equal(loaded.energy_at(None, labels)(x), model.energy_at(None, labels)(x))
    assert not (tmp_path / "m" / BUFFER_FILE).exists()


def test_damaged_and_strange_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no image model"):
        load_image_model(tmp_path)
    make(LEVELS).save(tmp_path / "m")
    file = tmp_path / "m" / CONFIG_FILE
    saved = json.loads(file.read_text())
    file.write_text(json.dumps({**saved, "version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        load_image_model(tmp_path / "m")
    file.write_text(json.dumps({**saved, "shape": [1, 5, 5]}))
    with pytest.raises(InputError, match="weights do not fit"):
        load_image_model(tmp_path / "m")
    file.write_text(json.dumps({"format": "x"}))
    with pytest.raises(InputError, match="not an image model"):
        load_image_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, c: m.sample(0), "samples: 0"),
        (lambda m, c: m.sample(2, torch.tensor([0, 1])), "unconditional"),
        (lambda m, c: m.sample(2, start=torch.zeros(2, 1, 5, 5)), "start: shape"),
        (lambda m, c: m.sample(2, sampler=LangevinConfig()), "AnnealConfig"),
        (lambda m, c: m.classify(torch.zeros(1, *SHAPE)), "unconditional"),
        (lambda m, c: c.sample(2, torch.tensor([0, 3])), "accepted are 0 to 2"),
        (lambda m, c: c.sample(3, torch.tensor([0, 1])), "2 of them for 3"),
        (lambda m, c: c.sample(2, sampler=AnnealConfig()), "LangevinConfig"),
        (lambda m, c: c.energy_at(0.5), "without noise levels"),
    ],
)
def test_bad_calls_are_answered_in_a_line(call, words):
    plain, conditional = make(LEVELS), make(dataclasses.replace(CHAINS, conditional=True), 3)
    with pytest.raises(InputError, match=words):
        call(plain, conditional)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"training": "other"}, "training"),
        ({"training": "contrastive"}, "network kind"),
        ({"label_dropout": 2.0}, "label_dropout"),
        ({"classification": 1.0}, "needs a conditional"),
        ({"network": CONV}, "network kind"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(InputError, match=words):
        ImageConfig(**settings)


def test_a_conditional_model_needs_classes():
    with pytest.raises(InputError, match="classes"):
        make(dataclasses.replace(LEVELS, conditional=True), 0)


def test_every_preset_says_its_source_and_survives_its_file():
    from ebm_traj.image.model import from_dict

    for preset in PRESETS.values():
        assert preset.source
        read = json.loads(json.dumps(dataclasses.asdict(preset.config)))
        assert from_dict(ImageConfig, read) == preset.config


def test_contrastive_settings_are_those_of_the_tutorial():
    config = PRESETS["mnist-tutorial"].config
    assert isinstance(config.contrastive, ContrastiveConfig)
    chain = config.contrastive.langevin
    assert (chain.steps, chain.step_size, chain.noise, chain.clip) == (60, 10.0, 0.005, 0.03)
    trainer = PRESETS["mnist-tutorial"].trainer
    assert trainer.learning_rate_at(0) == 1e-4
    assert trainer.learning_rate_at(468) == pytest.approx(0.97e-4)


def test_classes_can_be_left_out_of_a_denoiser():
    model = make(dataclasses.replace(LEVELS, conditional=True, classification=0.5), 3).eval()
    bare = model.unconditional()
    x = torch.rand(4, *SHAPE, generator=of(0))
    assert bare.num_classes == 0 and not bare.config.conditional and not bare.training
    assert torch.equal(bare.energy_at(0.5)(x), model.energy_at(0.5)(x))
    assert len(bare.state_dict()) < len(model.state_dict())
    with pytest.raises(InputError, match="cannot be left out"):
        make(dataclasses.replace(CHAINS, conditional=True), 3).unconditional()
