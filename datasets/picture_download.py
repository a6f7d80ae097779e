"""MNIST, Fashion-MNIST and CIFAR-10 fetched once from their hosts, with checksums (pooch)."""

import dataclasses
import os
from pathlib import Path

from ebm_traj.errors import InputError, RunError

CACHE_VARIABLE = "EBM_TRAJ_DATA"
"""Environment variable that names the folder of fetched sets; else the system's folder for caches."""


@dataclasses.dataclass(frozen=True)
class Fetched:
    """Where a set is fetched from."""

    base: str
    files: dict[str, str]
    """File name to MD5, as its host or torchvision publishes them."""


FETCHED: dict[str, Fetched] = {
    "mnist": Fetched(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion": Fetched(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar10": Fetched(  # the binary form: no pickle
        "https://www.cs.toronto.edu/~kriz/", {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}
    ),
}


def data_folder() -> Path:
    """The folder of fetched sets."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "ebm_traj"


def fetch(name: str, download: bool) -> Path:
    """The folder or archive of a set of `FETCHED`, fetched first if it is not there and `download` is said.

    Raises InputError if it is not there, or pooch is not installed; RunError if a file cannot be fetched or
    its checksum is another.
    """
    entry, folder = FETCHED[name], data_folder() / name
    there = all((folder / file).is_file() for file in entry.files)
    if not there:
        if not download:
            raise InputError(
                f"data {name}: not in {folder}; --download fetches it once, or give the path of your own"
            )
        _retrieve(name, entry, folder)
    return folder / next(iter(entry.files)) if len(entry.files) == 1 else folder


def _retrieve(name: str, entry: Fetched, folder: Path) -> None:
    """Fetch what is not there; pooch gives a file its name only when its checksum is right."""
    try:
        import pooch
    except ImportError:
        raise InputError(f"data {name}: fetching needs pooch: pip install 'ebm_traj[download]'") from None
    for file, md5 in entry.files.items():
        try:
            pooch.retrieve(entry.base + file, f"md5:{md5}", file, folder, progressbar=True)
        except Exception as error:  # of requests, of urllib, of the checksum, of the disk
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(f"data {name}: {entry.base}{file} could not be fetched ({reason})") from None
