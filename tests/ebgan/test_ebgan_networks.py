"""Generators and discriminators of all sizes, and what belongs to them."""

import pytest
import torch
from torch import nn

from ebm_traj.ebgan.convolutional import encoder_channels, generator_channels
from ebm_traj.ebgan.layers import Dropout, calibrate, draw_masks_from
from ebm_traj.ebgan.model import AdversarialConfig, AdversarialModel, Loss, NetworkConfig, load_adversarial
from ebm_traj.errors import InputError


@pytest.mark.parametrize("loss", ["ebgan", "gan"])
@pytest.mark.parametrize("size", [8, 28, 64, 128, 256])
def test_convolutional_networks_of_every_size(loss: Loss, size: int):
    config = AdversarialConfig(loss=loss, network=NetworkConfig("conv", latent=5, channels=2, dropout=True))
    model = AdversarialModel(config, (3, size, size))
    x = model.sample(2, torch.Generator().manual_seed(0))
    assert x.shape == (2, 3, size, size) and float(x.abs().max()) <= 1
    energies = model.energy(x)
    assert energies.shape == (2,) and energies.isfinite().all()
    loss_value, _ = model.generator_loss(x)
    assert loss_value.isfinite()


def test_published_channels():
    assert generator_channels(64, 64) == [1024, 512, 256, 128]
    assert generator_channels(128, 64) == [1024, 512, 256, 128, 64]
    assert generator_channels(256, 64) == [2048, 1024, 512, 256, 128, 64]
    assert encoder_channels(64, 64) == [64, 128, 256]
    assert encoder_channels(128, 64) == [64, 128, 256, 512]


@pytest.mark.parametrize("loss", ["ebgan", "gan"])
@pytest.mark.parametrize("layers", [2, 3, 5])
def test_layers_are_counted_as_in_the_grid(loss: Loss, layers: int):
    network = NetworkConfig(
        "fc",
        7,
        layers_generator=layers,
        width_generator=6,
        layers_discriminator=layers,
        width_discriminator=4,
    )
    model = AdversarialModel(AdversarialConfig(loss=loss, network=network), (1, 3, 3))
    for part in (model.generator, model.energy):
        weights = [m for m in part.modules() if isinstance(m, nn.Linear)]
        norms = [m for m in part.modules() if isinstance(m, nn.BatchNorm1d)]
        assert len(weights) == layers
        # after each weight layer but the generator's last, and the discriminator's first and last
        assert len(norms) == (layers - 1 if part is model.generator else layers - 2)
        assert (weights[0].in_features, weights[-1].out_features) == (
            (7, 9) if part is model.generator else (9, 9 if loss == "ebgan" else 1)
        )


def test_first_weights_are_as_published_and_the_same_by_seed():
    network = NetworkConfig(width_generator=200, width_discriminator=200)
    model, twin = (AdversarialModel(AdversarialConfig(network=network), (1, 20, 20), seed=1) for _ in "ab")
    other = AdversarialModel(AdversarialConfig(network=network), (1, 20, 20), seed=2)
    for part, std in ((model.generator, 0.02), (model.energy, 0.002)):
        for layer in (m for m in part.modules() if isinstance(m, nn.Linear)):
            assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.05)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_dropout_masks_come_from_the_generator_and_keep_the_mean():
    layer, x = Dropout(0.25), torch.ones(400, 50)
    draw_masks_from(layer, torch.Generator().manual_seed(1))
    first = layer(x)
    torch.manual_seed(5)  # the global generator has no say
    draw_masks_from(layer, torch.Generator().manual_seed(1))
    assert torch.equal(first, layer(x))
    assert sorted(set(first.flatten().tolist())) == pytest.approx([0, 1 / 0.75])
    assert float(first.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(layer.eval()(x), x)


def test_calibration_sets_batch_norm_to_the_given_batches():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    batches = [torch.randn(50, 3) * 3 + 1 for _ in range(4)]
    network(torch.randn(9, 3) * 100)
    calibrate(network, batches)
    seen = [network[0](batch) for batch in batches]
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm1d) and norm.momentum == 0.1 and norm.training
    assert torch.allclose(norm.running_mean, torch.stack([s.mean(0) for s in seen]).mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, torch.stack([s.var(0) for s in seen]).mean(0), rtol=1e-4)


def test_saved_and_loaded(tmp_path):
    config = AdversarialConfig(margin_decay="linear", network=NetworkConfig(dropout=True, width_generator=9))
    model = AdversarialModel(config, (1, 4, 4), seed=4).eval()
    model.card = {"seed": 4}
    model.save(tmp_path / "model")
    again = load_adversarial(tmp_path / "model")
    assert again.config == config and again.card == {"seed": 4} and not again.training
    draws = [m.sample(3, torch.Generator().manual_seed(0)) for m in (model, again)]
    assert torch.equal(*draws) and torch.equal(model.energy(draws[0]), again.energy(draws[0]))
    (tmp_path / "model" / "ebgan.json").write_text('{"format": "other"}')
    with pytest.raises(InputError, match="not an EBGAN"):
        load_adversarial(tmp_path / "model")
    with pytest.raises(InputError, match="no file"):
        load_adversarial(tmp_path)


def test_bad_networks_are_refused_in_one_line():
    with pytest.raises(InputError, match="pictures of 9 x 9; accepted are squares of 8, 16"):
        AdversarialModel(AdversarialConfig(network=NetworkConfig("conv")), (1, 9, 9))
    with pytest.raises(InputError, match="layers generator: 1"):
        NetworkConfig(layers_generator=1)
    with pytest.raises(InputError, match="pull-away: -1"):
        AdversarialConfig(pull_away=-1)
