"""The collector: same bytes however it is run, nothing lost when killed, one line for what cannot be done."""

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from ebm_traj.collect import CollectSettings, collect
from ebm_traj.collect.environment import open_environment
from ebm_traj.collect.shards import collect_lockstep, collect_one_by_one, policy_of
from ebm_traj.datasets import Recording
from ebm_traj.datasets.check import find_faults
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.shard import DTYPES
from ebm_traj.envs.behaviour import NoiseSettings, RandomSettings, make_policy
from ebm_traj.errors import InputError

SCRIPT = Path(__file__).parents[1] / "scripts" / "collect.py"
HAND = CollectSettings(episodes=10, steps=6, episodes_per_shard=4, sim_state_every=2, test_fraction=0.3)
ENDING, WRONG = "TestCollect/Ending-v0", "TestCollect/Wrong-v0"
REACHER = CollectSettings(env="Reacher-v5", episodes=10, steps=20, episodes_per_shard=4)


def run(out: Path, settings: CollectSettings, **options: Any) -> Path:
    collect(out, settings, progress=False, **options)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("hand") / "data", HAND, workers=2)


@pytest.fixture(scope="module")
def reacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("reacher") / "data", REACHER, workers=1)


class Ending(gymnasium.Env):
    """Counts steps and ends after 1 + (first random number) of them; success when it ended by itself."""

    observation_space = gymnasium.spaces.Dict({"b": Box(-10, 10, (2,)), "a": Box(-10, 10, (1,))})
    action_space = Box(-2, 3, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t, self.last = 0, 1 + int(self.np_random.integers(12))
        return self._observe(np.zeros(2)), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        over = self.t >= self.last
        return self._observe(action), 1.5, over, False, {"is_success": float(over)}

    def _observe(self, action: Any) -> dict[str, Any]:
        return {"b": np.asarray(action, np.float32), "a": np.array([self.t], np.float32)}


class Wrong(Ending):
    """Settable to whatever the collector must refuse."""

    def __init__(self, what: str):
        if what == "pictures":
            self.observation_space = Box(0, 255, (8, 8, 3))
        if what == "discrete observations":
            self.observation_space = gymnasium.spaces.Dict({"n": Discrete(3)})
        if what == "discrete actions":
            self.action_space = Discrete(4)
        if what == "no bounds":
            self.action_space = Box(-np.inf, np.inf, (2,))
        if what == "whole actions":
            self.action_space = Box(0, 5, (2,), np.int64)
        if what == "fine bounds":
            self.action_space = Box(-0.3, 0.1, (2,), np.float64)
        if what == "no file":
            raise OSError("no such mesh")
        self.what = what

    def step(self, action: Any) -> Any:
        observed, reward, over, truncated, _ = super().step(action)
        if self.what == "fine bounds":
            assert np.all(action >= -0.3) and np.all(action <= 0.1)
        return observed, reward, over, truncated, {"success": np.array([over])}

    def _observe(self, action: Any) -> dict[str, Any]:
        observed = super()._observe(action)
        if self.what == "nan" and self.t == 2:
            observed["b"][0] = np.nan
        return observed


@pytest.fixture(autouse=True)
def test_environments() -> Any:
    gymnasium.register(ENDING, entry_point=Ending)
    gymnasium.register(WRONG, entry_point=Wrong)
    yield
    for name in (ENDING, WRONG):
        del gymnasium.registry[name]


def test_a_hand_data_set_is_complete(hand: Path):
    recording = Recording(hand)
    assert find_faults(hand) == []
    assert recording.num_episodes == 10 and recording.num_steps == 60
    assert recording.spec.size == 38 and recording.action_size == 20
    episodes = recording.load()
    object_rotation = episodes.states[:, recording.spec.quaternion_dims]
    np.testing.assert_allclose(np.linalg.norm(object_rotation, axis=1), 1, atol=1e-5)
    assert np.abs(np.diff(episodes.states[:7, :24], axis=0)).max() > 0.01  # it moves


def test_simulator_states_are_those_of_held_out_episodes(hand: Path):
    recording = Recording(hand)
    held_out = np.flatnonzero(recording.split > 0)
    expected = [[row, step] for row in held_out for step in (0, 2, 4)]
    assert len(held_out) and recording.sim_index.tolist() == expected


def test_hand_files_do_not_depend_on_threads(hand: Path, tmp_path: Path):
    assert digests(run(tmp_path / "data", HAND, workers=1)) == digests(hand)


def test_lock_step_gives_what_one_by_one_gives(hand: Path):
    manifest = Recording(hand).manifest
    env = open_environment(manifest.env_id, manifest.env_kwargs, manifest.steps)
    policy = policy_of(manifest)
    single = collect_one_by_one(env, policy, manifest, 1, lambda *_: None)
    import h5py

    with h5py.File(hand / "shard-00001.h5") as file:
        for name in DTYPES:
            ours = getattr(single, name).astype(DTYPES[name])
            np.testing.assert_array_equal(ours, file[name][...], err_msg=name)


def test_generic_files_do_not_depend_on_workers(reacher: Path, tmp_path: Path):
    assert digests(run(tmp_path / "data", REACHER, workers=3)) == digests(reacher)
    recording = Recording(reacher)
    assert recording.spec.observation_size == 10 and len(recording.sim_index) == 0


def test_recorded_actions_lead_to_the_recorded_states(reacher: Path):
    recording = Recording(reacher)
    episodes = recording.load()
    env = gymnasium.make("Reacher-v5")
    rows = range(episodes.offsets[5], episodes.offsets[6] - 1)
    observation, _ = env.reset(seed=int(recording.seed[5]))
    for row in rows:
        np.testing.assert_array_equal(observation.astype(np.float32), episodes.states[row])
        observation = env.step(episodes.actions[row])[0]
    np.testing.assert_array_equal(observation.astype(np.float32), episodes.states[rows[-1] + 1])


def test_episodes_may_end_early(tmp_path: Path):
    settings = CollectSettings(env=ENDING, episodes=40, steps=8, episodes_per_shard=30)
    recording = Recording(run(tmp_path / "data", settings, workers=1))
    assert recording.lengths.min() < 8 == recording.lengths.max()
    assert np.all(recording.terminated[recording.lengths < 8])
    np.testing.assert_array_equal(recording.success, recording.terminated)
    episodes = recording.load()
    assert len(episodes.window_starts(9)) == np.sum(recording.lengths == 8)
    # The state of a step holds the action that led to it, and the counter (key "a") comes first.
    for i in range(5):
        rows = slice(episodes.offsets[i], episodes.offsets[i + 1])
        np.testing.assert_array_equal(episodes.states[rows, 0], np.arange(recording.lengths[i] + 1))
        np.testing.assert_array_equal(episodes.states[rows, 1:][1:], episodes.actions[rows][:-1])


def test_success_is_read_under_either_name_and_actions_stay_within_bounds(tmp_path: Path):
    told = {
        "env": WRONG,
        "env_kwargs": {"what": "fine bounds"},
        "policy_settings": RandomSettings(spread=9.0),
    }
    settings = CollectSettings(**told, episodes=40, steps=8, episodes_per_shard=30)
    recording = Recording(run(tmp_path / "data", settings, workers=1))
    np.testing.assert_array_equal(recording.success, recording.terminated)
    assert recording.success.any() and not recording.success.all()
    assert recording.load().actions[0].max() > 0.09


class Diverging:
    """A vector environment in lock step whose rows end at given steps and must then be reset."""

    def __init__(self, last: list[int]):
        self.last = np.array(last)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        mask = np.ones(len(self.last), bool) if options is None else options["reset_mask"]
        self.t = np.where(mask, 0, getattr(self, "t", 0))
        self.over = np.where(mask, False, getattr(self, "over", False))
        return self.t[:, None] + np.zeros(3), {}

    def step(self, actions: Any) -> Any:
        assert not self.over.any(), "stepped without the reset that a vector environment asks for"
        self.t = self.t + 1
        self.over = self.t == self.last
        none = np.zeros(len(self.t), bool)
        return self.t[:, None] + np.zeros(3), self.t * 1.0, self.over.copy(), none, {"is_success": self.over}


def test_in_lock_step_too_episodes_may_end_early():
    from ebm_traj.spec import StateSpec

    one = np.ones(2, np.float32)
    manifest = Manifest("x", {}, {}, StateSpec.from_size(3), -one, one, 0, 3, 5, 3, 0, 0, 0, {})
    policy = make_policy({"name": "random", "settings": {}}, -one, one, "x", {})
    data = collect_lockstep(Diverging([2, 5, 9]), policy, manifest, 0, lambda *_: None)
    assert np.diff(data.offsets).tolist() == [3, 6, 6]
    assert data.terminated.tolist() == [True, True, False]
    assert data.success.tolist() == [True, True, False]
    assert data.states[:, 0].tolist() == [0, 1, 2, *range(6), *range(6)]


def test_resume_goes_on_to_the_same_bytes(hand: Path, tmp_path: Path):
    out = run(tmp_path / "data", HAND)
    (out / "shard-00001.h5").unlink()
    (out / ".shard-00001.h5.tmp").write_bytes(b"half a shard")
    kept = (out / "shard-00000.h5").stat().st_mtime_ns
    made = collect(out, HAND, resume=True, progress=False)
    assert made.episodes == 4
    assert digests(out) == digests(hand)
    assert (out / "shard-00000.h5").stat().st_mtime_ns == kept


def test_resume_without_a_folder_begins(tmp_path: Path):
    run(tmp_path / "data", REACHER, workers=1, resume=True)
    assert Recording(tmp_path / "data").num_episodes == 10


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "run_seed 0 against 1"),
        ({"steps": 19}, "steps 20 against 19"),
        ({"episodes": 11}, "episodes 10 against 11"),
        ({"noise": NoiseSettings(every=3)}, "policy.noise.every 4 against 3"),
        ({"env": "InvertedPendulum-v5"}, "state spec: 10 dimensions against 4"),
        ({"test_fraction": 0.2}, "test_fraction"),
    ],
)
def test_resume_with_other_settings_is_refused(reacher: Path, changes: dict[str, Any], named: str):
    import dataclasses

    before = digests(reacher)
    with pytest.raises(InputError, match=f"made with other settings: .*{named}"):
        collect(reacher, dataclasses.replace(REACHER, **changes), resume=True, progress=False)
    assert digests(reacher) == before


