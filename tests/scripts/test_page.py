"""scripts/compare.py from a data set and trained models to a page, and the page in headless Chromium."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_traj.datasets.shard import Manifest, ShardData, write_shard
from ebm_traj.datasets.splits import split_codes
from ebm_traj.datasets.statistics import with_training_statistics
from ebm_traj.spec import StateSpec

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare.py"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EPISODES, STEPS, SIZE = 60, 14, 6

# What a reader would trip over, written into the title by a script that only the tested copy holds.
PROBE = """<script>
addEventListener("load", () => {  // pictures are inside the page, so they are there by now
  const hidden = [...document.querySelectorAll("img, svg, video, table, h1")].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width < 100 || box.height < 20 || (e.tagName === "IMG" && !e.naturalWidth);
  });
  const page = document.documentElement;
  const text = [...document.querySelectorAll("p, td, dd")].map(e => parseFloat(getComputedStyle(e).fontSize));
  const found = {
    inner: innerWidth, scroll: page.scrollWidth, images: document.images.length, hidden: hidden.length,
    smallest: Math.min(...text), ground: getComputedStyle(document.body).backgroundColor,
    picture: document.images[0].currentSrc.length,
  };
  parent.postMessage(JSON.stringify(found), "*");
  if (parent === self) document.title = JSON.stringify(found);
});
</script>"""


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    spec = StateSpec.from_size(SIZE)
    manifest = Manifest(
        *("Wanderer-v0", {}, {"name": "random", "settings": {}, "goal_conditioned": False}, spec),
        *(-np.ones(2, np.float32), np.ones(2, np.float32)),
        *(0, EPISODES, STEPS, EPISODES, 0.4, 0.1, 0, {}),
    )
    frames = rng.normal(size=(EPISODES, STEPS + 1, SIZE)).cumsum(1)
    data = ShardData(
        states=frames.reshape(-1, SIZE),
        actions=rng.uniform(-1, 1, (EPISODES * STEPS, 2)),
        rewards=np.zeros(EPISODES * STEPS),
        offsets=np.arange(EPISODES + 1) * (STEPS + 1),
        episode=np.arange(EPISODES),
        seed=np.arange(EPISODES),
        split=split_codes(0, range(EPISODES), 0.4, 0.1),
        terminated=np.zeros(EPISODES, bool),
        success=np.zeros(EPISODES, bool),
        sim_states=np.zeros((0, 1)),
        sim_index=np.zeros((0, 2), np.int64),
    )
    folder.mkdir()
    write_shard(folder, 0, manifest, data)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, runs/ebm, runs/fc (not trained) and runs/other of another spec."""
    from ebm_traj.datasets.recording import Recording
    from ebm_traj.trajectory.ebm import TrajectoryEBM
    from ebm_traj.trajectory.fc import FCModel
    from ebm_traj.trajectory.model import TrajectoryModel

    folder = tmp_path_factory.mktemp("compare")
    write_data(folder / "data")
    spec = with_training_statistics(Recording(folder / "data"))
    bounds = -np.ones(2, np.float32), np.ones(2, np.float32)
    models: dict[str, TrajectoryModel] = {
        "ebm": TrajectoryEBM(TrajectoryEBM.config_class(), spec, *bounds),
        "fc": FCModel(FCModel.config_class(), spec, *bounds),
    }
    for name, model in models.items():
        model.card = {"iterations": 0, "train_seconds": 0.0, "parameters": 1}
        model.save(folder / "runs" / name)
    wide = StateSpec.from_size(SIZE + 1).with_statistics(*np.ones((3, SIZE + 1)))
    FCModel(FCModel.config_class(), wide, *bounds).save(folder / "runs" / "other")
    return folder


