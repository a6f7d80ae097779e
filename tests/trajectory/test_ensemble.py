"""Energies summed at sampling time: one member is the model, Gaussians multiply, goals pull as Bayes says."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

import ebm_traj
from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.denoising import LEVEL
from ebm_traj.core.energy import UNCONDITIONAL, Energy
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.proposal import BOXED
from ebm_traj.datasets.statistics import with_training_statistics
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import EBMConfig, TrajectoryEBM
from ebm_traj.trajectory.ensemble import EnergyEnsemble
from ebm_traj.trajectory.fc import FCConfig, FCModel
from ebm_traj.trajectory.guided import GuidedModel
from ebm_traj.trajectory.network_config import NetworkConfig

NETWORK = NetworkConfig(context_frames=2, width=8, depth=2)
BOX = np.ones(2, np.float32)
MALA = LangevinConfig(steps=150, step_size=0.3, metropolis=True)
FLOW = AnnealConfig(steps=40, sigma_max=5.0, sigma_min=0.02, solver="heun")


class Gaussian(Energy):
    """-log N(x; mean, std^2), blurred with noise of the level if there is one."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor, condition=UNCONDITIONAL) -> Tensor:
        return self.at(condition.get(LEVEL, x.new_zeros(len(x))))(x)

    def at(self, level: Tensor):
        return lambda x: 0.5 * (x - self.mean).square().sum(-1) / (self.std**2 + level**2)

    def bind_levels(self, condition):
        return self.at


def build(toy, conditioning="states", seed=0, **changes) -> TrajectoryEBM:
    torch.manual_seed(seed)
    network = dataclasses.replace(NETWORK, **changes.pop("network", {}))
    config = EBMConfig(network, **{"contrastive": ContrastiveConfig(langevin=MALA), **changes})
    return TrajectoryEBM(config, with_training_statistics(toy), -BOX, BOX, conditioning).eval()


def gaussian(toy, mean: float, std: float, training: str) -> TrajectoryEBM:
    model = build(toy, training=training, proposal="gaussian", residual=False)
    model.window_energy = Gaussian(mean, std)
    if model.config.has_levels:
        model.sampler = FLOW
    return model


def standing(rows=1) -> Tensor:
    return torch.tensor([0.5, -0.5, 1.0, 0, 0, 0, 0.3]).repeat(rows, 2, 1)


def coordinates(model: TrajectoryEBM, count=4000, seed=0) -> Tensor:
    """Sampled coordinates x (count, n) of one window."""
    condition = model.condition(standing(count))
    with torch.no_grad():
        return model._sample_window(condition, torch.Generator().manual_seed(seed))


def draw(model, seed=3, **told):
    return model.sample(standing(), 5, 7, generator=torch.Generator().manual_seed(seed), **told)


# --- ensembles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", ["combined", "contrastive"])
@pytest.mark.parametrize("conditioning", ["states", "actions", "joint"])
def test_an_ensemble_of_one_is_the_model(toy, training, conditioning):
    short = ContrastiveConfig(langevin=dataclasses.replace(MALA, steps=5))
    model = build(toy, conditioning, training=training, contrastive=short)
    told = {}
    if conditioning != "states":
        told["past_actions"] = torch.zeros(1, 1, 2)
    if conditioning == "actions":
        told["actions"] = torch.zeros(1, 1, 5, 2)
    one = EnergyEnsemble([model])
    assert torch.equal(draw(one, **told), draw(model, **told))
    window, actions = torch.randn(6, 3, 7), torch.rand(6, 1, 2)
    if conditioning == "states":
        assert torch.equal(one.energy(window), model.energy(window))
        assert torch.equal(one.act(standing(), standing()[:, -1]), model.act(standing(), standing()[:, -1]))
    else:
        assert torch.equal(one.energy(window, actions, actions), model.energy(window, actions, actions))


@pytest.mark.parametrize("training", ["contrastive", "denoising"])
def test_two_gaussians_give_their_geometric_mean(toy, training):
    # noise levels: of Gaussians of one width the mean of the blurred energies is that of the blurred product
    (a, s), (b, t) = ((-1.0, 0.5), (1.0, 1.5)) if training == "contrastive" else ((-1.0, 0.7), (2.0, 0.7))
    both = EnergyEnsemble([gaussian(toy, a, s, training), gaussian(toy, b, t, training)], [3, 1])
    precision = 0.75 / s**2 + 0.25 / t**2
    mean = (0.75 * a / s**2 + 0.25 * b / t**2) / precision
    x = coordinates(both)
    assert float(x.mean()) == pytest.approx(mean, abs=0.03)
    assert float(x.std(0).mean()) == pytest.approx(precision**-0.5, rel=0.03)


