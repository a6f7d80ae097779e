"""How a recording lies in a Minari data set, and where Minari data sets are.

A recording exported by this package is an ordinary Minari data set of Box observations (the recorded states)
and Box actions. What Minari has no place for makes it possible to restore the recording to the bit:

    metadata of the data set   `ebm_traj`: the manifest, and names and kinds of the state's dimensions
    metadata of an episode     `episode` (number in the run), `split`, `success` (at the last step)
    infos of an episode        `simulator_states` (K, Z) and `simulator_steps` (K,), where some were kept
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ebm_traj.datasets.manifest import FORMAT, READABLE_VERSIONS, Manifest
from ebm_traj.errors import InputError, in_one_line

KEY = "ebm_traj"
SIM_STATES, SIM_STEPS = "simulator_states", "simulator_steps"
EPISODE_KEYS = ("episode", "split", "success")


def require_minari() -> ModuleType:
    """Minari, or an InputError that says how to get it."""
    try:
        import minari
    except ImportError as error:
        raise InputError(
            f'Minari: cannot be imported ({in_one_line(error)}); needed is `pip install "ebm_traj[minari]"`'
        ) from None
    return minari


def is_id(text: str) -> bool:
    """Whether a word names a data set of Minari's own folder, as in `D4RL/pen/human-v2`, and not a path."""
    from minari.dataset.minari_dataset import DATASET_ID_RE

    match = DATASET_ID_RE.fullmatch(text)
    return match is not None and match.group("version") is not None


def source_path(source: str) -> Path:
    """Where the data of a Minari data set lie, given by a folder or an id; an id may be downloaded.

    Raises InputError if it is neither there nor to be had.
    """
    minari = require_minari()
    for folder in (Path(source), Path(source) / "data"):
        if (folder / "metadata.json").is_file():
            return folder
    if Path(source).is_dir():
        raise InputError(f"{source}: not a Minari data set (metadata.json is missing)")
    if not is_id(source):
        raise InputError(f"{source}: no such folder, and no Minari id such as D4RL/pen/human-v2")
    with one_line(f"Minari data set '{source}': not here, and the download failed"):
        dataset = minari.load_dataset(source, download=True)
    return Path(dataset.storage.data_path)


def target_path(target: str) -> tuple[str, Path]:
    """Id and folder of a data set to be written, given by an id or a path (of any other form, as ./NAME).

    Raises InputError if the folder exists.
    """
    require_minari()
    from minari.storage.datasets_root_dir import get_dataset_path

    if is_id(target):
        dataset_id, path = target, Path(get_dataset_path(target))
    else:
        path = Path(target).expanduser().absolute()  # Minari opens no relative ones
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in path.resolve().name)
        dataset_id = name if is_id(name) else f"{name or 'data'}-v0"
    if path.exists():
        raise InputError(f"{path}: exists; give another id or path, or remove it")
    return dataset_id, path


@contextlib.contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn whatever Minari raises over a file or the network into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Minari has no error class of its own: AssertionError, ValueError, ...
        raise InputError(f"{what} ({in_one_line(error)})") from error


def manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    """Attributes of a manifest as plain JSON values."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in manifest.attributes().items()
    }


def manifest_from_metadata(metadata: dict[str, Any]) -> Manifest | None:
    """The manifest of an exported recording; None for any other Minari data set.

    Raises InputError if it is not whole.
    """
    note = metadata.get(KEY)
    values = dict(note["manifest"]) if isinstance(note, dict) and "manifest" in note else {}
    if values.get("format") != FORMAT or values.get("format_version") not in READABLE_VERSIONS:
        return None
    try:
        for name in ("action_low", "action_high"):
            values[name] = np.asarray(values[name], dtype=np.float32)
        return Manifest.from_attributes(values)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"Minari metadata '{KEY}': no whole manifest of a recording ({type(error).__name__}: {error})"
        ) from error
