"""SIGKILL at random moments and at the worst ones: what is resumed ends with the same bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Imports once, then forks for every attempt: starting Python costs a hundred times what is collected here.
RUNNER = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
from ebm_traj.collect import CollectSettings, collect
from ebm_traj.datasets.check import find_faults
import ebm_traj.envs.hand, ebm_traj.envs.vector

SETTINGS = CollectSettings(  # coarse substeps: quick
    env_kwargs={"substeps": 5}, episodes=48, steps=10, episodes_per_shard=4, sim_state_every=5
)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def at_call(owner, name, count, after=False):
    original, calls = getattr(owner, name), []
    def replaced(*arguments, **options):
        calls.append(1)
        if len(calls) == count and not after:
            die()
        result = original(*arguments, **options)
        if len(calls) == count:
            die()
        return result
    setattr(owner, name, replaced)

def worst(moment):
    import h5py
    from ebm_traj.envs.workers import HandWorkers
    at_call(*{
        "simulating": (HandWorkers, "step", 15),
        "in the middle of a file": (h5py.Group, "create_dataset", 16),
        "written, not on disk": (os, "fsync", 1),
        "before renaming": (Path, "replace", 2),
        "after renaming": (Path, "replace", 2, True),
    }[moment])

def attempt(out, seconds=None, moment=None):
    begin = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            if moment:
                worst(moment)
            collect(out, SETTINGS, workers=1, resume=True, progress=False)
            os._exit(0)
        finally:
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)  # an ended child waits to be asked for, so its id is its own
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), time.perf_counter() - begin

def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}

folder = Path(sys.argv[1])
ended, whole_seconds = attempt(folder / "whole")
assert ended == 0
whole, out = contents(folder / "whole"), folder / "killed"
assert len(whole) == 12
moments, killed, completed, shards = random.Random(5), 0, 0, set()
while killed < 20:
    # where the machine has become slower since, all may come too early: the second ten then come later
    early = killed < 10 or len(shards) > 2
    ended, _ = attempt(out, seconds=moments.uniform(0, whole_seconds * (0.5 if early else 2)))
    killed += ended == -signal.SIGKILL
    found = contents(out) if out.exists() else {}
    assert all(whole[name] == found[name] for name in found if not name.startswith(".")), "a broken shard"
    shards.add(len(found))
    if ended == 0:  # complete before the killer came: begin anew
        assert found == whole, "other bytes"
        completed += 1
        shutil.rmtree(out)
assert attempt(out)[0] == 0 and contents(out) == whole, "other bytes"
shutil.rmtree(out)
left = {}
stages = ["simulating", "in the middle of a file", "written, not on disk"]
stages += ["before renaming", "after renaming"]
for moment in stages:
    ended, _ = attempt(out, moment=moment)
    assert ended == -signal.SIGKILL, (moment, ended)
    left[moment] = sorted(contents(out))
assert attempt(out)[0] == 0 and contents(out) == whole, "other bytes"
assert find_faults(out) == []
print(json.dumps({"killed": killed, "stages": len(shards), "left": left}))
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="forks")
def test_killed_at_twenty_moments_it_ends_with_the_same_bytes(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-c", RUNNER, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["killed"] == 20 and found["stages"] > 2  # it did go on from one kill to the next
    half_written = [name for names in found["left"].values() for name in names if name.startswith(".")]
    assert half_written  # and was met while writing
