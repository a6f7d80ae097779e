"""Sets of pictures: splits, conversions, .npz files; what is wrong is said in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebm_traj.datasets.pictures import open_pictures, square, with_channels
from ebm_traj.errors import InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 6, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)


@pytest.fixture
def mnist_like(tmp_path: Path) -> Path:
    path = tmp_path / "like.npz"
    y = np.arange(30) % 3
    np.savez(path, x_train=GREY[:20], y_train=y[:20], x_test=GREY[20:], y_test=y[20:])
    return path


def test_digits_are_whole_and_their_splits_disjoint() -> None:
    parts = {split: open_pictures("digits", split) for split in ("train", "validation", "test", "all")}
    rows = [set(parts[split].index.tolist()) for split in ("train", "validation", "test")]
    assert sum(map(len, rows)) == len(set.union(*rows)) == len(parts["all"]) == 1797
    assert len(parts["test"]) == round(0.2 * 1797)
    train, whole = parts["train"], parts["all"]
    assert train.shape == (1, 8, 8) and train.num_classes == 10 and train.x.dtype == np.uint8
    np.testing.assert_array_equal(whole.x[train.index], train.x)
    np.testing.assert_array_equal(whole.y[train.index], train.y)
    assert whole.x.max() == 255


def test_the_seed_moves_validation_but_never_test() -> None:
    first, other = (open_pictures("digits", "validation", seed=seed) for seed in (0, 1))
    assert set(first.index) != set(other.index)
    tests = [open_pictures("digits", "test", seed=seed).index for seed in (0, 1)]
    np.testing.assert_array_equal(*tests)
    np.testing.assert_array_equal(first.index, open_pictures("digits", "validation", seed=0).index)


def test_npz_keeps_order_and_own_split(mnist_like: Path) -> None:
    train = open_pictures(mnist_like, "train", validation=0)
    test = open_pictures(mnist_like, "test")
    np.testing.assert_array_equal(train.x[..., 0], GREY[:20])
    np.testing.assert_array_equal(test.x[..., 0], GREY[20:])
    assert train.name == "like" and train.class_names == ("0", "1", "2")
    both = [open_pictures(mnist_like, split, validation=0.25) for split in ("train", "validation")]
    assert [len(part) for part in both] == [15, 5]
    assert sorted([*both[0].index, *both[1].index]) == list(range(20))
    assert len(open_pictures(mnist_like, "all")) == 30


def test_npz_with_official_places_names_and_sizes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=COLOUR, y_train=np.arange(20) % 10, train_index=np.arange(20) * 5)
    assert open_pictures(tmp_path / "a.npz", "train", validation=0).index[3] == 15
    names = np.array(["wood", "brick"] * 10)
    np.savez(tmp_path / "b.npz", x6=COLOUR, x12=COLOUR.repeat(2, 1).repeat(2, 2), y=names, name=names)
    opened = open_pictures(tmp_path / "b.npz", "all", size=6)
    np.testing.assert_array_equal(opened.x, COLOUR)
    assert opened.class_names == ("brick", "wood") and opened.y[:2].tolist() == [1, 0]
    assert open_pictures(tmp_path / "b.npz", "all").shape == (3, 12, 12)


def test_without_labels_classes_are_unknown(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=COLOUR)
    opened = open_pictures(tmp_path / "x.npz", "all")
    assert opened.num_classes == 0 and (opened.y == -1).all()


def test_take_and_of_classes() -> None:
    test = open_pictures("digits", "test")
    two = test.of_classes([3, 7])
    assert set(two.y) == {3, 7} and two.class_names == test.class_names
    assert len(test.take(test.y == 3)) + len(test.take(test.y == 7)) == len(two)
    np.testing.assert_array_equal(test.take(slice(2, 5)).index, test.index[2:5])
    with pytest.raises(InputError, match="no classes \\[12\\]"):
        test.of_classes([12])


def test_limit_draws_at_random_and_keeps_order() -> None:
    some = open_pictures("digits", "all", limit=50)
    assert len(some) == 50 and (np.diff(some.index) > 0).all() and some.index[-1] > 1000


def test_luma_is_that_of_pillow() -> None:
    mine = with_channels(COLOUR, 1)[..., 0]
    theirs = np.stack([np.asarray(Image.fromarray(picture).convert("L")) for picture in COLOUR])
    np.testing.assert_array_equal(mine, theirs)
    three = with_channels(mine[..., None], 3)
    assert three.shape == (20, 6, 6, 3) and (three == three[..., :1]).all()


def test_square_takes_means_of_the_centre() -> None:
    wide = np.zeros((1, 4, 8, 1), np.uint8)
    wide[0, :, 2:6, 0] = np.arange(16).reshape(4, 4) * 10
    small = square(wide, 2)[0, ..., 0]
    np.testing.assert_array_equal(small, np.rint(wide[0, :, 2:6, 0].reshape(2, 2, 2, 2).mean((1, 3))))


def test_channels_and_size_are_the_same_for_any_source(tmp_path: Path, mnist_like: Path) -> None:
    np.savez(tmp_path / "c.npz", x=COLOUR)
    (tmp_path / "folder").mkdir()
    for i, picture in enumerate(COLOUR):
        Image.fromarray(picture).save(tmp_path / "folder" / f"{i:02}.png")
    arrays = open_pictures(tmp_path / "c.npz", "all", size=3, channels=1)
    files = open_pictures(tmp_path / "folder", "all", size=3, channels=1)
    np.testing.assert_array_equal(arrays.x, files.x)
    assert open_pictures(mnist_like, "test", size=3, channels=3).shape == (3, 3, 3)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"split": "dev"}, "split 'dev'"),
        ({"size": 0}, "size 0"),
        ({"channels": 2}, "channels 2"),
        ({"validation": 1.0}, "validation 1"),
        ({"split": "validation", "validation": 0.0}, "no validation split"),
        ({"limit": 0}, "limit 0"),
        ({"seed": -1}, "seed -1"),
        ({"source": "nowhere"}, "no such file"),
    ],
)
def test_bad_arguments_are_named(wrong: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_pictures(**wrong)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": GREY}, "its keys are pictures"),
        ({"x": GREY.astype(np.float32)}, "float32; accepted are"),
        ({"x": GREY, "y": np.arange(7)}, r"labels \(7,\) for 30"),
        ({"x": GREY, "y": np.ones(30)}, "labels of type float64"),
        ({"x": np.array([{}], object)}, "plain arrays"),
    ],
)
def test_npz_of_something_else_is_refused(tmp_path: Path, arrays: dict, words: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=words):
        open_pictures(tmp_path / "bad.npz")


def test_truncated_npz_and_unknown_files(tmp_path: Path, mnist_like: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(mnist_like.read_bytes()[:-200])
    with pytest.raises(InputError, match="truncated"):
        open_pictures(tmp_path / "cut.npz")
    (tmp_path / "a.txt").write_text("no pictures")
    with pytest.raises(InputError, match=r"accepted are \.npz, \.zip"):
        open_pictures(tmp_path / "a.txt")
    np.savez(tmp_path / "test_only.npz", x_test=GREY)
    with pytest.raises(InputError, match="no train part"):
        open_pictures(tmp_path / "test_only.npz")
