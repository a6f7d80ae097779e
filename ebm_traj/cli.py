"""How every script starts: a dataclass of arguments read by tyro, bad input answered in one line."""

import json
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro

from ebm_traj.errors import InputError, RunError

Args = TypeVar("Args")

FAILED = 1
BAD_INPUT = 2  # the exit code of argparse and tyro for a bad command line
INTERRUPTED = 130  # 128 + SIGINT, as shells count
PIPE_CLOSED = 141  # 128 + SIGPIPE


def run(main: Callable[[Args], None], args_class: type[Args], argv: list[str] | None = None) -> None:
    """Read `args_class` from the command line and call `main` with it.

    A class whose defaults depend on the command line (presets do) says so by a static method
    `defaults(argv) -> Args`; one whose fields do, by `class_for(argv) -> type[Args]`.

    Exits with one line on stderr: code 2 on `InputError`, 1 on `RunError`, 130 on Ctrl-C. Where what reads
    its output has ended (`| head`), with code 141 and no line.
    """
    program = Path(sys.argv[0]).name
    try:
        arguments = sys.argv[1:] if argv is None else argv
        if class_for := getattr(args_class, "class_for", None):
            args_class = class_for(arguments)
        defaults = getattr(args_class, "defaults", None)
        begin = {"default": defaults(arguments)} if defaults else {}
        try:
            main(tyro.cli(args_class, args=arguments, description=main.__doc__, **begin))
        finally:
            sys.stdout.flush()  # what nobody reads is found out here, not while Python ends
    except (InputError, RunError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT if isinstance(error, InputError) else FAILED)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        if not _output_unread():
            raise
        sys.exit(PIPE_CLOSED)


def _output_unread() -> bool:
    """Whether it is stdout that nobody reads any more; if so, what is still to be written goes nowhere."""
    if not hasattr(select, "poll"):  # Windows
        return False
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)  # POLLERR, which comes unasked for, is all it is asked for
    if not asked.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def json_object(option: str, text: str) -> dict[str, Any]:
    """The JSON object given to a command-line option; InputError if it is something else."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{option} {text}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{option} {text}: needed is a JSON object")
    return values


def pick_device(name: str | None) -> str:
    """The device of --device, or a GPU if there is one; InputError if torch finds none such here."""
    import torch  # takes a second, which --help need not

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"--device {device}: not on this machine; accepted are cpu and what torch finds"
        ) from None
    return device
