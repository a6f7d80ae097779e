"""Every Python block of the README runs, and every script call in it is one the scripts accept."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def script_calls() -> list[str]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    known = dict(re.findall(r"^(\w+) :?= ?(.*)$", makefile, re.M)) | {"PY": "python"}
    makefile = re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], found[0]), makefile)
    makefile = re.sub(
        r"\$\$\(\((\d+) / (\d+)\)\)", lambda found: str(int(found[1]) // int(found[2])), makefile
    )
    lines += makefile.splitlines()
    return [line.split("#")[0].strip() for line in lines if line.strip().startswith("python scripts/")]


@pytest.mark.parametrize("call", script_calls())
def test_script_calls_are_accepted(call, load_script):
    path, *argv = shlex.split(call)[1:]
    name = Path(path).stem
    if name == "image" and argv[0] in load_script("image").COMMANDS:
        command, *argv = argv
        arguments = import_module(f"ebm_traj.image.commands.{command}").Args
    elif argv == ["--help"]:
        assert load_script(name).main.__doc__
        return
    else:
        arguments = load_script(name).Args
    if class_for := getattr(arguments, "class_for", None):
        arguments = class_for(argv)
    tyro.cli(arguments, args=argv)


def test_python_blocks_run(tmp_path, monkeypatch):
    import ebm_traj
    from ebm_traj.collect.run import CollectSettings, collect
    from ebm_traj.core.trainer import TrainerConfig

    monkeypatch.chdir(tmp_path)
    settings = CollectSettings(
        env_kwargs={"target_rotation": "z"}, episodes=4, steps=10, episodes_per_shard=4, test_fraction=0.25
    )
    collect("data", settings, workers=1, progress=False)
    short = ebm_traj.TrainSettings(trainer=TrainerConfig(iterations=10), inverse_iterations=10)
    ebm_traj.train(ebm_traj.Recording("data"), "ebm", ebm_traj.EBMConfig(), short, "demo/runs/ebm")
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["futures"].shape == (1, 8, 16, 38) and names["energy"].shape == (1, 8)


def test_pictures_and_files_it_names_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
