"""Contexts and futures go to coordinates and back, whatever the sign of a quaternion."""

import numpy as np
import pytest
import torch

from ebm_traj.datasets.statistics import with_training_statistics
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.codec import WindowCodec

QUATERNION, GIVEN = slice(2, 6), 6


@pytest.fixture(scope="module")
def spec(toy):
    return with_training_statistics(toy)


@pytest.fixture(scope="module")
def windows(toy):
    episodes = toy.load("train")
    starts = episodes.window_starts(7)[::13]
    return torch.from_numpy(episodes.states[starts[:, None] + np.arange(7)])


@pytest.mark.parametrize("coordinates", ["turn", "change", "state"])
def test_decode_inverts_encode(spec, windows, coordinates):
    codec = WindowCodec(spec, 4, 3, coordinates)
    context, future = windows[:, :4], windows[:, 4:]
    x = codec.encode(context, future)
    assert x.shape == (len(windows), 3 * 4)  # two of the quaternion's dimensions never change
    assert torch.allclose(codec.decode(context, x), future, atol=1e-5)


def test_changes_have_unit_scale(spec, windows):
    x = WindowCodec(spec, 4, 3).encode(windows[:, :4], windows[:, 4:]).view(-1, 4)
    assert torch.allclose(x.std(0), torch.ones(4), atol=0.25)


def test_what_never_changes_is_held_but_seen(spec, windows):
    assert spec.moving.tolist() == [0, 1, 2, 5]  # the rotation is about z alone
    codec = WindowCodec(spec, 4, 3)
    frames = codec.decode(windows[:, :4], 5 * torch.randn(len(windows), 12))
    assert torch.equal(frames[..., [3, 4]].abs().max(), torch.tensor(0.0))
    assert codec.feature_size == 6 + 9 + 15 + 3 * 4  # the quaternion also as a matrix and its quartics
    still = StateSpec.from_size(2).with_statistics([0, 0], [1, 1], [0.5, 0])  # the second: a fixed target
    context = torch.tensor([[[0.0, 3.0]], [[0.0, 4.0]]])
    features = WindowCodec(still, 1, 1).features(context)
    assert features.tolist() == [[0, 3], [0, 4]]
    with pytest.raises(InputError, match="no predicted dimension ever changes"):
        WindowCodec(StateSpec.from_size(1).with_statistics([0], [1], [0]), 1, 1)


def test_the_sign_of_a_quaternion_changes_nothing_inside_and_is_kept_outside(spec, windows):
    codec = WindowCodec(spec, 4, 3)
    flipped = windows.clone()
    flipped[..., QUATERNION] *= -1
    assert torch.equal(codec.features(windows[:, :4]), codec.features(flipped[:, :4]))
    x = codec.encode(windows[:, :4], windows[:, 4:])
    assert torch.equal(x, codec.encode(flipped[:, :4], flipped[:, 4:]))
    assert torch.allclose(codec.decode(flipped[:, :4], x), flipped[:, 4:], atol=1e-5)


def test_decoded_quaternions_have_unit_norm_and_given_dimensions_stay(spec, windows):
    codec = WindowCodec(spec, 4, 3)
    frames = codec.decode(windows[:, :4], 3 * torch.randn(len(windows), 12))
    assert torch.allclose(frames[..., QUATERNION].norm(dim=-1), torch.ones(len(windows), 3))
    assert torch.equal(frames[..., GIVEN], windows[:, 3:4, GIVEN].expand(-1, 3))


def test_given_dimensions_are_seen_only_on_request(spec, windows):
    other = windows.clone()
    other[..., GIVEN] += 1
    blind, seeing = WindowCodec(spec, 4, 1), WindowCodec(spec, 4, 1, use_given=True)
    assert torch.equal(blind.features(windows[:, :4]), blind.features(other[:, :4]))
    assert not torch.equal(seeing.features(windows[:, :4]), seeing.features(other[:, :4]))
    assert seeing.feature_size == blind.feature_size + 1


@pytest.mark.parametrize("coordinates", ["turn", "change", "state"])
def test_stay_decodes_to_the_last_frame(spec, windows, coordinates):
    codec = WindowCodec(spec, 4, 2, coordinates)
    frames = codec.decode(windows[:, :4], codec.stay(codec.features(windows[:, :4])))
    assert torch.allclose(frames, windows[:, 3:4].expand(-1, 2, -1), atol=1e-5)


def test_a_spec_without_statistics_is_refused():
    with pytest.raises(InputError, match="no statistics"):
        WindowCodec(StateSpec.from_size(3), 4, 1)
