"""Finished runs of the grid on disk: one JSON line each, whole or not counted."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from ebm_traj.core.checkpoint import load_json, save_json
from ebm_traj.ebgan.grid_run import Budget
from ebm_traj.errors import InputError

SETTINGS, RUNS = "grid.json", "runs"


class GridStore:
    """The folder of a study: `grid.json` with the budget, `runs*.jsonl` with a line for each finished run.

    Parts may run on several machines into one folder, or into folders whose runs*.jsonl are afterwards put
    together: each part writes a file of its own and reads all of them.
    """

    def __init__(self, out: Path, budget: Budget, part: str | None = None) -> None:
        """Raises InputError if the folder holds runs of another budget."""
        self.out = out
        name = RUNS if part is None else f"{RUNS}-{part.replace('/', '-of-')}"
        self.path = out / f"{name}.jsonl"
        now = json.loads(json.dumps(dataclasses.asdict(budget)))
        if (out / SETTINGS).is_file():
            then = load_json(out / SETTINGS)["budget"]
            for key in now:
                if now[key] != then.get(key):
                    raise InputError(
                        f"{out}: {key.replace('_', ' ')} is {now[key]} now and was {then.get(key)}; "
                        "runs of unequal budgets cannot be compared: use another --out"
                    )
        elif out.exists() and not out.is_dir():
            raise InputError(f"{out}: is a file; needed is the name of a folder")
        else:
            out.mkdir(parents=True, exist_ok=True)
            save_json(out / SETTINGS, {"budget": now})

    def runs(self) -> dict[str, dict[str, Any]]:
        """All finished runs by key; a line torn by a crash is none."""
        return read_runs(self.out)

    def add(self, run: dict[str, Any]) -> None:
        """Append a run's line, synced; after a torn line a new one is begun."""
        line = json.dumps(run, allow_nan=False) + "\n"
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            end = os.lseek(handle, 0, os.SEEK_END)
            if end and os.pread(handle, 1, end - 1) != b"\n":
                line = "\n" + line
            os.write(handle, line.encode())
            os.fsync(handle)
        finally:
            os.close(handle)


def read_runs(out: Path) -> dict[str, dict[str, Any]]:
    """Finished runs of a study by key, the first of a key; torn lines are skipped."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(out.glob(f"{RUNS}*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                run = json.loads(line)
                found.setdefault(run["key"], run)
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
    return found
