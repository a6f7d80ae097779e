"""Keeping freed memory: large tensors are not mapped anew each time."""

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from ebm_traj.core.memory import keep_freed_memory
if sys.argv[1] == "keep":
    print(keep_freed_memory())
torch.ones(20_000_000).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(20_000_000).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc alone")
def test_freed_tensors_memory_is_used_again():
    known, kept = faults("keep")
    if known == "False":
        pytest.skip("no glibc")
    (mapped,) = faults("map")
    assert int(mapped) * resource.getpagesize() > 10 * 4 * 20_000_000  # nearly every tensor's pages
    assert int(kept) < int(mapped) / 2