def test_resume_tells_an_argument_that_is_null_from_none(tmp_path: Path):
    import dataclasses

    kwargs = {"reset_noise_scale": 0.1, "xy": [(1, 2)], "by": {1: 2}}
    ant = CollectSettings(
        env="TestCollect/Told-v0", env_kwargs=kwargs, episodes=4, steps=3, episodes_per_shard=2
    )
    gymnasium.register("TestCollect/Told-v0", entry_point=lambda **told: Ending())
    try:
        out = run(tmp_path / "data", ant, workers=1)
        (out / "shard-00001.h5").unlink()
        other = dataclasses.replace(ant, env_kwargs={**kwargs, "terminate_when_unhealthy": None})
        with pytest.raises(
            InputError, match=r"env_kwargs.terminate_when_unhealthy \(not given\) against None"
        ):
            collect(out, other, resume=True, workers=1, progress=False)
        collect(out, ant, resume=True, workers=1, progress=False)  # lists for tuples, text for numbers
        assert Recording(out).num_episodes == 4
    finally:
        del gymnasium.registry["TestCollect/Told-v0"]


def test_a_copy_of_a_shard_is_no_shard(reacher: Path, tmp_path: Path):
    shutil.copytree(reacher, tmp_path / "data")
    shutil.copy(reacher / "shard-00000.h5", tmp_path / "data" / "shard-00000 (copy).h5")
    with pytest.raises(InputError, match=r"shard-00000 \(copy\).h5: no name of a shard"):
        Recording(tmp_path / "data")


