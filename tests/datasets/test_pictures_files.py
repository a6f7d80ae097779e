"""The standard distributions, made tiny: idx files, CIFAR batches, folders and zips of pictures."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebm_traj.datasets.idx import read_idx
from ebm_traj.datasets.pictures import open_pictures
from ebm_traj.errors import InputError

RNG = np.random.default_rng(1)


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


X, Y = RNG.integers(0, 256, (9, 5, 4), dtype=np.uint8), RNG.integers(0, 10, 9, dtype=np.uint8)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(X)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(Y)))
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx(X[:4]))
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(idx(Y[:4]))
    return tmp_path


def test_idx_files_gzipped_or_not(idx_folder: Path) -> None:
    train = open_pictures(idx_folder, "train", validation=0)
    np.testing.assert_array_equal(train.x[..., 0], X)
    np.testing.assert_array_equal(train.y, Y)
    np.testing.assert_array_equal(open_pictures(idx_folder, "test").x[..., 0], X[:4])


def test_the_same_idx_file_twice_is_one_set(idx_folder: Path) -> None:
    (idx_folder / "train-images-idx3-ubyte").write_bytes(idx(X))
    assert len(open_pictures(idx_folder, "train", validation=0)) == 9
    (idx_folder / "emnist-train-images-idx3-ubyte").write_bytes(idx(X))
    with pytest.raises(InputError, match="2 sets of train images"):
        open_pictures(idx_folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(idx(X))[:-9], "truncated"),
        (idx(X)[:-1], r"179 bytes of values where its header \(9, 5, 4\) says 180"),
        (idx(X) + b"0", "181 bytes"),
        (b"PK\x03\x04", "magic number is 504b0304"),
        (idx(X, 0x0D), "type 0x0d"),
        (idx(X)[:9], "header is truncated"),
    ],
)
def test_broken_idx_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a-idx3-ubyte").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_idx(tmp_path / "a-idx3-ubyte")


def test_idx_labels_must_fit(idx_folder: Path) -> None:
    (idx_folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(Y[:3])))
    with pytest.raises(InputError, match="for 9 pictures"):
        open_pictures(idx_folder)


BATCH = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
FLAT = BATCH.transpose(0, 3, 1, 2).reshape(6, 3072)
CLASSES = [3, 1, 4, 1, 5, 9]


def test_cifar10_python_batches(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, rows in (("data_batch_1", [0, 1, 2]), ("data_batch_2", [3, 4]), ("test_batch", [5])):
        content = {b"data": FLAT[rows], b"labels": [CLASSES[i] for i in rows], b"batch_label": b"a"}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    train = open_pictures(tmp_path, "train", validation=0)
    np.testing.assert_array_equal(train.x, BATCH[:5])
    assert train.y.tolist() == CLASSES[:5] and train.class_names[3] == "cat"
    np.testing.assert_array_equal(open_pictures(folder, "test").x, BATCH[5:])


def test_cifar10_binary_batches(tmp_path: Path) -> None:
    rows = np.concatenate([np.array(CLASSES, np.uint8)[:, None], FLAT], 1)
    (tmp_path / "data_batch_1.bin").write_bytes(rows.tobytes())
    (tmp_path / "test_batch.bin").write_bytes(rows[:2].tobytes())
    train = open_pictures(tmp_path, "train", validation=0)
    np.testing.assert_array_equal(train.x, BATCH)
    assert train.y.tolist() == CLASSES
    (tmp_path / "data_batch_1.bin").write_bytes(rows.tobytes()[:-5])
    with pytest.raises(InputError, match="no multiple of the 3073"):
        open_pictures(tmp_path)


def test_cifar100_takes_the_fine_class(tmp_path: Path) -> None:
    fine = [99, 0, 5, 6, 7, 8]
    content = {b"data": FLAT, b"fine_labels": fine, b"coarse_labels": [0] * 6}
    (tmp_path / "train").write_bytes(pickle.dumps(content, protocol=2))
    names = [f"n{i}".encode() for i in range(100)]
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": names}, protocol=2))
    train = open_pictures(tmp_path, "train", validation=0)
    assert train.y.tolist() == fine and train.class_names[99] == "n99"
    binary = tmp_path / "binary"
    binary.mkdir()
    rows = np.concatenate([np.zeros((6, 1), np.uint8), np.array(fine, np.uint8)[:, None], FLAT], 1)
    (binary / "train.bin").write_bytes(rows.tobytes())
    opened = open_pictures(binary, "train", validation=0)
    np.testing.assert_array_equal(opened.x, BATCH)
    assert opened.y.tolist() == fine


def test_an_archive_is_read_without_unpacking(tmp_path: Path) -> None:
    fine = [99, 0, 5, 6, 7, 8]
    names = pickle.dumps({b"fine_label_names": [f"n{i}".encode() for i in range(100)]}, protocol=2)
    train = pickle.dumps({b"data": FLAT, b"fine_labels": fine}, protocol=2)
    path = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("meta", names), ("train", train), ("file.txt~", b"")):
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    opened = open_pictures(path, "train", validation=0)
    np.testing.assert_array_equal(opened.x, BATCH)
    assert opened.y.tolist() == fine and opened.class_names[7] == "n7"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    (tmp_path / "cut.tar.gz").write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="no archive, or truncated"):
        open_pictures(tmp_path / "cut.tar.gz")
    with tarfile.open(tmp_path / "empty.tgz", "w:gz"):
        pass
    with pytest.raises(InputError, match="holds no CIFAR batches"):
        open_pictures(tmp_path / "empty.tgz")


class Evil:
    def __reduce__(self):
        return print, ("code of a stranger",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({b"data": FLAT, b"labels": Evil()}), "asks for builtins.print"),
        (pickle.dumps({b"data": FLAT, b"labels": CLASSES})[:-100], "truncated"),
        (pickle.dumps([1]), "holds a list"),
        (pickle.dumps({b"data": FLAT}), "needed are data and labels"),
        (pickle.dumps({b"data": FLAT[:, :7], b"labels": CLASSES}), r"data \(6, 7\) uint8"),
    ],
)
def test_a_batch_of_something_else_is_refused(tmp_path: Path, content: bytes, words: str, capsys) -> None:
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match=words):
        open_pictures(tmp_path)
    assert not capsys.readouterr().out


def png(colour: int, size: tuple[int, int] = (4, 4), mode: str = "RGB", kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour if mode == "L" else (colour,) * 3).save(buffer, kind)
    return buffer.getvalue()


TREE = {
    "train/dog/b.png": png(2),
    "train/dog/a.png": png(1),
    "train/cat/c.PNG": png(0),
    "val/cat/z.png": png(7),
    "train/cat/.hidden.png": b"",
    "train/readme.txt": b"text",
}


def write_tree(root: Path, tree: dict[str, bytes]) -> Path:
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path: Path, tree: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in tree.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("form", ["folder", "zip", "zip with a root"])
def test_class_folders_as_of_imagenet(tmp_path: Path, form: str) -> None:
    if form == "folder":
        path = write_tree(tmp_path / "tree", TREE)
    else:
        root = "data/" if form.endswith("root") else ""
        path = write_zip(tmp_path / "tree.zip", {root + name: content for name, content in TREE.items()})
    train, test = open_pictures(path, "train", validation=0), open_pictures(path, "test")
    assert train.name == "tree" and train.class_names == ("cat", "dog")
    train = train.take(np.argsort(train.index))  # the order of the files
    assert train.y.tolist() == [0, 1, 1] and train.x[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert test.x[0, 0, 0, 0] == 7 and test.y.tolist() == [0]


def test_rows_that_come_class_after_class_are_mixed_and_others_stay(tmp_path: Path) -> None:
    tree = {f"train/{c}/{i:02}.png": png(20 * c + i, mode="L") for c in range(3) for i in range(20)}
    found = open_pictures(write_tree(tmp_path / "tree", tree), "train", validation=0)
    assert set(found.y[:12]) == {0, 1, 2} and sorted(found.index) == list(range(60))
    assert (found.x[:, 0, 0, 0] == found.index).all() and (found.y == found.index // 20).all()
    again = open_pictures(tmp_path / "tree", "train", validation=0)
    assert (again.index == found.index).all()
    np.savez(tmp_path / "mixed.npz", x=found.x, y=found.y)
    kept = open_pictures(tmp_path / "mixed.npz", "all")
    assert (kept.index == np.arange(60)).all() and (kept.y == found.y).all()


def test_a_validation_folder_beside_test_is_the_validation_split(tmp_path: Path) -> None:
    path = write_tree(tmp_path, TREE | {"test/cat/t.png": png(9)})
    assert open_pictures(path, "validation").x[0, 0, 0, 0] == 7
    assert open_pictures(path, "test").x[0, 0, 0, 0] == 9
    assert len(open_pictures(path, "train")) == 3


def test_pictures_alone_as_of_celeba(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "faces", {f"{i:03}.jpg": png(i, (6, 4), kind="jpeg") for i in range(10)})
    train, test = open_pictures(path, "train", validation=0), open_pictures(path, "test")
    assert (len(train), len(test)) == (8, 2) and train.num_classes == 0 and (train.y == -1).all()
    assert train.shape == (3, 4, 6)
    assert open_pictures(path, "all", size=4).shape == (3, 4, 4)


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    path = write_tree(tmp_path, {"a.png": png(5, mode="L"), "b.png": png(6, mode="L")})
    assert open_pictures(path, "all").shape == (1, 4, 4)
    assert open_pictures(path, "all", channels=3).shape == (3, 4, 4)


def test_all_splits_have_the_channels_of_the_first_picture(tmp_path: Path) -> None:
    tree = {f"{i:02}.png": png(i, mode="L" if i == 0 else "RGB") for i in range(20)}
    path = write_tree(tmp_path / "one_grey", tree)
    shapes = {open_pictures(path, split).shape for split in ("train", "validation", "test", "all")}
    assert shapes == {(1, 4, 4)}


def test_labels_that_are_words_are_the_same_in_all_parts(tmp_path: Path) -> None:
    x = np.zeros((6, 4, 4, 1), np.uint8)
    np.savez(
        tmp_path / "words.npz",
        x_train=x,
        y_train=np.array(["ant", "bee", "cat"] * 2),
        x_test=x[:3],
        y_test=np.array(["bee", "cat", "bee"]),
    )
    train = open_pictures(tmp_path / "words.npz", "train", validation=0)
    test = open_pictures(tmp_path / "words.npz", "test")
    assert train.class_names == test.class_names == ("ant", "bee", "cat")
    assert train.y.tolist() == [0, 1, 2] * 2 and test.y.tolist() == [1, 2, 1]


def test_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    path = write_tree(tmp_path, {"a.png": png(5), "b.png": png(6, (8, 6))})
    with pytest.raises(InputError, match=r"different sizes \(4x4 and 8x6, b.png\); give a size"):
        open_pictures(path, "all")
    assert len(open_pictures(path, "all", size=4)) == 2


@pytest.mark.parametrize(
    ("content", "words"), [(png(3)[:40], "truncated or broken|no picture"), (b"nothing", "no picture")]
)
def test_a_broken_picture_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = write_tree(tmp_path, {"a.png": png(5), "b.png": content})
    with pytest.raises(InputError, match=f"b.png.*({words})"):
        open_pictures(path, "all")


def test_no_pictures_and_no_zip(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        open_pictures(tmp_path)
    (tmp_path / "a.zip").write_bytes(write_zip(tmp_path / "b.zip", TREE).read_bytes()[:-30])
    with pytest.raises(InputError, match="no zip file, or truncated"):
        open_pictures(tmp_path / "a.zip")


def test_cache_is_read_instead_and_tells_other_pictures(tmp_path: Path) -> None:
    path, cache = write_zip(tmp_path / "tree.zip", TREE), tmp_path / "caches" / "tree.npz"
    plain = open_pictures(path, "train", validation=0)
    first = open_pictures(path, "train", validation=0, cache=cache)
    written = cache.stat().st_mtime_ns
    again = open_pictures(path, "train", validation=0, cache=cache)
    assert cache.stat().st_mtime_ns == written
    for opened in (first, again):
        np.testing.assert_array_equal(opened.x, plain.x)
        np.testing.assert_array_equal(opened.y, plain.y)
    with pytest.raises(InputError, match="other pictures"):
        open_pictures(path, "train", size=2, cache=cache)
    write_zip(path, TREE | {"train/cat/new.png": png(1)})
    with pytest.raises(InputError, match="has changed since"):
        open_pictures(path, "train", cache=cache)
