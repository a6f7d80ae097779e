"""The RBM against enumeration and autograd in float64: free energy, conditionals, log Z, samples."""

import math

import pytest
import torch

from ebm_traj.boltzmann.enumeration import binary_states, exact_log_z, exact_samples
from ebm_traj.boltzmann.rbm import RBM, bernoulli
from ebm_traj.errors import InputError


def test_binary_states_are_all_states_in_order(states):
    like = torch.zeros((), dtype=torch.float64)
    assert torch.equal(torch.cat(list(binary_states(5, like, chunk=7))), states(5))
    with pytest.raises(InputError, match="23 units"):
        next(binary_states(23, like))


@pytest.mark.parametrize("units", ["bernoulli", "gaussian"])
def test_free_energy_is_the_sum_over_hidden_states(make, states, units):
    rbm = make(5, 4, units)
    v = states(5)[::3] if units == "bernoulli" else torch.randn(7, 5, dtype=torch.float64)
    joint = torch.stack([rbm.joint_energy(v, h.expand(len(v), -1)) for h in states(4)])
    assert torch.allclose(rbm(v), -(-joint).logsumexp(0), atol=1e-12)


def test_free_energy_of_extreme_units_is_exact(make):
    rbm = make(1, 1)
    rbm.hidden_bias.fill_(30.0)
    rbm.weights.zero_()
    rbm.visible_bias.zero_()
    expected = -math.log1p(math.exp(-30.0)) - 30.0
    assert float(rbm(torch.zeros(1, 1, dtype=torch.float64))) == pytest.approx(expected, abs=1e-14)


def test_log_z_sums_over_all_states_by_either_layer(make, states):
    for sizes in ((6, 3), (3, 6)):
        rbm = make(*sizes)
        v = states(sizes[0])
        assert torch.allclose(exact_log_z(rbm), (-rbm(v)).logsumexp(0), atol=1e-12)
        by_hidden = (-rbm.hidden_free_energy(states(sizes[1]))).logsumexp(0)
        assert torch.allclose(exact_log_z(rbm), by_hidden, atol=1e-12)


def test_log_z_of_gaussian_units_integrates_the_density(make):
    rbm = make(1, 3, "gaussian")
    grid = torch.linspace(-30, 30, 200_001, dtype=torch.float64)[:, None]
    integral = torch.trapezoid((-rbm(grid)).exp(), grid[:, 0]).log()
    assert torch.allclose(exact_log_z(rbm), integral, atol=1e-8)


@pytest.mark.parametrize("sizes", [(4, 3), (3, 4)])
def test_the_exact_likelihoods_gradient_is_data_minus_model_moments(make, states, sizes):
    rbm = make(*sizes).requires_grad_(True)
    v, rows = states(sizes[0]), states(sizes[0])[[1, 1, 5, 7]]
    likelihood = -rbm(rows).mean() - exact_log_z(rbm)
    found = torch.autograd.grad(likelihood, [rbm.weights, rbm.visible_bias, rbm.hidden_bias])
    model = (-rbm(v)).softmax(0).detach()
    with torch.no_grad():
        h, h_rows = rbm.hidden_mean(v), rbm.hidden_mean(rows)
    wanted = (
        rows.T @ h_rows / 4 - (v * model[:, None]).T @ h,
        rows.mean(0) - model @ v,
        h_rows.mean(0) - model @ h,
    )
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, wanted, strict=True))


def test_hidden_and_visible_means_are_those_of_the_joint_distribution(make, states):
    rbm = make(4, 3)
    v, h = states(4), states(3)
    table = torch.stack([rbm.joint_energy(v, one.expand(len(v), -1)) for one in h], 1)
    given_v, given_h = (-table).softmax(1), (-table).softmax(0)
    assert torch.allclose(rbm.hidden_mean(v), given_v @ h, atol=1e-12)
    assert torch.allclose(rbm.visible_mean(h), given_h.T @ v, atol=1e-12)


def test_gaussian_conditional_is_the_quadratic_energys(make, states):
    rbm = make(3, 2, "gaussian")
    h = states(2)
    mean, width = rbm.visible_mean(h), rbm.log_scale.exp()
    for i, one in enumerate(h):
        rows = mean[i] + torch.tensor([[0.0], [0.5], [-0.5]], dtype=torch.float64) * width
        energies = rbm.joint_energy(rows, one.expand(3, -1))
        # half a standard deviation away in each of three dimensions
        assert torch.allclose(energies[1:] - energies[0], torch.full((2,), 3 * 0.125, dtype=torch.float64))
    drawn = rbm.sample_visible(h[:1].expand(40_000, -1), torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.std(0), width, rtol=0.03)


def test_gibbs_and_exact_samples_have_the_enumerated_probabilities(make, states, shares):
    rbm = make(3, 3, scale=0.8)
    generator = torch.Generator().manual_seed(0)
    wanted = (-rbm(states(3)) - exact_log_z(rbm)).exp()
    v = bernoulli(torch.full((40_000, 3), 0.5, dtype=torch.float64), generator)
    for _ in range(30):
        v = rbm.sample_visible(rbm.sample_hidden(v, generator), generator)
    for samples in (v, exact_samples(rbm, 40_000, generator)):
        assert torch.allclose(shares(samples), wanted, atol=0.01)


def test_first_biases_have_the_datas_means():
    rbm = RBM(3, 2)
    rbm.initialise(torch.tensor([0.2, 0.5, 0.0]), torch.Generator().manual_seed(0))
    assert torch.allclose(rbm.visible_bias.sigmoid(), torch.tensor([0.2, 0.5, 0.01]), atol=1e-6)


@pytest.mark.parametrize(
    "make_it, message",
    [(lambda: RBM(0, 1), "visible units: 0"), (lambda: RBM(1, 1, "spin"), "bernoulli, gaussian")],
)
def test_bad_sizes_are_refused(make_it, message):
    with pytest.raises(InputError, match=message):
        make_it()
