"""Keeping freed memory: large tensors are not mapped anew each time."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, json, sys, torch
from ebm_traj.core.memory import keep_freed_memory

NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()

class Mallinfo(ctypes.Structure):  # of glibc's malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]

try:
    mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
except (OSError, AttributeError):
    print(json.dumps(None))
    sys.exit()
mallinfo.restype = Mallinfo
known = keep_freed_memory() if sys.argv[1] == "keep" else False
start = mallinfo()
tensor = torch.ones(20_000_000)
alive = mallinfo()
del tensor
freed = mallinfo()
print(json.dumps({
    "known": known,
    "mapped": alive.hblkhd - start.hblkhd,  # bytes of regions of their own, given back when freed
    "kept": freed.arena - start.arena,  # bytes that stay with the process
}))
"""
SIZE = 4 * 20_000_000  # bytes of the tensor


def allocation(how: str) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return found or pytest.skip("no mallinfo2 here")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc alone")
def test_freed_tensors_memory_stays_with_the_process():
    kept = allocation("keep")
    assert kept["known"]
    assert kept["mapped"] == 0
    assert kept["kept"] > 0.9 * SIZE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc alone")
def test_by_default_it_is_given_back():
    given_back = allocation("map")
    assert given_back["mapped"] >= SIZE
    assert given_back["kept"] < 0.1 * SIZE
