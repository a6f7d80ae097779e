"""Verifying a data set, shard by shard."""

from pathlib import Path

from tqdm import tqdm

from ebm_traj.datasets.branches import BRANCHES_FILE, Branches
from ebm_traj.datasets.hdf5 import open_hdf5
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.recording import MAY_DIFFER
from ebm_traj.datasets.shard import shard_path, temporary_files, verify_shard
from ebm_traj.datasets.statistics import SILENT_SECONDS
from ebm_traj.errors import InputError


def find_faults(folder: str | Path) -> list[str]:
    """One line for each thing wrong with a data set; an empty list for a whole and sound one.

    Found are truncated, damaged and foreign shards (each is read whole and its sha256 compared), shards of
    other settings than the first, missing numbers, numbers in the wrong file, and what a killed writer left.
    A progress bar appears if it takes longer than seconds.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; needed is a data set of scripts/collect.py")
    paths = sorted(folder.glob("shard-*.h5"))
    if not paths:
        raise InputError(f"{folder}: no shards (shard-00000.h5, ...); needed is a data set")
    faults, first = [], None
    for path in tqdm(paths, desc=f"{folder}", delay=SILENT_SECONDS, leave=False, disable=None):
        try:
            manifest = verify_shard(path)
            first = first or (path.name, manifest)
            _require_agreement(path, manifest, *first)
        except InputError as error:
            faults.append(str(error))
    if first:
        numbers = range(first[1].num_shards)
        missing = [number for number in numbers if not shard_path(folder, number).exists()]
        if missing:
            faults.append(
                f"{folder}: missing {len(missing)} of {len(numbers)} shards ({_ranges(missing)}); "
                "collect with --resume to make them"
            )
    faults += [f"{path}: left by a killed writer; --resume removes it" for path in temporary_files(folder)]
    if (folder / BRANCHES_FILE).exists():
        try:
            Branches.load(folder / BRANCHES_FILE)
        except InputError as error:
            faults.append(str(error))
    return faults


def check(folder: str | Path) -> str:
    """A line that says the data set is sound; otherwise InputError that names everything wrong with it."""
    faults = find_faults(folder)
    if faults:
        raise InputError("; ".join(faults))
    shards = len(list(Path(folder).glob("shard-*.h5")))
    return f"{folder}: {shards} shards, all there, readable and as they were written"


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers, neighbours joined: `0, 2-5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _require_agreement(path: Path, manifest: Manifest, first_name: str, first: Manifest) -> None:
    difference = first.difference(manifest, ignore=MAY_DIFFER)
    if difference:
        raise InputError(f"{path}: differs from {first_name} in {difference}")
    with open_hdf5(path) as file:
        number = int(file.attrs["shard"])
    if shard_path(path.parent, number) != path:
        raise InputError(f"{path}: holds shard number {number}")
