"""Joint models: actions and states sampled together, each next state following from its action."""

import dataclasses

import pytest
import torch

from ebm_traj.core.backends import use
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import RARE, EBMConfig
from ebm_traj.trajectory.fc import FCConfig
from ebm_traj.trajectory.files import load
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.training import TrainSettings, make_fabric, train

NETWORK = NetworkConfig(context_frames=2, width=32, depth=2, architecture="mlp", context_noise=0.02)
CHAIN = LangevinConfig(steps=6, step_size=0.3, metropolis=True)
CONFIG = EBMConfig(
    NETWORK, components=3, correction_width=32, contrastive=ContrastiveConfig(128, CHAIN, buffer_size=1000)
)


def fit(toy, out, kind="ebm", config=CONFIG, conditioning="joint", iterations=500):
    trainer = TrainerConfig(iterations=iterations, warmup=20, validate_every=0)
    settings = TrainSettings(trainer=trainer, conditioning=conditioning, inverse_iterations=0)
    return train(toy, kind, config, settings, out, fabric=make_fabric("cpu"))


@pytest.fixture(scope="module")
def model(toy, tmp_path_factory):
    return fit(toy, tmp_path_factory.mktemp("runs") / "joint")


@pytest.fixture(scope="module")
def gaussians(toy, tmp_path_factory):
    """Actions without a box."""
    config = dataclasses.replace(CONFIG, uniform_actions=False)
    return fit(toy, tmp_path_factory.mktemp("runs") / "gaussians", config=config)


CONTEXT = torch.tensor([[0.5, -0.5, 1.0, 0, 0, 0, 0.3]]).repeat(1, 2, 1)
BEFORE = torch.zeros(1, 1, 2)


