"""Procedural sprites: areas, places and turns are those of the factors."""

import math

import numpy as np
import pytest

from ebm_traj.datasets.pictures import open_pictures
from ebm_traj.datasets.sprites import FACTORS, RADIUS, SHAPES, draw_sprites, sprites
from ebm_traj.errors import InputError


def moments(picture: np.ndarray) -> tuple[float, float, float, float]:
    """Area in squared sides, centre, and direction of the longer axis of a picture (S, S, 1)."""
    grey = picture[..., 0] / 255.0
    at = (np.arange(len(grey)) + 0.5) / len(grey)
    area = grey.sum() / len(grey) ** 2
    x, y = (grey.sum(0) @ at / grey.sum(), grey.sum(1) @ at / grey.sum())
    dx, dy = at[None, :] - x, at[:, None] - y
    angle = 0.5 * math.atan2(2 * (grey * dx * dy).sum(), (grey * (dx**2 - dy**2)).sum())
    return area, x, y, angle


@pytest.mark.parametrize(("shape", "unit_area"), [(0, 1.8**2), (1, math.pi * 1.25 * 0.7)])
def test_area_and_place_are_those_of_the_factors(shape: int, unit_area: float) -> None:
    factors = np.array([[shape, 0.8, 0.3, 0.4, 0.6], [shape, 0.5, 2.0, 0.7, 0.3]])
    for picture, (_, scale, _, x, y) in zip(draw_sprites(factors, 64), factors, strict=True):
        area, cx, cy, _ = moments(picture)
        assert area == pytest.approx(unit_area * (RADIUS * scale) ** 2, rel=0.02)
        assert (cx, cy) == pytest.approx((x, y), abs=0.002)


def test_ellipse_turns_with_the_rotation() -> None:
    turns = np.array([0.0, 0.4, 1.0, -0.7])
    factors = np.stack([np.ones(4), np.ones(4), turns, np.full(4, 0.5), np.full(4, 0.5)], 1)
    found = [moments(picture)[3] for picture in draw_sprites(factors, 64)]
    np.testing.assert_allclose(found, turns, atol=0.02)


def test_heart_points_down_until_it_is_turned() -> None:
    upright, turned = draw_sprites([[2, 1, 0, 0.5, 0.5], [2, 1, math.pi, 0.5, 0.5]], 64)
    widths = (upright[..., 0] > 127).sum(1)
    filled = np.flatnonzero(widths)
    assert widths[filled[len(filled) // 4]] > 2 * widths[filled[-3]]  # broad above, a point below
    np.testing.assert_array_equal(turned[::-1, ::-1], upright)
    assert upright[32, :, 0].tolist() == upright[32, ::-1, 0].tolist()


def test_pictures_do_not_depend_on_their_company() -> None:
    x, factors, names = sprites(40, seed=3, size=32)
    assert names == FACTORS and x.shape == (40, 32, 32, 1) and factors.shape == (40, 5)
    np.testing.assert_array_equal(draw_sprites(factors[7:8], 32), x[7:8])
    np.testing.assert_array_equal(x, sprites(40, seed=3, size=32)[0])
    assert not np.array_equal(x, sprites(40, seed=4, size=32)[0])
    edge = np.concatenate([x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]], 1)
    assert (x.max((1, 2, 3)) == 255).all() and (edge.max(1) == 0).mean() > 0.8


def test_shapes_can_be_left_out() -> None:
    _, factors, _ = sprites(30, 0, shapes=["heart", "square"], scales=(0.7, 0.7))
    assert set(factors[:, 0]) == {0.0, 2.0} and set(factors[:, 1]) == {0.7}


def test_sprites_as_a_set() -> None:
    opened = open_pictures("sprites", "test", size=16, limit=20)
    assert opened.shape == (1, 16, 16) and opened.class_names == SHAPES and len(opened) == 20


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sprites(5, 0, shapes=["star"]), "shapes star"),
        (lambda: sprites(0, 0), "0 pictures"),
        (lambda: sprites(5, 0, size=4), "size 4"),
        (lambda: sprites(5, 0, scales=(1.0, 0.5)), "scales from 1 to 0.5"),
        (lambda: draw_sprites(np.zeros((2, 4))), r"factors \(2, 4\)"),
        (lambda: draw_sprites([[3, 1, 0, 0.5, 0.5]]), "shapes are 0 to 2"),
    ],
)
def test_bad_arguments(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