def test_members_share_the_starts_of_the_chains(toy):
    members = [build(toy, proposal="gaussian", seed=seed) for seed in (0, 1)]
    both = EnergyEnsemble(members)
    condition = members[0].condition(torch.randn(5, 2, 7))
    means = [member.proposal.mean_and_scale(condition) for member in members]
    scale = both.proposal.scale(condition)
    assert torch.allclose(scale[0::2], means[0][1][0::2]) and torch.allclose(scale[1::2], means[1][1][1::2])
    starts = torch.stack([both.proposal.sample(condition) for _ in range(2000)]).mean(0)
    assert torch.allclose(starts[1::2], means[1][0][1::2], atol=0.15)
    assert both.proposal.sample({"context": condition["context"][:1]}).shape == (1, members[0].target_size)


@pytest.mark.parametrize("uniform_first", [True, False])
def test_members_with_and_without_uniform_actions_share_chains(toy, uniform_first):
    members = [build(toy, "joint", uniform_actions=uniform) for uniform in (uniform_first, not uniform_first)]
    both = EnergyEnsemble(members)
    told = members[0].condition(standing(40), None, torch.zeros(40, 1, 2))
    start = both.proposal.actions.start(told, torch.Generator().manual_seed(0))
    of_member = [start.component[BOXED][i::2] for i in (0, 1)]
    assert float(of_member[uniform_first].abs().max()) == 0 < float(of_member[not uniform_first].max())
    assert torch.isfinite(draw(both, past_actions=torch.zeros(1, 1, 2))).all()


@pytest.mark.parametrize("training", ["combined", "contrastive"])
def test_a_saved_ensemble_comes_back(toy, tmp_path, training):
    short = ContrastiveConfig(langevin=dataclasses.replace(MALA, steps=5))
    both = EnergyEnsemble(
        [build(toy, training=training, contrastive=short, seed=seed) for seed in (0, 1)], [1, 3]
    )
    both.save(tmp_path / "both")
    again = ebm_traj.load(tmp_path / "both")
    assert again.kind == "ensemble" and again.weights == (0.25, 0.75) and not again.training
    assert torch.equal(draw(again), draw(both))
    first = ebm_traj.load(tmp_path / "both" / "member-0")
    assert not torch.equal(draw(first), draw(both))


def test_what_an_ensemble_was_trained_on_is_what_its_members_share(toy, tmp_path):
    members = [build(toy, seed=seed) for seed in (0, 1)]
    for member, steps in zip(members, (300, 200), strict=True):
        member.card = {"env_id": "Toy-v0", "env_kwargs": {"size": 2}, "inverse_iterations": steps}
    EnergyEnsemble(members).save(tmp_path / "both")
    card = ebm_traj.load(tmp_path / "both").card
    assert (card["env_id"], card["env_kwargs"], card["inverse_iterations"]) == ("Toy-v0", {"size": 2}, 200)
    assert len(card["members"]) == 2
    members[1].card = {"env_id": "Other-v0", "inverse_iterations": 0}
    card = EnergyEnsemble(members).card
    assert "env_id" not in card and card["inverse_iterations"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"window_frames": 2}}, "window frames: 2 against 1"),
        ({"network": {"coordinates": "state"}}, "coordinates: state against turn"),
        ({"conditioning": "joint"}, "conditioning: joint against states"),
        ({"training": "denoising"}, "noise levels: denoising against contrastive"),
        ({"proposal": "gaussian"}, "proposal: gaussian against mixture"),
        ({"residual": False}, "residual: False against True"),
    ],
)
def test_members_that_do_not_fit_are_refused(toy, changes, message):
    with pytest.raises(InputError, match=f"member 1 differs from member 0 in {message}"):
        EnergyEnsemble([build(toy), build(toy, **changes)])


