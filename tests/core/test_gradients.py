"""Written-out gradients against autograd in float64, and chains that use them."""

import pytest
import torch

from ebm_traj.core.backends import use
from ebm_traj.core.energy import energy_and_gradient
from ebm_traj.core.gradients import COLUMNS, BoundEnergy, FullColumns, mlp_form
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.core.proposal import CENTRE, SCALE, MixtureProposal, ResidualEnergy
from ebm_traj.errors import InputError
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.window_energy import WindowEnergy

B, KNOWN, FRAME = 7, 5, 3


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_energy(architecture="mlp", depth=2, window=2, levels=False, confinement=0.3, width=16):
    torch.manual_seed(0)
    net = NetworkConfig(window_frames=window, width=width, depth=depth, architecture=architecture)
    energy = WindowEnergy(KNOWN, FRAME, net, confinement, levels)
    for parameter in energy.parameters():  # layers that start at zero would hide mistakes
        torch.nn.init.normal_(parameter, std=0.4)
    return energy


def condition(rows=B, levels=False):
    known = {"context": torch.randn(rows, KNOWN)}
    return {**known, "level": torch.rand(rows) + 0.1} if levels else known


def differences(bound, x):
    value, gradient = energy_and_gradient(bound, x)
    with use("autograd"):
        true_value, true_gradient = energy_and_gradient(bound, x)
    return float((value - true_value).abs().max()), float((gradient - true_gradient).abs().max())


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("architecture", ["mlp", "residual", "temporal"])
def test_value_and_gradient_are_those_of_autograd(architecture, depth, levels):
    energy = make_energy(architecture, depth, levels=levels)
    bound = energy.bind(condition(levels=levels))
    assert isinstance(bound, BoundEnergy)
    for _ in range(2):  # the second time in buffers that are in use
        x = torch.randn(B, 2 * FRAME)
        assert max(differences(bound, x)) < 1e-12
        with torch.no_grad():
            gradient = bound.value_and_gradient(x, True)[1].clone()
            assert torch.allclose(bound.value_and_gradient(x, False)[1], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, COLUMNS - 1, COLUMNS, COLUMNS + 1])
def test_columns_are_filled_up_for_the_product_alone(rows):
    h, weight = torch.randn(5, 8), torch.randn(rows, 8)
    product = FullColumns(weight, len(h))
    assert torch.allclose(product(h), h @ weight.t(), rtol=0, atol=1e-14)
    assert product(2 * h).shape == (5, rows)


def test_a_sum_a_weight_and_a_residual_energy_know_theirs_too():
    first, second = make_energy("mlp"), make_energy("residual", confinement=0.0)
    known, x = condition(), torch.randn(B, 2 * FRAME)
    bound = (0.5 * first + second).bind(known)
    assert isinstance(bound, BoundEnergy) and max(differences(bound, x)) < 1e-12
    part = (0.5 * first + second).bind({name: values[2:5] for name, values in known.items()})
    assert torch.allclose(energy_and_gradient(part, x[2:5])[1], energy_and_gradient(bound, x)[1][2:5])
    proposal = MixtureProposal(torch.nn.Identity(), lambda c: c["context"], 1)
    component = {CENTRE: torch.randn(B, 2 * FRAME), SCALE: torch.rand(B, 2 * FRAME) + 0.1}
    residual = ResidualEnergy(proposal, second).bind({**known, **component})
    assert isinstance(residual, BoundEnergy) and max(differences(residual, x)) < 1e-11
    assert torch.allclose(residual(x), ResidualEnergy(proposal, second)(x, {**known, **component}))


def test_the_form_of_an_mlp_is_the_energy():
    known, x = condition(), torch.randn(B, 2 * FRAME)
    bound = make_energy("mlp", depth=3).bind(known)
    form = mlp_form(bound)
    h = form.first + x @ form.x_weight
    for weight, bias in form.hidden:
        h = torch.nn.functional.silu(h) @ weight + bias
    value = torch.nn.functional.silu(h) @ form.last + form.last_bias
    value = value + 0.5 * (form.precision * (x - (form.centre or 0)).square()).sum(1)
    assert torch.allclose(value, bound(x))
    assert mlp_form(make_energy("residual").bind(known)) is None


def test_what_is_returned_stays_when_the_next_gradient_is_taken():
    bound = make_energy().bind(condition())
    value, gradient = energy_and_gradient(bound, torch.randn(B, 2 * FRAME))
    before = value.clone(), gradient.clone()
    energy_and_gradient(bound, torch.randn(B, 2 * FRAME))
    assert torch.equal(value, before[0]) and torch.equal(gradient, before[1])


@pytest.mark.parametrize("metropolis", [False, True])
def test_a_chain_is_the_same_with_both_gradients(metropolis):
    bound, start = make_energy("residual").bind(condition()), torch.randn(B, 2 * FRAME)
    config = LangevinConfig(steps=5, step_size=0.1, metropolis=metropolis, clip=None if metropolis else 0.05)
    scale = torch.rand(B, 2 * FRAME) + 0.5
    ends = []
    for name in ("manual", "autograd"):
        with use(name):
            generator = torch.Generator().manual_seed(0)
            ends.append(langevin(bound, start, config, scale=scale, generator=generator))
    assert torch.allclose(ends[0].x, ends[1].x, atol=1e-12) and not torch.equal(ends[0].x, start)
    assert torch.allclose(ends[0].acceptance, ends[1].acceptance)
    if metropolis:
        assert torch.allclose(ends[0].energy, bound(ends[0].x))


def test_many_chains_with_written_out_gradients_sample_the_density():
    """x ~ N(centre, scale^2): the correction is 0, the chain must keep the variance."""
    rows = 1000
    correction = make_energy(confinement=0.0)
    correction.network.start_at_zero()
    proposal = MixtureProposal(torch.nn.Identity(), lambda c: c["context"], 1)
    component = {CENTRE: torch.full((rows, 6), 2.0), SCALE: torch.full((rows, 6), 0.5)}
    bound = ResidualEnergy(proposal, correction).bind({**condition(rows), **component})
    config = LangevinConfig(steps=60, step_size=0.5, metropolis=True)
    chain = langevin(bound, torch.zeros(rows, 6), config, scale=component[SCALE], generator=torch.Generator())
    spread = 0.5 / (rows * 6) ** 0.5
    assert float(chain.x.mean()) == pytest.approx(2.0, abs=4 * spread)
    assert float(chain.x.std()) == pytest.approx(0.5, abs=4 * spread)


def test_a_backend_that_cannot_walk_says_so():
    with pytest.raises(InputError, match="accepted are auto, autograd"), use("fast"):
        pass
    with use("manual"), pytest.raises(InputError, match="no written-out gradient"):
        langevin(lambda x: x.square().sum(1), torch.zeros(2, 3), LangevinConfig(steps=1))
    with pytest.raises(InputError, match="CUDA device"), use("triton"):
        langevin(make_energy().bind(condition()), torch.zeros(B, 6), LangevinConfig(steps=1))
