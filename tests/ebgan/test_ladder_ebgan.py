"""EBGAN-LN's margin and its two losses against what they are by definition."""

import pytest
import torch

from ebm_traj.ebgan.ladder import LadderConfig, LadderNetwork
from ebm_traj.ebgan.ladder_ebgan import ContrastConfig, LadderGenerator, contrast
from ebm_traj.errors import InputError

LADDER = LadderConfig(hidden=(8, 6), costs=(1000.0, 0.0, 0.0, 0.0))
CONTRAST = ContrastConfig(batch=12, latent=4, hidden=(9,))


def networks() -> tuple[LadderNetwork, LadderGenerator, torch.Tensor]:
    torch.manual_seed(0)
    ladder, generator = LadderNetwork(5, 3, LADDER).double(), LadderGenerator(5, CONTRAST).double()
    with torch.no_grad():
        for parameter in ladder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return ladder, generator, torch.randn(12, 4).double()


def same_noise() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_margin_falls_linearly_to_zero_and_stays() -> None:
    config = ContrastConfig(margin=40.0, until=0.5)
    assert config.margin_at(0, 1000) == 40.0
    assert config.margin_at(250, 1000) == pytest.approx(20.0)
    assert config.margin_at(499, 1000) == pytest.approx(0.08)
    assert config.margin_at(500, 1000) == 0.0
    assert config.margin_at(999, 1000) == 0.0
    steps = [config.margin_at(i, 1000) - config.margin_at(i + 1, 1000) for i in range(500)]
    assert min(steps) == pytest.approx(max(steps)) == pytest.approx(0.08)


def test_samples_are_pictures() -> None:
    _, generator, latent = networks()
    samples = generator(latent)
    assert samples.shape == (12, 5)
    assert samples.min() > 0 and samples.max() < 1


def test_hinge_is_of_each_sample_not_of_the_mean() -> None:
    ladder, generator, latent = networks()
    samples = generator(latent)
    energies = ladder.energy(samples, same_noise()).detach()
    margin = energies.median().item()  # half of the samples are above it
    found = contrast(ladder, samples, margin, same_noise())
    torch.testing.assert_close(found.energy, energies)
    assert found.loss.item() == pytest.approx((margin - energies).clamp(min=0).mean().item())
    assert found.loss.item() > max(0.0, margin - energies.mean().item())  # Jensen, strictly


def test_the_generators_gradient_is_of_its_mean_energy_with_the_target_attached() -> None:
    ladder, generator, latent = networks()
    energy = ladder.energy(generator(latent), same_noise()).mean()
    expected = torch.autograd.grad(energy, list(generator.parameters()))
    samples = generator(latent)
    found = contrast(ladder, samples, 1e-3, same_noise())  # also where the hinge is 0
    assert found.loss.item() == 0
    samples.backward(found.pull)
    for parameter, gradient in zip(generator.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_ladder_networks_gradient_pushes_up_and_does_not_reach_the_generator() -> None:
    ladder, generator, latent = networks()
    samples = generator(latent)
    before = ladder.energy(samples.detach(), same_noise()).mean()
    parameters = list(ladder.combinators.parameters())
    expected = torch.autograd.grad(-before, parameters)
    found = contrast(ladder, samples, 1e9, same_noise())
    found.loss.backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
        with torch.no_grad():
            parameter.sub_(1e-6 * parameter.grad)
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert ladder.energy(samples, same_noise()).mean() > before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"margin": 0.0}, "margin"),
        ({"until": 0.0}, "until"),
        ({"until": 1.5}, "until"),
        ({"batch": 1}, "batch"),
        ({"hidden": ()}, "hidden"),
        ({"weight": -1.0}, "weight"),
    ],
)
def test_bad_settings(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ContrastConfig(**settings)
