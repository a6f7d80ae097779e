"""Energy networks of pictures: shapes, gradients, classes, levels, spectral norm, moments that stay."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from ebm_traj.core.denoising import LEVEL
from ebm_traj.core.ema import EMA
from ebm_traj.core.energy import is_written_out
from ebm_traj.errors import InputError
from ebm_traj.image.conv import BoundConv, ConvEnergy
from ebm_traj.image.denoiser import DenoiserEnergy
from ebm_traj.image.networks import LABEL, NO_LABEL, ClassGain, NetworkConfig, build_network
from ebm_traj.image.residual import ResidualNetEnergy, SelfAttention
from ebm_traj.image.spectral import SpectralConv2d, power_iterate

UNET = NetworkConfig(channels=(4, 6), mixing=1, middle=1, embedding=8)
RESIDUAL = NetworkConfig(
    kind="residual", channels=(4, 6), downsample=(0, 1), spectral_norm=True, attention=(1,), scales=2, stem=3
)
CONV = NetworkConfig(kind="conv", channels=(4, 6), dense=5)
SHAPES = [(1, 9, 11), (3, 16, 16)]


def make(config, shape, classes, seed=0):
    torch.manual_seed(seed)
    energy = build_network(config, shape, classes, mean=0.1 * torch.randn(shape), std=0.5)
    if isinstance(energy, DenoiserEnergy):  # its last layer is nearly 0 at first
        nn.init.normal_(energy.net.last.weight, std=0.3)
    return energy.double()


def rows(energy, count=5, label=True):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, *energy.shape, generator=generator, dtype=torch.float64)
    condition = {}
    if energy.has_levels:
        condition[LEVEL] = torch.rand(count, generator=generator, dtype=torch.float64) + 0.2
    if energy.num_classes and label:
        condition[LABEL] = torch.randint(energy.num_classes, (count,), generator=generator)
    return x, condition


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("config", [UNET, RESIDUAL, CONV])
def test_each_row_has_its_own_smooth_energy(config, shape, classes):
    energy = make(config, shape, classes)
    x, condition = rows(energy)
    x.requires_grad_(True)
    values = energy(x, condition)
    assert values.shape == (5,)
    alone = energy(x[2:3], {name: v[2:3] for name, v in condition.items()})
    torch.testing.assert_close(alone, values[2:3])
    (gradient,) = torch.autograd.grad(values.sum(), x)
    step = 1e-5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    with torch.no_grad():
        found = (energy(x + step, condition) - energy(x - step, condition)) / 2
    torch.testing.assert_close(found, (gradient * step).flatten(1).sum(1), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("config", [UNET, RESIDUAL, CONV])
def test_the_class_matters_and_no_class_is_no_class(config):
    energy = make(config, (1, 8, 8), 3)
    x, condition = rows(energy)
    bare = {name: v for name, v in condition.items() if name != LABEL}
    none = {**bare, LABEL: torch.full((5,), NO_LABEL)}
    with torch.no_grad():
        of_class = energy(x, condition)
        torch.testing.assert_close(energy(x, bare), energy(x, none))
        assert (of_class - energy(x, bare)).abs().min() > 1e-9
        mixed = {**none, LABEL: none[LABEL].clone().index_copy(0, torch.tensor([1]), condition[LABEL][1:2])}
        found = energy(x, mixed)
    torch.testing.assert_close(found[1], of_class[1])
    torch.testing.assert_close(found[0], energy(x, bare)[0])


@pytest.mark.parametrize("config", [UNET, RESIDUAL, CONV])
def test_energies_of_all_classes_are_those_of_each(config):
    energy = make(config, (1, 8, 8), 4)
    x, condition = rows(energy)
    with torch.no_grad():
        all_of_them = energy.class_energies(x, condition)
        for y in range(4):
            one = energy(x, {**condition, LABEL: torch.full((5,), y)})
            torch.testing.assert_close(all_of_them[:, y], one)


def test_the_denoisers_energy_without_a_class_is_the_sum_over_classes():
    energy = make(UNET, (1, 8, 8), 4)
    x, condition = rows(energy, label=False)
    with torch.no_grad():
        joint = energy.class_energies(x, condition)
        torch.testing.assert_close(-joint.neg().logsumexp(1), energy(x, condition))


def test_a_denoiser_without_network_is_that_of_gaussian_data():
    energy = make(UNET, (1, 8, 8), 0)
    nn.init.zeros_(energy.net.last.weight)
    x, condition = rows(energy)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(energy(x, condition).sum(), x)
    variance = (condition[LEVEL] ** 2 + energy.std**2).view(-1, 1, 1, 1)
    torch.testing.assert_close(gradient, (x - energy.mean) / variance)


def test_a_denoiser_needs_its_level():
    energy = make(UNET, (1, 8, 8), 0)
    with pytest.raises(InputError, match="noise level"):
        energy(rows(energy)[0], {})


def test_the_tutorials_network_has_its_size():
    energy = ConvEnergy(NetworkConfig(kind="conv", channels=(16, 32, 64, 64), dense=64), (1, 28, 28))
    assert sum(p.numel() for p in energy.parameters()) == 76_993
    assert energy.dense.in_features == 64 * 2 * 2  # 16, 8, 4, 2 pixels


def test_spectral_norm_finds_the_largest_singular_value_and_moves_only_when_told():
    torch.manual_seed(0)
    layer = SpectralConv2d(3, 5, 3, padding=1)
    for _ in range(200):
        power_iterate(layer)
    largest = torch.linalg.svdvals(layer.normalised.detach().flatten(1))[0]
    torch.testing.assert_close(largest, torch.ones(()), rtol=1e-4, atol=1e-4)
    before = copy.deepcopy(dict(layer.named_buffers()))
    with torch.no_grad():
        layer.weight.mul_(1.1).add_(0.01)
    layer.train()(torch.randn(2, 3, 6, 6)).sum().backward()
    for name, value in layer.named_buffers():
        assert torch.equal(value, before[name])
    power_iterate(layer)
    assert any(not torch.equal(value, before[name]) for name, value in layer.named_buffers())


def test_gradients_of_spectral_norm_go_through_the_norm():
    torch.manual_seed(0)
    layer = SpectralConv2d(2, 3, 3, padding=1).double()
    for _ in range(500):
        power_iterate(layer)
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    layer(x).square().sum().backward()
    found = layer.weight.grad.clone()
    # at the fixed point of the iteration W / sigma(W) does not change with the length of W
    assert abs(float((found * layer.weight.detach()).sum())) < 1e-8
    reference = layer.weight.detach().clone().requires_grad_(True)
    sigma = torch.linalg.svdvals(reference.flatten(1))[0]
    nn.functional.conv2d(x, reference / sigma, layer.bias, padding=1).square().sum().backward()
    torch.testing.assert_close(found, reference.grad, rtol=1e-6, atol=1e-8)


def test_averaged_weights_take_spectral_vectors_as_they_are():
    torch.manual_seed(0)
    energy = build_network(RESIDUAL, (1, 8, 8), 0)
    average = EMA(energy, 0.99)
    with torch.no_grad():
        for parameter in energy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    power_iterate(energy)
    average.update(energy)
    for mine, theirs in zip(average.module.buffers(), energy.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_attention_begins_as_nothing_and_sees_all_pixels():
    torch.manual_seed(0)
    layer = SelfAttention(8).double()
    h = torch.randn(2, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(h), h)
    nn.init.ones_(layer.gamma)
    (gradient,) = torch.autograd.grad((layer(h) - h)[0, 0, 0, 0], h)
    assert bool((gradient[0].abs().amax(0) > 0).all()) and bool((gradient[1] == 0).all())


def test_class_gain_leaves_rows_without_a_class():
    layer = ClassGain(3, 4)
    h = torch.randn(2, 4, 2, 2)
    out = layer(h, torch.tensor([-1, 2]))
    assert torch.equal(out[0], h[0]) and not torch.allclose(out[1], h[1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "mlp"}, "network kind"),
        ({"activation": "tanh"}, "network activation"),
        ({"channels": ()}, "network channels"),
        ({"patch": 0}, "network patch"),
        ({"kind": "residual", "downsample": (2,)}, "network downsample"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(InputError, match=words):
        NetworkConfig(**settings)


def test_pictures_too_small_are_refused():
    with pytest.raises(InputError, match="too small"):
        ResidualNetEnergy(dataclasses.replace(RESIDUAL, scales=4), (1, 8, 8))


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 11, 14)])
def test_the_convolutions_gradient_is_that_of_autograd(classes, shape):
    energy = make(CONV, shape, classes)
    x, condition = rows(energy)
    bound = BoundConv(energy, condition)
    with torch.no_grad():
        value, gradient = bound.value_and_gradient(x)
    x.requires_grad_(True)
    expected = energy(x, condition)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), x)[0])


def test_a_chain_uses_the_written_out_gradient_only_where_there_is_one():
    energy = make(CONV, (1, 8, 8), 0).float()
    assert is_written_out(energy.bind({}))
    leaky = build_network(dataclasses.replace(CONV, activation="leaky_relu"), (1, 8, 8), 0)
    assert not is_written_out(leaky.bind({}))
