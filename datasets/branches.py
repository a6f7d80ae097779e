"""True continuations of recorded moments: the file that holds simulator branches."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.hdf5 import digest, open_hdf5, read_array, write_hdf5
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import Split, split_code
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec

BRANCHES_FILE = "branches.h5"
FORMAT = "ebm_traj branches"
FORMAT_VERSION = 1
DTYPES = {
    "contexts": np.float32,
    "futures": np.float32,
    "actions": np.float32,
    "episode": np.int64,
    "t": np.int64,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Branches:
    """M re-runs of the simulator from each of B recorded moments: the recorded policy, fresh noise."""

    contexts: NDArray[np.float32]
    """(B, C, D) recorded frames up to and including the moment."""
    futures: NDArray[np.float32]
    """(B, M, H, D) the frames that followed in each re-run."""
    actions: NDArray[np.float32]
    """(B, M, H, A) the actions that led to them."""
    episode: NDArray[np.int64]
    """(B,) number of the episode in the run."""
    t: NDArray[np.int64]
    """(B,) step of the moment: the last context frame is frame t of the episode."""
    spec: StateSpec
    """What the states are, without statistics."""
    settings: dict[str, Any]
    """`seed`, `split`, `env_id`, `run_seed` and `mujoco` (version), for the record."""

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file, whole or not at all."""
        path = Path(path)
        arrays = {name: np.ascontiguousarray(getattr(self, name), dtype) for name, dtype in DTYPES.items()}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise InputError(f"{path}: {name} are not finite (NaN or infinity)")
        attributes = {"format": FORMAT, "format_version": FORMAT_VERSION, "spec": self.spec.to_json()}
        write_hdf5(path, arrays, attributes | self.settings)

    @classmethod
    def load(cls, path: str | Path) -> "Branches":
        """Read what `save` wrote; InputError naming the file if it is missing, damaged or something else."""
        path = Path(path)
        with open_hdf5(path) as file:
            attributes = {
                name: value.item() if isinstance(value, np.generic) else value
                for name, value in file.attrs.items()
            }
            if attributes.get("format") != FORMAT or attributes.get("format_version") != FORMAT_VERSION:
                raise InputError(f"{path}: not a file of branches (attribute format = '{FORMAT}')")
            arrays = {name: read_array(file, name) for name in DTYPES}
        stored = attributes.pop("sha256", None)
        if digest(arrays, attributes) != stored:
            raise InputError(f"{path}: the sha256 of its contents is not the one written in it")
        spec = StateSpec.from_json(attributes.pop("spec"))
        settings = {name: attributes[name] for name in attributes if not name.startswith("format")}
        return cls(**arrays, spec=spec, settings=settings)


def require_branches_of(branches: Branches, recording: Recording, split: Split | None = None) -> None:
    """InputError, naming what is not as it was, unless the moments are of this recording (and split).

    Seeds are often the same, so the frames up to each moment are compared, to the bit.
    """
    if (difference := branches.spec.difference(recording.spec)) is not None:
        raise InputError(f"branches do not fit the data set: they differ, {difference}")
    for name, of in (("seed", recording.manifest.run_seed), ("env_id", recording.env_id)):
        found = branches.settings.get("run_seed" if name == "seed" else name, of)
        if found != of:
            raise InputError(f"branches are of a data set of {name} {found}; this one's is {of}")
    rows = recording.rows_of(branches.episode)
    here = rows >= 0
    if split is not None:
        here &= recording.split[rows] == split_code(split)
    again = "they are of another data set; make them again (collect.py --branches)"
    if not here.all():
        where = (
            f"episodes of {recording.folder}" if split is None else f"{split} episodes of {recording.folder}"
        )
        raise InputError(f"branches: episode {branches.episode[~here][0]} is none of the {where}: {again}")
    frames = branches.contexts.shape[1]
    starts = recording.offsets[rows] + branches.t - (frames - 1)
    recorded, _ = recording.read_windows(starts, frames)
    same = (recorded == branches.contexts).all((1, 2))
    if not same.all():
        raise InputError(
            f"branches: the frames of episode {branches.episode[~same][0]} are not those of "
            f"{recording.folder}: {again}"
        )
