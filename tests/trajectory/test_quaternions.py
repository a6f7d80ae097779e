"""Rotations as features: against the environment's own functions, and the same for q and -q."""

import numpy as np
import pytest
import torch

from ebm_traj.envs import rotations
from ebm_traj.envs.hand_features import cube_orientation
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.codec import WindowCodec
from ebm_traj.trajectory.quaternions import (
    between,
    direction_features,
    matrix,
    quartic_features,
    rotation_vector,
    turn_between,
    turn_features,
    turned,
)


@pytest.fixture(scope="module")
def pair():
    q = torch.randn(2, 500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return q / q.norm(dim=-1, keepdim=True)


def test_matrices_and_vectors_are_those_of_the_environment(pair):
    q = pair[0]
    assert np.allclose(matrix(q), rotations.to_matrix(q.numpy()).reshape(-1, 9), atol=1e-12)
    assert np.allclose(rotation_vector(q), rotations.to_rotation_vector(q.numpy()), atol=1e-9)


def test_the_turn_between_two_rotations_leads_from_one_to_the_other(pair):
    start, end = pair
    back = matrix(between(start, end)).unflatten(-1, (3, 3)) @ matrix(start).unflatten(-1, (3, 3))
    assert torch.allclose(back, matrix(end).unflatten(-1, (3, 3)), atol=1e-12)
    assert torch.allclose(rotation_vector(between(start, start)), torch.zeros(500, 3, dtype=torch.float64))


def test_the_sign_of_a_quaternion_makes_no_difference(pair):
    start, end = pair
    for a, b in ((-start, end), (start, -end), (-start, -end)):
        assert torch.allclose(turn_features(a, b), turn_features(start, end), atol=1e-12)


def test_a_turn_goes_there_and_back_in_the_axes_of_the_world(pair):
    start, end = pair
    assert torch.allclose(matrix(turned(start, turn_between(start, end))), matrix(end), atol=1e-9)
    about_z = torch.tensor([[0.0, 0.0, 2 * np.sin(0.2)]], dtype=torch.float64)
    expected = rotations.multiply(rotations.about_axis(0.4, [0, 0, 1])[None], start.numpy())
    assert np.allclose(turned(start, about_z), expected, atol=1e-12)


def test_a_turn_keeps_to_its_limit_and_its_axis(pair):
    start, turn = pair[0], 5 * pair[1][:, :3]
    found = turn_between(start, turned(start, turn, 0.3))
    assert torch.allclose(found.norm(dim=-1), torch.full((500,), 0.3, dtype=torch.float64))
    assert torch.allclose(found / 0.3, turn / turn.norm(dim=-1, keepdim=True), atol=1e-6)
    assert torch.allclose(turned(start, turn * 0), start, atol=1e-12)


def test_quartics_are_those_of_the_policies_and_blind_to_a_cube_s_rotations(pair):
    q = pair[0]
    found = quartic_features(matrix(q))
    assert np.allclose(found, cube_orientation(rotations.to_matrix(q.numpy())), atol=1e-9)
    for axis, angle in (([1, 0, 0], np.pi / 2), ([1, 1, 1], 2 * np.pi / 3), ([1, -1, 0], np.pi)):
        own = torch.from_numpy(rotations.multiply(q.numpy(), rotations.about_axis(angle, axis)[None]))
        assert torch.allclose(quartic_features(matrix(own)), found, atol=1e-9)
        assert not torch.allclose(matrix(own), matrix(q), atol=0.1)


def test_the_direction_of_a_turn_fades_where_little_is_left():
    here = torch.tensor([[1.0, 0, 0, 0]])
    for angle, length in ((1.5, 0.998), (0.1, np.sqrt(0.5)), (0.0, 0.0)):
        goal = torch.from_numpy(rotations.about_axis(angle, [0, 1, 0])[None]).float()
        axis, found = direction_features(turn_features(here, goal)).split([3, 1], -1)
        assert torch.allclose(axis, torch.tensor([[0, length, 0]], dtype=torch.float32), atol=1e-3)
        assert float(found) == pytest.approx(angle, abs=1e-4)


def test_a_codec_adds_the_way_to_a_goal_only_where_it_is_told():
    names = ("x", "o_qw", "o_qx", "o_qy", "o_qz", "g_qw", "g_qx", "g_qy", "g_qz")
    spec = StateSpec(
        names=names,
        kinds=("position", *["quaternion"] * 4, *["given"] * 4),
        indices=tuple(range(9)),
        observation_size=9,
    ).with_statistics(np.zeros(9), np.ones(9), [*[1.0] * 5, *[0.0] * 4])
    assert [dims.tolist() for dims in spec.given_quaternions] == [[5, 6, 7, 8]]
    plain, told, raw = (
        WindowCodec(spec, 2, 1, "change"),
        WindowCodec(spec, 2, 1, "change", use_given=True),
        WindowCodec(spec, 2, 1, "state", use_given=True),
    )
    assert plain.feature_size == 5 + 9 + 5
    assert told.feature_size == 9 + 9 + 12 + 5
    assert raw.feature_size == 9 + 5
    here, goal = rotations.about_axis(0.4, [0, 0, 1]), rotations.about_axis(1.0, [0, 0, 1])
    context = torch.from_numpy(np.concatenate([[0.0], here, goal])).float().expand(1, 2, 9)
    features = told.features(context)[0]
    assert features.shape == (35,)
    assert torch.allclose(features[27:30], torch.tensor([0.0, 0.0, 0.6]), atol=1e-5)  # still to be turned


@pytest.fixture(scope="module")
def tumbling():
    """A spec of a place, a rotation that changes in all its numbers and a goal, and windows (200, 6, 9)."""
    generator = np.random.default_rng(0)
    names = ("x", "o_qw", "o_qx", "o_qy", "o_qz", "g_qw", "g_qx", "g_qy", "g_qz")
    kinds = ("position", *["quaternion"] * 4, *["given"] * 4)
    spec = StateSpec(names=names, kinds=kinds, indices=tuple(range(9)), observation_size=9)
    q = generator.normal(size=(200, 2, 4))
    start, goal = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), 1, 0)
    frames = [start]
    for _ in range(5):
        small = np.concatenate([np.ones((200, 1)), 0.05 * generator.normal(size=(200, 3))], axis=1)
        step = rotations.multiply(small, frames[-1])
        frames.append(step / np.linalg.norm(step, axis=-1, keepdims=True))
    states = np.concatenate(
        [
            generator.normal(size=(200, 6, 1)),
            np.stack(frames, axis=1),
            np.broadcast_to(goal[:, None], (200, 6, 4)),
        ],
        axis=-1,
    )
    changes = np.diff(states, axis=1).reshape(-1, 9)
    told = spec.with_statistics(
        states.mean((0, 1)), states.std((0, 1)), changes.std(0), change_limit=np.abs(changes).max(0)
    )
    return told, torch.from_numpy(states).float()


