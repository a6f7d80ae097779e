"""Pictures that do not belong to a data set: other sets, and sets made from its own pictures or from nothing.

All pass through the same preprocessing as the set itself: one size, one number of channels, eight bits. (An
average of two pictures that kept its half grey levels, or a set resized by another filter, would be told by
that alone.)
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebm_traj.core.seeding import derive_seed
from ebm_traj.errors import InputError

Pictures = NDArray[np.uint8]
"""(N, H, W, C)."""

Maker = Callable[[Pictures, np.random.Generator], Pictures]


def interpolations(x: Pictures, rng: np.random.Generator) -> Pictures:
    """The mean of each picture and another one (Du & Mordatch 2019, appendix)."""
    other = _other(len(x), rng)
    return _eight_bits(0.5 * (x.astype(np.float64) + x[other]))


def monochrome(x: Pictures, rng: np.random.Generator) -> Pictures:
    """One colour each, drawn evenly."""
    colour = rng.integers(0, 256, (len(x), 1, 1, x.shape[3]))
    return np.broadcast_to(colour, x.shape).astype(np.uint8)


def uniform(x: Pictures, rng: np.random.Generator) -> Pictures:
    """Every pixel drawn evenly."""
    return rng.integers(0, 256, x.shape).astype(np.uint8)


def blurred(x: Pictures, rng: np.random.Generator) -> Pictures:
    """Gaussian blur of 1 to 3 pixels."""
    reach = np.arange(-9, 10)
    widths = rng.uniform(1, 3, (len(x), 1))
    kernels = np.exp(-0.5 * (reach / widths) ** 2)
    kernels /= kernels.sum(1, keepdims=True)
    moved = x.astype(np.float64)
    for axis in (1, 2):
        wide = np.pad(moved, [(0, 0), *[(9, 9) if a == axis else (0, 0) for a in (1, 2)], (0, 0)], "edge")
        size = x.shape[axis]
        total = np.zeros_like(moved)
        for place, factor in enumerate(kernels.T):  # one shifted copy for each place of the kernel
            total += factor[:, None, None, None] * np.take(wide, range(place, place + size), axis)
        moved = total
    return _eight_bits(moved)


def noisy(x: Pictures, rng: np.random.Generator) -> Pictures:
    """Gaussian noise of 5 to 50 grey levels."""
    spread = rng.uniform(5, 50, (len(x), 1, 1, 1))
    return _eight_bits(x + spread * rng.normal(size=x.shape))


def faded(x: Pictures, rng: np.random.Generator) -> Pictures:
    """Contrast of 0.2 to 0.6 around the picture's mean, which is moved by up to 60 grey levels."""
    mean = x.mean((1, 2), keepdims=True)
    contrast = rng.uniform(0.2, 0.6, (len(x), 1, 1, 1))
    return _eight_bits(mean + contrast * (x - mean) + rng.uniform(-60, 60, (len(x), 1, 1, 1)))


