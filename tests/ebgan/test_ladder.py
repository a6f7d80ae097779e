"""Pieces of the ladder network against formulas written out by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from ebm_traj.ebgan.ladder import (
    ALL_LAYERS,
    BOTTOM_LAYER,
    Combinator,
    LadderConfig,
    LadderNetwork,
    LadderPass,
    normalise,
)
from ebm_traj.errors import InputError

SMALL = LadderConfig(hidden=(7, 5), noise=0.3, costs=(1000.0, 10.0, 0.1, 0.1))


def small(config: LadderConfig = SMALL, seed: int = 0) -> LadderNetwork:
    """Six inputs, three classes, float64; all parameters away from their special starting values."""
    torch.manual_seed(seed)
    network = LadderNetwork(6, 3, config).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def rows(count: int = 11, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_combinator_is_the_formula_of_the_paper() -> None:
    torch.manual_seed(0)
    combinator = Combinator(4).double()
    torch.nn.init.normal_(combinator.a)
    noisy, above = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    found = combinator(noisy, above)
    a = combinator.a.detach().numpy()
    for row in range(5):
        for unit in range(4):
            z, u = noisy[row, unit].item(), above[row, unit].item()
            b = a[:, unit]
            mean = b[0] / (1 + math.exp(-(b[1] * u + b[2]))) + b[3] * u + b[4]
            gain = b[5] / (1 + math.exp(-(b[6] * u + b[7]))) + b[8] * u + b[9]
            assert found[row, unit].item() == pytest.approx((z - mean) * gain + mean, abs=1e-12)


def test_a_fresh_combinator_says_nothing() -> None:
    assert Combinator(3)(torch.randn(4, 3), torch.randn(4, 3)).abs().max() == 0


def test_combinator_can_be_the_best_linear_denoiser() -> None:
    """z ~ N(mu(u), s^2) with noise n: (z~ - mu) s^2 / (s^2 + n^2) + mu, a Gaussian's posterior mean."""
    combinator = Combinator(1).double()
    with torch.no_grad():
        combinator.a.zero_()
        combinator.a[3], combinator.a[9] = 2.0, 0.8  # mu = 2 u, s^2 / (s^2 + n^2) = .8
    generator = torch.Generator().manual_seed(0)
    u, e, n = torch.randn(3, 200_000, 1, generator=generator, dtype=torch.float64)
    z = 2 * u + e  # s = 1
    error = (combinator(z + 0.5 * n, u) - z).square().mean()  # n = .5: s^2 n^2 / (s^2 + n^2) = .2
    assert error.item() == pytest.approx(0.2, abs=3e-3)


def test_normalise_by_hand() -> None:
    x = rows()
    found, mean, std = normalise(x)
    np.testing.assert_allclose(mean, x.numpy().mean(0), atol=1e-12)
    np.testing.assert_allclose(std, x.numpy().std(0), rtol=1e-8)
    np.testing.assert_allclose(found, (x.numpy() - x.numpy().mean(0)) / x.numpy().std(0), rtol=1e-7)


def test_clean_encoder_by_hand() -> None:
    network, x = small(), rows()
    found = network.encode(x)
    h = x.numpy()
    for layer in range(3):
        before = h @ network.up[layer].detach().numpy().T
        z = (before - before.mean(0)) / np.sqrt(before.var(0) + 1e-10)
        np.testing.assert_allclose(found.z[layer + 1].detach(), z, atol=1e-10)
        np.testing.assert_allclose(found.mean[layer + 1].detach(), before.mean(0), atol=1e-12)
        np.testing.assert_allclose(found.std[layer + 1].detach(), before.std(0), rtol=1e-6)
        h = z + network.bias[layer].detach().numpy()
        h = np.maximum(h, 0) if layer < 2 else h * network.scale.detach().numpy()
    np.testing.assert_allclose(found.logits.detach(), h, atol=1e-10)


def test_batches_encoded_together_keep_their_own_statistics() -> None:
    network = small()
    one, other = network.encode_apart([rows(9, 1), rows(14, 2)])
    for joint, alone in ((one, network.encode(rows(9, 1))), (other, network.encode(rows(14, 2)))):
        torch.testing.assert_close(joint.logits, alone.logits)
        torch.testing.assert_close(joint.z, alone.z)
        torch.testing.assert_close(joint.mean, alone.mean)
        torch.testing.assert_close(joint.std, alone.std)


def test_noise_is_on_every_layer_and_of_its_size() -> None:
    network = small(LadderConfig(hidden=(7, 5), noise=0.3, costs=(0.0,) * 4))
    x = rows(40_000)
    noisy = network.encode(x, 0.3, torch.Generator().manual_seed(0))
    np.testing.assert_allclose((noisy.z[0] - x).std(0), 0.3, rtol=0.02)
    for z in noisy.z[1:]:  # variance 1 of the normalised value and .09 of the noise
        np.testing.assert_allclose(z.detach().var(0), 1.09, rtol=0.03)


