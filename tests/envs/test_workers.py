"""Threads that step the hand: Ctrl-C."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from ebm_traj.envs.hand_model import HandModel
from ebm_traj.envs.workers import HandWorkers

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends itself SIGINT")


def test_ctrl_c_waits_until_all_have_stepped_and_the_threads_go_on() -> None:
    workers = HandWorkers(HandModel("block"), 2)
    done: list[int] = []
    lock = threading.Lock()

    def work(data: object, i: int) -> None:
        if i == 0:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        with lock:
            done.append(i)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            workers._each(work, np.arange(10))
        assert sorted(done) == list(range(10))
        workers._each(work, np.arange(1, 5))  # they still work
        assert len(done) == 14
    finally:
        signal.signal(signal.SIGINT, before)
        workers.close()