def shuffled(x: Pictures, rng: np.random.Generator) -> Pictures:
    """The four quarters of each picture at random places."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    tiles = [
        x[:, i * height : (i + 1) * height, j * width : (j + 1) * width] for i in range(2) for j in range(2)
    ]
    stacked = np.stack(tiles, 1)
    order = np.stack([_derangement(4, rng) for _ in range(len(x))])
    moved = stacked[np.arange(len(x))[:, None], order]
    out = x.copy()
    for k in range(4):
        i, j = divmod(k, 2)
        out[:, i * height : (i + 1) * height, j * width : (j + 1) * width] = moved[:, k]
    return out


def patched(x: Pictures, rng: np.random.Generator) -> Pictures:
    """Half of each picture from another one (CutMix, Yun et al. 2019)."""
    out, other = x.copy(), x[_other(len(x), rng)]
    for row, kind in enumerate(rng.integers(0, 4, len(x))):
        height, width = x.shape[1] // 2, x.shape[2] // 2
        place = [np.s_[:height], np.s_[height:], np.s_[:, :width], np.s_[:, width:]][kind]
        out[row][place] = other[row][place]
    return out


def rotated(x: Pictures, rng: np.random.Generator) -> Pictures:
    """A quarter turn one way or the other; a half turn where height and width differ."""
    if x.shape[1] != x.shape[2]:
        return x[:, ::-1, ::-1].copy()
    return np.stack([np.rot90(p, k) for p, k in zip(x, rng.choice([1, 3], len(x)), strict=True)])


MADE: Mapping[str, Maker] = {"interpolations": interpolations, "monochrome": monochrome, "uniform": uniform}
"""Sets for the test, made from test pictures."""

SYNTHETIC: Mapping[str, Maker] = {
    "blurred": blurred,
    "noisy": noisy,
    "faded": faded,
    "shuffled": shuffled,
    "patched": patched,
    "rotated": rotated,
}
"""Sets to choose a score by, made from validation pictures: none of them is a test set."""


def make(name: str, x: Pictures, seed: int) -> Pictures:
    """The made or synthetic set of this name from pictures x; the same seed, the same set."""
    makers = {**MADE, **SYNTHETIC}
    if name not in makers:
        raise InputError(f"set '{name}': accepted are {', '.join(makers)}, or a path")
    if len(x) < 2:
        raise InputError(f"set '{name}': {len(x)} pictures to make it from; needed are 2")
    return np.ascontiguousarray(makers[name](x, np.random.default_rng(derive_seed(seed, "set", name))))


def named_sets(others: Sequence[str]) -> dict[str, str]:
    """`NAME`, `PATH` or `NAME=PATH`, as the command line has them, to name -> source.

    Raises InputError if a path does not exist or a name stands twice.
    """
    found: dict[str, str] = {}
    for other in others:
        name, separator, source = other.partition("=")
        if not separator:
            name, source = (other, other) if other in MADE else (Path(other).name.partition(".")[0], other)
        if source not in MADE and not Path(source).exists():
            raise InputError(f"other set {other}: no such path; accepted beside paths are {', '.join(MADE)}")
        if name in found:
            raise InputError(f"other set {other}: the name {name} stands twice; write NAME=PATH")
        found[name] = source
    return found


def first_rows(x: Pictures, count: int, seed: int, *parts: str) -> Pictures:
    """At most `count` pictures drawn at random, in their order."""
    rng = np.random.default_rng(derive_seed(seed, "rows", *parts))
    return x if len(x) <= count else x[np.sort(rng.permutation(len(x))[:count])]


def other_pictures(
    source: str, own_test: Pictures, shape: tuple[int, int, int], count: int, seed: int
) -> Pictures:
    """Up to `count` pictures of another set, of `shape` (C, H, W); of a path its test part, or all it has."""
    if source in MADE:
        return make(source, own_test[:count], seed)
    return first_rows(open_other(source, shape), count, seed, Path(source).name)


def open_other(source: str, shape: tuple[int, int, int]) -> Pictures:
    """Pictures (N, H, W, C) of a source's test part; of an .npz without parts all it has."""
    from ebm_traj.datasets.pictures import open_pictures

    channels, height, width = shape
    if height != width:
        raise InputError(f"picture shape: {shape}; other sets are read as squares")
    whole = Path(source).suffix == ".npz" and "x_test" not in _names(Path(source))
    return open_pictures(source, "all" if whole else "test", size=height, channels=channels).x


def _names(path: Path) -> list[str]:
    """Names of the arrays in an .npz."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is no .npz ({error})") from None


def _other(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """For each row another row."""
    return (np.arange(count) + rng.integers(1, count, count)) % count


def _derangement(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """An order of so many things that leaves not all in place."""
    while True:
        order = rng.permutation(count)
        if (order != np.arange(count)).any():
            return order


def _eight_bits(x: NDArray[np.float64]) -> Pictures:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
