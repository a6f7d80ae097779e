"""The output folder of a run: new, replaced on request, or gone on with under the same settings."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebm_traj.errors import InputError


def prepare_folder(out: Path, overwrite: bool, resume: bool) -> None:
    """Make `out`. InputError if it exists without `overwrite` or `resume`, or does not with `resume`."""
    if overwrite and resume:
        raise InputError("--overwrite and --resume: accepted is one of them")
    if resume and not out.is_dir():
        raise InputError(f"--resume: no folder {out} to go on with")
    if out.exists() and not (overwrite or resume):
        raise InputError(f"--out {out}: exists already; give another, --resume or --overwrite")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is no folder")
    if overwrite and out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a checkpoint gives them back: tuples are lists, paths strings."""
    return json.loads(json.dumps(settings, default=str))
