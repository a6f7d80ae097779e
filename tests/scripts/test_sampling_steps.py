"""scripts/sampling_steps.py from the command line: its files, and one line for what it refuses."""

import json

import pytest

TINY = (
    "--iterations 4 --inverse-iterations 0 --network.width 8 --network.depth 2 --network.context-frames 2 "
    "--validate-every 0"
)
FEW = "--rollouts 8 --contexts 4 --futures 4 --horizon 4 --max-steps 40"
SMALL = ["--steps", "2", "3", *FEW.split()]


@pytest.fixture(scope="module")
def runs(toy_folder, tmp_path_factory, call_script):
    """Tiny models of the toy robot: an energy with noise levels, one without, and no energy."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {
        "denoising": "--model ebm --training denoising",
        "contrastive": "--model ebm --correction-width 8 --contrastive.langevin.steps 2",
        "fc": "--model fc",
    }
    for name, settings in kinds.items():
        rest = f"--out {folder / name} {settings} {TINY}".split()
        call_script("train_traj", "--data", str(toy_folder), *rest)
    return folder


@pytest.fixture
def refused(capsys, call_script):
    def line(*argv: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            call_script("sampling_steps", *argv)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert exit_info.value.code == 2 and len(lines) == 1, lines
        return lines[0]

    return line


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("denoising", ["heun 2", "heun 3", "multistep 2", "multistep 3", "until converged"]),
        ("contrastive", ["langevin 2", "langevin 3", "until converged"]),
    ],
)
def test_it_writes_table_numbers_and_picture(
    runs, toy_folder, tmp_path, call_script, capsys, refused, name, rows
):
    out = tmp_path / "sweep"
    argv = ["--data", str(toy_folder), "--run", str(runs / name), "--out", str(out)]
    call_script("sampling_steps", *argv, *SMALL)
    shown = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"sweep.json", "sweep.png"}
    found = json.loads((out / "sweep.json").read_text())
    assert list(found["samplers"]) == rows and found["split"] == "validation" and found["n"] == 8
    assert all(f"\n{row}" in shown for row in rows)
    assert "No simulator branches" in shown and "% of windows before 40 steps" in shown
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert f"{out}: exists already" in refused(*argv, *SMALL)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_bad_input_is_one_line_and_nothing_is_written(runs, toy_folder, tmp_path, refused):
    out = tmp_path / "sweep"

    def line(run, *argv, data=toy_folder):
        return refused("--data", str(data), "--run", str(run), "--out", str(out), *argv)

    denoising, contrastive = runs / "denoising", runs / "contrastive"
    assert "kind 'fc'; accepted are energy models" in line(runs / "fc")
    assert "no such folder" in line(tmp_path / "none")
    assert "no such folder" in line(denoising, data=tmp_path / "none")
    assert "annealing steps: 0" in line(denoising, "--steps", "0")
    assert "no noise levels" in line(contrastive, "--solvers", "heun")
    assert "--seed -1: accepted are 0 and more" in line(denoising, "--seed", "-1")
    assert "--contexts 1: accepted are 2 and more" in line(denoising, "--contexts", "1")
    assert "max_steps: 20; needs 28" in line(denoising, "--max-steps", "20")
    assert "tolerance: -1" in line(contrastive, "--tolerance", "-1")
    assert "1 to 19 are accepted" in line(denoising, "--horizon", "30")
    assert "none.h5" in line(denoising, "--branches", str(tmp_path / "none.h5"))
    assert not out.exists()


def test_branches_of_the_other_split_are_not_taken(
    runs, toy_folder, tmp_path, refused, monkeypatch, load_script
):
    import numpy as np

    from ebm_traj.datasets.branches import Branches
    from ebm_traj.datasets.recording import Recording

    toy = Recording(toy_folder)
    rows = toy.episode_rows("test")[:4]
    file = tmp_path / "test.h5"
    Branches(
        contexts=toy.read_windows(toy.offsets[rows], 2)[0],
        futures=np.zeros((4, 4, 3, 7), np.float32),
        actions=np.zeros((4, 4, 3, 2), np.float32),
        episode=toy.episode[rows],
        t=np.ones(4),
        spec=toy.spec,
        settings={"seed": 0, "split": "test", "env_id": "Toy-v0", "run_seed": 0, "mujoco": ""},
    ).save(file)
    argv = ["--data", str(toy_folder), "--run", str(runs / "denoising"), "--out", str(tmp_path / "out")]
    assert "not from validation episodes" in refused(*argv, "--branches", str(file))
    script = load_script("sampling_steps")
    args = script.Args(toy_folder, runs / "denoising", tmp_path / "out", split="test", branches=file)
    found, why = script.find_branches(args, toy, 2, 3)
    assert found is not None and found.settings["split"] == "test" and not why
