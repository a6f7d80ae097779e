"""Toy densities in the plane: the energy as a landscape, and chains on it."""

import dataclasses
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from ebm_traj.errors import InputError
from ebm_traj.image.playground import PlaneConfig
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of the playground."""

    out: Path
    """Folder for playground.md, .json and figures; must not exist, unless --overwrite."""
    densities: tuple[str, ...] = ("ring", "checkerboard", "moons", "pinwheel", "funnel")
    """Which densities to learn; with ring among them energies are composed, too."""
    learnings: tuple[str, ...] = ("denoising", "contrastive")
    """Ways to learn each."""
    plane: PlaneConfig = dataclasses.field(default_factory=PlaneConfig)
    """Network and training; its `learning` is one of --learnings after the other."""
    samples: int = 1000
    """Drawn from every learnt energy."""
    paths: int = 64
    """Paths drawn under each energy of paths; 0 for none."""
    seed: int = 0
    """Seed of all random numbers."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Learn energies in the plane, score them exactly, compose them, draw landscapes, chains and paths."""
    require_folder(args.out, ("playground.json",), overwrite=args.overwrite)
    if args.samples < 1 or args.paths < 0:
        raise InputError(f"--samples {args.samples}, --paths {args.paths}: accepted are 1, 0 and more")
    if not args.densities or not args.learnings:
        raise InputError("--densities, --learnings: one of each is needed")
    from ebm_traj.image.playground_study import (
        LEGEND,
        composed_table,
        path_table,
        run,
        score_table,
        write_report,
    )
    from ebm_traj.image.toy import toy

    for name in args.densities:
        toy(name)  # raises on an unknown one
    trainer = dataclasses.replace(args.plane.trainer, seed=args.seed)
    plane: Any = dataclasses.replace(args.plane, trainer=trainer)
    kinds = [dataclasses.replace(plane, learning=kind) for kind in args.learnings]
    shutil.rmtree(args.out / "runs", ignore_errors=True)
    rows, composed, paths = run(args.densities, kinds, args.out, args.samples, args.paths, args.seed)
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str))
    page = write_report(rows, composed, paths, args.out, settings, "python " + shlex.join(sys.argv))
    print("\n\n".join([LEGEND, score_table(rows), composed_table(composed), path_table(paths), str(page)]))
