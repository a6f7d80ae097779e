"""The grid of EBGAN and GAN configurations on MNIST (Zhao et al. 2016): run it or a part, and report."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Literal

from ebm_traj.cli import run
from ebm_traj.errors import InputError


@dataclasses.dataclass
class Args:
    """Arguments of the study. A finished configuration is not run again: go on by the same command."""

    out: Path
    """Folder of the study: runs*.jsonl with a line for each finished run, and the report."""
    classifier: Path | None = None
    """Folder of train_classifier.py whose classifier scores all samples; not needed with --report-only."""
    data: str = "digits"
    """Pictures: a path, such as mnist.npz, or digits."""
    size: int | None = None
    """Pixels across that pictures are resized to."""
    family: tuple[Literal["ebgan", "ebgan-pt", "gan", "gan-adam"], ...] = ("ebgan", "ebgan-pt", "gan")
    """512 configurations of ebgan and of ebgan-pt (pull-away .1), 6,144 of gan; gan-adam: the 512 of gan with
    EBGAN's optimiser."""
    sample: int | None = None
    """Only so many configurations of each family, balanced in every setting and in every part of it; the
    same networks for ebgan, ebgan-pt and gan-adam. Default: the whole grid."""
    stratified: bool = True
    """Balance the sample; otherwise it is drawn at random."""
    part: str | None = None
    """i/n: only the i-th of n parts, to run on as many machines; runs are put together by copying
    runs-*.jsonl into one folder."""
    updates: int = 300
    """Updates of the discriminator, and of the generator: the same for all configurations."""
    batch_size: int = 64
    """Pictures in an update."""
    samples: int = 2000
    """Generated for the score of a configuration."""
    repeat_best: int = 0
    """After all, train the best configuration of each family again so often, with other seeds: an estimate
    without the luck of the best."""
    engine: Literal["local", "ray"] = "local"
    """Processes of this machine, or Ray."""
    workers: int = 1
    """Processes, of one core each."""
    ray_address: str | None = None
    """A running cluster, as ray.init takes it; default: Ray on this machine."""
    seed: int = 0
    """Of the sample, the weights and the noise."""
    report_only: bool = False
    """Write the report of the runs there are."""


def main(args: Args) -> None:
    """Train the grid's configurations, score their samples with one classifier, compare the families."""
    from ebm_traj.ebgan.grid_report import write_report
    from ebm_traj.ebgan.grid_study import Plan, study

    if args.classifier is None and not args.report_only:
        raise InputError("--classifier: needed, a folder of train_classifier.py")
    plan = Plan(args.family, args.sample, args.stratified, args.part, args.seed, args.repeat_best)
    if not args.report_only:
        from ebm_traj.ebgan.grid_run import Budget

        budget = Budget(
            data=args.data,
            classifier=str(args.classifier),
            updates=args.updates,
            batch_size=args.batch_size,
            samples=args.samples,
            size=args.size,
            seed=args.seed,
        )
        study(plan, budget, args.out, args.engine, args.workers, args.ray_address)
    print(write_report(plan, args.out, "python " + shlex.join(sys.argv)))


if __name__ == "__main__":
    run(main, Args)
