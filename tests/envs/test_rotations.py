"""Quaternions of the hand task, checked against rotation matrices and against each other."""

import numpy as np
import pytest

from ebm_traj.envs import rotations


def matrix(q: np.ndarray) -> np.ndarray:
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@pytest.fixture
def quaternions() -> np.ndarray:
    q = np.random.default_rng(0).normal(size=(200, 4))
    return q / np.linalg.norm(q, axis=-1, keepdims=True)


def test_product_is_the_product_of_matrices(quaternions: np.ndarray) -> None:
    a, b = quaternions[0], quaternions[1]
    np.testing.assert_allclose(matrix(rotations.multiply(a, b)), matrix(a) @ matrix(b), atol=1e-12)


def test_turn_about_an_axis_leaves_the_axis_and_turns_by_the_angle() -> None:
    q = rotations.about_axis(0.7, [0, 0, 5.0])
    expected = [[np.cos(0.7), -np.sin(0.7), 0], [np.sin(0.7), np.cos(0.7), 0], [0, 0, 1]]
    np.testing.assert_allclose(matrix(q), expected, atol=1e-12)


def test_euler_angles_turn_about_x_then_the_turned_y_then_the_turned_z() -> None:
    x, y, z = (rotations.about_axis(a, axis) for a, axis in zip((0.3, -0.5, 1.1), np.eye(3), strict=True))
    q = rotations.multiply(rotations.multiply(x, y), z)
    np.testing.assert_allclose(rotations.from_euler(0.3, -0.5, 1.1), q, atol=1e-12)


def test_euler_angles_there_and_back_are_the_same_rotation(quaternions: np.ndarray) -> None:
    back = rotations.from_euler(*rotations.to_euler(quaternions))
    np.testing.assert_allclose(np.abs(rotations.dot(quaternions, back)), 1.0, atol=1e-12)


def test_euler_angles_at_a_right_angle_about_y() -> None:
    for y in (np.pi / 2, -np.pi / 2):
        q = rotations.from_euler(0.4, y, 0.9)
        back = rotations.from_euler(*rotations.to_euler(q))
        np.testing.assert_allclose(abs(rotations.dot(q, back)), 1.0, atol=1e-7)


def test_a_batch_gives_the_bits_of_its_rows(quaternions: np.ndarray) -> None:
    other = quaternions[::-1].copy()
    product, inner, angles = (
        rotations.multiply(quaternions, other),
        rotations.dot(quaternions, other),
        np.stack(rotations.to_euler(quaternions), -1),
    )
    for i in range(len(quaternions)):
        assert np.array_equal(product[i], rotations.multiply(quaternions[i], other[i]))
        assert inner[i] == rotations.dot(quaternions[i], other[i])
        assert np.array_equal(angles[i], np.stack(rotations.to_euler(quaternions[i])))


def test_24_rotations_map_a_cube_onto_itself_and_all_differ() -> None:
    cubes = [matrix(q).round(9) for q in rotations.AXIS_ALIGNED]
    assert len({tuple((cube + 0.0).ravel()) for cube in cubes}) == 24
    for cube in cubes:
        assert sorted(np.abs(cube).ravel()) == [0] * 6 + [1] * 3
        assert np.linalg.det(cube) == pytest.approx(1)
