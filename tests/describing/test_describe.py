"""The table and the contact sheet of a data set."""

import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from ebm_traj.datasets import Recording
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.shard import ShardData, write_shard
from ebm_traj.describing import describe, frames, measure
from ebm_traj.describing.figure import histogram_sections
from ebm_traj.describing.measuring import sample_shards
from ebm_traj.envs.render import RenderError
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.theme import LIGHT


def write(folder: Path, states: np.ndarray, lengths: list[int], per_shard: int = 100, **changes) -> Recording:
    """A recording of a made-up environment with the given states (F, 2), one action and unequal lengths."""
    values = {
        "env_id": "Made/Up-v0",
        "env_kwargs": {"size": 3},
        "policy": {
            "name": "random",
            "settings": {},
            "noise": {"every": 5, "probability": 0.0},
            "goal_conditioned": False,
        },
        "spec": StateSpec.from_size(2),
        "action_low": np.full(1, -1, np.float32),
        "action_high": np.full(1, 1, np.float32),
        "run_seed": 0,
        "episodes": len(lengths),
        "steps": max(lengths),
        "episodes_per_shard": min(per_shard, len(lengths)),
        "test_fraction": 0.1,
        "validation_fraction": 0.0,
        "sim_state_every": 0,
        "versions": {"numpy": "1"},
    }
    manifest = Manifest(**(values | changes))
    folder.mkdir()
    bounds = np.concatenate([[0], np.cumsum(np.array(lengths) + 1)])
    for shard in range(manifest.num_shards):
        rows = [row for row in manifest.episodes_of(shard) if row < len(lengths)]
        if not rows:
            break
        offsets = bounds[rows[0] : rows[-1] + 2]
        steps = int(offsets[-1] - offsets[0]) - len(rows)
        data = ShardData(
            states=states[offsets[0] : offsets[-1]].astype(np.float32),
            actions=np.linspace(-1, 1, steps, dtype=np.float32)[:, None],
            rewards=np.zeros(steps, np.float32),
            offsets=offsets - offsets[0],
            episode=np.array(rows),
            seed=np.array(rows),
            split=np.zeros(len(rows), np.uint8),
            terminated=np.array([lengths[row] < manifest.steps for row in rows]),
            success=np.array([row == 0 for row in rows]),
            sim_states=np.zeros((0, 0)),
            sim_index=np.zeros((0, 2), np.int64),
        )
        write_shard(folder, shard, manifest, data)
    return Recording(folder)


def line(text: str, start: str) -> str:
    (found,) = [line.strip() for line in text.splitlines() if line.strip().startswith(start + " ")]
    return found.removeprefix(start).strip()


def test_the_table_tells_what_is_there(tmp_path: Path):
    """Episodes of 2 and 3 steps: obs_0 moves in the first only, obs_1 never."""
    states = np.array([[0, 7], [1, 7], [3, 7], [9, 7], [9, 7], [9, 7], [9, 7]])
    write(tmp_path / "data", states, [2, 3])
    text = describe(tmp_path / "data", progress=False)
    assert line(text, "environment") == 'Made/Up-v0 {"size": 3}'
    assert line(text, "lengths") == "min 2, median 2.5, max 3"
    assert line(text, "ended early").startswith("50.0%")
    assert line(text, "success").startswith("50.0% at the last step")
    assert line(text, "near-still").startswith("50.0%")
    assert line(text, "action noise").startswith("20.0%")
    assert "bytes/step" in line(text, "size")
    # changes 1, 2, 0, 0, 0: none of them across episodes
    changes = np.std([1, 2, 0, 0, 0])
    numbers = [float(word) for word in line(text, "obs_0").split()[1:]]
    np.testing.assert_allclose(numbers, [0, states[:, 0].mean(), 9, states[:, 0].std(), changes], rtol=1e-3)
    assert line(text, "obs_1").split() == ["position", "7", "7", "7", "0", "0", "constant"]
    assert "dropped" not in text and "net rotation" not in text


def test_an_unfinished_data_set_says_so(tmp_path: Path):
    write(tmp_path / "data", np.random.default_rng(0).normal(size=(6, 2)), [2, 2], episodes=5, per_shard=2)
    assert "2 of 5 planned in 1 shards" in describe(tmp_path / "data", progress=False)


