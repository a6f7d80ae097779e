"""The package imports lightly, offers its names, and its scripts answer bad input in one line."""

import dataclasses
import subprocess
import sys

import pytest

import ebm_traj
from ebm_traj.cli import run
from ebm_traj.errors import InputError, RunError


def test_import_is_light_and_registers_the_environments():
    code = (
        "import sys, ebm_traj, gymnasium\n"
        "heavy = {'torch', 'mujoco', 'h5py', 'matplotlib', 'lightning_fabric'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'ebm_traj/HandBlock-v0' in gymnasium.registry\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_training_and_loading_need_no_simulator():
    code = (
        "import sys\n"
        "sys.modules['gymnasium'] = sys.modules['mujoco'] = None\n"
        "import ebm_traj, ebm_traj.trajectory.training, ebm_traj.yardstick.compare\n"
        "ebm_traj.load, ebm_traj.train, ebm_traj.Recording, ebm_traj.rollout\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ebm_traj.__all__)
def test_every_offered_name_is_there(name):
    assert getattr(ebm_traj, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ebm_traj.nonsense  # noqa: B018


@dataclasses.dataclass
class Args:
    """No arguments."""


def test_bad_input_is_one_line_and_exit_code_two(capsys):
    def main(args):
        raise InputError("thing: found 3; accepted are 1 and 2")

    with pytest.raises(SystemExit) as exit_info:
        run(main, Args, [])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.strip().endswith("error: thing: found 3; accepted are 1 and 2")


def test_a_run_that_cannot_go_on_is_one_line_and_exit_code_one(capsys):
    def main(args):
        raise RunError("no OpenGL library works")

    with pytest.raises(SystemExit) as exit_info:
        run(main, Args, [])
    assert exit_info.value.code == 1
    assert capsys.readouterr().err.strip().endswith("error: no OpenGL library works")


def test_interrupting_exits_as_shells_expect(capsys):
    def main(args):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_info:
        run(main, Args, [])
    assert exit_info.value.code == 130
