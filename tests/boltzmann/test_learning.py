"""Updates against autograd: CD, PCD, centring as a change of coordinates, momentum, decay; learning."""

import copy

import pytest
import torch

from ebm_traj.boltzmann.enumeration import exact_log_z
from ebm_traj.boltzmann.learning import Coins, Learner, LearningConfig
from ebm_traj.boltzmann.objective import RBMDivergence
from ebm_traj.core.objectives import Batch
from ebm_traj.errors import InputError

RATE = 0.1


def data(rows=6, units=5, seed=1):
    return torch.randint(0, 2, (rows, units), generator=torch.Generator().manual_seed(seed)).double()


def learner_of(rbm, rows=6, **settings):
    mean = torch.linspace(0.2, 0.7, rbm.visible_size, dtype=torch.float64)
    return Learner(rbm, LearningConfig(**{"chains": 4, **settings}), rows, mean)


def gradient_by_autograd(rbm, v, chain):
    free = copy.deepcopy(rbm).requires_grad_(True)
    gain = free(chain).mean() - free(v).mean()
    return torch.autograd.grad(gain, [free.weights, free.visible_bias, free.hidden_bias])


def parameters(rbm):
    return [value.clone() for value in (rbm.weights, rbm.visible_bias, rbm.hidden_bias)]


@pytest.mark.parametrize("units", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("algorithm", ["cd", "pcd", "pt"])
@pytest.mark.parametrize("steps", [1, 3])
def test_an_update_is_the_gradient_of_free_energies(make, units, algorithm, steps):
    rbm = make(5, 4, units, scale=0.5)
    learner = learner_of(rbm, algorithm=algorithm, steps=steps, centred=False, temperatures=3)
    before, old = parameters(rbm), copy.deepcopy(rbm)
    learner.update(data(), RATE, torch.Generator().manual_seed(0))
    u = learner._x[6:]  # rows of the chains, divided by the squared scale
    chain = u / old.precision if units == "gaussian" else u
    if units == "bernoulli":
        assert set(chain.unique().tolist()) <= {0.0, 1.0}
    for was, now, step in zip(before, parameters(rbm), gradient_by_autograd(old, data(), chain), strict=True):
        assert torch.allclose(now - was, RATE * step, atol=1e-12)


def test_a_centred_update_is_a_plain_one_in_centred_coordinates(make):
    decay = 0.3
    rbm = make(5, 4, scale=0.5)
    learner = learner_of(rbm, centred=True, offset_rate=0.0, weight_decay=decay)
    old, mu, lam = copy.deepcopy(rbm), learner.visible_offset.clone(), learner.hidden_offset.clone()
    learner.update(data(), RATE, torch.Generator().manual_seed(0))
    chain = (learner._x[6:] + mu).round()
    # the machine in (v - mu), (h - lambda): biases b + W lambda, c + W' mu
    centred = [
        value.clone().requires_grad_(True)
        for value in (
            old.weights,
            old.visible_bias + old.weights @ lam,
            old.hidden_bias + old.weights.T @ mu,
        )
    ]

    def free_energy(v):
        weights, b, c = centred
        hidden = torch.nn.functional.softplus(c - weights.T @ mu + v @ weights, threshold=40)
        return -(v @ (b - weights @ lam)) - hidden.sum(-1)

    gain = free_energy(chain).mean() - free_energy(data()).mean()
    gain = gain - 0.5 * decay * centred[0].square().sum()
    step = torch.autograd.grad(gain, centred)
    weights, b, c = (value.detach() + RATE * s for value, s in zip(centred, step, strict=True))
    assert torch.allclose(rbm.weights, weights, atol=1e-12)
    # back with the new weights: to first order in the rate, as the update is in ordinary parameters
    exact = (b - weights @ lam, c - weights.T @ mu)
    assert torch.allclose(rbm.visible_bias, exact[0], atol=1e-12)
    assert torch.allclose(rbm.hidden_bias, exact[1], atol=1e-12)


def test_offsets_follow_the_batches_and_do_not_change_the_machine(make):
    rbm = make(5, 4)
    learner = learner_of(rbm, offset_rate=0.5)
    before, mean = parameters(rbm), learner.visible_offset.clone()
    hidden = rbm.hidden_mean(data()).mean(0)
    learner.update(data(), 0.0, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(rbm), strict=True))
    assert torch.allclose(learner.visible_offset, 0.5 * mean + 0.5 * data().mean(0))
    assert torch.allclose(learner.hidden_offset, 0.25 + 0.5 * hidden)


def test_momentum_sums_the_gradients(make):
    rbm = make(5, 4)
    rbm.hidden_bias.fill_(-60.0)  # nothing depends on the chain but the visible biases, which are far off
    rbm.visible_bias.fill_(-60.0)
    rbm.weights.zero_()
    learner = learner_of(rbm, centred=False, momentum=0.5)
    before = rbm.visible_bias.clone()
    for _ in range(3):
        learner.update(data(), RATE, torch.Generator().manual_seed(0))
    moved = (1 + 1.5 + 1.75) * RATE * data().mean(0)
    assert torch.allclose(rbm.visible_bias - before, moved, atol=1e-12)


