"""`predict`: the mean of what a model would draw under given actions."""

import dataclasses

import numpy as np
import pytest
import torch

from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.datasets.statistics import with_training_statistics
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import EBMConfig, TrajectoryEBM
from ebm_traj.trajectory.fc import FCConfig, FCModel
from ebm_traj.trajectory.flow import FlowConfig, FlowModel
from ebm_traj.trajectory.network_config import NetworkConfig

NETWORK = NetworkConfig(context_frames=2, width=8, depth=2)
START_ALONE = ContrastiveConfig(langevin=LangevinConfig(steps=0))
BOX = np.ones(2, np.float32)


def make(toy, cls, config, conditioning):
    torch.manual_seed(0)
    return cls(config, with_training_statistics(toy), -BOX, BOX, conditioning).eval()


def inputs(model, samples=3, horizon=1):
    frames = torch.zeros(2, 2, 7)
    frames[..., 2] = 1.0
    actions = torch.rand(2, samples, horizon, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    past = {"past_actions": torch.zeros(2, model.action_history, 2)} if model.action_history else {}
    return frames, actions, past


@pytest.mark.parametrize("conditioning", ["actions", "joint"])
@pytest.mark.parametrize("window", [1, 2])
def test_it_is_the_mean_of_many_futures(toy, conditioning, window):
    network = dataclasses.replace(NETWORK, window_frames=window)
    model = make(toy, TrajectoryEBM, EBMConfig(network, contrastive=START_ALONE), conditioning)
    frames, actions, past = inputs(model, horizon=window)
    expected = model.predict(frames, actions, **past)
    assert expected.shape == (2, 3, window, 7) and torch.equal(
        expected, model.predict(frames, actions, **past)
    )
    many = actions.repeat_interleave(3000, 1)
    drawn = model.sample(frames, window, 9000, actions=many, **past).unflatten(1, (3, 3000))
    x, y = (drawn[..., :2].mean(2) - expected[..., :2]).abs(), drawn[..., :2].std(2)
    assert bool((x < 5 * y / 3000**0.5 + 1e-4).all())


def test_a_joint_model_follows_the_actions_it_is_given(toy):
    model = make(toy, TrajectoryEBM, EBMConfig(NETWORK, contrastive=START_ALONE), "joint")
    frames, actions, past = inputs(model, horizon=4)
    generator = torch.Generator
    a, b = (
        model.sample(frames, 4, 3, actions=actions, generator=generator().manual_seed(1), **past)
        for _ in "ab"
    )
    other = model.sample(frames, 4, 3, actions=-actions, generator=generator().manual_seed(1), **past)
    assert torch.equal(a, b) and not torch.allclose(a, other)


def test_models_without_a_mean_say_so(toy):
    flow = make(toy, FlowModel, FlowConfig(NETWORK), "actions")
    frames, actions, past = inputs(flow)
    with pytest.raises(InputError, match="no closed form"):
        flow.predict(frames, actions, **past)
    with pytest.raises(InputError, match="predicts without actions"):
        make(toy, FCModel, FCConfig(NETWORK), "states").predict(frames, actions)
    fc = make(toy, FCModel, FCConfig(NETWORK), "actions")
    assert torch.equal(fc.predict(frames, actions), fc.sample(frames, 1, 3, actions=actions))
    joint = make(toy, FlowModel, FlowConfig(NETWORK), "joint")
    frames, actions, past = inputs(joint)
    with pytest.raises(InputError, match="draws its own"):
        joint.sample(frames, 1, 3, actions=actions, **past)


@pytest.mark.parametrize(("kind", "conditioning"), [("ebm", "actions"), ("ebm", "joint"), ("fc", "actions")])
def test_it_hands_a_gradient_to_actions_that_ask_for_one(toy, kind, conditioning):
    cls, config = (
        (FCModel, FCConfig(NETWORK)) if kind == "fc" else
        (TrajectoryEBM, EBMConfig(NETWORK, contrastive=START_ALONE))
    )  # fmt: skip
    model = make(toy, cls, config, conditioning)
    with torch.no_grad():
        for weight in model.parameters():  # networks begin with zeros in their last layer
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    frames, actions, past = inputs(model, samples=1, horizon=3)
    plain = model.predict(frames, actions, **past)
    asking = actions.clone().requires_grad_(True)
    found = model.predict(frames, asking, **past)
    assert torch.allclose(found, plain, atol=1e-5) and not plain.requires_grad
    (slope,) = torch.autograd.grad(found[..., -1, 0].sum(), asking)
    aside = torch.randn(actions.shape, generator=torch.Generator().manual_seed(2))
    step = 1e-2
    there, back = (model.predict(frames, actions + s * step * aside, **past) for s in (1, -1))
    change = (there - back)[..., -1, 0].sum() / (2 * step)
    assert abs(float(change)) > 1e-3
    assert float((slope * aside).sum()) == pytest.approx(float(change), rel=0.05)


def test_what_is_no_tensor_or_does_not_fit_is_named(toy):
    model = make(toy, TrajectoryEBM, EBMConfig(NETWORK, contrastive=START_ALONE), "joint")
    frames, actions, past = inputs(model, samples=3, horizon=2)
    futures = frames[:, None, :1].expand(-1, 3, 2, -1)
    for call, message in (
        (
            lambda: model.sample(frames.numpy(), 2, 3, **past),
            "context: is a ndarray; accepted is a torch.Tensor",
        ),
        (lambda: model.sample(frames.int(), 2, 3, **past), r"context: of torch\.int32"),
        (lambda: model.path_energy(frames, futures[0], actions, **past), r"futures: shape \(3, 2, 7\)"),
        (
            lambda: model.path_energy(frames, futures, actions[:, :, :1], **past),
            r"actions: shape \(2, 3, 1, 2\)",
        ),
        (lambda: model.path_energy(futures, frames, actions, **past), r"context: shape"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    energy = model.path_energy(frames, futures, actions, **past)
    same = model.path_energy(frames.double(), futures.double(), actions.double(), **past)
    assert torch.equal(energy, same) and energy.shape == (2, 3)
    states = make(toy, FCModel, FCConfig(NETWORK), "states")
    with pytest.raises(InputError, match="actions: given to a model whose conditioning is 'states'"):
        states.sample(frames, 2, 3, actions=actions)
