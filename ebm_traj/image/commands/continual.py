"""Classes learnt one after another, without stored pictures."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

from ebm_traj.errors import InputError
from ebm_traj.image.continual import ContinualProtocol
from ebm_traj.image.continual_study import ContinualConfig
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of the study of continual learning."""

    out: Path
    """Folder for continual.md, .json, .png and runs.json; must not exist, unless --resume or --overwrite."""
    data: str = "digits"
    """Data set: digits, or a path, as for train_image.py."""
    on: str = "test"
    """Pictures that accuracies are of: test, or validation (a part of the training set) to choose settings
    by."""
    protocol: ContinualProtocol = dataclasses.field(default_factory=ContinualProtocol)
    learners: ContinualConfig = dataclasses.field(default_factory=ContinualConfig)
    only: tuple[str, ...] = ()
    """Names of the learners to run, as in the table; none: all."""
    seeds: int = 5
    """Runs of each learner."""
    resume: bool = False
    """Keep the runs in --out and add those that are missing."""
    overwrite: bool = False
    """Begin anew in --out."""


def main(args: Args) -> None:
    """Learn classes task by task with energies and with baselines; accuracy after each task."""
    from ebm_traj.image.continual_study import RUNS

    require_folder(args.out, (RUNS,), overwrite=args.overwrite, resume=args.resume)
    if args.on not in ("test", "validation"):
        raise InputError(f"--on {args.on}: accepted are test, validation")
    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds}: accepted are 1 and more")

    from ebm_traj.datasets.pictures import open_pictures
    from ebm_traj.image.continual import read_pixels, tasks_of
    from ebm_traj.image.continual_study import legend, study, table, write_report

    pictures = open_pictures(args.data, "train")
    train = read_pixels(pictures)
    test = read_pixels(open_pictures(args.data, "validation" if args.on == "validation" else "test"))
    tasks_of(pictures.num_classes, args.protocol.classes_per_task)
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str))
    if args.overwrite:
        (args.out / RUNS).unlink(missing_ok=True)
    identity = {name: settings[name] for name in ("data", "on", "protocol", "learners")}
    rows = study(
        train,
        test,
        pictures.num_classes,
        args.protocol,
        args.learners,
        args.seeds,
        args.out,
        identity,
        args.only or None,
    )
    caption = legend(pictures.name, args.protocol, args.seeds, args.on, args.learners.softmax.fisher_rows)
    command = "python " + shlex.join(sys.argv)
    page = write_report(rows, caption, args.out, settings, command, published="mnist" in args.data.lower())
    print(f"{caption}\n\n{table(rows)}\n\n{page}")
