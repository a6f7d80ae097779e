"""Energies compose as their densities do."""

import torch

from ebm_traj.core.energy import Energy, FunctionEnergy, energy_and_gradient, mixture


def quadratic(centre: float, variance: float = 1.0) -> FunctionEnergy:
    return FunctionEnergy(lambda x: ((x - centre) ** 2).sum(-1) / (2 * variance))


X = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]


def test_sum_of_two_gaussians_is_the_gaussian_of_their_product():
    both = quadratic(-1.0, 1.0) + quadratic(2.0, 0.5)
    product = quadratic((-1.0 + 2 * 2.0) / 3, 1 / 3)
    difference = both(X) - product(X)
    assert torch.allclose(difference, difference[:1].expand_as(difference))


def test_weight_is_an_inverse_temperature():
    assert torch.equal((3.0 * quadratic(0.0))(X), 3 * quadratic(0.0)(X))
    assert torch.equal((quadratic(0.0) * 3.0)(X), 3 * quadratic(0.0)(X))


def test_mixture_adds_densities():
    a, b = quadratic(-1.0), quadratic(2.0)
    assert torch.allclose((-mixture([a, b])(X)).exp(), (-a(X)).exp() + (-b(X)).exp())


def test_gradient_is_that_of_the_composed_energy_and_leaves_the_parameters_alone():
    scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    energy = FunctionEnergy(lambda x: scale * (x**2).sum(-1)) + quadratic(1.0)
    value, gradient = energy_and_gradient(energy, X)
    assert torch.allclose(gradient, 4 * X + X - 1)
    assert not value.requires_grad and not gradient.requires_grad and scale.grad is None


def test_gradient_agrees_with_finite_differences_in_float64():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1)).double()
    energy = FunctionEnergy(lambda x: net(x).squeeze(-1))
    x = torch.randn(5, 3, dtype=torch.float64)
    _, gradient = energy_and_gradient(energy, x)
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    numeric = torch.stack([(energy(x + s) - energy(x - s)) / 2e-6 for s in step], dim=-1)
    assert torch.allclose(gradient, numeric, atol=1e-8)


def test_binding_a_condition_gives_the_same_energy():
    class Shifted(Energy):
        def forward(self, x, condition=None):
            return ((x - condition["c"]) ** 2).sum(-1)

    condition = {"c": torch.randn(13, 1, dtype=torch.float64)}
    for energy in (
        Shifted(),
        Shifted() + quadratic(0.0),
        0.5 * Shifted(),
        mixture([Shifted(), quadratic(1.0)]),
    ):
        assert torch.equal(energy.bind(condition)(X), energy(X, condition))
