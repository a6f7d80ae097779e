"""Semi-supervised learning with few labels: ladder network, EBGAN-LN and labels alone, as a table."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

from ebm_traj.cli import pick_device, run
from ebm_traj.ebgan.semi_supervised import METHODS, Cell, CellResult, Method, SemiSupervisedConfig
from ebm_traj.errors import InputError


@dataclasses.dataclass
class Args:
    """Arguments of the study."""

    out: Path
    """Folder for cells, results.jsonl and the report; must not exist, unless --resume or --overwrite."""
    data: str = "digits"
    """Pictures: digits, mnist, or a path, such as an mnist.npz."""
    download: bool = False
    """Fetch a named data set that is not there."""
    labels: tuple[int, ...] = (100, 200, 1000)
    """Numbers of labelled pictures; multiples of the number of classes."""
    seeds: int = 3
    """Of each number and method: 0, 1, ... choose labels, weights and order."""
    first_seed: int = 0
    """Begin with another: the seeds of a study may be shared out among machines."""
    methods: tuple[Method, ...] = ("ladder", "ebgan-ln", "supervised")
    """ladder-longer besides: the ladder network with --training.longer times as many updates."""
    validation: float = 1 / 6
    """Share of the training part held out: 10,000 pictures of MNIST."""
    training: SemiSupervisedConfig = dataclasses.field(default_factory=SemiSupervisedConfig)
    device: str | None = None
    """cpu, cuda, ...; a GPU if there is one."""
    resume: bool = False
    """Go on with the study in --out. Several processes with the same command share its cells."""
    overwrite: bool = False
    """Replace the study in --out."""


def main(args: Args) -> None:
    """Train all cells of labels x seeds x methods, first all of the first number of labels; then report."""
    if args.seeds < 1 or not args.labels or not args.methods:
        raise InputError(
            f"--seeds {args.seeds}, {len(args.labels)} --labels, {len(args.methods)} --methods: "
            "needed are one and more"
        )
    if args.first_seed < 0:
        raise InputError(f"--first-seed {args.first_seed}: accepted are 0 and more")
    if unknown := set(args.methods) - set(METHODS):
        raise InputError(f"--methods {', '.join(unknown)}; accepted are {', '.join(METHODS)}")
    device = pick_device(args.device)

    from ebm_traj.ebgan.semi_supervised_data import open_split
    from ebm_traj.ebgan.semi_supervised_report import legend, summarise, table, write_report
    from ebm_traj.ebgan.semi_supervised_study import check_cells, prepare, run_cells

    pictures = open_split(args.data, args.validation, download=args.download)
    settings = {
        "data": args.data,
        "validation": args.validation,
        **json.loads(json.dumps(dataclasses.asdict(args.training))),
    }
    cells = [
        Cell(method, labels, seed)
        for labels in args.labels
        for seed in range(args.first_seed, args.first_seed + args.seeds)
        for method in args.methods
    ]
    check_cells(cells, pictures)
    prepare(args.out, settings, args.resume, args.overwrite)
    command = "python " + shlex.join(sys.argv)

    def report(results: list[CellResult]) -> Path:
        return write_report(results, args.training, args.out, settings, command)

    results = run_cells(cells, pictures, args.training, args.out, device, finished=report)
    if not results:
        print("no cell is finished: other processes are at them")
        return
    page = report(results)
    print(f"{legend(args.training)}\n\n{table(summarise(results))}\n\n{page}")


if __name__ == "__main__":
    run(main, Args)
