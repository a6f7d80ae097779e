"""Behaviour that users bring: functions of theirs, and models of Stable-Baselines3."""

import importlib
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from ebm_traj.collect import CollectSettings, collect
from ebm_traj.datasets import Recording
from ebm_traj.envs.behaviour import NoiseSettings
from ebm_traj.envs.custom_policies import FunctionPolicy, FunctionSettings, SB3Policy, named_policy
from ebm_traj.envs.vector import HandVectorEnv
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

class Bare:
    pass

class Sized:
    def __init__(self, size):
        pass

class Watching(Counting):
    goal_conditioned, needs_simulator, markov = False, True, True

    def act(self, observations, previous_actions, simulator_states=None):
        return 0.1 * simulator_states[:, :20]

def ragged(observations):
    return [[1, 2], [3]]

def faulty(observations):
    raise KeyError("of the user's own")

class Unsendable(Exception):
    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")

def unsendable(observations):
    raise Unsendable("this", "that")

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
        (".{}:follow", "needed is module:function"),
        (
            "{}:Bare",
            r"is a Bare; needed is a function of observations, or an object with reset\(\) and act\(\)",
        ),
        ("{}:Sized", "class to be made without arguments; missing a required argument: 'size'"),
    ],
)
def test_what_is_no_function_is_refused(module: str, name: str, named: str):
    with pytest.raises(InputError, match=named):
        FunctionPolicy(*BOX, FunctionSettings(name.format(module)), **REACHER)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("short", r"of shape \(3,\); needed are numbers \(4, 2\)"),
        ("lost", "NaN or infinite"),
        ("ragged", r"gave no array of numbers \(4, 2\)"),
        ("Watching", "needs simulator states, which this environment has not"),
    ],
)
def test_what_it_returns_is_looked_at(module: str, name: str, named: str):
    policy = FunctionPolicy(*BOX, FunctionSettings(f"{module}:{name}"), **REACHER)
    policy.reset([1, 2, 3, 4])
    with pytest.raises(InputError, match=named):
        policy.act(np.zeros((4, 10)), np.zeros((4, 2)))


def test_what_an_object_says_of_itself_is_recorded(module: str, tmp_path: Path):
    watching = gather(tmp_path / "watching", f"{module}:Watching")
    assert watching.policy["markov"] and not watching.policy["goal_conditioned"]
    counting = gather(tmp_path / "counting", f"{module}:Counting", env="Reacher-v5")
    assert not counting.policy["markov"]  # it does not say so: branches from it are refused


def test_an_error_of_the_user_s_own_is_not_ours(module: str, tmp_path: Path):
    with pytest.raises(KeyError, match="of the user's own"):
        gather(tmp_path / "data", f"{module}:faulty", env="Reacher-v5")


def test_an_error_that_cannot_be_sent_to_the_parent_is_told_in_words(module: str, tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"in unsendable(.|\n)*Unsendable: this and that"):
        gather(tmp_path / "data", f"{module}:unsendable", env="Reacher-v5")


