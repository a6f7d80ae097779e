"""Annealed importance sampling against exact sums; parallel tempering where plain Gibbs is stuck."""

import math

import pytest
import torch

from ebm_traj.boltzmann.ais import AISConfig, Estimate, ais, log_likelihood, reverse_ais
from ebm_traj.boltzmann.enumeration import exact_log_z, exact_samples
from ebm_traj.boltzmann.rbm import RBM
from ebm_traj.boltzmann.tempering import Path, make_ladder, temper
from ebm_traj.errors import InputError

SCHEDULE = AISConfig(counts=(100, 200, 400), chains=200)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_schedule_has_the_literatures_betas():
    betas = AISConfig().betas
    assert len(betas) == 111_001 and betas[0] == 0 and betas[-1] == 1
    assert betas[1000] == 0.5 and betas[11_000] == pytest.approx(0.9) and betas == sorted(betas)


def test_the_path_joins_the_base_machine_and_the_rbm(make, states):
    for units in ("bernoulli", "gaussian"):
        rbm = make(4, 3, units)
        path = Path(rbm, torch.linspace(-1, 1, 4))
        v = states(4)
        x = path.hidden_input(v)
        whole = path.log_ratio(v, x, 1.0, 0.0)
        parts = path.log_ratio(v, x, 1.0, 0.3) + path.log_ratio(v, x, 0.3, 0.0)
        assert torch.allclose(whole, parts)
        # f_1 is exp(-F) up to a constant, f_0 independent units
        first = path.base.double() @ (v * (rbm.precision if units == "gaussian" else 1)).T + 3 * math.log(2)
        if units == "gaussian":
            first = first - 0.5 * (v.square() * rbm.precision).sum(-1)
        assert torch.allclose(whole + first, -rbm(v) + path.constant, atol=1e-6)
        if units == "bernoulli":
            assert path.base_log_z == pytest.approx(float(first.logsumexp(0)), abs=1e-6)


@pytest.mark.parametrize("units", ["bernoulli", "gaussian"])
def test_forward_and_reverse_agree_with_the_exact_sum(make, units):
    rbm = make(8, 5, units, scale=0.8)
    base = torch.zeros(8)
    exact = float(exact_log_z(rbm))
    forward = ais(rbm, base, SCHEDULE, seeded())
    reverse = reverse_ais(rbm, base, SCHEDULE, exact_samples(rbm, 200, seeded(1)), seeded(2))
    for found in (forward, reverse):
        assert found.value == pytest.approx(exact, abs=0.1)
        assert found.low <= found.value <= found.high < found.low + 0.4
    if units == "bernoulli":
        assert exact_log_z(rbm).dtype == torch.float64


def test_without_annealing_the_weights_are_plain_importance_sampling(make, states):
    rbm = make(3, 2, scale=0.5)
    found = ais(rbm, torch.zeros(3), AISConfig(counts=(1,), ends=(1.0,), chains=40_000), seeded())
    assert found.value == pytest.approx(float(exact_log_z(rbm)), abs=0.02)


def test_log_likelihood_and_its_interval(make, states):
    rbm = make(3, 2)
    exact = float(exact_log_z(rbm))
    rows = states(3)
    found = log_likelihood(rbm, rows, Estimate(exact, exact - 0.3, exact + 0.1), chunk=3)
    each = -rbm(rows) - exact
    assert found.value == pytest.approx(float(each.mean()))
    rows_own = 1.959964 * float(each.std()) / math.sqrt(8)
    # a log Z that is larger makes the likelihood smaller
    assert found.low == pytest.approx(found.value - math.hypot(rows_own, 0.1))
    assert found.high == pytest.approx(found.value + math.hypot(rows_own, 0.3))


def two_modes():
    """Ones everywhere or zeros everywhere, with nothing in between for Gibbs steps to go by."""
    rbm = RBM(6, 1).double().requires_grad_(False)
    rbm.weights.fill_(8.0)
    rbm.visible_bias.fill_(-4.0)
    rbm.hidden_bias.fill_(-24.5)
    return rbm


def test_tempering_reaches_modes_that_gibbs_does_not(shares, states):
    rbm = two_modes()
    wanted = (-rbm(states(6)) - exact_log_z(rbm)).exp()
    assert wanted[0] > 0.3 and wanted[-1] > 0.3
    generator = seeded()
    stuck = torch.zeros(2000, 6, dtype=torch.float64)
    for _ in range(60):
        stuck = rbm.sample_visible(rbm.sample_hidden(stuck, generator), generator)
    assert shares(stuck)[-1] < 0.02
    path = Path(rbm, torch.zeros(6))
    ladder = make_ladder(path, 8, 2000, generator)
    ladder.v.zero_()
    for _ in range(60):
        temper(path, ladder, generator)
    assert torch.allclose(shares(ladder.v[-1]), wanted, atol=0.05)
    assert float(ladder.exchanged.min()) > 0.1


def test_tempered_chains_have_the_enumerated_probabilities_at_every_beta(make, states, shares):
    rbm = make(3, 2)
    path = Path(rbm, torch.tensor([0.5, -0.5, 0.0]))
    generator = seeded()
    ladder = make_ladder(path, 4, 20_000, generator)
    for _ in range(15):
        temper(path, ladder, generator)
    v = states(3)
    x = path.hidden_input(v)
    for beta, rows in zip(ladder.betas.tolist(), ladder.v, strict=True):
        wanted = (path.log_ratio(v, x, beta, 0.0) + v @ path.base).softmax(0)
        assert torch.allclose(shares(rows), wanted, atol=0.02)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"counts": (10,)}, "one of 1 or more for each"),
        ({"counts": (1, 1, 0)}, "one of 1 or more"),
        ({"counts": (1, 1), "ends": (0.5, 0.9)}, "above 0 to 1"),
        ({"counts": (1, 1), "ends": (0.9, 0.5)}, "must rise"),
        ({"chains": 1}, "AIS chains: 1"),
    ],
)
def test_bad_schedules_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        AISConfig(**settings)


def test_bad_samples_and_bases_are_refused(make):
    rbm = make(3, 2)
    with pytest.raises(InputError, match="samples: shape"):
        reverse_ais(rbm, torch.zeros(3), SCHEDULE, torch.zeros(5, 4), seeded())
    with pytest.raises(InputError, match=r"accepted is \(3,\)"):
        ais(rbm, torch.zeros(4), SCHEDULE, seeded())
    with pytest.raises(InputError, match="temperatures: 1"):
        make_ladder(Path(rbm, torch.zeros(3)), 1, 5, seeded())
