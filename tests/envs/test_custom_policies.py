"""Behaviour that users bring: functions of theirs, and models of Stable-Baselines3."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_traj.collect import CollectSettings, collect
from ebm_traj.datasets import Recording
from ebm_traj.envs.behaviour import NoiseSettings
from ebm_traj.envs.custom_policies import FunctionPolicy, FunctionSettings, SB3Policy, named_policy
from ebm_traj.errors import InputError

MODULE = """
import numpy as np

def follow(observations):
    if isinstance(observations, dict):
        return 0.1 * observations["observation"][:, :20]
    return 0.1 * observations[:, :2]

def short(observations):
    return np.zeros(3)

def lost(observations):
    return np.full((len(observations), 2), np.nan)

class Counting:
    def reset(self, seeds, steps=0):
        self.t = 0

    def act(self, observations, previous_actions, simulator_states=None):
        self.t += 1
        return np.full((len(observations), 2), 0.01 * self.t)

number = 3
"""
BOX = (np.full(2, -1.0), np.full(2, 1.0))
REACHER: dict[str, Any] = {"env_id": "Reacher-v5", "env_kwargs": {}}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"users_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def gather(out: Path, name: str, **settings: Any) -> Recording:
    found = named_policy(name)
    assert found is not None
    made = CollectSettings(
        policy=found[0],
        policy_settings=found[1],
        noise=NoiseSettings(),
        **{"episodes": 4, "steps": 5, "episodes_per_shard": 2, **settings},
    )
    collect(out, made, workers=2, progress=False)
    return Recording(out)


def test_a_function_acts_on_observations_of_the_hand_together(module: str, tmp_path: Path):
    recording = gather(tmp_path / "data", f"{module}:follow")
    episodes = recording.load()
    angles = recording.spec.indices[:20]
    assert angles == tuple(range(14, 34))  # the observation's first numbers are joint angles
    np.testing.assert_allclose(episodes.actions[0], 0.1 * episodes.states[0, :20], atol=1e-6)
    assert recording.policy["name"] == "function" and recording.policy["goal_conditioned"]


def test_a_function_acts_in_worker_processes(module: str, tmp_path: Path):
    episodes = gather(tmp_path / "data", f"{module}:follow", env="Reacher-v5").load()
    np.testing.assert_allclose(episodes.actions[0], 0.1 * episodes.states[0, :2], atol=1e-6)


def test_a_class_with_a_memory_is_made_and_reset(module: str, tmp_path: Path):
    episodes = gather(tmp_path / "data", f"{module}:Counting", env="Reacher-v5").load()
    for start in episodes.offsets[:-1]:
        np.testing.assert_allclose(episodes.actions[start : start + 5, 0], 0.01 * np.arange(1, 6), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("nowhere.at.all:act", "no module 'nowhere.at.all'"),
        ("{}:missing", "has no 'missing'"),
        ("{}:number", "is a int; needed is a function"),
        (":act", "needed is module:function"),
    ],
)
def test_what_is_no_function_is_refused(module: str, name: str, named: str):
    with pytest.raises(InputError, match=named):
        FunctionPolicy(*BOX, FunctionSettings(name.format(module)), **REACHER)


@pytest.mark.parametrize(
    ("name", "named"),
    [("short", r"of shape \(3,\); needed are numbers \(4, 2\)"), ("lost", "NaN or infinite")],
)
def test_what_it_returns_is_looked_at(module: str, name: str, named: str):
    policy = FunctionPolicy(*BOX, FunctionSettings(f"{module}:{name}"), **REACHER)
    policy.reset([1, 2, 3, 4])
    with pytest.raises(InputError, match=named):
        policy.act(np.zeros((4, 10)), np.zeros((4, 2)))


def test_a_folder_in_which_nothing_was_made_can_be_used_again(module: str, tmp_path: Path):
    with pytest.raises(InputError, match="needed are numbers"):
        gather(tmp_path / "data", f"{module}:short", env_kwargs={"target_rotation": "z"})
    assert len(gather(tmp_path / "data", f"{module}:follow").load()) == 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sb3 = pytest.importorskip("stable_baselines3")
    folder = tmp_path_factory.mktemp("models")
    for name in ("PPO", "SAC", "TD3", "A2C"):
        getattr(sb3, name)("MlpPolicy", "Pendulum-v1", seed=0).save(folder / f"{name}.zip")
    return folder


@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3", "A2C"])
def test_a_model_of_stable_baselines3_acts(models: Path, name: str, tmp_path: Path):
    import stable_baselines3

    path = models / f"{name}.zip"
    episodes = gather(tmp_path / "data", str(path), env="Pendulum-v1", episodes_per_shard=4).load()
    model = getattr(stable_baselines3, name).load(path)
    expected, _ = model.predict(episodes.states[:3], deterministic=True)
    np.testing.assert_allclose(episodes.actions[:3], np.clip(expected, -2, 2), atol=1e-5)


def test_another_model_does_not_go_on_with_a_data_set(models: Path, tmp_path: Path):
    path = tmp_path / "model.zip"
    path.write_bytes((models / "PPO.zip").read_bytes())
    gather(tmp_path / "data", str(path), env="Pendulum-v1", episodes_per_shard=4)
    path.write_bytes((models / "A2C.zip").read_bytes())
    _, settings = named_policy(str(path)) or ("", None)
    other = CollectSettings(
        env="Pendulum-v1",
        policy="sb3",
        policy_settings=settings,
        noise=NoiseSettings(),
        episodes=4,
        steps=5,
        episodes_per_shard=4,
    )
    with pytest.raises(InputError, match=r"made with other settings: policy.settings.sha256"):
        collect(tmp_path / "data", other, resume=True, progress=False)


def test_other_spaces_and_files_are_refused(models: Path, tmp_path: Path):
    def make(path: Path) -> SB3Policy:
        _, settings = named_policy(str(path)) or ("", None)
        return SB3Policy(*BOX, settings, **REACHER)

    with pytest.raises(InputError, match=r"made for observations Box.*'Reacher-v5' has Box"):
        make(models / "PPO.zip")
    with pytest.raises(InputError, match="no such file"):
        make(tmp_path / "missing.zip")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(InputError, match="not a model of Stable-Baselines3"):
        make(tmp_path / "text.zip")


def test_without_the_package_the_extra_is_named(models: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3", None)
    _, settings = named_policy(str(models / "PPO.zip")) or ("", None)
    with pytest.raises(InputError, match=r"pip install \"ebm_traj\[sb3\]\""):
        SB3Policy(*BOX, settings, **REACHER)