def test_turn_coordinates_are_three_numbers_of_unit_scale_and_lead_back(tumbling):
    spec, windows = tumbling
    codec = WindowCodec(spec, 3, 3, "turn", use_given=True)
    x = codec.encode(windows[:, :3], windows[:, 3:])
    assert x.shape == (200, 3 * 4) and codec.predicted_size == 4
    assert torch.allclose(x.unflatten(1, (3, 4))[..., 1:].std((0, 1)), torch.ones(3), atol=0.1)
    assert torch.allclose(codec.decode(windows[:, :3], x), windows[:, 3:], atol=1e-5)
    flipped = windows.clone()
    flipped[..., 1:5] *= -1
    assert torch.equal(codec.encode(flipped[:, :3], flipped[:, 3:]), x)
    assert torch.equal(codec.features(flipped[:, :3]), codec.features(windows[:, :3]))
    assert torch.allclose(codec.decode(flipped[:, :3], x), flipped[:, 3:], atol=1e-5)
    assert codec.features(windows[:, :3]).shape == (200, codec.feature_size)


def test_turn_coordinates_do_not_depend_on_where_an_object_is_turned_to(tumbling):
    spec, windows = tumbling
    codec = WindowCodec(spec, 3, 3, "turn")
    other = windows.clone().double()
    own = rotations.about_axis(np.pi / 2, [0, 1, 0])
    other[..., 1:5] = torch.from_numpy(rotations.multiply(other[..., 1:5].numpy(), own[None, None]))
    other = other.float()
    x = codec.encode(windows[:, :3], windows[:, 3:])
    assert torch.allclose(codec.encode(other[:, :3], other[:, 3:]), x, atol=1e-4)
    numbers = WindowCodec(spec, 3, 3, "change")
    assert not torch.allclose(
        numbers.encode(other[:, :3], other[:, 3:]), numbers.encode(windows[:, :3], windows[:, 3:]), atol=0.1
    )


def test_a_decoded_turn_is_no_longer_than_the_longest_seen(tumbling):
    spec, windows = tumbling
    codec = WindowCodec(spec, 3, 3, "turn")
    frames = codec.decode(windows[:, :3], 50 * torch.randn(200, 12))
    assert torch.allclose(frames[..., 1:5].norm(dim=-1), torch.ones(200, 3), atol=1e-5)
    turns = turn_between(torch.cat([windows[:, 2:3], frames[:, :-1]], 1)[..., 1:5], frames[..., 1:5])
    chord = float(np.linalg.norm(spec.change_limit[1:5]))
    assert float(turns.norm(dim=-1).max()) <= 2 * chord + 1e-4


def test_coordinates_have_names(tumbling):
    spec = tumbling[0]
    assert [name for name, _ in WindowCodec(spec, 2, 1, "change").coordinate_names] == list(spec.names[:5])
    turn = WindowCodec(spec, 2, 1, "turn").coordinate_names
    assert turn == [("x", "position"), *((f"o_turn_{axis}", "quaternion") for axis in "xyz")]
