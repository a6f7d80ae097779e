"""Sets fetched once: checksums are held to, nothing is fetched unasked; hosts are folders here."""

import gzip
import hashlib
import io
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from ebm_traj.datasets import picture_download
from ebm_traj.datasets.picture_download import CACHE_VARIABLE, FETCHED, Fetched
from ebm_traj.datasets.pictures import open_pictures
from ebm_traj.errors import InputError, RunError

X = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4)


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the hosts; pooch's downloader copies from it."""
    pooch = pytest.importorskip("pooch")
    folder = tmp_path / "host"
    folder.mkdir()
    y = np.arange(12, dtype=np.uint8) % 10
    for part, rows in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(X[rows]))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(y[rows]))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("data_batch_1.bin", "test_batch.bin"):
            content = bytes([4]) + bytes(3072)
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (folder / "cifar-10-binary.tar.gz").write_bytes(buffer.getvalue())

    def copy(url: str, output: str, *_: object, **__: object) -> None:
        asked.append(url)
        Path(output).write_bytes((folder / url.rsplit("/", 1)[1]).read_bytes())

    asked: list[str] = []
    monkeypatch.setattr(pooch.core, "choose_downloader", lambda *_, **__: copy)
    for name, entry in FETCHED.items():
        sums = {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in entry.files}
        monkeypatch.setitem(picture_download.FETCHED, name, Fetched(entry.base, sums))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "data"))
    return folder


def test_fetched_once_and_then_read_without_asking(host: Path) -> None:
    train = open_pictures("mnist", "train", download=True, validation=0)
    np.testing.assert_array_equal(train.x[..., 0], X[:8])
    for file in host.iterdir():
        file.unlink()
    assert len(open_pictures("mnist", "test")) == 4


def test_cifar_is_read_from_its_archive(host: Path) -> None:
    test = open_pictures("cifar10", "test", download=True)
    assert test.shape == (3, 32, 32) and test.y.tolist() == [4]
    assert test.class_names[4] == "deer"


def test_nothing_is_fetched_unasked(host: Path) -> None:
    with pytest.raises(InputError, match="--download fetches it once"):
        open_pictures("mnist")


def test_another_checksum_is_refused(host: Path) -> None:
    (host / "train-images-idx3-ubyte.gz").write_bytes(idx(X[1:9]))
    with pytest.raises(RunError, match=r"train-images-idx3-ubyte.gz could not be fetched"):
        open_pictures("mnist", download=True)


def test_a_host_that_does_not_answer(host: Path) -> None:
    (host / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(RunError, match="t10k-images"):
        open_pictures("mnist", download=True)


def test_without_pooch_it_says_what_to_install(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(InputError, match=r"pip install 'ebm_traj\[download\]'"):
        open_pictures("mnist", download=True)


def test_published_sums_are_whole() -> None:
    assert all(len(md5) == 32 for entry in FETCHED.values() for md5 in entry.files.values())
