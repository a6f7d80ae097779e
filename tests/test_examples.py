"""Every example runs, at a tiny size, prints its numbers and leaves its picture."""

import importlib.util
import re
import sys
from pathlib import Path

import imageio.v3 as iio
import pytest

from ebm_traj.cli import run

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = "--seed 3 --steps 4 --rollouts 1"
LEARNING = f"{TINY} --episodes 10 --iterations 4"
CALLS = {
    "hand_block": f"{TINY} --futures 4 --horizon 4",
    "pusher": LEARNING,
    "adroit": LEARNING,
    "plain_env": LEARNING,
}


def test_none_is_forgotten():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_example_runs(name, tmp_path, capsys):
    pytest.importorskip("mujoco")
    found = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    picture = tmp_path / "out.png"
    run(module.main, module.Args, [*CALLS[name].split(), "--plot", str(picture)])
    printed = capsys.readouterr().out
    for case in ("without the energy", "with the energy"):
        assert re.search(rf"^{case}: .*\d", printed, re.MULTILINE), printed
    assert "surprise: median" in printed
    assert iio.imread(picture).std() > 5


@pytest.mark.parametrize("name", CALLS)
def test_example_is_short(name):
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith(("#", '"""'))]
    assert len(code) <= 75
