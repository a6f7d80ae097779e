"""A state spec reads observations, knows its dimensions and says where another differs."""

import numpy as np
import pytest

from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec, flatten_observation

SPEC = StateSpec(
    names=("a", "qw", "qx", "qy", "qz", "goal"),
    kinds=("angle", *["quaternion"] * 4, "given"),
    indices=(2, 3, 4, 5, 6, 0),
    observation_size=7,
)


def test_flattening_follows_gymnasium():
    gymnasium = pytest.importorskip("gymnasium")
    space = gymnasium.spaces.Dict(
        {
            "observation": gymnasium.spaces.Box(-1, 1, (3,)),
            "achieved": gymnasium.spaces.Dict({"z": gymnasium.spaces.Box(-1, 1, (2,))}),
        }
    )
    sample = space.sample()
    assert np.allclose(flatten_observation(sample), gymnasium.spaces.flatten(space, sample))


def test_reads_the_named_places_of_one_observation_or_a_batch():
    observation = {"observation": np.arange(1.0, 7.0), "desired_goal": np.array([9.0])}
    assert SPEC.read(observation).tolist() == [2, 3, 4, 5, 6, 9]
    batch = {"observation": np.tile(np.arange(1.0, 7.0), (4, 1)), "desired_goal": np.full((4, 1), 9.0)}
    assert np.array_equal(SPEC.read(batch), np.tile(SPEC.read(observation), (4, 1)))
    with pytest.raises(InputError, match="6 numbers when flattened; this state spec reads 7"):
        SPEC.read({"observation": np.zeros(6)})


def test_dimensions_by_kind():
    assert SPEC.predicted.tolist() == [0, 1, 2, 3, 4] and SPEC.given.tolist() == [5]
    assert [dims.tolist() for dims in SPEC.quaternions] == [[1, 2, 3, 4]]


def test_aligned_quaternions_never_jump_and_start_with_positive_w():
    angle = np.linspace(2, 9, 40)  # half angles past pi, where w changes sign
    states = np.zeros((40, 6))
    states[:, 1], states[:, 4] = np.cos(angle), np.sin(angle)
    flips = np.where(np.random.default_rng(0).random(40) < 0.5, -1, 1)[:, None]
    mixed = states.copy()
    mixed[:, 1:5] *= flips
    aligned = SPEC.align(mixed)
    assert aligned[0, 1] >= 0
    assert np.abs(np.diff(aligned, axis=0)).max() < 0.2
    assert np.allclose(np.abs((aligned[:, 1:5] * states[:, 1:5]).sum(-1)), 1, atol=1e-6)
    assert np.array_equal(SPEC.align(np.stack([mixed, states])), np.stack([aligned, SPEC.align(states)]))


def test_json_round_trip_and_scale_of_a_constant_dimension():
    known = SPEC.with_statistics(np.zeros(6), [1, 0, 2, 2, 2, 2], np.full(6, 0.1))
    assert known.std is not None and known.std[1] == 1
    again = StateSpec.from_json(known.to_json())
    assert again.to_json() == known.to_json() and again.difference(known) is None
    assert np.array_equal(again.change_std, known.change_std) and known.moving.tolist() == [0, 1, 2, 3, 4]


def test_a_difference_names_the_dimension():
    assert SPEC.difference(StateSpec.from_size(3)) == "6 dimensions against 3"
    other = StateSpec(SPEC.names, ("position", *SPEC.kinds[1:]), SPEC.indices, SPEC.observation_size)
    assert SPEC.difference(other) == "dimension 0 ('a') has kind 'angle' against 'position'"


@pytest.mark.parametrize(
    ("kinds", "indices", "message"),
    [
        (("position", "speed"), (0, 1), "dimension 'b' is of kind 'speed'"),
        (("position",), (0, 1), "2 names, 1 kinds and 2 indices"),
        (("position", "position"), (0, 5), "run from 0 to 5, the flattened observation has 2"),
        (("position", "quaternion"), (0, 1), "four neighbours"),
    ],
)
def test_bad_specs_are_refused(kinds, indices, message):
    with pytest.raises(InputError, match=message):
        StateSpec(("a", "b"), kinds, indices, 2)


def test_two_dimensions_of_one_name_are_refused():
    with pytest.raises(InputError, match="two dimensions are named 'a'"):
        StateSpec(("a", "b", "a"), ("position",) * 3, (0, 1, 2), 3)
