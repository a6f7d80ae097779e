"""Ctrl-C while processes work: it has its effect where the parent asks, and never in between."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from ebm_traj.processes import births_without_ctrl_c, ctrl_c_only_where_asked

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends itself SIGINT")


@pytest.fixture(autouse=True)
def python_handler() -> Iterator[None]:
    """As a program has it at its start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_ctrl_c_waits_until_asked() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), ctrl_c_only_where_asked() as ask:
        ask()
        press()
        reached = True
        ask()
        pytest.fail("went on")
    assert reached


def test_the_second_acts_at_once() -> None:
    with ctrl_c_only_where_asked():
        press()
        with pytest.raises(KeyboardInterrupt):
            press()


def test_afterwards_ctrl_c_is_as_before() -> None:
    with ctrl_c_only_where_asked():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_it_is_ignored_it_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ctrl_c_only_where_asked() as ask:
        press()
        ask()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_may_ask_in_vain() -> None:
    asked = []

    def work() -> None:
        with ctrl_c_only_where_asked() as ask:
            ask()
            asked.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked


def test_a_process_born_inside_does_not_see_it() -> None:
    ask_mask = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with births_without_ctrl_c():
        inside = subprocess.check_output([sys.executable, "-c", ask_mask], text=True)
    outside = subprocess.check_output([sys.executable, "-c", ask_mask], text=True)
    assert (inside.strip(), outside.strip()) == ("True", "False")
