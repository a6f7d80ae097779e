"""Ctrl-C and the end of the parent, with worker processes: what they and their parent do about them."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

POLL_SECONDS = 0.2  # at most, from Ctrl-C to the next time that a parent asks for it


def begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent killed by force cannot end its workers: they watch it themselves."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def errors_that_travel() -> Iterator[None]:
    """What is raised inside reaches the parent: an error that cannot be sent there is told in words.

    Of an exception class of anyone's code, one may be made that does not survive pickling; it would break
    the pool that carries it.
    """
    try:
        yield
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError("".join(traceback.format_exception(error))) from None
        raise


@contextlib.contextmanager
def births_without_ctrl_c() -> Iterator[None]:
    """Processes started inside inherit that Ctrl-C is held back: it goes to the whole group, born or not."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def ctrl_c_only_where_asked() -> Iterator[Callable[[], None]]:
    """Inside, the first Ctrl-C has its effect (KeyboardInterrupt) when the function given is next called.

    Raised wherever the program happens to be, it leaves locks of `concurrent.futures` held now and then,
    and the pool's own thread then waits for them for ever. A second Ctrl-C acts at once.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield lambda: None  # ignored, or another thread's affair
        return
    act: Callable[[int, FrameType | None], object] = before
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, act)

    def ask() -> None:
        if pressed:
            act(signal.SIGINT, None)

    signal.signal(signal.SIGINT, note)
    try:
        yield ask
    finally:
        signal.signal(signal.SIGINT, act)
