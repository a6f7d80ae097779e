"""Put a trained model among those shipped with the package, with a card that tells how it was made."""

import dataclasses
import json
from pathlib import Path

from ebm_traj.cli import run
from ebm_traj.errors import InputError


@dataclasses.dataclass
class Args:
    """Arguments of shipping."""

    run: Path
    """Folder of the trained model."""
    name: str
    """Name under which `ebm_traj.load` finds it."""
    report: Path | None = None
    """Folder of a report of compare.py that has a row for it; its scores go on the card."""
    command: str = ""
    """How data and model were made, for the card."""
    prune: Path | None = None
    """Leave out the components of its mixtures that are hardly ever drawn on this data set."""
    overwrite: bool = False
    """Replace the shipped model of this name."""


def main(args: Args) -> None:
    """Copy a trained model into ebm_traj/pretrained, in 16 bits, with its card."""
    from ebm_traj.trajectory.files import load
    from ebm_traj.trajectory.pretrained import require_name, ship

    require_name(args.name, args.overwrite)
    model = load(args.run)
    if args.prune is not None:
        from ebm_traj.datasets.recording import Recording
        from ebm_traj.trajectory.pruning import pruned

        model = pruned(model, Recording(args.prune))
    lines = [
        f"# {args.name}",
        "",
        f"A trajectory model of kind `{model.kind}`, conditioning `{model.conditioning}`, of "
        f"{model.card.get('env_id', 'more than one environment')}: {model.context_frames} frames of context"
        + (f" and {model.action_history} past actions" if model.action_history else "")
        + f", {model.window_frames} frame(s) predicted at once.",
        "",
        "```python",
        "import ebm_traj",
        "",
        f'model = ebm_traj.load("{args.name}")',
        "```",
        "",
        "## How it was made",
        "```bash",
        args.command or "(not told)",
        "```",
        *(f"- {key.replace('_', ' ')}: {value}" for key, value in model.card.items()),
        "",
    ]
    if args.report is not None:
        lines += scores(args.report, args.run.resolve().name)
    folder = ship(model, args.name, "\n".join(lines), overwrite=args.overwrite)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {size:.1f} MB")


def scores(report: Path, row: str) -> list[str]:
    """Lines of the card with the row's scores on test episodes; InputError if the report has no such row."""
    path = report / "scores.json"
    if not path.is_file():
        raise InputError(f"{path}: missing; needed is a folder that compare.py made")
    found = json.loads(path.read_text())
    if row not in found["rows"]:
        raise InputError(f"{path}: has no row '{row}'; its rows are {', '.join(found['rows'])}")
    values = found["rows"][row]
    energy_score = values.get("energy_score") or {}
    told = {
        "Frechet distance": f"{values['fd']:.2f} (floor {found['floor']['fd']:.2f})",
        **{f"energy score ratio, {key}": f"{value:.3f}" for key, value in energy_score.items() if value},
        "motion": f"{values['motion']:.2f}",
    }
    if values.get("diversity"):
        told["diversity"] = f"{values['diversity']:.2f}"
    return ["## Scores on test episodes", *(f"- {name}: {value}" for name, value in told.items()), ""]


if __name__ == "__main__":
    run(main, Args)
