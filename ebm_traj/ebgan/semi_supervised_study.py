"""All cells of the study, in one process or several that share a folder; a killed one goes on."""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ebm_traj.atomic import write_atomically
from ebm_traj.core.checkpoint import load_json, save_json
from ebm_traj.ebgan.semi_supervised import (
    CELLS,
    CHECKPOINT,
    Cell,
    CellResult,
    CellTraining,
    SemiSupervisedConfig,
    as_json,
)
from ebm_traj.ebgan.semi_supervised_data import SplitPictures, balanced_rows
from ebm_traj.errors import InputError

SETTINGS, LINES, RESULT, LOCK = "settings.json", "results.jsonl", "result.json", ".lock"


@contextlib.contextmanager
def holding(path: Path, wait: bool) -> Iterator[bool]:
    """Whether this process got the lock file; the system frees it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def prepare(out: Path, settings: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
    """Make the study's folder, or see that the one there is of the same settings.

    Raises InputError if there is one and neither was allowed, or its settings differ; nothing is deleted
    but the study's own files.
    """
    told = json.loads(json.dumps(settings))
    file = out / SETTINGS
    if out.exists() and any(out.iterdir()) and not file.is_file():
        raise InputError(f"--out {out}: a folder of something else; needed is a new one")
    if file.is_file() and overwrite:
        for path in [*sorted((out / CELLS).rglob("*")), out / LINES, file]:
            if path.is_file():
                path.unlink()
    elif file.is_file():
        if not resume:
            raise InputError(f"--out {out}: a study is there; --resume goes on, --overwrite replaces it")
        before = load_json(file)
        differing = [name for name in {**before, **told} if before.get(name) != told.get(name)]
        if differing:
            name = differing[0]
            raise InputError(
                f"--resume {out}: {name} was {before.get(name)}, now {told.get(name)}; "
                "needed are the same settings"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    save_json(file, told)


def results_in(out: Path) -> list[CellResult]:
    """The finished cells of a study."""
    return [CellResult(**load_json(path)) for path in sorted((out / CELLS).glob(f"*/{RESULT}"))]


def write_lines(out: Path) -> list[CellResult]:
    """Bring results.jsonl, one line for each finished cell, up to date; what it now holds."""
    with holding(out / LOCK, wait=True):
        results = results_in(out)
        lines = [json.dumps(as_json(result)) for result in results]
        write_atomically(out / LINES, "".join(line + "\n" for line in lines))
    return results


def check_cells(cells: Sequence[Cell], pictures: SplitPictures) -> None:
    """InputError, before any work, if the labels of a cell cannot be chosen."""
    for cell in cells:
        balanced_rows(pictures.train_labels, cell.labels, pictures.classes, cell.seed)


def run_cells(
    cells: Sequence[Cell],
    pictures: SplitPictures,
    config: SemiSupervisedConfig,
    out: Path,
    device: str = "cpu",
    finished: Callable[[list[CellResult]], object] = lambda results: None,
) -> list[CellResult]:
    """Run the cells that are not done and that no other process is at; results of all finished ones.

    `finished` is given these after every cell that this process has done.
    """
    for cell in cells:
        folder = out / CELLS / cell.name
        with holding(folder / LOCK, wait=False) as mine:
            if not mine or (folder / RESULT).is_file():
                continue
            result = CellTraining(cell, pictures, config, device).run(folder)
            assert result is not None  # nothing stops it early
            save_json(folder / RESULT, dataclasses.asdict(result))
            (folder / CHECKPOINT).unlink()
        finished(write_lines(out))
    return write_lines(out)