def test_resume_with_another_simulator_is_refused(reacher: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ebm_traj.collect.run.version", lambda package: "0.0.1")
    with pytest.raises(InputError, match=r"versions\..* against 0\.0\.1"):
        collect(reacher, REACHER, resume=True, progress=False)


def test_resume_names_a_truncated_shard(tmp_path: Path):
    out = run(tmp_path / "data", REACHER, workers=1)
    path = out / "shard-00001.h5"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"shard-00001\.h5: not a whole HDF5 file"):
        collect(out, REACHER, resume=True, progress=False)


def test_an_existing_folder_is_left_alone(reacher: Path):
    before = digests(reacher)
    with pytest.raises(InputError, match="exists"):
        collect(reacher, REACHER, progress=False)
    assert digests(reacher) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env": "Reacherr-v5"}, "environment 'Reacherr-v5': .*Did you mean: `Reacher`"),
        ({"env": "no_such_module:Reacher-v5"}, "no_such_module"),
        ({"env": "Reacher-v5", "env_kwargs": {"colour": "red"}}, "colour"),
        ({"env_kwargs": {"target_rotation": "q"}}, "target_rotation"),
        ({"env": "CartPole-v1"}, "its action space is a Discrete; accepted are Box"),
        ({"env": WRONG, "env_kwargs": {"what": "discrete actions"}}, "action space is a Discrete"),
        ({"env": WRONG, "env_kwargs": {"what": "whole actions"}}, "Box of int64; accepted are .* floating"),
        ({"env": WRONG, "env_kwargs": {"what": "no file"}}, "what': 'no file'}: OSError: no such mesh"),
        ({"env": WRONG, "env_kwargs": {"what": "pictures"}}, "observation space is a Box of shape"),
        ({"env": WRONG, "env_kwargs": {"what": "discrete observations"}}, "is a Discrete; .*Dicts"),
        ({"env": WRONG, "env_kwargs": {"what": "no bounds"}}, "finite bounds"),
        ({"policy": "clever"}, "policy 'clever' is unknown; known: expert"),
        ({"test_fraction": 1.0}, "test fraction 1"),
    ],
)
def test_bad_settings_write_nothing(tmp_path: Path, settings: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message) as error:
        collect(tmp_path / "data", CollectSettings(**settings), progress=False)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["episodes", "steps", "seed", "episodes_per_shard", "sim_state_every"])