def test_many_shards_are_sampled_alike_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    states = np.arange(60.0)[:, None] * [1, -1]
    recording = write(tmp_path / "data", states, [1] * 30, per_shard=3)
    chosen = sample_shards(recording, episodes=7)
    assert len(chosen) == 3 and chosen.tolist() == sample_shards(recording, episodes=7).tolist()
    assert sample_shards(recording, episodes=31).tolist() == list(range(10))
    monkeypatch.setattr("ebm_traj.describing.measuring.sample_shards", lambda _: chosen)
    text = describe(tmp_path / "data", progress=False)
    assert line(text, "read") == "9 of the 30 episodes, in shards drawn at random"
    assert len(measure(recording, progress=False).still) == 9


def test_hand_episodes_are_judged_and_drawn(hand_folder: Path, tmp_path: Path):
    figure = tmp_path / "sheet.png"
    text = describe(hand_folder, figure, progress=False)
    assert "at some step" in line(text, "success") and line(text, "dropped").startswith("0.0%")
    assert line(text, "net rotation").startswith("object: median")
    assert text.endswith(f"picture: {figure}")
    picture = matplotlib.image.imread(figure)
    assert picture.shape[1] == 1664 and picture.shape[0] > 2000
    first = figure.read_bytes()
    describe(hand_folder, figure, progress=False)
    assert figure.read_bytes() == first


def test_strips_cover_each_episode_from_first_to_last_frame(hand_folder: Path):
    recording = Recording(hand_folder)
    strips = frames.make_strips(recording, frames.draw_examples(recording))
    assert not isinstance(strips, str) and len(strips) == 6
    assert strips[0].steps == [0, 1, 3, 4, 5, 7, 8]
    assert all(len(strip.pictures) == 7 for strip in strips)
    assert "turned" in strips[0].note


def test_without_opengl_the_sheet_has_no_frames_and_says_so(
    hand_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_opengl(*args, **kwargs):
        raise RenderError("no OpenGL library works")

    monkeypatch.setattr(frames, "state_renderer", no_opengl)
    text = describe(hand_folder, tmp_path / "sheet.png", progress=False)
    assert text.endswith("(no frames: no OpenGL library works)")
    assert matplotlib.image.imread(tmp_path / "sheet.png").shape[1] == 1664


def test_the_sheet_goes_beside_the_shards_by_default(toy_folder: Path, tmp_path: Path):
    shutil.copytree(toy_folder, tmp_path / "data")
    text = describe(tmp_path / "data", progress=False)
    assert (tmp_path / "data" / "description.png").exists()
    assert "no frames: 'Toy-v0' cannot be drawn" in text
    assert len(list((tmp_path / "data").iterdir())) == 4


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ("sheet.pdf", r"ends in \.png"),
        ("nowhere/sheet.png", "folder does not exist"),
        ("d.png", "a folder"),
    ],
)
def test_a_figure_that_cannot_be_is_refused_first(
    toy_folder: Path, tmp_path: Path, figure: str, message: str
):
    (tmp_path / "d.png").mkdir()
    with pytest.raises(InputError, match=message):
        describe(toy_folder, tmp_path / figure)


def test_missing_folder(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        describe(tmp_path / "nothing")


def test_of_very_many_dimensions_some_are_drawn_and_the_rest_counted(tmp_path: Path):
    states = np.random.default_rng(0).normal(size=(6, 70))
    recording = write(tmp_path / "data", states, [2, 2], spec=StateSpec.from_size(70))
    titles = {
        title: len(panels) for title, panels in histogram_sections(recording, measure(recording), LIGHT)
    }
    assert titles == {"Observation (6 further dimensions are not shown)": 64, "Actions": 1}


def test_positions_and_rotations_stand_together(hand_folder: Path):
    recording = Recording(hand_folder)
    titles = {
        title: len(panels) for title, panels in histogram_sections(recording, measure(recording), LIGHT)
    }
    assert titles == {
        "Episodes": 1,
        "Angles, radians": 24,
        "Positions and rotations": 7,
        "Given, not predicted": 7,
        "Actions": 20,
    }


def test_describing_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import ebm_traj.describing.figure"
    subprocess.run([sys.executable, "-c", code], check=True)
