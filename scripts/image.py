"""What an energy of images does: one sub-command for each task."""

import importlib
import sys
from pathlib import Path

from ebm_traj.cli import answering, run
from ebm_traj.errors import InputError

COMMANDS = {
    "generate": "a grid of samples",
    "complete": "many completions of pictures with a part masked",
    "restore": "pictures freed of noise, blur or missing pixels",
    "morph": "chains from pictures of one class under the energy of another",
    "ensemble": "samples of several models, or of one run's last checkpoints, against one model's",
    "steps": "quality of samples against sampling steps; HMC against Langevin",
    "score": "Frechet distance, precision and recall, classes and nearest neighbours of a model's samples",
    "detect": "AUROC of the energy for pictures of other sets",
    "attack": "accuracy of the energy classifier under adversarial attack",
    "compose": "sums of energies of single factors, and what a probe reads in their samples",
    "continual": "classes learnt one after another, without stored pictures",
    "playground": "toy densities in the plane: the energy as a landscape, and chains on it",
}
WIDTH = max(map(len, COMMANDS))


def usage() -> str:
    """All sub-commands, a line each."""
    lines = [f"  {name:<{WIDTH}}  {does}" for name, does in COMMANDS.items()]
    return "\n".join([f"usage: {Path(sys.argv[0]).name} COMMAND ...; COMMAND --help says more", "", *lines])


def refuse(said: str) -> None:
    """Raise InputError."""
    raise InputError(said)


def main() -> None:
    """Run the sub-command that the command line names."""
    named, rest = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if named in ("-h", "--help"):
        answering(lambda: print(usage()))
        return
    if named not in COMMANDS:
        found = f"'{named}'" if named else "no command"
        answering(lambda: refuse(f"{found}; accepted are {', '.join(COMMANDS)}"))
    command = importlib.import_module(f"ebm_traj.image.commands.{named}")
    run(command.main, command.Args, rest)


if __name__ == "__main__":
    main()