def test_negative_counts_are_named(name: str):
    with pytest.raises(InputError, match=f"{name.replace('_', ' ')}: -1; needs"):
        CollectSettings(**{name: -1})  # type: ignore[arg-type]


def test_a_seed_that_files_cannot_hold_is_named():
    with pytest.raises(InputError, match="seed: 9223372036854775808; needs less than 2"):
        CollectSettings(seed=2**63)


def test_no_workers_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="workers: 0"):
        collect(tmp_path / "data", REACHER, workers=0, progress=False)


def test_an_environment_that_gives_nan_is_refused(tmp_path: Path):
    settings = CollectSettings(
        env=WRONG, env_kwargs={"what": "nan"}, episodes=20, steps=9, episodes_per_shard=20
    )
    with pytest.raises(InputError, match=r"states of episode .* at step 2 are not finite"):
        collect(tmp_path / "data", settings, workers=1, progress=False)
    assert not list((tmp_path / "data").iterdir())


def test_memory_does_not_grow_with_the_number_of_episodes(tmp_path: Path):
    peaks = []
    for episodes in (40, 40, 400):  # once to warm up
        settings = CollectSettings(ENDING, episodes=episodes, steps=10, episodes_per_shard=20)
        tracemalloc.start()
        run(tmp_path / f"{len(peaks)}", settings, workers=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1]