def draw(model, count=3000, horizon=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return model.sample_with_actions(CONTEXT, horizon, count, past_actions=BEFORE, generator=generator)


def test_actions_have_the_recorded_distribution_and_states_follow_from_them(model):
    states, actions = draw(model)
    assert states.shape == (1, 3000, 1, 7) and actions.shape == (1, 3000, 1, 2)
    assert float(actions.abs().max()) <= 1
    assert torch.allclose(actions[0, :, 0].mean(0), torch.zeros(2), atol=0.08)
    assert torch.allclose(actions[0, :, 0].std(0), torch.full((2,), 3**-0.5), rtol=0.15)
    place = 0.9 * torch.tensor([0.5, -0.5]) + 0.2 * actions[0, :, 0]
    error = states[0, :, 0, :2] - place
    assert float(error.std()) == pytest.approx(0.05, rel=0.5)  # 0.126 if it did not know the action


def actions_drawn(model, count=20_000):
    told = model.condition(CONTEXT.expand(count, -1, -1), None, BEFORE.expand(count, -1, -1))
    x = model._sample_window(told, torch.Generator().manual_seed(0))
    return model.window_energy.parts.split(x, {})[0]


def test_uniform_actions_keep_to_their_box_better_than_gaussians_do(model, gaussians):
    outside = []
    for each in (model, gaussians):
        each.proposal.actions.clip = False
        outside.append(float((actions_drawn(each).abs() > 1).float().mean()))
        each.proposal.actions.clip = True
    assert outside[0] < 0.7 * outside[1]


def test_training_goes_on_from_a_model_without_uniform_actions(toy, tmp_path, gaussians):
    """At first each component draws uniformly at the chance of `RARE`."""
    same = dataclasses.replace(gaussians.config, energy_start=None)  # that was an iteration of the run before
    config = dataclasses.replace(same, uniform_actions=True)
    trainer = TrainerConfig(iterations=1, learning_rate=1e-12, validate_every=0)
    settings = TrainSettings(trainer=trainer, conditioning="joint", inverse_iterations=0)
    cpu = make_fabric("cpu")
    model = train(toy, "ebm", config, settings, tmp_path / "on", fabric=cpu, start_from=gaussians)
    told = model.condition(CONTEXT.expand(9, -1, -1), None, BEFORE.expand(9, -1, -1))
    x = torch.linspace(-1.5, 0.5, 18).view(9, 2)
    before = gaussians.proposal.actions.log_prob(x, told).double().exp()
    inside = (x.abs() <= 1).all(1)
    chance = torch.sigmoid(torch.tensor(RARE, dtype=torch.float64))
    expected = (1 - chance) * before + chance * inside / 4
    assert torch.allclose(model.proposal.actions.log_prob(x, told).double().exp(), expected, rtol=1e-4)
    with pytest.raises(InputError, match=r"networks are others \(uniform actions True, here False\)"):
        train(toy, "ebm", same, settings, tmp_path / "back", fabric=cpu, start_from=model)
    late = dataclasses.replace(same, energy_start=375)
    with pytest.raises(InputError, match="energy start: 375; in a run of 1 iterations the energy would not"):
        train(toy, "ebm", late, settings, tmp_path / "late", fabric=cpu, start_from=model)


def test_states_follow_from_clipped_actions_and_exploration_stays_as_wide(gaussians):
    model = gaussians
    drawn = {}
    for clip in (True, False):
        model.proposal.actions.clip = clip
        drawn[clip] = actions_drawn(model)
    model.proposal.actions.clip = True
    assert float(drawn[True].abs().max()) <= 1 < float(drawn[False].abs().max())
    narrow = drawn[False].clamp(-1, 1).std()
    uniform = 3**-0.5  # as recorded
    assert abs(float(drawn[True].std()) - uniform) < abs(float(narrow) - uniform)


def test_the_states_alone_are_the_same_sample(model):
    generator = torch.Generator().manual_seed(3)
    alone = model.sample(CONTEXT, 4, 5, past_actions=BEFORE, generator=generator)
    both, _ = draw(model, 5, 4, seed=3)
    assert torch.equal(alone, both)


def test_samples_may_be_differentiated_afterwards(model):
    states, actions = draw(model, 2, 3)
    assert not states.is_inference() and not actions.is_inference()
    states.requires_grad_(True)
    model.path_energy(CONTEXT, states, actions, BEFORE).sum().backward()
    assert float(states.grad.abs().max()) > 0
    with use("autograd"):  # whose chains need its books
        again, _ = draw(model, 2, 3)
    assert torch.allclose(again, states.detach(), atol=1e-4)


def test_a_loaded_model_gives_the_same_samples_and_half_precision_nearly_so(model, tmp_path):
    model.save(tmp_path / "full")
    model.save(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    full, half = (load(tmp_path / name) for name in ("full", "half"))
    assert torch.equal(draw(full, 8)[0], draw(model, 8)[0])
    assert next(half.parameters()).dtype == torch.float32
    assert torch.allclose(draw(half)[0].mean(1), draw(model)[0].mean(1), atol=0.02)


def test_energy_needs_actions_and_is_lower_for_the_right_ones(model):
    states, actions = draw(model, 400)
    window = torch.cat([CONTEXT.expand(400, -1, -1), states[0]], dim=1)
    past = BEFORE.expand(400, -1, -1)
    right = model.energy(window, actions[0], past)
    wrong = model.energy(window, -actions[0], past)
    assert float((right < wrong).float().mean()) > 0.9
    with pytest.raises(InputError, match="was given no actions"):
        model.energy(window, None, past)


def test_path_energy_is_the_mean_over_the_windows(model):
    states, actions = draw(model, 2, 3)
    frames = torch.cat([CONTEXT[:, None].expand(-1, 2, -1, -1), states], dim=2)[0]
    taken = torch.cat([BEFORE[:, None].expand(-1, 2, -1, -1), actions], dim=2)[0]
    by_hand = torch.stack(
        [model.energy(frames[:, t : t + 3], taken[:, t + 1 : t + 2], taken[:, t : t + 1]) for t in range(3)]
    ).mean(0)
    assert torch.allclose(model.path_energy(CONTEXT, states, actions, BEFORE)[0], by_hand, atol=1e-4)


def test_missing_or_wrong_past_actions_are_named(model):
    with pytest.raises(InputError, match=r"past_actions: .*\(1, 1, 2\), and was given none"):
        model.sample(CONTEXT, 1, 1)
    with pytest.raises(InputError, match=r"past_actions: shape \(1, 1, 3\); accepted is \(1, 1, 2\)"):
        model.sample(CONTEXT, 1, 1, past_actions=torch.zeros(1, 1, 3))
    with pytest.raises(InputError, match="past_actions: hold NaN"):
        model.sample(CONTEXT, 1, 1, past_actions=torch.full((1, 1, 2), float("nan")))


def test_the_energy_names_what_does_not_fit(model):
    states, actions = draw(model, 2)
    window = torch.cat([CONTEXT.expand(2, -1, -1), states[0]], dim=1)
    taken, past = actions[0], BEFORE.expand(2, -1, -1)
    expected = model.energy(window, taken, past)
    assert torch.equal(model.energy(window.double(), taken.double(), past.double()), expected)
    longer = torch.cat([torch.zeros_like(past), past], 1)  # the last ones count, as where one samples
    assert torch.equal(model.energy(window, taken, longer), expected)
    with pytest.raises(InputError, match=r"actions: shape \(2, 2, 2\); accepted is \(2, 1, 2\)"):
        model.energy(window, taken.repeat(1, 2, 1), past)
    with pytest.raises(InputError, match=r"past_actions: shape \(1, 1, 2\); accepted is \(2, 1, 2\)"):
        model.energy(window, taken, past[:1])
    with pytest.raises(InputError, match="actions: this model's conditioning is 'joint'; it was given none"):
        model.path_energy(CONTEXT, states, None, BEFORE)
    with pytest.raises(
        InputError, match=r"actions: shape \(2, 1, 2\); accepted is \(1, samples, horizon, 2\)"
    ):
        model.predict(CONTEXT, taken, past_actions=BEFORE)


def test_only_joint_models_sample_actions_and_only_models_of_states_infer_them(model, toy, tmp_path):
    with pytest.raises(InputError, match="only 'states' has inverse dynamics"):
        model.act(CONTEXT, CONTEXT[:, -1])
    baseline = fit(toy, tmp_path / "fc", "fc", FCConfig(NETWORK, 64), "states", 5)
    with pytest.raises(InputError, match="only 'joint' samples actions"):
        baseline.sample_with_actions(CONTEXT, 1, 1)
    with pytest.raises(InputError, match=r"next_frame: shape \(1, 1, 7\); accepted is \(1, 7\)"):
        baseline.act(CONTEXT, CONTEXT[:, -1:])
    with pytest.raises(InputError, match="model: trained with inverse iterations 0"):
        baseline.act(CONTEXT, CONTEXT[:, -1])


@pytest.mark.parametrize("width", [1, 3])
def test_history_may_be_left_out_and_windows_may_be_longer(toy, tmp_path, width):
    network = dataclasses.replace(NETWORK, window_frames=width, action_history=0)
    model = fit(toy, tmp_path / "run", config=dataclasses.replace(CONFIG, network=network), iterations=20)
    states, actions = model.sample_with_actions(CONTEXT, 5, 4)
    assert states.shape == (1, 4, 5, 7) and actions.shape == (1, 4, 5, 2)
    assert model.path_energy(CONTEXT, states, actions).shape == (1, 4)


def test_more_history_than_the_context_has_is_refused():
    with pytest.raises(InputError, match="action history: 2; a context of 2 frames has 0 to 1 actions"):
        NetworkConfig(context_frames=2, action_history=2)