def test_weights_decay_alone(make):
    rbm = make(5, 4)
    twin = copy.deepcopy(rbm)
    for machine, decay in ((rbm, 0.2), (twin, 0.0)):
        learner_of(machine, centred=False, weight_decay=decay).update(
            data(), RATE, torch.Generator().manual_seed(0)
        )
    start = make(5, 4)
    assert torch.allclose(rbm.weights, twin.weights - RATE * 0.2 * start.weights, atol=1e-12)
    assert torch.equal(rbm.visible_bias, twin.visible_bias)


def test_the_objective_has_the_same_gradient(make):
    rbm = make(5, 4, scale=0.5).requires_grad_(True)
    config = LearningConfig(algorithm="pcd", chains=7, centred=False)
    objective = RBMDivergence(rbm, config, 6, data().mean(0))
    generator = torch.Generator().manual_seed(0)
    objective(Batch(data(), {}), generator)
    kept = objective.memory()["chain"]
    twin = RBMDivergence(rbm, config, 6, data().mean(0))
    twin.load_memory({"chain": kept}, torch.device("cpu"))
    state = generator.get_state()
    loss, figures = objective(Batch(data(), {}), generator)
    generator.set_state(state)
    assert float(twin(Batch(data(), {}), generator)[0].detach()) == float(loss.detach())
    generator.set_state(state)
    chain = rbm.sample_visible(kept, generator).detach()
    grads = torch.autograd.grad(loss, [rbm.weights, rbm.visible_bias, rbm.hidden_bias])
    for mine, theirs in zip(grads, gradient_by_autograd(rbm, data(), chain), strict=True):
        assert torch.allclose(mine, -theirs, atol=1e-12)
    assert float(figures["energy_data"] - figures["energy_chain"]) == pytest.approx(float(loss.detach()))
    with pytest.raises(InputError, match="not centred"):
        RBMDivergence(rbm, LearningConfig(), 6, data().mean(0))


@pytest.mark.parametrize("algorithm, centred", [("pcd", True), ("pcd", False), ("pt", True)])
def test_learning_reaches_the_likelihood_of_the_data(make, states, algorithm, centred):
    # two pairs of units, equal within a pair; a pair is free of the other
    rows = states(2).repeat_interleave(2, dim=1)
    rbm = make(4, 6, scale=0.1)
    settings = LearningConfig(algorithm, chains=80, centred=centred, temperatures=4)
    learner = Learner(rbm, settings, 80, rows.mean(0))
    generator = torch.Generator().manual_seed(0)
    for update in range(1500):
        learner.update(rows.repeat(20, 1), 0.3 * (1 - update / 1500), generator)
    likelihood = float((-rbm(rows)).mean() - exact_log_z(rbm))
    assert likelihood > -1.5  # log(1/4) = -1.39 at best, -2.77 for independent units


def test_bfloat16_products_make_nearly_the_same_step(make):
    steps = []
    for precision in ("float32", "bfloat16"):
        rbm = make(20, 10, scale=0.3).float()
        before = rbm.weights.clone()
        learner = Learner(rbm, LearningConfig("cd", precision=precision), 50, torch.full((20,), 0.5))
        learner.update(data(50, 20).float(), RATE, torch.Generator().manual_seed(0))
        assert rbm.weights.dtype == torch.float32
        steps.append(rbm.weights - before)
    assert torch.nn.functional.cosine_similarity(*(s.flatten() for s in steps), 0) > 0.95


def test_coins_have_their_probabilities():
    probability = torch.tensor([0.0, 1e-6, 0.3, 0.999, 1.0]).repeat(50_000, 1)
    coins = Coins(tuple(probability.shape), probability)
    found = coins.toss(probability, torch.empty_like(probability), torch.Generator().manual_seed(0))
    assert set(found.unique().tolist()) == {0.0, 1.0}
    mean = found.mean(0)
    assert mean[0] == 0 and mean[1] == 0 and mean[4] == 1
    assert abs(float(mean[2]) - 0.3) < 0.008 and abs(float(mean[3]) - 0.999) < 0.0006


@pytest.mark.parametrize("algorithm", ["cd", "pcd", "pt"])
def test_a_restored_learner_goes_on_the_same(make, algorithm):
    settings = {"algorithm": algorithm, "momentum": 0.5, "temperatures": 3}
    rbm = make(5, 4)
    learner = learner_of(rbm, **settings)
    for seed in range(2):
        learner.update(data(), RATE, torch.Generator().manual_seed(seed))
    twin_rbm = copy.deepcopy(rbm)
    twin = learner_of(twin_rbm, **settings)
    twin.load_state({name: value.clone() for name, value in learner.state().items()})
    for one in (learner, twin):
        one.update(data(), RATE, torch.Generator().manual_seed(7))
    assert torch.equal(rbm.weights, twin_rbm.weights)
    assert torch.equal(rbm.visible_bias, twin_rbm.visible_bias)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"algorithm": "cdk"}, "cd, pcd, pt"),
        ({"steps": 0}, "steps: 0"),
        ({"chains": 0}, "chains: 0"),
        ({"algorithm": "pt", "temperatures": 1}, "temperatures: 1"),
        ({"momentum": 1.0}, "momentum: 1.0"),
        ({"weight_decay": -1.0}, "weight decay: -1.0"),
        ({"precision": "float16"}, "float32, bfloat16"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        LearningConfig(**settings)


def test_a_batch_of_another_size_is_refused(make):
    with pytest.raises(InputError, match=r"\(3, 5\); accepted is \(6, 5\)"):
        learner_of(make(5, 4)).update(data(3), RATE)
