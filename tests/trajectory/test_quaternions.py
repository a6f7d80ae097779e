"""Rotations as features: against the environment's own functions, and the same for q and -q."""

import numpy as np
import pytest
import torch

from ebm_traj.envs import rotations
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.codec import WindowCodec
from ebm_traj.trajectory.quaternions import between, matrix, rotation_vector, turn_features


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
        WindowCodec(spec, 2, 1),
        WindowCodec(spec, 2, 1, use_given=True),
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
