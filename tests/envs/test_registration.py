"""The names of the environments in Gymnasium, and that registering them is light."""

import subprocess
import sys

import gymnasium
import pytest

from ebm_traj.envs.hand import HandEnv
from ebm_traj.registration import OBJECTS, register_envs


def in_a_new_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("env_id", "kind"), OBJECTS.items())
def test_each_name_makes_its_hand(env_id: str, kind: str) -> None:
    register_envs()
    env = gymnasium.make(env_id, target_rotation="z")
    assert isinstance(env.unwrapped, HandEnv)
    assert (env.unwrapped.task.object, env.unwrapped.task.target_rotation) == (kind, "z")
    assert env.spec is not None and env.spec.max_episode_steps == 100


def test_importing_the_package_is_enough_by_either_name() -> None:
    code = "{0}; import gymnasium; print(gymnasium.make('{1}').unwrapped.task.object)"
    for statement, name in (
        ("import ebm_traj", "ebm_traj/HandEgg-v0"),
        ("import sys", "ebm_traj:ebm_traj/HandEgg-v0"),
    ):
        assert in_a_new_process(code.format(statement, name)).strip() == "egg"


def test_episodes_are_cut_at_the_length_asked_for() -> None:
    register_envs()
    env = gymnasium.make("ebm_traj/HandBlock-v0", max_episode_steps=3)
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[3] for _ in range(3)] == [False, False, True]


def test_registering_again_changes_nothing() -> None:
    register_envs()
    spec = gymnasium.spec("ebm_traj/HandBlock-v0")
    register_envs()
    assert gymnasium.spec("ebm_traj/HandBlock-v0") is spec


def test_registering_imports_neither_mujoco_nor_an_environment() -> None:
    code = (
        "import sys, ebm_traj.envs; from ebm_traj.registration import register_envs; register_envs();"
        "print([m for m in sys.modules if m.startswith(('mujoco', 'torch', 'ebm_traj.envs.'))])"
    )
    assert in_a_new_process(code).strip() == "[]"


def test_without_gymnasium_nothing_is_registered_and_nothing_fails() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = None;"
        "from ebm_traj.registration import register_envs; register_envs(); print('fine')"
    )
    assert in_a_new_process(code).strip() == "fine"


def test_the_environments_run_without_importing_gymnasium_robotics() -> None:
    code = (
        "import sys; from ebm_traj.envs import HandEnv; HandEnv().reset(seed=0);"
        "print('gymnasium_robotics' in sys.modules)"
    )
    assert in_a_new_process(code).strip() == "False"
