"""Two energies trained apart on hand and object, summed to reach what neither data set showed together."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

from ebm_traj.cli import run
from ebm_traj.errors import InputError
from ebm_traj.output import require_folder
from ebm_traj.planning.composition import CompositionConfig


@dataclasses.dataclass
class Args:
    """Arguments of the study."""

    data: Path
    """Data set; frames of its training episodes are taken."""
    out: Path
    """Folder for composition.md, .json and .png; must not exist, unless --overwrite."""
    frames: int = 20_000
    """Frames read, from episodes and steps drawn at random."""
    training: CompositionConfig = dataclasses.field(default_factory=CompositionConfig)
    seed: int = 0
    """Seed of frames, training and samples."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Train energies on two subsets that lack a combination; sum them; count samples in it."""

    require_folder(args.out, ("composition.json",), overwrite=args.overwrite)
    if args.frames < 1:
        raise InputError(f"--frames {args.frames}: accepted are 1 and more")

    import numpy as np

    from ebm_traj.datasets.recording import Recording
    from ebm_traj.planning.composition import LEGEND, read_frames, study, table, write_report

    recording = Recording(args.data)
    rows = recording.episode_rows("train")
    rng = np.random.default_rng(args.seed)
    at = rng.choice(rows, args.frames)
    starts = np.sort(recording.offsets[at] + rng.integers(0, recording.lengths[at] + 1))
    states, _ = recording.read_windows(starts, 1)
    frames = read_frames(states[:, 0], recording.spec)
    found = study(frames, args.training, args.seed)
    print(f"{LEGEND}\n\n{table(found)}")
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str), parse_constant=str)
    page = write_report(found, frames, args.out, settings, "python " + shlex.join(sys.argv))
    print(f"\n{page}")


if __name__ == "__main__":
    run(main, Args)
