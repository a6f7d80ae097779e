"""The general Boltzmann machine against sums over all states, and its learning."""

import pytest
import torch

from ebm_traj.boltzmann.machine import BoltzmannMachine
from ebm_traj.boltzmann.machine_objective import MachineConfig, MachineDivergence
from ebm_traj.core.objectives import Batch
from ebm_traj.errors import InputError


def machine_of(visible, hidden, scale=1.0, seed=0):
    machine = BoltzmannMachine(visible, hidden).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        machine.raw.normal_(0, scale, generator=generator)
        machine.bias.normal_(0, scale, generator=generator)
    return machine.requires_grad_(False)


def test_energy_counts_every_pair_once(states):
    machine = machine_of(2, 1)
    j, b = machine.couplings, machine.bias
    s = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(machine.joint_energy(s), -(j[0, 2] + b[0] + b[2]))
    assert torch.equal(j, j.T) and not j.diagonal().any()


def test_free_energy_and_log_z_sum_over_states(states):
    machine = machine_of(4, 3)
    v, h = states(4), states(3)
    joint = torch.stack([machine.joint_energy(torch.cat([v, one.expand(16, -1)], 1)) for one in h])
    assert torch.allclose(machine(v), -(-joint).logsumexp(0), atol=1e-12)
    assert torch.allclose(machine.log_z(), (-joint).flatten().logsumexp(0), atol=1e-12)


def test_an_rbm_is_a_boltzmann_machine(make, states):
    rbm = make(4, 3)
    assert torch.allclose(BoltzmannMachine.of(rbm)(states(4)), rbm(states(4)), atol=1e-12)
    with pytest.raises(InputError, match="gaussian"):
        BoltzmannMachine.of(make(2, 2, "gaussian"))


def test_gibbs_sweeps_have_the_enumerated_probabilities(states, shares):
    machine = machine_of(2, 2, 0.8)
    wanted = (-machine.joint_energy(states(4))).softmax(0)
    generator = torch.Generator().manual_seed(0)
    start = machine.start(torch.zeros(20_000, 2, dtype=torch.float64), generator)
    assert torch.allclose(shares(machine.gibbs(start, 25, generator)), wanted, atol=0.015)
    clamped = machine.gibbs(start, 25, generator, clamped=True)
    assert not clamped[:, :2].any()
    given = (-machine.joint_energy(states(4)[:4])).softmax(0)  # the states with both visible units off
    assert torch.allclose(shares(clamped)[:4], given, atol=0.015)


def test_mean_field_bounds_the_free_energy_from_below(states):
    machine = machine_of(3, 4, 0.7)
    v = states(3)
    bounds = [machine.bound(machine.mean_field(v, sweeps)) for sweeps in (0, 1, 3, 30)]
    for below, above in zip(bounds, [*bounds[1:], -machine(v)], strict=True):
        assert (above >= below - 1e-12).all()
    assert float((-machine(v) - bounds[-1]).max()) < 0.5
    alone = machine_of(3, 1)  # one hidden unit: mean field is exact
    assert torch.allclose(alone.bound(alone.mean_field(v)), -alone(v), atol=1e-12)


def test_exact_statistics_give_the_gradient_of_the_likelihood(states):
    machine = machine_of(4, 2).requires_grad_(True)
    v = states(4)[[0, 3, 3, 9]]
    config = MachineConfig(inference="exact", model="exact", batch_size=4)
    loss, _ = MachineDivergence(machine, config)(Batch(v, {}), torch.Generator())
    expected = machine(v).mean() + (-machine(states(4))).logsumexp(0)
    assert torch.allclose(loss, expected, atol=1e-12)
    # the same from moments: (data - model) of s s'
    pairs = torch.autograd.grad(loss, machine.raw)[0]
    s = states(6)
    model = (-machine.joint_energy(s)).softmax(0).detach()
    given = torch.zeros(64, dtype=torch.float64)
    for row in v:
        match = (s[:, :4] == row).all(1)
        given[match] += model[match] / model[match].sum() / 4
    moments = torch.einsum("k,ki,kj->ij", model - given, s, s).triu(1)
    assert torch.allclose(pairs, moments, atol=1e-12)


@pytest.mark.parametrize("inference", ["mean_field", "gibbs"])
def test_chains_learn_a_distribution_of_pairs(states, inference):
    rows = states(2).repeat_interleave(2, dim=1)
    machine = BoltzmannMachine(4, 1).double()
    machine.initialise(torch.Generator().manual_seed(0))
    config = MachineConfig(inference=inference, batch_size=40, chains=400, inference_sweeps=2)
    objective = MachineDivergence(machine, config)
    optimizer = torch.optim.Adam(machine.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        loss, _ = objective(Batch(rows.repeat(10, 1), {}), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    likelihood = float((-machine(rows)).mean().detach() - machine.log_z().detach())
    assert likelihood > -1.7  # -1.39 at best, -2.77 for independent units


def test_the_objective_keeps_its_chains():
    machine = machine_of(4, 2).requires_grad_(True)
    one, two = (MachineDivergence(machine, MachineConfig(batch_size=2, chains=3)) for _ in range(2))
    v = torch.ones(2, 4, dtype=torch.float64)
    assert not two.memory()
    one(Batch(v, {}), torch.Generator().manual_seed(0))
    two.load_memory(one.memory(), torch.device("cpu"))
    losses = [float(o(Batch(v, {}), torch.Generator().manual_seed(1))[0].detach()) for o in (one, two)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "make_it, message",
    [
        (lambda: BoltzmannMachine(0), "0 visible"),
        (lambda: BoltzmannMachine(2, 1, torch.ones(2, 2)), "symmetric"),
        (lambda: BoltzmannMachine(2, 17)(torch.zeros(1, 2)), "17 hidden units"),
        (lambda: BoltzmannMachine(20, 3).log_z(), "23 units"),
        (lambda: MachineConfig(inference="luck"), "mean_field, gibbs, exact"),
        (lambda: MachineConfig(chains=0), "chains: 0"),
    ],
)
def test_bad_input_is_refused(make_it, message):
    with pytest.raises(InputError, match=message):
        make_it()
