"""Describing a data set: a table, and a contact sheet beside the shards."""

import os
from pathlib import Path

from ebm_traj.atomic import replacing
from ebm_traj.datasets.recording import Recording
from ebm_traj.describing.measuring import measure
from ebm_traj.describing.table import table
from ebm_traj.errors import InputError

FIGURE = "description.png"


def describe(folder: str | Path, figure: str | Path | None = None, *, progress: bool = True) -> str:
    """A table of what a data set holds; a contact sheet is written to `figure` (PNG).

    By default the sheet becomes `description.png` in the data set, or is left out if that folder cannot be
    written. Frames are left out, and a line says why, where they cannot be drawn. Reads one shard at a time,
    of a large data set a fixed sample.

    Raises InputError for what is not a data set, and for a `figure` that cannot be written.
    """
    recording = Recording(folder)
    path = Path(figure) if figure is not None else recording.folder / FIGURE
    problem = _refusal(path)
    if problem and figure is not None:
        raise InputError(f"figure {path}: {problem}")
    measured = measure(recording, progress=progress)
    text = table(recording, measured)
    if problem:
        return f"{text}\n\nno picture: {path}: {problem}; give another path (--figure)"
    # matplotlib and OpenGL only where something is drawn
    from ebm_traj.describing.figure import contact_sheet
    from ebm_traj.describing.frames import draw_examples, make_strips

    examples = draw_examples(recording)
    strips = make_strips(recording, examples)
    with replacing(path) as temporary:
        temporary.write_bytes(contact_sheet(recording, measured, examples, strips))
    note = f" ({strips})" if isinstance(strips, str) else ""
    return f"{text}\n\npicture: {path}{note}"


def _refusal(path: Path) -> str | None:
    """Why a PNG cannot be written there, in words; None if it can."""
    if path.suffix.lower() != ".png":
        return "needed is a name that ends in .png"
    if path.is_dir():
        return "is a folder; needed is the name of a file"
    if not path.parent.is_dir():
        return "its folder does not exist"
    return None if os.access(path.parent, os.W_OK) else "its folder cannot be written"