def test_another_function_of_the_same_name_does_not_go_on_with_a_data_set(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gather(tmp_path / "data", f"{module}:follow", env="Reacher-v5")
    (tmp_path / f"{module}.py").write_text(MODULE.replace("0.1 *", "0.2 *"))
    (tmp_path / "data" / "shard-00001.h5").unlink()
    settings = CollectSettings(
        env="Reacher-v5",
        policy="function",
        policy_settings=FunctionSettings(f"{module}:follow"),
        noise=NoiseSettings(),
        episodes=4,
        steps=5,
        episodes_per_shard=2,
    )
    with pytest.raises(InputError, match=r"made with other settings: policy.module_sha256"):
        collect(tmp_path / "data", settings, resume=True, progress=False)
    monkeypatch.setattr("ebm_traj.envs.custom_policies.module_sha256", lambda target: None)
    collect(tmp_path / "data", settings, resume=True, progress=False)  # older data sets do not tell


def test_a_folder_in_which_nothing_was_made_can_be_used_again(module: str, tmp_path: Path):
    with pytest.raises(InputError, match="needed are numbers"):
        gather(tmp_path / "data", f"{module}:short", env_kwargs={"target_rotation": "z"})
    assert len(gather(tmp_path / "data", f"{module}:follow").load()) == 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sb3 = pytest.importorskip("stable_baselines3")
    folder = tmp_path_factory.mktemp("models")
    for name in ("PPO", "SAC", "TD3", "DDPG", "A2C"):
        getattr(sb3, name)("MlpPolicy", "Pendulum-v1", seed=0).save(folder / f"{name}.zip")
    return folder


@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3", "DDPG", "A2C"])
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

    def altered(name: str, member: str, content: bytes) -> Path:
        with zipfile.ZipFile(models / "PPO.zip") as old, zipfile.ZipFile(tmp_path / name, "w") as new:
            for each in old.namelist():
                new.writestr(each, content if each == member else old.read(each))
        return tmp_path / name

    with pytest.raises(InputError, match="damaged model of Stable-Baselines3"):
        make(altered("weights.zip", "policy.pth", b"no weights"))
    with pytest.raises(InputError, match="not a model of Stable-Baselines3"):
        make(altered("data.zip", "data", b"[1]"))
    contrib = b'{"clip_range": 0, "policy_class": {"__module__": "sb3_contrib.common.recurrent.policies"}}'
    with pytest.raises(InputError, match="no model of PPO, SAC, TD3, DDPG, A2C"):
        make(altered("contrib.zip", "data", contrib))


class Boxes(gymnasium.Env):
    """Has spaces only."""

    def __init__(self, numbers: int = 3, limit: float = 2.0):
        high = np.arange(1, numbers + 1, dtype=np.float32)
        self.observation_space, self.action_space = Box(-high, high), Box(-limit, limit, (1,))


def test_limits_of_actions_must_agree_and_spaces_are_named_in_one_line(
    models: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gymnasium, "make", lambda env_id, **kwargs: Boxes(kwargs["numbers"], kwargs["limit"]))
    _, settings = named_policy(str(models / "SAC.zip")) or ("", None)
    for kwargs in ({"numbers": 3, "limit": 1.0}, {"numbers": 60, "limit": 2.0}):
        with pytest.raises(InputError, match=r"made for (actions|observations) Box") as error:
            SB3Policy(*BOX, settings, env_id="Boxes-v0", env_kwargs=kwargs)
        assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_an_action_of_a_model_does_not_depend_on_its_batch(tmp_path: Path):
    sb3 = pytest.importorskip("stable_baselines3")
    options = {"policy_kwargs": {"net_arch": [256, 256]}, "buffer_size": 10, "seed": 0}
    sb3.SAC("MultiInputPolicy", "ebm_traj/HandBlock-v0", **options).save(tmp_path / "model.zip")
    _, settings = named_policy(str(tmp_path / "model.zip")) or ("", None)
    envs = HandVectorEnv(64, 1)
    seen, _ = envs.reset(seed=0)
    envs.close()
    low, high = np.full(20, -1.0), np.full(20, 1.0)
    policy = SB3Policy(low, high, settings, env_id="ebm_traj/HandBlock-v0", env_kwargs={})

    def act(rows: slice) -> np.ndarray:
        part = {key: value[rows] for key, value in seen.items()}
        policy.reset(range(len(part["observation"])))
        return policy.act(part, np.zeros((0, 20)))

    together = act(slice(64))
    for rows in (slice(5, 6), slice(3, 7), slice(10, 30)):
        np.testing.assert_array_equal(act(rows), together[rows])


def test_a_model_with_a_policy_class_of_the_user_s_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sb3 = pytest.importorskip("stable_baselines3")
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "from stable_baselines3.common.policies import ActorCriticPolicy\n"
        "class Mine(ActorCriticPolicy): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sb3.PPO(importlib.import_module(name).Mine, "Pendulum-v1").save(tmp_path / "own.zip")
    _, settings = named_policy("own.zip") or ("", None)
    policy = SB3Policy(np.full(1, -2.0), np.full(1, 2.0), settings, env_id="Pendulum-v1", env_kwargs={})
    policy.reset([0, 1])
    assert policy.act(np.zeros((2, 3), np.float32), np.zeros((2, 1))).shape == (2, 1)


def test_without_the_package_the_extra_is_named(models: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3", None)
    _, settings = named_policy(str(models / "PPO.zip")) or ("", None)
    with pytest.raises(InputError, match=r"pip install \"ebm_traj\[sb3\]\""):
        SB3Policy(*BOX, settings, **REACHER)
