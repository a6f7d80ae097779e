"""Figures of a training run, to a CSV file and to TensorBoard."""

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from ebm_traj.atomic import replacing


class MetricLog:
    """Appends rows of figures to `metrics.csv` and to TensorBoard files in the same folder.

    A run resumed at an iteration drops the rows after it, so that none is missing or stands twice.
    """

    def __init__(self, folder: Path, iteration: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self.path = folder / "metrics.csv"
        self._rows = [row for row in read_metrics(self.path) if row["iteration"] <= iteration]
        self._names = list(dict.fromkeys(name for row in self._rows for name in row))
        self._rewrite()
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)

    def write(self, iteration: int, figures: Mapping[str, float]) -> None:
        """One row; the file is complete up to it when this returns."""
        row = {"iteration": float(iteration), **figures}
        self._rows.append(row)
        if set(row) - set(self._names):
            self._names += [name for name in row if name not in self._names]
            self._rewrite()
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._names).writerow(row)
        for name, value in figures.items():
            self._board.add_scalar(name, value, iteration)

    def _rewrite(self) -> None:
        if self._names:
            with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._names)
                writer.writeheader()
                writer.writerows(self._rows)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self._board.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a `metrics.csv`; empty if there is none. Figures a row lacks are left out of it.

    So is a last row that a killed process has not written to its end: what is there of its last figure could
    be read as another number.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        whole = [line for line in file if line.endswith("\n")]
    return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(whole)]
