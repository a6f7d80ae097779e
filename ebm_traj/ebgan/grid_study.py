"""The grid study: which points, in which order, and which are left to run."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ebm_traj.core.checkpoint import load_json, save_json
from ebm_traj.core.seeding import derive_seed
from ebm_traj.ebgan.grid import Family, GridPoint, grid, part, stratified
from ebm_traj.ebgan.grid_engine import Engine, Task, run_tasks
from ebm_traj.ebgan.grid_run import Budget, Judge
from ebm_traj.ebgan.grid_store import SETTINGS, GridStore
from ebm_traj.errors import InputError

REPEATED = "#"
"""Before the number of a repetition, in a run's key."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What of the grid is run."""

    families: tuple[Family, ...] = ("ebgan", "ebgan-pt", "gan")
    sample: int | None = None
    """Points of each family; None for all."""
    stratified: bool = True
    part: str | None = None
    seed: int = 0
    repeat_best: int = 0

    def __post_init__(self) -> None:
        if not self.families or len(set(self.families)) != len(self.families):
            raise InputError(f"family: {' '.join(self.families)}; accepted are different ones of "
                             f"{', '.join(get_args(Family))}")  # fmt: skip
        if self.repeat_best < 0:
            raise InputError(f"repeat best: {self.repeat_best}; accepted are 0 and more")
        if self.repeat_best and self.part is not None:
            raise InputError("repeat best: not with a part; run it when all parts are there")
        self.points()

    def of(self, family: Family) -> list[GridPoint]:
        """The points of a family, of all parts."""
        points = grid(family)
        if self.sample is None:
            return points
        if self.stratified:
            return stratified(points, self.sample, self.seed)
        if not 1 <= self.sample <= len(points):
            raise InputError(f"sample {self.sample}: accepted are 1 to the grid's {len(points)} points")
        rng = np.random.default_rng(derive_seed("random grid", self.seed))
        return [points[i] for i in rng.permutation(len(points))[: self.sample]]

    def points(self) -> list[GridPoint]:
        """The points of this part, families in turn: what is there after an interruption is balanced."""
        families = [self.of(family) for family in self.families]
        longest = max(map(len, families))
        mixed = [points[i] for i in range(longest) for points in families if i < len(points)]
        return mixed if self.part is None else part(mixed, self.part)


def left_to_run(points: Iterable[GridPoint], finished: Iterable[str]) -> list[Task]:
    """First runs of the points that are not among the finished keys."""
    known = set(finished)
    return [(point, 0) for point in points if point.key not in known]


def best_of(runs: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The first run with the highest I'; repetitions do not count. None of none."""
    first = [run for run in runs if not run["repeat"]]
    return max(first, key=lambda run: run["reversed_score"]) if first else None


def study(
    plan: Plan,
    budget: Budget,
    out: Path,
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
) -> None:
    """Run what is left of the plan, one line in `out` for each run; then the repetitions of the best.

    Raises InputError for bad input before anything is written.
    """
    from tqdm import tqdm

    judge = Judge(budget)  # reads data and classifier: what is wrong with them is said before any run
    store = GridStore(out, budget, plan.part)
    if "reference" not in load_json(out / SETTINGS):
        save_json(out / SETTINGS, {**load_json(out / SETTINGS), "reference": judge.reference()})
    finished = store.runs()
    points = plan.points()
    tasks = left_to_run(points, finished)
    with tqdm(total=len(points), initial=len(points) - len(tasks), unit="run") as bar:

        def done(run: dict[str, Any]) -> None:
            store.add(run)
            bar.set_postfix_str(f"{run['key']}: I' {run['reversed_score']:.2f}", refresh=False)
            bar.update()

        run_tasks(tasks, budget, done, engine=engine, workers=workers, address=address)
    finished = store.runs()
    again: list[Task] = []
    for family in plan.families if plan.repeat_best else ():
        best = best_of(finished[p.key] for p in plan.of(family) if p.key in finished)
        if best is not None:
            point = next(p for p in plan.of(family) if p.key == best["key"])
            again += [
                (point, number)
                for number in range(1, plan.repeat_best + 1)
                if f"{point.key}{REPEATED}{number}" not in finished
            ]
    run_tasks(again, budget, store.add, engine=engine, workers=workers, address=address)
