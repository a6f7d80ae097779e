"""How every script starts: a dataclass of arguments read by tyro, bad input answered in one line."""

import contextlib
import errno
import json
import os
import select
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import tyro

from ebm_traj.errors import InputError, RunError

Args = TypeVar("Args")

FAILED = 1
BAD_INPUT = 2  # the exit code of argparse and tyro for a bad command line
INTERRUPTED = 130  # 128 + SIGINT, as shells count
PIPE_CLOSED = 141  # 128 + SIGPIPE
REFUSED = {  # not all of them are known everywhere
    getattr(errno, name, None)
    for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EISDIR", "ENOTDIR", "ENAMETOOLONG")
} - {None}


def run(main: Callable[[Args], None], args_class: type[Args], argv: list[str] | None = None) -> None:
    """Read `args_class` from the command line and call `main` with it.

    A class whose defaults depend on the command line (presets do) says so by a static method
    `defaults(argv) -> Args`; one whose fields do, by `class_for(argv) -> type[Args]`.

    Ends as `answering` does.
    """

    def called() -> None:
        arguments = sys.argv[1:] if argv is None else argv
        chosen = class_for(arguments) if (class_for := getattr(args_class, "class_for", None)) else args_class
        defaults = getattr(chosen, "defaults", None)
        begin = {"default": defaults(arguments)} if defaults else {}
        main(tyro.cli(chosen, args=arguments, description=main.__doc__, **begin))

    answering(called)


def answering(work: Callable[[], None]) -> None:
    """Call `work`; what goes wrong and is not a fault of the program is told in one line on stderr.

    Exits with code 2 on `InputError`, 1 on `RunError` and on what the machine refuses (a disk that is full,
    a folder that may not be written), 130 on Ctrl-C. Where what reads its output has ended (`| head`), with
    code 141 and no line.
    """
    program = Path(sys.argv[0]).name
    try:
        try:
            with _warning_in_one_line(program):
                work()
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
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(FAILED)


@contextlib.contextmanager
def _warning_in_one_line(program: str) -> Iterator[None]:
    """What this package warns of is told as errors are, without the line of the source that warned."""
    usual = warnings.formatwarning

    def told(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category is not UserWarning:
            return usual(message, category, filename, lineno, line)
        return f"{program}: warning: {message}\n"

    warnings.formatwarning = told
    try:
        yield
    finally:
        warnings.formatwarning = usual


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


def next_step(*words: object) -> str:
    """The line that says what to type next; words are quoted where a shell needs it."""
    return "next: " + shlex.join(str(word) for word in words)


def require_seed(option: str, seed: int) -> None:
    """InputError unless a seed is one that numpy takes."""
    if seed < 0:
        raise InputError(f"{option} {seed}: accepted are 0 and more")


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

    from ebm_traj.core.devices import require_device

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    require_device(device, "--device")
    return device
