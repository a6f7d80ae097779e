"""Branches: the simulator goes on from a recorded moment exactly as it did, or as it might have."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from ebm_traj.branches import BRANCHES_FILE, Branches, continue_from, simulate_branches, verify_branches
from ebm_traj.collect import CollectSettings, collect
from ebm_traj.collect.environment import open_lockstep
from ebm_traj.datasets import Recording
from ebm_traj.datasets.check import find_faults
from ebm_traj.envs.behaviour import NoiseSettings
from ebm_traj.errors import InputError, RunError

SETTINGS = CollectSettings(
    episodes=12,
    steps=16,
    episodes_per_shard=6,
    sim_state_every=5,
    test_fraction=0.3,
    noise=NoiseSettings(probability=0.25),
)
OPTIONS = {"contexts": 5, "branches": 3, "horizon": 4, "context_frames": 3}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    out = tmp_path_factory.mktemp("branches") / "data"
    collect(out, SETTINGS, progress=False)
    return Recording(out)


@pytest.fixture(scope="module")
def branches(recording: Recording) -> Branches:
    return simulate_branches(recording, **OPTIONS, seed=0)


class Replay:
    """A policy that repeats recorded actions (N, T, A)."""

    goal_conditioned = needs_simulator = False
    markov = True

    def __init__(self, actions: np.ndarray):
        self.actions = actions

    def reset(self, seeds: object, steps: object = 0) -> None:
        self.i = -1

    def act(self, observations: object, previous_actions: object, states: object = None) -> np.ndarray:
        self.i += 1
        return self.actions[:, self.i]


def test_with_the_original_actions_the_recording_repeats_to_the_bit(recording: Recording):
    horizon = 6
    moments = np.flatnonzero(recording.sim_index[:, 1] + horizon <= SETTINGS.steps)
    assert {0, 5, 10} == set(recording.sim_index[moments, 1])
    rows, steps = recording.sim_index[moments].T
    states, actions = recording.read_windows(recording.offsets[rows] + steps, horizon + 1)
    envs = open_lockstep(recording.env_id, recording.env_kwargs, len(moments), 2)
    futures, taken = continue_from(
        envs,
        Replay(actions),
        recording.manifest,
        recording.read_sim_states(moments),
        states[:, 0],
        actions[:, 0],
        steps,
        [0] * len(moments),
        horizon,
    )
    envs.close()
    np.testing.assert_array_equal(futures, states[:, 1:])
    np.testing.assert_array_equal(taken, actions[:, :-1])


def test_shapes_and_origin(recording: Recording, branches: Branches):
    assert branches.contexts.shape == (5, 3, 38)
    assert branches.futures.shape == (5, 3, 4, 38) and branches.actions.shape == (5, 3, 4, 20)
    test_episodes = set(recording.load("test").episode)
    assert set(branches.episode) <= test_episodes
    assert np.all(branches.t >= 2) and len(set(zip(branches.episode, branches.t, strict=True))) == 5
    episodes = recording.load()
    for context, number, t in zip(branches.contexts, branches.episode, branches.t, strict=True):
        end = episodes.offsets[number] + t
        np.testing.assert_array_equal(context, episodes.states[end - 2 : end + 1])


def test_branches_differ_in_their_noise_and_not_in_their_goal(recording: Recording, branches: Branches):
    given, moving = recording.spec.given, recording.spec.predicted
    assert np.all(branches.futures[..., given] == branches.contexts[:, None, -1:, given])
    spread = branches.futures[:, :, -1, moving].std(1)
    assert np.all(spread.max(1) > 0.01)
    assert not np.array_equal(branches.actions[0, 0], branches.actions[0, 1])


def test_the_first_step_is_near_the_context(recording: Recording, branches: Branches):
    dims = recording.spec.quaternion_dims
    cosine = (branches.futures[:, :, 0, dims] * branches.contexts[:, None, -1, dims]).sum(-1)
    assert np.all(cosine > 0.9)  # no jump of sign
    step = np.abs(branches.futures[:, :, 0] - branches.contexts[:, None, -1])
    assert np.all(step < 1.2)


def test_a_context_with_a_negative_scalar_part_keeps_its_sign(recording: Recording):
    moment = np.array([len(recording.sim_index) - 1])
    row, step = recording.sim_index[moment[0]]
    now = recording.read_windows([recording.offsets[row] + step], 1)[0][:, 0]
    dims = recording.spec.quaternion_dims
    envs = open_lockstep(recording.env_id, recording.env_kwargs, 1, 1)
    futures = []
    for sign in (1, -1):
        start = now.copy()
        start[:, dims] *= sign
        policy = Replay(np.zeros((1, 3, 20), np.float32))
        sim_state = recording.read_sim_states(moment)
        futures.append(
            continue_from(
                envs, policy, recording.manifest, sim_state, start, start, np.array([step]), [0], 3
            )[0]
        )
    envs.close()
    np.testing.assert_array_equal(futures[0][..., dims], -futures[1][..., dims])


def test_a_branch_depends_on_its_seed_moment_and_number_alone(recording: Recording, branches: Branches):
    fewer = simulate_branches(recording, **(OPTIONS | {"branches": 2, "horizon": 3}), seed=0, num_threads=1)
    np.testing.assert_array_equal(fewer.futures, branches.futures[:, :2, :3])
    other = simulate_branches(recording, **OPTIONS, seed=1)
    assert not np.array_equal(other.actions, branches.actions)


def test_saved_branches_load_again(branches: Branches, tmp_path: Path):
    path = tmp_path / BRANCHES_FILE
    branches.save(path)
    first = path.read_bytes()
    branches.save(path)
    assert path.read_bytes() == first and len(list(tmp_path.iterdir())) == 1
    loaded = Branches.load(path)
    for name in ("contexts", "futures", "actions", "episode", "t"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(branches, name))
    assert loaded.spec.difference(branches.spec) is None and loaded.settings == branches.settings


def test_damaged_and_foreign_files_are_named(recording: Recording, branches: Branches, tmp_path: Path):
    path = tmp_path / BRANCHES_FILE
    with pytest.raises(InputError, match="no such file"):
        Branches.load(path)
    with pytest.raises(InputError, match="not a file of branches"):
        Branches.load(recording.paths[0])
    branches.save(path)
    with h5py.File(path, "a") as file:
        file["futures"][0, 0, 0, 0] += 1
    with pytest.raises(InputError, match="sha256"):
        Branches.load(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="not a whole HDF5 file"):
        Branches.load(path)
    broken = dataclasses.replace(branches, futures=np.full_like(branches.futures, np.nan))
    with pytest.raises(InputError, match="futures are not finite"):
        broken.save(path)


def test_check_reads_the_branches_of_a_data_set_too(recording: Recording, branches: Branches):
    path = recording.folder / BRANCHES_FILE
    branches.save(path)
    assert find_faults(recording.folder) == []
    path.write_bytes(path.read_bytes()[:2000])
    (fault,) = find_faults(recording.folder)
    path.unlink()
    assert BRANCHES_FILE in fault


@pytest.mark.parametrize("name", ["contexts", "branches", "horizon", "context_frames"])
def test_counts_below_one_are_named(recording: Recording, name: str):
    with pytest.raises(InputError, match=f"{name.replace('_', ' ')}: 0"):
        simulate_branches(recording, **(OPTIONS | {name: 0}), seed=0)


def test_recordings_of_all_shards_are_verified(recording: Recording, monkeypatch: pytest.MonkeyPatch):
    looked: list[int] = []

    def look(recording: Recording, moments: np.ndarray, *args: object, **kwargs: object) -> None:
        looked.extend(recording.sim_index[moments, 0])

    monkeypatch.setattr("ebm_traj.branches.verify_branches", look)
    rows = recording.episode_rows("test")
    many = sum(row in rows and step >= 2 for row, step in recording.sim_index)
    simulate_branches(recording, contexts=many, branches=1, horizon=1, context_frames=3, seed=0)
    assert len(looked) <= 8 < many and looked[0] == rows[0] and looked[-1] == rows[-1]


def test_too_many_contexts_are_refused_with_the_number_there_is(recording: Recording):
    with pytest.raises(InputError, match=r"500 contexts asked for; its test split holds \d+ "):
        simulate_branches(recording, **(OPTIONS | {"contexts": 500}), seed=0)


def test_another_simulator_is_refused(recording: Recording, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ebm_traj.branches.version", lambda package: "2.0")
    with pytest.raises(InputError, match=r"recorded with mujoco .* installed is 2\.0"):
        simulate_branches(recording, **OPTIONS, seed=0)


def test_an_environment_without_states_is_refused(tmp_path: Path):
    settings = CollectSettings(env="Reacher-v5", episodes=4, steps=5)
    collect(tmp_path / "data", settings, workers=1, progress=False)
    with pytest.raises(InputError, match="holds no simulator states"):
        simulate_branches(Recording(tmp_path / "data"), **OPTIONS, seed=0)


@pytest.mark.parametrize("storage", ["exact", "compact"])
@pytest.mark.parametrize("noise", [NoiseSettings(every=4), NoiseSettings(probability=0.25)])
def test_with_the_original_noise_a_branch_is_the_recording(noise: NoiseSettings, storage, tmp_path: Path):
    settings = dataclasses.replace(
        SETTINGS, noise=noise, storage=storage, env_kwargs={"target_rotation": "z", "goal_every": 4}
    )
    collect(tmp_path / "data", settings, progress=False)
    recording = Recording(tmp_path / "data")
    verify_branches(recording, np.arange(len(recording.sim_index)), horizon=16)
    rows = recording.sim_index[:, 0]
    assert len(np.unique(rows)) > 1
    recording.seed[rows[0]] += 1  # other noise
    with pytest.raises(RunError, match=r"differs from the recording after 1 steps|after [23] steps"):
        verify_branches(recording, np.arange(1), horizon=16)


def test_a_policy_with_a_plan_of_its_own_is_refused(recording: Recording, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(recording.policy, "markov", False)
    with pytest.raises(InputError, match="keeps a plan from step to step"):
        simulate_branches(recording, **OPTIONS, seed=0)
