"""The losses of the energy-based GAN: closed forms, naive loops, and who gets which gradient."""

import math

import pytest
import torch

from ebm_traj.core.energy import energy_and_gradient
from ebm_traj.ebgan.energies import AutoEncoderEnergy
from ebm_traj.ebgan.fully_connected import FCAutoEncoder
from ebm_traj.ebgan.losses import (
    MarginSchedule,
    binary_discriminator_loss,
    binary_generator_loss,
    margin_loss,
    pull_away,
)
from ebm_traj.ebgan.model import AdversarialConfig, AdversarialModel, NetworkConfig
from ebm_traj.errors import InputError

SMALL = NetworkConfig(latent=3, layers_generator=2, width_generator=8, width_discriminator=6)


def test_pull_away_is_the_mean_squared_cosine_of_different_pairs():
    codes = torch.randn(5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flat, total = codes.flatten(1), 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                total += float(flat[i] @ flat[j] / flat[i].norm() / flat[j].norm()) ** 2
    assert float(pull_away(codes)) == pytest.approx(total / (5 * 4), rel=1e-12)
    assert float(pull_away(torch.eye(4))) == pytest.approx(0, abs=1e-12)
    opposite = torch.tensor([[1.0, 2.0], [-3.0, -6.0]])  # squared: opposite codes are as alike as equal ones
    assert float(pull_away(opposite)) == pytest.approx(1, rel=1e-6)
    with pytest.raises(InputError, match="pull-away term: 1 sample"):
        pull_away(codes[:1])


def test_pull_away_does_not_change_with_the_length_of_codes_and_can_be_differentiated():
    codes = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([0.1, 2.0, 30.0, 1.0], dtype=torch.float64)[:, None]
    assert float(pull_away(lengths * codes)) == pytest.approx(float(pull_away(codes)), rel=1e-10)
    assert torch.autograd.gradcheck(pull_away, codes.requires_grad_(True))


def test_the_hinge_is_of_each_sample():
    real = torch.tensor([1.0, 3.0], requires_grad=True)
    fake = torch.tensor([2.0, 14.0, 30.0, 9.0], requires_grad=True)
    loss = margin_loss(real, fake, 10.0)
    assert float(loss.detach()) == pytest.approx(2.0 + (8 + 0 + 0 + 1) / 4)
    loss.backward()
    assert fake.grad is not None and real.grad is not None
    # the mean energy, 13.75, is beyond the margin: a hinge on the batch would push none of them
    assert fake.grad.tolist() == [-0.25, 0.0, 0.0, -0.25]
    assert real.grad.tolist() == [0.5, 0.5]


def test_binary_losses_are_cross_entropies_of_negative_energies():
    real, fake = torch.tensor([-1.5, 0.3]), torch.tensor([2.0, -0.7])
    sigmoid = lambda e: 1 / (1 + math.exp(e))  # noqa: E731  of the logit -e
    expected = sum(-math.log(sigmoid(float(e))) for e in real) / 2
    expected += sum(-math.log(1 - sigmoid(float(e))) for e in fake) / 2
    assert float(binary_discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-6)
    expected = sum(-math.log(sigmoid(float(e))) for e in fake) / 2
    assert float(binary_generator_loss(fake)) == pytest.approx(expected, rel=1e-6)


def test_the_margin_falls_on_a_line_and_stays():
    schedule = MarginSchedule(8.0, "linear", over=0.5, final=2.0)
    assert [schedule.at(i, 100) for i in (0, 25, 50, 99)] == [8.0, 5.0, 2.0, 2.0]
    assert MarginSchedule(8.0).at(99, 100) == 8.0
    for bad in ({"margin": 0.0}, {"decay": "cosine"}, {"over": 0.0}, {"final": 9.0, "margin": 8.0}):
        with pytest.raises(InputError, match="margin"):
            MarginSchedule(**bad)  # type: ignore[arg-type]


def test_the_energy_is_the_distance_to_the_reconstruction_and_the_target_is_not_detached():
    torch.manual_seed(0)
    network = FCAutoEncoder((1, 4, 4), 2, 5, dropout=False).double().eval()
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    energy = AutoEncoderEnergy(network)
    expected = (network.decode(network.encode(x)) - x).flatten(1).norm(dim=1)
    assert torch.allclose(energy(x), expected, rtol=1e-10)
    mean = AutoEncoderEnergy(network, "mean-square")(x)
    assert torch.allclose(mean, expected**2 / 16, rtol=1e-10)
    _, gradient = energy_and_gradient(energy.bind({}), x)
    numeric = torch.zeros_like(x)
    for i in range(16):
        push = torch.zeros_like(x).flatten(1)
        push[:, i] = 1e-6
        push = push.view_as(x)
        numeric.flatten(1)[:, i] = ((energy(x + push) - energy(x - push)) / 2e-6).detach()
    assert torch.allclose(gradient, numeric, atol=1e-6)  # of both x's: in the encoder and as the target


def test_the_pull_away_term_is_in_the_generators_loss_alone():
    losses = {}
    for weight in (0.0, 0.5):
        model = AdversarialModel(AdversarialConfig(pull_away=weight, network=SMALL), (1, 4, 4), seed=3).eval()
        fake = model.sample(6, torch.Generator().manual_seed(0))
        real = torch.zeros_like(fake)
        generator, figures = model.generator_loss(fake)
        losses[weight] = (
            float(model.discriminator_loss(real, fake, 5.0)[0].detach()),
            float(generator.detach()),
        )
    assert losses[0.0][0] == losses[0.5][0]
    assert losses[0.5][1] - losses[0.0][1] == pytest.approx(0.5 * float(figures["pull_away"]), rel=1e-4)


def test_the_margin_follows_the_number_of_pixels():
    config = AdversarialConfig()
    assert config.schedule((1, 28, 28)).margin == pytest.approx(10)
    assert config.schedule((3, 64, 64)).margin == pytest.approx(10 * math.sqrt(3 * 64 * 64 / 784))
    assert AdversarialConfig(margin=3.0).schedule((3, 64, 64)).margin == 3.0
    assert AdversarialConfig(distance="mean-square").schedule((1, 28, 28)).margin == pytest.approx(100 / 784)
