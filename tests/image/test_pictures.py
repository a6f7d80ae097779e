"""Pictures as tensors and as grids: nothing is lost on the way, and batches are those of the seed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebm_traj.core.seeding import seeded_generator
from ebm_traj.datasets.pictures import open_pictures
from ebm_traj.errors import InputError
from ebm_traj.image.grids import grid, write_grid
from ebm_traj.image.pictures import batches, chain, flip, shift, to_tensor, to_uint8

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)


def test_bytes_come_back_and_the_ends_are_one() -> None:
    x = to_tensor(X)
    assert x.shape == (7, 3, 5, 4) and x.dtype == torch.float32
    np.testing.assert_array_equal(to_uint8(x), X)
    every = to_tensor(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1))
    assert float(every.min()) == -1 and float(every.max()) == 1
    np.testing.assert_array_equal(to_uint8(every).flatten(), np.arange(256))
    assert to_uint8(torch.full((1, 1, 1, 1), 3.0)).item() == 255


def test_batches_hold_pictures_with_their_own_classes() -> None:
    digits = open_pictures("digits", "train")
    batch = batches(digits, 200)(0, seeded_generator("cpu", 0))
    known = {picture.tobytes(): label for picture, label in zip(digits.x, digits.y, strict=True)}
    labels = [known[picture.tobytes()] for picture in to_uint8(batch.x)]
    assert labels == batch.condition["label"].tolist() and len(set(labels)) == 10
    again = batches(digits, 200)(0, seeded_generator("cpu", 0))
    assert torch.equal(batch.x, again.x)


def test_dequantised_pixels_stay_in_their_bin() -> None:
    digits = open_pictures("digits", "train")
    batch = batches(digits, 64, dequantise=True)(0, seeded_generator("cpu", 0))
    plain = batches(digits, 64)(0, seeded_generator("cpu", 0))
    bins = ((batch.x + 1) * 128).floor()
    np.testing.assert_array_equal(
        bins.numpy().astype(int), ((plain.x + 1) * 127.5).round().numpy().astype(int)
    )
    inside = (batch.x + 1) * 128 - bins
    assert 0.45 < float(inside.mean()) < 0.55


def test_augmentations_move_pictures_as_wholes() -> None:
    x = to_tensor(X)
    flipped = flip(x, seeded_generator("cpu", 0))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, x, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(flipped, x, strict=True)]
    assert all(a or b for a, b in zip(mirrored, same, strict=True)) and any(mirrored) and any(same)
    moved = shift(1)(x, seeded_generator("cpu", 0))
    inner = x[:, :, 1:-1, 1:-1]
    for picture, centre in zip(moved, inner, strict=True):
        places = [torch.equal(picture[:, r : r + 3, c : c + 2], centre) for r in range(3) for c in range(3)]
        assert sum(places) >= 1
    both = chain(shift(1), flip)(x, seeded_generator("cpu", 0))
    assert both.shape == x.shape


def test_grid_puts_pictures_row_by_row(tmp_path: Path) -> None:
    image = grid(X, 4, gap=1)
    assert image.shape == (2 * 5 + 1, 4 * 4 + 3, 3)
    np.testing.assert_array_equal(image[6:, 5:9], X[5])
    assert (image[6:, 15:] == 255).all() and (image[5] == 255).all()
    np.testing.assert_array_equal(grid(to_tensor(X), 4, gap=1), image)
    path = write_grid(tmp_path / "new" / "grid.png", X[..., :1], 4, scale=3)
    read = np.asarray(Image.open(path))
    assert read.shape == ((2 * 5 + 2) * 3, (4 * 4 + 6) * 3, 3)
    assert (read[:15:3, :12:3] == X[0, ..., :1]).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: to_tensor(X.astype(float)), "needed are unsigned bytes"),
        (lambda: to_uint8(torch.zeros(3, 3)), "needed are floats"),
        (lambda: grid(X[:0], 3), "needed are one or more"),
        (lambda: grid(X, 0), "0 columns"),
        (lambda: write_grid(Path("x.png"), X, 2, scale=0), "scale 0"),
        (lambda: batches(open_pictures("digits", "test").take([]), 4), "no pictures"),
    ],
)
def test_bad_arguments(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
