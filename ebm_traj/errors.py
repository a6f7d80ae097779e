"""The errors a user meets; a script prints their message as one line, without a traceback."""


class InputError(Exception):
    """Bad input from the user; scripts exit with code 2.

    No ValueError: tyro would put one that a settings class raises into a box of six lines.

    The message is one line: it names the thing, says what was found and what is accepted, and is raised
    before any work is done.
    """


class RunError(RuntimeError):
    """The work could not be done for a reason that the message tells; scripts exit with code 1."""


def in_one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