def run(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=work,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def report(work: Path) -> tuple[Path, str]:
    done = run(
        *(work, "--data", "data", "--runs", "runs/ebm", "runs/fc", "--out", "report"),
        *("--horizon", "6", "--contexts", "4", "--futures", "4"),
    )
    assert done.returncode == 0, done.stderr
    return work / "report", done.stdout


def test_the_script_prints_the_table_and_ends_with_the_page(report):
    folder, printed = report
    assert printed.strip().splitlines()[-1] == "report/index.html"
    for word in ("ebm", "fc", "persistence", "shuffled truth", "floor", "Motion"):
        assert word in printed
    assert "No simulator branches" in printed
    found = json.loads((folder / "scores.json").read_text())
    assert list(found["rows"]) == ["ebm", "fc", "persistence", "shuffled truth"]
    assert found["steps"] == 6
    assert found["rows"]["ebm"]["diversity"] is None
    assert found["rows"]["fc"]["spread"] == 0
    assert "--horizon 6" in (folder / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere", "--runs", "runs/fc", "--out", "new"], "nowhere: no such folder"),
        (
            ["--data", "data", "--runs", "runs/gone", "--out", "new"],
            "runs/gone: no such folder, and no shipped model",
        ),
        (["--data", "data", "--runs", "runs/fc", "--out", "runs"], "runs: exists"),
        (["--data", "data", "--runs", "runs/fc", "runs/fc", "--out", "new"], "two folders are named 'fc'"),
        (["--data", "data", "--runs", "runs/other", "--out", "new"], "'other' does not fit"),
        (["--data", "data", "--runs", "runs/fc", "--out", "new", "--horizon", "90"], "1 to 11 are accepted"),
        (["--data", "data", "--runs", "runs/fc", "--out", "new", "--horizon", "0"], "horizon 0; its test"),
        (["--data", "data", "--runs", "runs/fc", "--out", "new", "--futures", "0"], "--futures 0"),
        (["--data", "data", "--runs", "runs/fc", "--out", "new", "--device", "warp"], "--device warp"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(work, arguments, message, monkeypatch, capsys):
    import importlib.util

    from ebm_traj import cli

    found = importlib.util.spec_from_file_location("compare_script", SCRIPT)
    assert found is not None
    assert found.loader is not None
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    monkeypatch.chdir(work)
    with pytest.raises(SystemExit) as ended:
        cli.run(script.main, script.Args, arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (work / "new").exists()


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, str]:
    """The DOM after scripts have run, and what the browser logged."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", f"--user-data-dir={profile}", "--virtual-time-budget=8000"),
            *flags,
            *("--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout, done.stderr


def probe_of(dom: str) -> dict[str, Any]:
    """What the probe wrote into the title."""
    title = re.search(r"<title>(\{.*?\})</title>", dom)
    assert title is not None, dom[:2000]
    return json.loads(title[1].replace("&quot;", '"'))


def console_errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture
def probed(report, tmp_path) -> Path:
    """A copy of the page that says what a reader would see; its own policy would not let the probe run."""
    html = (report[0] / "index.html").read_text()
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", PROBE + "</body>"))
    return page


@needs_chromium
def test_the_page_itself_loads_without_a_console_error(report, tmp_path):
    dom, log = browse(report[0] / "index.html", tmp_path / "profile")
    assert "<h1>" in dom
    assert console_errors(log) == []


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
def test_every_figure_is_seen_and_nothing_is_wider_than_the_screen(probed, tmp_path, width):
    # the browser's own window does not get as narrow as a phone; a frame does
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<html><body><iframe src="{probed.name}" style="width:{width}px;height:900px;border:0"></iframe>'
        '<script>addEventListener("message", e => { document.title = e.data; });</script></body></html>'
    )
    dom, log = browse(frame, tmp_path / "profile", "--window-size=1400,1000")
    found = probe_of(dom)
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["images"] == 3  # fans, FD over time, movement; this world cannot be drawn in MuJoCo
    assert found["hidden"] == 0
    assert found["smallest"] >= 14
    assert console_errors(log) == []


@needs_chromium
def test_the_page_has_a_dark_side(probed, tmp_path):
    found = []
    for scheme in ("1", "0"):  # light, dark
        profile = tmp_path / f"profile{scheme}"
        dom, _ = browse(probed, profile, f"--blink-settings=preferredColorScheme={scheme}")
        found.append(probe_of(dom))
    light, dark = found
    assert light["ground"] == "rgb(255, 255, 255)"
    assert dark["ground"] == "rgb(21, 24, 29)"
    assert light["picture"] != dark["picture"]
