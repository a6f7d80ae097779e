"""Shards made as tasks of a local Ray cluster: the same bytes, also when a worker is killed."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from ebm_traj.collect import CollectSettings, collect
from ebm_traj.errors import InputError

HAND = CollectSettings(episodes=10, steps=40, episodes_per_shard=2, sim_state_every=10)


def busy_workers(ancestor: int) -> list[int]:
    """Ids of the processes below `ancestor` that are making a shard (Ray names them after their task)."""
    parents, busy = {}, []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (entry / "cmdline").read_bytes().startswith(b"ray::make_shard"):
                busy.append(int(entry.name))
        except OSError:  # ended meanwhile
            continue

    def descends(process: int) -> bool:
        return process == ancestor or (process in parents and descends(parents[process]))

    return [process for process in busy if descends(process)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_a_worker_killed_in_mid_run_changes_no_byte(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    pytest.importorskip("ray")
    killed = []

    def kill_one() -> None:
        limit = time.monotonic() + 120
        while not killed and time.monotonic() < limit:
            for process in busy_workers(os.getpid())[:1]:
                os.kill(process, signal.SIGKILL)
                killed.append(process)
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    made = collect(tmp_path / "ray", HAND, engine="ray", workers=2, progress=False)
    killer.join()
    assert killed and made.episodes == 10 and made.steps == 400
    assert len("".join(capfd.readouterr()).splitlines()) <= 3
    collect(tmp_path / "local", HAND, workers=1, progress=False)
    for path in (tmp_path / "local").iterdir():
        assert (tmp_path / "ray" / path.name).read_bytes() == path.read_bytes()


def test_what_cannot_be_reached_is_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(InputError, match="engine 'slurm' is unknown; known: local, ray"):
        collect(tmp_path / "data", HAND, engine="slurm")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="it needs --engine ray"):
        collect(tmp_path / "data", HAND, ray_address="auto")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "ebm_traj\[ray\]"'):
        collect(tmp_path / "data", HAND, engine="ray")
    monkeypatch.undo()
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=r"ray address '127\.0\.0\.1:1': no cluster answers"):
        collect(tmp_path / "data", HAND, engine="ray", ray_address="127.0.0.1:1")
    assert not list(tmp_path.iterdir())
