"""The one error class for bad input: a script prints its message as one line and exits with code 2."""


class InputError(ValueError):
    """Bad input from the user.

    The message is one line: it names the thing, says what was found and what is accepted, and is raised
    before any work is done.
    """