# ---------------------------------------------------------------- the script


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("collect_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["collect_script"] = module
    spec.loader.exec_module(module)
    return module


def call(*arguments: str) -> int:
    """Exit code of the script, run in this process."""
    from ebm_traj.cli import run as run_script

    module = script()
    try:
        run_script(module.main, module.Args, list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_the_script_says_where_and_what_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = str(tmp_path / "data")
    assert call("--out", out, "--env", "Reacher-v5", "--episodes", "3", "--steps", "5", "--workers", "1") == 0
    printed = capsys.readouterr().out
    assert f"{out}: 3 episodes made, 15 steps" in printed and f"--data {out}" in printed
    assert call("--describe", out) == 0
    assert "Reacher-v5" in capsys.readouterr().out
    assert call("--check", out) == 0
    assert "1 shards" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needed is one of --out, --describe, --check"),
        (("--check", "/nowhere"), "/nowhere: no such folder"),
        (("--describe", "/nowhere"), "/nowhere: no such folder"),
        (("--out", "/nowhere", "--branches", "2"), "/nowhere: no such folder"),
        (("--out", "/nowhere/data", "--env-kwargs", "{"), "--env-kwargs {: not JSON"),
        (("--out", "/nowhere/data", "--env-kwargs", "[1]"), "needed is a JSON object"),
        (("--out", "/nowhere/data", "--noise-every", "2", "--noise-probability", ".5"), "one of the two"),
        (("--out", "/nowhere/data", "--branches", "-1"), "branches: -1"),
        (("--out", "/nowhere/data", "--branches", "0"), "branches: 0"),
        (("--out", "/nowhere/data", "--export-minari", ""), "/nowhere/data: no such folder"),
        (("--out", "/nowhere/data", "--episodes", "-3"), "episodes: -3"),
        (
            ("--out", "/a", "--import-minari", "./b", "--storage", "compact"),
            "--storage given; --import-minari",
        ),
        (("--out", "/a", "--export-minari", "b", "--resume"), "--resume given; --export-minari"),
        (("--out", "/a", "--branches", "2", "--steps", "5"), "--steps given; --branches"),
        (("--check", "/a", "--seed", "1"), "--seed given; --check"),
        (("--out", "/a", "--horizon", "9"), "--horizon given; it needs --branches"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
):
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def start(*arguments: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # whoever runs the tests in the background may have had Ctrl-C ignored, which is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < limit, "ended before its first shard"
        time.sleep(0.002)


def descendants_gone(group: int) -> bool:
    """Whether a process group has ended, given ten seconds."""
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (
            ("--steps", "10", "--episodes", "60", "--episodes-per-shard", "2"),
            CollectSettings(steps=10, episodes=60, episodes_per_shard=2),
        ),
        (
            ("--env", "Reacher-v5", "--steps", "40", "--episodes", "300", "--episodes-per-shard", "5"),
            CollectSettings(env="Reacher-v5", steps=40, episodes=300, episodes_per_shard=5),
        ),
    ],
    ids=["hand", "reacher"],
)
def test_killed_by_force_it_resumes_to_the_same_bytes(
    tmp_path: Path, arguments: tuple[str, ...], settings: CollectSettings
):
    out = tmp_path / "killed"
    process = start("--out", str(out), *arguments, "--workers", "2")
    wait_for(out / "shard-00000.h5", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert descendants_gone(process.pid)  # no worker is left behind to write on
    before = Recording(out).num_episodes
    assert 0 < before < settings.episodes
    run(out, settings, workers=1, resume=True)
    assert digests(out) == digests(run(tmp_path / "whole", settings, workers=1))


def test_ctrl_c_ends_in_one_line_and_keeps_whole_shards(tmp_path: Path):
    out = tmp_path / "data"
    process = start(
        "--out", str(out), "--env", "Reacher-v5", "--steps", "50", "--workers", "2",
        "--episodes", "3000", "--episodes-per-shard", "10",
    )  # fmt: skip
    wait_for(out / "shard-00000.h5", process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.decode().splitlines()[-1] == "collect.py: interrupted" and b"Traceback" not in error
    assert descendants_gone(process.pid)
    assert 0 < Recording(out).num_episodes < 3000