def test_decoder_by_hand() -> None:
    network, x = small(), rows()
    noisy = network.encode(x, 0.3, torch.Generator().manual_seed(0))
    found = network.decode(noisy)
    above = normalise(functional.softmax(noisy.logits, 1))[0]
    estimate = network.combinators[3](noisy.z[3], above)
    torch.testing.assert_close(found[3], estimate)
    for layer in (2, 1, 0):
        above = normalise(estimate @ network.down[layer].T)[0]
        estimate = network.combinators[layer](noisy.z[layer], above)
        torch.testing.assert_close(found[layer], estimate)


def test_cost_by_hand_and_zero_if_exact() -> None:
    network, x = small(), rows()
    clean = network.encode(x)
    estimates = network.decode(network.encode(x, 0.3, torch.Generator().manual_seed(0)))
    expected = np.zeros(len(x))
    for layer, weight in enumerate(SMALL.costs):
        estimate = estimates[layer].detach().numpy()
        if layer:
            estimate = (estimate - clean.mean[layer].detach().numpy()) / clean.std[layer].detach().numpy()
        difference = estimate - clean.z[layer].detach().numpy()
        expected += weight * (difference**2).mean(1)
    np.testing.assert_allclose(network.costs(estimates, clean).detach(), expected, rtol=1e-10)
    exact = [z * std + mean for z, mean, std in zip(clean.z, clean.mean, clean.std, strict=True)]
    assert network.costs(exact, clean).abs().max() < 1e-20


def test_identity_combinators_without_noise_restore_the_input() -> None:
    """v(u) = 1 makes g(z~, u) = z~, so that without noise the input's cost is exactly 0."""
    network = small(LadderConfig(hidden=(7, 5), noise=0.0, costs=(1000.0, 0.0, 0.0, 0.0)))
    for combinator in network.combinators:
        torch.nn.init.zeros_(combinator.a)
        torch.nn.init.ones_(combinator.a[9])
    assert network.energy(rows()).abs().max() == 0


@pytest.mark.parametrize("costs", [SMALL.costs, (1000.0, 0.0, 0.0, 0.0)])
def test_gradient_against_differences(costs: tuple[float, ...]) -> None:
    """In float64, of all parameters and of the input, along random directions."""
    network = small(LadderConfig(hidden=(7, 5), noise=0.3, costs=costs))
    x = rows().requires_grad_()
    answers = torch.arange(11) % 3

    def loss() -> torch.Tensor:
        random = torch.Generator().manual_seed(5)
        logits = network.encode(x, 0.3, random).logits
        return functional.cross_entropy(logits, answers) + network.energy(x, random).mean()

    tensors = [x, *network.parameters()]
    gradients = torch.autograd.grad(loss(), tensors)
    generator = torch.Generator().manual_seed(9)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        with torch.no_grad():
            tensor.add_(step * direction)
            above = loss()
            tensor.sub_(2 * step * direction)
            below = loss()
            tensor.add_(step * direction)
        slope = (above - below).item() / (2 * step)
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-5, abs=1e-6)


def test_the_clean_pass_is_left_out_only_where_it_changes_nothing() -> None:
    network = small(LadderConfig(hidden=(7, 5), costs=(1000.0, 0.0, 0.0, 0.0)))
    assert not network.needs_clean
    x = rows()
    random = torch.Generator().manual_seed(0)
    short = network.energy(x, random)
    noisy = network.encode(x, network.config.noise, random.manual_seed(0))
    torch.testing.assert_close(short, network.costs(network.decode(noisy), network.encode(x)))
    assert small().needs_clean


def test_classification_uses_collected_statistics() -> None:
    network, x = small(), rows(50)
    network.collect_statistics(x)
    torch.testing.assert_close(network(x), network.encode(x).logits)
    torch.testing.assert_close(network(x[:1]), network(x)[:1])  # rows do not affect each other
    assert not torch.allclose(network.encode(x[:5]).logits, network(x[:5]))


def test_half_precision_is_near_and_keeps_types() -> None:
    torch.manual_seed(0)
    plain = LadderNetwork(6, 3, SMALL)
    half = LadderNetwork(6, 3, LadderConfig(hidden=(7, 5), costs=SMALL.costs, half_precision=True))
    half.load_state_dict(plain.state_dict())
    x = rows(500).float()
    found, expected = half.encode(x), plain.encode(x)
    assert found.logits.dtype == torch.float32
    assert 0 < (found.logits - expected.logits).abs().mean() < 0.02
    half.energy(x).mean().backward()
    assert half.up[0].grad is not None and half.up[0].grad.dtype == torch.float32


def test_presets_are_those_of_mnist() -> None:
    network = LadderNetwork(784, 10)
    assert network.sizes == [784, 1000, 500, 250, 250, 250, 10]
    assert network.config.costs == ALL_LAYERS == (1000, 10, 0.1, 0.1, 0.1, 0.1, 0.1)
    assert BOTTOM_LAYER == (1000, 0, 0, 0, 0, 0, 0)
    assert isinstance(network.encode(torch.rand(4, 784)), LadderPass)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden": ()}, "hidden"),
        ({"noise": -1.0}, "noise"),
        ({"costs": (1.0, 2.0)}, "needed are 7"),
        ({"costs": (-1.0,) * 7}, "costs"),
    ],
)
def test_bad_settings(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        LadderConfig(**settings)
