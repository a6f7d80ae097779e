"""How every script starts: a dataclass of arguments read by tyro, bad input answered in one line."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro

from ebm_traj.errors import InputError

Args = TypeVar("Args")

BAD_INPUT = 2  # the exit code of argparse and tyro for a bad command line
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def run(main: Callable[[Args], None], args_class: type[Args], argv: list[str] | None = None) -> None:
    """Read `args_class` from the command line and call `main` with it.

    Exits with code 2 and one line on stderr when `main` raises `InputError`, with 130 on Ctrl-C.
    """
    program = Path(sys.argv[0]).name
    args = tyro.cli(args_class, args=argv, description=main.__doc__)
    try:
        main(args)
    except InputError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