def test_other_bad_members_are_refused(toy):
    model, other = build(toy), build(toy)
    other.spec = dataclasses.replace(other.spec, std=2 * other.spec.std)
    with pytest.raises(InputError, match="in the std of its training data"):
        EnergyEnsemble([model, other])
    with pytest.raises(InputError, match="member 0 is of kind 'fc'"):
        EnergyEnsemble([FCModel(FCConfig(NETWORK), with_training_statistics(toy), -BOX, BOX)])
    for weights in ([1.0], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(InputError, match="ensemble weights"):
            EnergyEnsemble([model, model], weights)
    with pytest.raises(InputError, match="no members"):
        EnergyEnsemble([])
    with pytest.raises(InputError, match="trained one by one"):
        EnergyEnsemble([model]).objective()


# --- energies of a user -------------------------------------------------------------------------------


@pytest.mark.parametrize("stiffness", [0.5, 3.0, 300.0])
@pytest.mark.parametrize("training", ["contrastive", "denoising"])
def test_a_goal_moves_samples_by_what_bayes_says(toy, training, stiffness):
    mean, std, goal = 0.3, 0.6, 2.0
    step_size = 0.3 if stiffness < 10 else 2e-3
    model = gaussian(toy, mean, std, training)
    unit = float(model.codec.change_std[0])
    place = float(standing()[0, -1, 0])

    def to_goal(frames: Tensor) -> Tensor:
        """1/2 k (u - goal)^2, with u the first coordinate, read from raw frames."""
        return 0.5 * ((frames[:, -1, 0] - place) / unit - goal).square()

    guided = GuidedModel(model, {"goal": to_goal}, {"goal": stiffness})
    if training == "contrastive":
        guided.sampler = dataclasses.replace(MALA, steps=150 if stiffness < 10 else 600, step_size=step_size)
    x = coordinates(guided, 3000)
    precision = 1 / std**2 + stiffness
    expected = (mean / std**2 + stiffness * goal) / precision
    assert float(x[:, 0].mean()) == pytest.approx(expected, abs=0.04)
    if training == "denoising" or stiffness < 10:  # a stiff goal leaves the chain little way to go
        assert float(x[:, 0].std()) == pytest.approx(precision**-0.5, rel=0.05)
        assert float(x[:, 1:].mean()) == pytest.approx(mean, abs=0.03)
        assert float(x[:, 1:].std()) == pytest.approx(std, rel=0.05)


def test_a_linear_energy_shifts_by_its_slope_times_the_variance(toy):
    model = gaussian(toy, 0.0, 0.6, "denoising")
    unit = float(model.codec.change_std[1])
    guided = GuidedModel(model, {"up": lambda frames: -frames[:, -1, 1] / unit}, {"up": 2.0})
    x = coordinates(guided)
    assert float(x[:, 1].mean()) == pytest.approx(2 * 0.6**2, abs=0.03)
    assert float(x[:, 1].std()) == pytest.approx(0.6, rel=0.04)


@pytest.mark.parametrize("training", ["contrastive", "denoising"])
def test_an_energy_of_nothing_changes_nothing(toy, training):
    model = build(toy, training=training, contrastive=ContrastiveConfig(langevin=LangevinConfig(steps=5)))
    idle = {
        "zero": lambda frames: 0 * frames[:, 0, 0],
        "constant": lambda frames: torch.ones(len(frames)),
        "square of nothing": lambda frames: (0 * frames).square().sum((1, 2)),
    }
    guided = GuidedModel(model, idle, candidates=1)
    assert torch.allclose(draw(guided), draw(model), atol=1e-4)
    window = torch.randn(4, 3, 7)
    assert torch.allclose(guided.energy(window), model.energy(window) + 1, atol=1e-5)


def test_energies_add_up_in_the_energy_of_a_window_and_over_an_ensemble(toy):
    members = [build(toy, seed=seed) for seed in (0, 1)]
    both = EnergyEnsemble(members)
    guided = GuidedModel(both, {"x": lambda f: f[:, 0, 0], "y": lambda f: f[:, 0, 1].square()}, {"y": 0.5})
    # within the range of the training data, where frames are taken as they are
    window = torch.zeros(4, 3, 7)
    window[..., :2] = 0.02 * torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    window[..., 2:6] = torch.tensor([1.0, 0, 0, 0])
    expected = both.energy(window) + window[:, -1, 0] + 0.5 * window[:, -1, 1].square()
    assert torch.allclose(guided.energy(window), expected, atol=1e-4)
    assert draw(guided).shape == (1, 7, 5, 7) and torch.isfinite(draw(guided)).all()


def test_a_goal_changes_the_shares_of_modes(toy):
    """Chains that keep to their component of the proposal, some narrow, some wide."""
    chain = LangevinConfig(steps=30, step_size=0.3, metropolis=True)
    network = {"coordinates": "change", "linear_path": False}  # first weights whose modes lie apart
    config = ContrastiveConfig(langevin=chain)
    model = build(toy, network=network, contrastive=config, components=4)  # energy: the proposal's
    unit = float(model.codec.change_std[1])

    def pull(frames: Tensor) -> Tensor:
        return -1.0 * (frames[:, -1, 1] + 0.5) / unit

    free = coordinates(model, 40_000)[:, 1]
    weights = (1.0 * free).softmax(0)
    mean = float((weights * free).sum())
    guided = coordinates(GuidedModel(model, {"pull": pull}, candidates=64), 6000)[:, 1]
    assert float(guided.mean()) == pytest.approx(mean, abs=0.12)
    kept = coordinates(GuidedModel(model, {"pull": pull}, candidates=1), 6000)[:, 1]
    assert float(kept.mean()) < mean - 0.1  # the shares matter


def test_joint_models_are_guided_in_their_two_stages(toy):
    chain = LangevinConfig(steps=20, step_size=0.3, metropolis=True)
    network = {"coordinates": "change", "linear_path": False}
    model = build(toy, "joint", network=network, contrastive=ContrastiveConfig(langevin=chain))
    parts, unit = model.window_energy.parts, float(model.codec.change_std[1])
    past = torch.zeros(1, 1, 2)

    def pull(frames: Tensor) -> Tensor:
        return -1.0 * (frames[:, -1, 1] + 0.5) / unit

    def sampled(found, count: int) -> tuple[Tensor, Tensor]:
        condition = found.condition(standing(count), None, past.expand(count, -1, -1))
        with torch.no_grad():
            x = found._sample_window(condition, torch.Generator().manual_seed(0))
        return x[:, parts.states][:, 1], x[:, parts.actions]

    free = sampled(model, 20_000)[0]
    expected = float((free.softmax(0) * free).sum())
    guided = GuidedModel(model, {"pull": pull}, candidates=64)
    states, actions = sampled(guided, 3000)
    assert float(states.mean()) == pytest.approx(expected, abs=0.12)
    assert float(actions.abs().max()) <= 1
    # one candidate: the chain of the states is all that the wish acts in
    alone = sampled(GuidedModel(model, {"pull": pull}, candidates=1), 3000)[0]
    assert float(free.mean()) + 0.05 < float(alone.mean())
    told = torch.zeros(1, 1, 5, 2)
    followed = draw(guided, actions=told, past_actions=past)
    assert guided.follows_actions and followed.shape == (1, 7, 5, 7) and followed.isfinite().all()


def test_an_obstacle_is_kept_clear_of_over_several_frames(toy):
    model = build(toy, network={"window_frames": 3}, training="denoising")
    centre = standing()[0, -1, :2]

    def inside(frames: Tensor) -> Tensor:
        """Depth in a disc about the place the robot stands at, squared, over all frames."""
        depth = (0.3 - (frames[..., :2] - centre).norm(dim=-1)).clamp_min(0)
        return 200 * depth.square().sum(-1)

    free, kept = draw(model), draw(GuidedModel(model, {"obstacle": inside}))

    def share(futures):
        return float(((futures[..., :2] - centre).norm(dim=-1) < 0.15).float().mean())

    assert torch.isfinite(kept).all() and share(kept) < 0.5 * share(free)


def test_bad_energies_are_named(toy):
    model = build(toy)
    with pytest.raises(InputError, match="no energies"):
        GuidedModel(model, {})
    with pytest.raises(InputError, match="weight of 'gaol': no such energy; there are goal"):
        GuidedModel(model, {"goal": lambda frames: frames[:, 0, 0]}, {"gaol": 2})
    with pytest.raises(InputError, match=r"energy 'goal': gave \(7, 1\); accepted is \(7,\)"):
        draw(GuidedModel(model, {"goal": lambda frames: frames[..., 0]}, candidates=1))
    with pytest.raises(InputError, match="candidates: 0"):
        GuidedModel(model, {"goal": lambda frames: frames[:, 0, 0]}, candidates=0)
    with pytest.raises(InputError, match="kind 'fc'"):
        fc = FCModel(FCConfig(NETWORK), with_training_statistics(toy), -BOX, BOX)
        GuidedModel(fc, {"goal": lambda frames: frames[:, 0, 0]})
    with pytest.raises(InputError, match="cannot be saved"):
        GuidedModel(model, {"goal": lambda frames: frames[:, 0, 0]}).save("anywhere")
