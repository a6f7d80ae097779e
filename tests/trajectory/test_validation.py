"""Validation during training: the held-out score prefers the truth, and looking changes nothing."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.datasets.statistics import with_training_statistics
from ebm_traj.trajectory.ebm import EBMConfig, TrajectoryEBM
from ebm_traj.trajectory.files import MODELS
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.validation import ValidationScore, make_validation, sampler_figures

NETWORK = NetworkConfig(context_frames=2, width=8, depth=2)
BOX = np.ones(2, np.float32)
FEW = {"contexts": 16, "futures": 3, "steps": 4}


def build(toy, kind="ebm", conditioning="states", **changes):
    torch.manual_seed(0)
    cls = MODELS[kind]
    network = dataclasses.replace(NETWORK, **changes.pop("network", {}))
    config = cls.config_class(network=network, **changes)
    return cls(config, with_training_statistics(toy), -BOX, BOX, conditioning)


class Oracle(TrajectoryEBM):
    """The toy robot itself, with `noise` times its randomness and `motion` times its motion."""

    noise = motion = 1.0

    def sample(self, context, horizon, num_samples, *, actions=None, past_actions=None, generator=None):
        frame = context[:, None, -1].repeat(1, num_samples, 1)
        frames = []
        for _ in range(horizon):
            move = 0.4 * torch.rand(*frame.shape[:2], 2, generator=generator) - 0.2
            move += 0.05 * torch.randn(*frame.shape[:2], 2, generator=generator)
            turn = 0.1 * torch.randn(frame.shape[:2], generator=generator) * self.noise * self.motion
            frame = frame.clone()
            frame[..., :2] += self.motion * (self.noise * move - 0.1 * frame[..., :2])
            half = torch.atan2(frame[..., 5], frame[..., 2]) + turn / 2
            frame[..., 2], frame[..., 5] = half.cos(), half.sin()
            frames.append(frame)
        return torch.stack(frames, dim=2)


def oracle(toy, noise=1.0, motion=1.0):
    model = Oracle(EBMConfig(NETWORK), with_training_statistics(toy), -BOX, BOX)
    model.noise, model.motion = noise, motion
    return model


def test_the_true_dynamics_have_the_lowest_score(toy):
    score = ValidationScore(toy, oracle(toy), contexts=150, futures=32, steps=5)
    truth, *others = (
        score(oracle(toy, *changes)) for changes in [(1, 1), (0.3, 1), (2, 1), (0, 0), (1, 2.5)]
    )
    for other in others:
        assert other["energy_score"] > 1.02 * truth["energy_score"]
        assert other["energy_score_1"] > truth["energy_score_1"]
    assert truth["motion"] == pytest.approx(1, abs=0.1) and others[2]["motion"] < 1e-4


def test_contexts_are_those_of_validation_episodes_with_their_actions(toy):
    score = ValidationScore(toy, build(toy, network={"action_history": None}), contexts=150, steps=5)
    frames = {tuple(frame) for frame in toy.load("validation").states.tolist()}
    shown = [*score.context.flatten(0, 1).tolist(), *score.truth.reshape(-1, 7).tolist()]
    assert {tuple(frame) for frame in shown} <= frames
    # s' = 0.9 s + 0.2 a + 0.05 n, told with the right action and with no other
    present, following = score.context[:, -1, :2], torch.from_numpy(score.truth[:, 0, :2])
    noise = following - 0.9 * present - 0.2 * score.future_actions[:, 0, 0]
    assert float(noise.std()) == pytest.approx(0.05, rel=0.15)
    noise = present - 0.9 * score.context[:, -2, :2] - 0.2 * score.past_actions[:, -1]
    assert float(noise.std()) == pytest.approx(0.05, rel=0.15)
    assert torch.isfinite(score.future_actions).all() and torch.isfinite(score.past_actions).all()


def test_short_and_few_episodes_give_fewer_steps_and_contexts(toy):
    episodes = len(toy.episode_rows("validation"))
    score = ValidationScore(toy, build(toy), contexts=10_000, futures=2, steps=50)
    assert score.steps == 19 and len(score) == episodes  # 21 frames, two of them the context
    score = ValidationScore(toy, build(toy, network={"window_frames": 3}), steps=1)
    assert score.steps == 3  # a window is predicted whole


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("conditioning", ["states", "actions", "joint"])
def test_averaged_weights_are_scored_and_the_model_is_left_alone(toy, kind, conditioning):
    model = build(toy, kind, conditioning)
    validate = make_validation(model, toy, **FEW)
    assert validate is not None
    averaged = copy.deepcopy(model.objective())
    with torch.no_grad():
        for parameter in averaged.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state, training = torch.get_rng_state(), model.training
    found = validate(averaged)
    assert torch.equal(torch.get_rng_state(), random_state) and model.training == training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found == validate(averaged)
    own = ValidationScore(toy, model, **FEW)
    assert found["energy_score"] != own(model)["energy_score"]
    objective = model.objective()
    objective.load_state_dict(averaged.state_dict())
    model.eval()
    assert found == own(model)
    assert np.isfinite(list(found.values())).all()
    assert ("energy_held_out" in found) == model.has_energy == ("energy_train" in found)


@pytest.mark.parametrize("training", ["combined", "denoising", "contrastive", "ranking"])
def test_every_way_of_training_is_validated(toy, training):
    model = build(toy, training=training)
    validate = make_validation(model, toy, **FEW)
    found = validate(copy.deepcopy(model.objective()))
    assert ("displacement" in found) == (not model.config.has_levels)
    assert np.isfinite(list(found.values())).all()


def test_without_validation_episodes_there_is_a_note_and_no_validation(toy):
    bare = copy.copy(toy)
    bare.split = np.zeros_like(toy.split)
    with pytest.warns(UserWarning, match="no validation episode of 3 frames or more"):
        assert make_validation(build(toy), bare) is None
    with pytest.warns(UserWarning, match="no validation episode of 32 frames or more"):
        assert make_validation(build(toy, network={"window_frames": 30}), toy) is None


def test_displacement_and_acceptance_are_those_of_the_chain(toy):
    chain = LangevinConfig(steps=5, step_size=0.1, metropolis=True)
    contrastive = ContrastiveConfig(langevin=chain)
    model = build(toy, proposal="gaussian", residual=False, contrastive=contrastive)
    context = torch.randn(64, 2, 7)
    context[..., 2:6] /= context[..., 2:6].norm(dim=-1, keepdim=True)
    condition = model.condition(context)
    found = sampler_figures(model, condition, None)
    assert 0.2 < found["displacement"] < 3 and 0.5 < found["acceptance"] <= 1
    model.sampler = dataclasses.replace(chain, steps=0)
    assert sampler_figures(model, condition, None)["displacement"] == 0
    levels = build(toy, training="denoising")
    assert sampler_figures(levels, condition, None) == {}
    corrector = AnnealConfig(steps=4, corrector_steps=3, corrector_step_size=0.5)
    levels.sampler = corrector
    found = sampler_figures(levels, condition, None)
    # three small steps at the lowest level, sigma 0.02
    assert 0.005 < found["displacement"] < 0.1 and 0 < found["acceptance"] <= 1
