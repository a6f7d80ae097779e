"""The scripts from the command line: bad input is one line and exit code 2, and nothing is overwritten."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from ebm_traj.planning.rollout_data import Rollout

TINY = (
    "--iterations 4 --inverse-iterations 4 --network.width 8 --network.depth 2 --correction-width 8 "
    "--contrastive.langevin.steps 2 --validate-every 2"
)


@pytest.fixture(scope="module")
def trained(toy_folder, tmp_path_factory, call_script):
    """A tiny energy model of the toy robot, trained by the script itself."""
    out = tmp_path_factory.mktemp("trained") / "ebm"
    tiny = TINY + " --network.context-frames 2"
    call_script("train_traj", "--data", str(toy_folder), "--out", str(out), *tiny.split())
    return out


@pytest.fixture(scope="module")
def pusher_model(tmp_path_factory, call_script):
    folder = tmp_path_factory.mktemp("pusher")
    data, out = folder / "data", folder / "ebm"
    call_script(
        "collect",
        "--out",
        str(data),
        "--env",
        "Pusher-v5",
        "--episodes",
        "4",
        "--steps",
        "6",
        "--workers",
        "1",
        "--env-kwargs",
        '{"reward_near_weight": 0.25}',
    )
    tiny = TINY
    call_script("train_traj", "--data", str(data), "--out", str(out), *tiny.split())
    return out


@pytest.fixture
def refused(capsys, call_script):
    """Gives the one line on stderr of a command that must be refused."""

    def line(name: str, *argv: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            call_script(name, *argv)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert exit_info.value.code == 2 and len(lines) == 1, lines
        return lines[0]

    return line


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_training_writes_model_logs_and_settings(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"model.json", "model.safetensors", "metrics.csv", "settings.json", "tensorboard"} <= names


def test_an_out_that_exists_is_left_as_it_is(trained, toy_folder, tmp_path, refused):
    before = snapshot(trained)
    line = refused("train_traj", "--data", str(toy_folder), "--out", str(trained))
    assert str(trained) in line and "exists already" in line
    line = refused("collect", "--out", str(toy_folder), "--episodes", "1")
    assert "exists" in line
    kept = tmp_path / "report"
    kept.mkdir()
    (kept / "mine.txt").write_text("mine")
    line = refused("compare", "--data", str(toy_folder), "--runs", str(trained), "--out", str(kept))
    assert "exists" in line and snapshot(kept) == {str(kept / "mine.txt"): b"mine"}
    assert snapshot(trained) == before


@pytest.mark.parametrize("script", ["train_traj", "compare"])
def test_missing_and_truncated_data_are_named(script, trained, toy_folder, tmp_path, refused):
    rest = ["--out", str(tmp_path / "out")] + (["--runs", str(trained)] if script == "compare" else [])
    assert "no such folder" in refused(script, "--data", str(tmp_path / "none"), *rest)
    data = tmp_path / "data"
    data.mkdir()
    for path in toy_folder.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    cut = data / "shard-00001.h5"
    cut.write_bytes(cut.read_bytes()[:5000])
    line = refused(script, "--data", str(data), *rest)
    assert "shard-00001.h5" in line and "not a whole HDF5 file" in line
    assert not (tmp_path / "out").exists()


def test_missing_shards_are_told(call_script, toy_folder, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "shard-00000.h5").write_bytes((toy_folder / "shard-00000.h5").read_bytes())
    small = "--model fc --iterations 1 --inverse-iterations 0 --validate-every 0 --device cpu"
    call_script("train_traj", "--data", str(data), "--out", str(tmp_path / "run"), *small.split())
    assert "note: " in (told := capsys.readouterr().err) and "shards are there" in told


def test_a_checkpoint_of_another_spec_is_refused_naming_the_difference(
    pusher_model, toy_folder, tmp_path, refused
):
    line = refused(
        "compare",
        "--data",
        str(toy_folder),
        "--runs",
        str(pusher_model),
        "--out",
        str(tmp_path / "r"),
    )
    assert "model and data differ, 23 dimensions against 7" in line
    line = refused("rollout", "--run", str(pusher_model), "--env", "Reacher-v5")
    assert "2 actions; the model was trained on 7" in line


def test_a_missing_or_foreign_run_is_named(toy_folder, tmp_path, refused):
    for script, rest in (
        ("compare", ["--data", str(toy_folder), "--runs", str(tmp_path), "--out", str(tmp_path / "r")]),
        ("rollout", ["--run", str(tmp_path)]),
    ):
        assert "model.json is missing" in refused(script, *rest)


def test_an_unknown_environment_is_named(pusher_model, tmp_path, refused):
    line = refused("collect", "--out", str(tmp_path / "d"), "--env", "HandBlok-v0")
    assert "HandBlok" in line
    assert "HandBlok" in refused("rollout", "--run", str(pusher_model), "--env", "HandBlok-v0")
    line = refused("rollout", "--run", str(pusher_model), "--env-kwargs", "[1]")
    assert "--env-kwargs [1]: needed is a JSON object" in line
    assert not (tmp_path / "d").exists()


def test_settings_that_contradict_each_other_are_named(toy_folder, tmp_path, refused):
    rest = ["--data", str(toy_folder), "--out", str(tmp_path / "out")]
    line = refused("train_traj", *rest, "--paper", "--model", "flow")
    assert "the literature has none; accepted are ebm and fc" in line
    assert "width: 0" in refused("train_traj", *rest, "--network.width", "0")
    assert "a model of states alone has no actions" in refused(
        "train_traj", *rest, "--network.action-history", "1"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["fc", "gaussian", "mixture", "flow", "diffusion"])
def test_every_baseline_trains_from_the_command_line(toy_folder, tmp_path, call_script, kind):
    few = "--iterations 4 --inverse-iterations 0 --network.width 8 --batch-size 16 --conditioning joint"
    out = tmp_path / kind
    call_script("train_traj", "--data", str(toy_folder), "--model", kind, "--out", str(out), *few.split())
    assert (out / "model.json").is_file() and (out / "curves.png").is_file()


def test_settings_shown_are_those_of_the_model_named(load_script):
    arguments = load_script("train_traj").Args
    flow = {field.name: field for field in dataclasses.fields(arguments.class_for(["--model", "flow"]))}
    assert flow["config"].default.steps == 10
    paper = {field.name: field for field in dataclasses.fields(arguments.class_for(["--paper"]))}
    assert paper["config"].default.proposal == "noise" and paper["trainer"].default.iterations == 166_000


def test_rollout_writes_its_files_and_keeps_existing_ones(
    pusher_model, tmp_path, call_script, capsys, refused
):
    out, plot = tmp_path / "r.h5", tmp_path / "r.png"
    small = ["--run", str(pusher_model), "--steps", "4", "--futures", "3", "--horizon", "2"]
    call_script("rollout", *small, "--out", str(out), "--plot", str(plot))
    assert "Pusher-v5: 4 steps" in capsys.readouterr().out
    assert Rollout.load(out).meta["env_kwargs"] == {"reward_near_weight": 0.25}  # as the data had it
    before = snapshot(tmp_path)
    assert "exists already" in refused("rollout", *small, "--out", str(out))
    assert snapshot(tmp_path) == before and len(before) == 2


def test_ctrl_c_keeps_the_steps_so_far(pusher_model, tmp_path, call_script, capsys, monkeypatch):
    from gymnasium.envs.mujoco.pusher_v5 import PusherEnv

    step, acted = PusherEnv.step, []

    def interrupted(self, action):
        acted.append(action)
        if len(acted) == 4:
            raise KeyboardInterrupt
        return step(self, action)

    monkeypatch.setattr(PusherEnv, "step", interrupted)
    out = tmp_path / "r.h5"
    small = [
        "--run",
        str(pusher_model),
        "--steps",
        "9",
        "--futures",
        "3",
        "--horizon",
        "2",
        "--replan-every",
        "1",
    ]
    with pytest.raises(SystemExit) as ended:
        call_script("rollout", *small, "--out", str(out))
    told = capsys.readouterr()
    assert ended.value.code == 130 and "interrupted" in told.err and "Pusher-v5: 3 steps" in told.out
    kept = Rollout.load(out)
    assert kept.states.shape[0] == 4 and kept.actions.shape[0] == 3 == len(kept.planned_at)


def test_an_environment_that_cannot_be_drawn_is_named_before_any_work(
    pusher_model, tmp_path, refused, monkeypatch
):
    from gymnasium.envs.mujoco.pusher_v5 import PusherEnv
    from gymnasium.error import DependencyNotInstalled

    def render(self):
        raise DependencyNotInstalled("painter is not installed\nmore")

    monkeypatch.setattr(PusherEnv, "render", render)
    small = ["--model", str(pusher_model), "--steps", "4", "--futures", "3", "--horizon", "2"]
    line = refused("rollout", *small, "--video", str(tmp_path / "r.gif"))
    assert line.rstrip().endswith("--video: 'Pusher-v5' cannot be drawn: painter is not installed")


def test_a_shipped_model_is_not_replaced_unasked(pusher_model, tmp_path, refused, call_script, monkeypatch):
    monkeypatch.setattr("ebm_traj.trajectory.pretrained.ROOT", tmp_path)
    call_script("ship_model", "--run", str(pusher_model), "--name", "arm")
    before = snapshot(tmp_path)
    assert "'arm': is shipped already" in refused("ship_model", "--run", str(pusher_model), "--name", "arm")
    assert snapshot(tmp_path) == before
    call_script("ship_model", "--run", str(pusher_model), "--name", "arm", "--overwrite")


def test_a_model_goes_on_with_its_own_settings(call_script, toy_folder, trained, tmp_path, capsys):
    rest = ("--data", str(toy_folder), "--init", str(trained), "--iterations", "4", "--validate-every", "2")
    few = ("--inverse-iterations", "4", "--earlier", str(toy_folder), "--rehearsal.episodes", "3")
    call_script("train_traj", *rest, *few, "--out", str(tmp_path / "on"))
    from ebm_traj import load

    assert load(tmp_path / "on").network_config == load(trained).network_config
    with pytest.raises(SystemExit):
        call_script("train_traj", *rest, "--conditioning", "joint", "--out", str(tmp_path / "no"))
    assert "conditioning: joint; the model to go on from has states" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_learning_on_refuses_data_of_other_states(pusher_model, toy_folder, tmp_path, refused):
    data = pusher_model.parent / "data"
    line = refused("learn_on", "--data", str(toy_folder), str(data), "--out", str(tmp_path / "s"))
    assert "7 dimensions against 23" in line and not (tmp_path / "s").exists()


def test_the_study_of_learning_on_writes_its_page(call_script, toy_folder, tmp_path, capsys):
    other = shutil.copytree(toy_folder, tmp_path / "other")
    rest = ["--data", str(toy_folder), str(other), "--out", str(tmp_path / "study"), "--model", "fc"]
    few = "--width 8 --trainer.iterations 4 --trainer.validate-every 0 --study.kept 2 --study.contexts 4"
    call_script("learn_on", *rest, *few.split(), "--methods", "fine-tuning", "dreams")
    assert "| dreams |" in (tmp_path / "study" / "learning-on.md").read_text()
    assert (tmp_path / "study" / "learning-on.png").stat().st_size > 5000
    with pytest.raises(SystemExit):
        call_script("learn_on", *rest, "--resume")
    assert "other settings" in capsys.readouterr().err
