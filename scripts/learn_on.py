"""One data set after another: what a model forgets, and what holds against it."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Literal

from ebm_traj.cli import run
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.trajectory.learning_on import METHODS, LearningOnConfig, Method


@dataclasses.dataclass
class Args:
    """Arguments of the study."""

    data: tuple[Path, ...]
    """Data sets in the order in which they are learnt, with the same states and actions."""
    out: Path
    """Folder for the runs and learning-on.md, .json and .png; it must not exist yet, unless --resume."""
    model: Literal["ebm", "fc", "gaussian", "mixture"] = "ebm"
    """Kind of model, with its default settings."""
    width: int = 128
    """Width of its networks."""
    methods: tuple[Method, ...] = METHODS
    """What to compare."""
    trainer: TrainerConfig = dataclasses.field(default_factory=lambda: TrainerConfig(iterations=3000))
    """Training of every stage."""
    study: LearningOnConfig = dataclasses.field(default_factory=LearningOnConfig)
    resume: bool = False
    """Go on with an interrupted study in --out."""


def main(args: Args) -> None:
    """Train stage after stage by each method; print the scores on every data set after the last one."""
    from ebm_traj.datasets.recording import Recording
    from ebm_traj.trajectory.learning_on import (
        LEGEND,
        require_resumable,
        require_sets,
        study,
        table,
        write_report,
    )
    from ebm_traj.trajectory.presets import CONFIGS
    from ebm_traj.trajectory.training import TrainSettings

    recordings = [Recording(folder) for folder in args.data]
    require_sets(recordings)
    default = CONFIGS[args.model]
    network = dataclasses.replace(default.network, width=args.width)
    config = dataclasses.replace(default, network=network)
    settings = {key: value for key, value in dataclasses.asdict(args).items() if key != "resume"}
    require_resumable(args.out, settings, args.resume)
    training = TrainSettings(trainer=args.trainer, inverse_iterations=0)
    found = study(recordings, args.model, config, training, args.study, args.out, args.methods)
    print(f"{LEGEND}\n\n{table(found)}")
    page = write_report(found, args.out, settings, "python " + shlex.join(sys.argv))
    print(f"\n{page}")


if __name__ == "__main__":
    run(main, Args)
