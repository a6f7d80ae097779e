"""What a task on pictures leaves behind: a page, its figures as JSON, and pictures; alike for all tasks."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebm_traj.atomic import write_atomically


def write_report(
    out: Path,
    name: str,
    title: str,
    text: str,
    content: Mapping[str, Any],
    figures: Mapping[str, bytes],
    settings: Mapping[str, Any],
) -> Path:
    """Write NAME.md, NAME.json and one PNG for each entry of `figures` (its name: its bytes) into `out`.

    `text` is Markdown. Gives the page's path back.
    """
    command = "python " + shlex.join(sys.argv)
    plain = json.loads(json.dumps(dict(settings), default=str), parse_constant=str)
    whole = {"command": command, "settings": plain, **content}
    shown = []
    for figure, pixels in figures.items():
        write_atomically(out / f"{figure}.png", pixels)
        shown.append(f"![{figure.replace('_', ' ')}]({figure}.png)")
    write_atomically(out / f"{name}.json", json.dumps(whole, indent=1, allow_nan=False) + "\n")
    page = f"# {title}\n\n`{command}`\n\n{text}\n\n" + "\n\n".join(shown) + "\n"
    write_atomically(out / f"{name}.md", page)
    return out / f"{name}.md"
