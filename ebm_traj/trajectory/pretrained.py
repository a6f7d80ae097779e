"""The models that are shipped with the package: folders `ebm_traj/pretrained/NAME`, each with its card."""

from pathlib import Path

from ebm_traj.atomic import replacing
from ebm_traj.errors import InputError
from ebm_traj.trajectory.model import CONFIG_FILE, TrajectoryModel

ROOT = Path(__file__).parents[1] / "pretrained"
CARD_FILE = "README.md"


def names() -> list[str]:
    """Names of the shipped models, in alphabetical order; each can be given to `ebm_traj.load`."""
    return sorted(path.parent.name for path in ROOT.glob(f"*/{CONFIG_FILE}"))


def find(name: str | Path) -> Path | None:
    """The folder of a shipped model; None if there is none of this name."""
    return ROOT / name if str(name) in names() else None


def card(name: str) -> str:
    """How a shipped model was made, by which command, and how it scores (Markdown).

    Raises InputError, naming the shipped models, if it is none of them.
    """
    folder = find(name)
    if folder is None:
        raise InputError(f"pretrained model '{name}' is unknown; {shipped()}")
    path = folder / CARD_FILE
    return path.read_text() if path.is_file() else f"# {name}\n\nThis model has no card.\n"


def require_name(name: str, overwrite: bool) -> None:
    """InputError if `name` is no plain word, or that of a shipped model without `overwrite`."""
    if not name.replace("-", "").isalnum():
        raise InputError(f"pretrained model '{name}'; accepted are letters, digits and -")
    if (ROOT / name).exists() and not overwrite:
        raise InputError(f"pretrained model '{name}': is shipped already; give another name, or --overwrite")


def ship(model: TrajectoryModel, name: str, text: str, *, overwrite: bool = False) -> Path:
    """Put a trained model among the shipped ones, in 16 bits, with its card (Markdown); returns its folder.

    Raises InputError as `require_name` does.
    """
    require_name(name, overwrite)
    folder = ROOT / name
    model.save(folder, half=True)
    with replacing(folder / CARD_FILE) as temporary:
        temporary.write_text(text)
    return folder


def shipped() -> str:
    """The shipped names, for messages."""
    return f"shipped are {', '.join(names())}" if names() else "none is shipped"
