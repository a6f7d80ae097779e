"""Where a command is to write, seen to before it works: its own place, and one that can be written."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ebm_traj.atomic import write_atomically
from ebm_traj.errors import InputError

DATA_SET = "shard-*.h5"
OF_TRAINER = ("training.safetensors", "metrics.csv", "restarts.log", "curves.png", "tensorboard")


def require_folder(
    out: Path,
    own: Sequence[str],
    *,
    overwrite: bool = False,
    resume: bool | None = None,
    option: str = "--out",
) -> None:
    """Raise InputError unless a command may make its folder `out`, write over its own, or resume in it.

    `own` are names (or patterns) of what such a command leaves: a folder with other things and none of these
    is somebody else's, and is not written over. `resume` is None for a command that cannot.
    """
    if overwrite and resume:
        raise InputError("--overwrite and --resume: accepted is one of them")
    if out.exists() and not out.is_dir():
        raise InputError(f"{option} {out}: is a file; needed is the name of a folder")
    if out.exists() and not (overwrite or resume):
        going_on = "" if resume is None else ", --resume to go on"
        raise InputError(
            f"{option} {out}: exists already; give another{going_on}, or --overwrite to replace what is in it"
        )
    if out.exists() and overwrite and any(out.iterdir()):
        if any(out.glob(DATA_SET)):
            raise InputError(f"{option} {out}: a data set is there, which is not written over; give another")
        if not any(found for name in own for found in out.glob(name)):
            raise InputError(
                f"{option} {out}: holds something else (no {own[0]}), which is not written over; give another"
            )
    require_writable(out, option)


def require_new(out: Path, resume: bool = False, *, resumable: bool = True, option: str = "--out") -> None:
    """Raise InputError unless `out` is a new name for a folder, or what is there is to be gone on with."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{option} {out}: is a file; needed is the name of a folder")
    if out.exists() and not resume:
        instead = ", or --resume to go on with it" if resumable else ""
        raise InputError(f"{out}: exists already; give another {option}{instead}")
    require_writable(out, option)


def require_file(path: Path, option: str, *, overwrite: bool = False, endings: Sequence[str] = ()) -> None:
    """Raise InputError unless a file of one of these `endings` (".png") can be written to `path`."""
    if endings and path.suffix.lower() not in endings:
        raise InputError(f"{option} {path}: accepted are names that end in {', '.join(endings)}")
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; needed is the name of a file")
    if path.exists() and not overwrite:
        raise InputError(f"{option} {path}: exists already; give another name, or --overwrite")
    require_writable(path, option)


def require_writable(path: Path, option: str) -> None:
    """Raise InputError if `path`, or the nearest folder above it, cannot be written."""
    found = path.absolute()
    while not found.exists():
        found = found.parent
    if found != path.absolute() and not found.is_dir():
        raise InputError(f"{option} {path}: {found} is a file; needed is a folder")
    if not os.access(found, os.W_OK | os.X_OK if found.is_dir() else os.W_OK):
        raise InputError(f"{option} {path}: {found} cannot be written")


def take_folder(
    out: Path,
    program: str,
    leaves: Sequence[str],
    record: Mapping[str, Any],
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Make `out` the folder of a run of `program`, and say so there: PROGRAM.json with its settings.

    `leaves` are names (or patterns) of all that such a run leaves, the first one what it ends with. With
    `overwrite` these are removed, and nothing else. Raises InputError as `require_folder`.
    """
    told = out / f"{program}.json"
    require_folder(out, (told.name, leaves[0]), overwrite=overwrite, resume=resume)
    if resume and not out.is_dir():
        raise InputError(f"--resume: no folder {out} to go on with")
    if resume and not told.is_file():
        raise InputError(f"--resume: no run of {program}.py in {out} ({told.name} is missing)")
    if overwrite:
        for found in [found for name in leaves for found in out.glob(name)]:
            if found.is_dir():
                shutil.rmtree(found)
            else:
                found.unlink()
    if not resume:
        write_atomically(told, json.dumps(record, indent=1, default=str) + "\n")
