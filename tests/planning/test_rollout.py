"""`rollout` drives any Gymnasium environment, records what it did, and refuses what does not fit."""

import dataclasses
import sys
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces

import ebm_traj
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.planning.plan import Plan
from ebm_traj.planning.rollout import rollout
from ebm_traj.planning.rollout_data import Rollout
from ebm_traj.planning.sampling import PlannerConfig, SamplingPlanner
from ebm_traj.trajectory.ebm import EBMConfig
from ebm_traj.trajectory.fc import FCConfig
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.training import TrainSettings, train

NETWORK = NetworkConfig(context_frames=2, width=32, depth=2, architecture="mlp")
EBM = EBMConfig(
    NETWORK,
    contrastive=ContrastiveConfig(
        128, LangevinConfig(steps=8, step_size=0.1, metropolis=True), buffer_size=1000
    ),
)


class ToyEnv(gymnasium.Env):
    """The made-up robot of conftest.py behind the plain Gymnasium interface; no simulator anywhere."""

    observation_space = spaces.Box(-np.inf, np.inf, (7,), np.float64)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, length: int = 1000) -> None:
        self.length = length

    def _observe(self):
        half = self.angle / 2
        return np.array([*self.place, np.cos(half), 0, 0, np.sin(half), 0.5])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.angle, self.t = self.np_random.normal(size=2), 0.0, 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.place = 0.9 * self.place + 0.2 * action + 0.05 * self.np_random.normal(size=2)
        self.angle += 0.1 * self.np_random.normal()
        self.t += 1
        return self._observe(), 1.0, self.t >= self.length, False, {"is_success": self.t % 2 == 0}


@pytest.fixture(scope="module")
def models(toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("rollout")

    def made(name, kind, config, conditioning="states"):
        settings = TrainSettings(
            trainer=TrainerConfig(iterations=300, warmup=20),
            conditioning=conditioning,
            inverse_iterations=400,
        )
        return train(toy, kind, config, settings, out / name)

    return {
        "states": made("states", "ebm", EBM),
        "actions": made("actions", "ebm", EBM, "actions"),
        "fc": made("fc", "fc", FCConfig(NETWORK)),
        "folder": out / "states",
    }


@pytest.mark.parametrize("which", ["states", "actions", "fc", "folder"])
def test_everything_that_happened_is_recorded(models, which):
    seen = []
    result = rollout(
        ToyEnv(),
        models[which],
        12,
        futures=6,
        horizon=4,
        replan_every=2,
        callback=lambda t, so_far: seen.append((t, len(so_far().actions))),
    )
    assert result.states.shape == (13, 7) and result.actions.shape == (12, 2)
    assert result.futures.shape == (6, 6, 4, 7) and result.energies.shape == (6, 6)
    assert result.planned_at.tolist() == [0, 2, 4, 6, 8, 10]
    assert result.success.tolist() == [False, True] * 6 and result.rewards.sum() == 12
    assert seen == [(t, t + 1) for t in range(12)]
    assert np.array_equal(result.chosen, result.energies.argmin(1))
    assert all(np.isfinite(value) for value in result.scores().values())


def test_same_seed_same_rollout(models):
    a, b, c = (rollout(ToyEnv(), models["states"], 5, futures=4, horizon=3, seed=s) for s in (3, 3, 4))
    assert np.array_equal(a.states, b.states) and np.array_equal(a.futures, b.futures)
    assert not np.array_equal(a.states, c.states)


@pytest.mark.parametrize("which", ["states", "actions"])
def test_a_goal_energy_steers_the_robot(models, which):
    def ends(sign):
        goal = rollout(
            ToyEnv(),
            models[which],
            25,
            futures=64,
            horizon=3,
            energies={"right": lambda futures: sign * 100 * futures[:, -1, 0]},
        )
        return goal.states[-10:, 0].mean()

    assert ends(-1) > ends(1) + 0.5


def test_it_ends_with_the_episode(models):
    result = rollout(ToyEnv(length=7), models["states"], 20, futures=2, horizon=3)
    assert len(result.actions) == 7 and result.meta["terminated"]


def test_predictions_are_scored_against_what_then_happened(models):
    result = rollout(ToyEnv(), models["actions"], 30, futures=32, horizon=1)
    scores = result.scores()
    assert scores["best_error"] < scores["chosen_error"]
    assert scores["best_error"] < scores["persistence_error"]


def test_where_no_plan_was_played_to_its_end_there_is_no_score_but_a_reason(models):
    result = rollout(ToyEnv(), models["actions"], 3, futures=4, horizon=8)
    assert "none, as no plan of 8 steps was played to its end" in result.summary()
    assert "nan" not in result.summary()


class Turning(ToyEnv):
    """Turns by 0.2 rad a step, whatever is done: w changes its sign on the way."""

    def step(self, action):
        self.angle, self.t = self.angle + 0.2, self.t + 1
        return self._observe(), 1.0, False, False, {}


class Oracle:
    """Knows how `Turning` goes on, and wants to see more frames than its model does."""

    context_frames = 5

    def __init__(self, model):
        self.model = model

    def reset(self):
        pass

    def plan(self, context, past_actions, generator, *, ahead=0, deadline=None):
        assert context.shape[1] == past_actions.shape[1] == 5
        states = context[:, -1:].repeat(1, 6, 1)
        angles = 2 * torch.atan2(context[:, -1, 5], context[:, -1, 2]) + 0.2 * torch.arange(1, 7)
        states[0, :, 2], states[0, :, 5] = (angles / 2).cos(), (angles / 2).sin()
        return Plan(states[:, None], torch.zeros(1, 1, 6, 2), torch.zeros(1, 1), torch.zeros(1, dtype=int))


def test_what_was_planned_is_compared_under_one_sign_of_a_rotation(models):
    result = rollout(Turning(), Oracle(models["states"]), 40)
    found = result.scores()
    assert found["chosen_error"] < 1e-3 < found["persistence_error"]


def test_file_round_trip(models, tmp_path):
    result = rollout(ToyEnv(), models["states"], 6, futures=3, horizon=3)
    result.meta["env_kwargs"] = {"goal_every": np.int64(5), "weights": np.ones(2)}
    path = tmp_path / "r.h5"
    result.save(path)
    again = Rollout.load(path)
    for name in ("states", "actions", "futures", "energies", "chosen", "planned_at", "success", "surprise"):
        assert np.array_equal(getattr(again, name), getattr(result, name), equal_nan=name == "surprise"), name
    result.meta["env_kwargs"] = {"goal_every": 5, "weights": [1.0, 1.0]}
    assert again.meta == result.meta and again.scores() == result.scores()
    with pytest.raises(InputError, match="exists already"):
        result.save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a whole HDF5 file"):
        Rollout.load(path)


def test_picture_is_drawn(models, tmp_path):
    import imageio.v3 as iio

    rollout(ToyEnv(), models["states"], 12, futures=5, horizon=4).plot(tmp_path / "r.png")
    picture = iio.imread(tmp_path / "r.png")
    assert picture.shape[0] > 400 and picture.std() > 5


def test_an_environment_that_cannot_be_drawn_says_what_to_do(models, tmp_path):
    result = rollout(ToyEnv(), models["states"], 3, futures=2, horizon=2)
    with pytest.raises(InputError, match="record_frames=True"):
        result.video(tmp_path / "r.mp4")


# --- surprise ------------------------------------------------------------------------------------------


class PushedEnv(ToyEnv):
    """Something pushes the robot at one step."""

    def step(self, action):
        if self.t == 15:
            self.place = self.place + np.array([1.0, -1.0])  # 20 standard deviations of its noise
        return super().step(action)


def test_surprise_is_highest_where_the_environment_was_disturbed(models):
    result = rollout(PushedEnv(), models["actions"], 25, futures=4, horizon=2)
    assert result.surprise.shape == (25,)
    assert np.isnan(result.surprise[0]) and np.isfinite(result.surprise[1:]).all()  # a context of two frames
    assert np.nanargmax(result.surprise) == 15
    assert result.surprise[15] > 5 + np.nanmedian(result.surprise)
    assert "at step 15" in result.summary()


def test_where_there_is_no_surprise_it_says_why(models, toy, tmp_path):
    network = dataclasses.replace(NETWORK, window_frames=2)
    settings = TrainSettings(TrainerConfig(iterations=2, validate_every=0), inverse_iterations=2)
    model = train(toy, "ebm", dataclasses.replace(EBM, network=network), settings, tmp_path / "run")
    result = rollout(ToyEnv(), model, 4, futures=2, horizon=2)
    assert np.isnan(result.surprise).all()
    assert "windows of 2 frames" in result.summary()
    result.plot(tmp_path / "r.png")


def test_a_file_from_before_surprise_still_loads(models, tmp_path):
    path = tmp_path / "r.h5"
    rollout(ToyEnv(), models["actions"], 4, futures=2, horizon=2).save(path)
    with h5py.File(path, "a") as file:
        del file["surprise"]
    again = Rollout.load(path)
    assert again.surprise.shape == (4,) and np.isnan(again.surprise).all()


class ShortPlans:
    """Plans of which a deadline cuts every other one short."""

    def __init__(self, model):
        self.model, self.context_frames, self.calls = model, model.context_frames, 0
        self.planner = SamplingPlanner(model, PlannerConfig(futures=4, horizon=4))

    def reset(self):
        self.planner.reset()

    def plan(self, *seen, ahead=0, deadline=None):
        plan = self.planner.plan(*seen, ahead=ahead)
        self.calls += 1
        if self.calls % 2:
            return plan
        return dataclasses.replace(plan, states=plan.states[:, :, :2], actions=plan.actions[:, :, :2])


def test_futures_cut_short_are_drawn(models, tmp_path, monkeypatch):
    result = rollout(ToyEnv(), ShortPlans(models["actions"]), 8, replan_every=4, horizon=4)
    assert np.isnan(result.futures[1, :, 2:]).all() and np.isfinite(result.futures[1, :, :2]).all()
    assert all(np.isfinite(value) for value in result.scores().values())
    result.plot(tmp_path / "r.png")
    drawn = []

    def renderer(env_id, env_kwargs, width, height):
        return lambda state, ghosts: (
            drawn.append(np.stack([state, *ghosts])) or np.zeros((64, 64, 3), np.uint8)
        )

    monkeypatch.setattr("ebm_traj.envs.render.state_renderer", renderer)
    result.video(tmp_path / "r.mp4")
    assert len(drawn) == len(result.states) and np.isfinite(drawn).all()
    assert (tmp_path / "r.mp4").stat().st_size > 0


# --- bad input ----------------------------------------------------------------------------------------


def box_env(observations: int, actions: spaces.Space) -> gymnasium.Env:
    env = ToyEnv()
    env.observation_space = spaces.Box(-1, 1, (observations,))
    env.action_space = actions
    return env


ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (box_env(5, ACTIONS), "observations of 5 numbers; the model reads 7"),
        (box_env(7, spaces.Box(-1, 1, (3,))), "3 actions; the model was trained on 2"),
        (box_env(7, spaces.Box(-2, 2, (2,))), "actions of -2 to 2; the model was trained on -1 to 1"),
        (box_env(7, spaces.Discrete(3)), "action space Discrete.*accepted is a Box"),
    ],
)
def test_an_environment_that_does_not_fit_is_named(models, env, message):
    with pytest.raises(InputError, match=message):
        rollout(env, models["states"])


def test_an_environment_whose_state_differs_names_the_dimension(models):
    env = ToyEnv()
    env.state_spec = ebm_traj.StateSpec.from_size(7)
    with pytest.raises(InputError, match=r"dimension 0 \('obs_0'\) has name 'obs_0' against 'x'"):
        rollout(env, models["states"])


def test_a_model_that_cannot_act_says_why(toy, tmp_path):
    settings = TrainSettings(trainer=TrainerConfig(iterations=2), inverse_iterations=0)
    model = train(toy, "fc", FCConfig(NETWORK), settings, tmp_path / "run")
    with pytest.raises(InputError, match="without inverse dynamics"):
        rollout(ToyEnv(), model)


@pytest.mark.parametrize(
    "settings", [{"futures": 0}, {"horizon": 0}, {"replan_every": 5, "horizon": 4}, {"steps": 0}]
)
def test_bad_settings_are_refused(models, settings):
    with pytest.raises(InputError, match="accepted are 1 and more"):
        rollout(ToyEnv(), models["states"], **settings)


def test_an_unknown_environment_and_a_wrong_energy_are_named(models):
    with pytest.raises(InputError, match="environment 'Nonsense-v9'"):
        rollout("Nonsense-v9", models["states"])
    with pytest.raises(InputError, match=r"energy 'flat': gave shape \(\); accepted is \(64,\)"):
        rollout(ToyEnv(), models["states"], energies={"flat": lambda futures: torch.zeros(())})
    with pytest.raises(InputError, match=r"energy 'energy': gave a ndarray; accepted is a torch\.Tensor"):
        rollout(ToyEnv(), models["states"], energies=lambda futures: np.zeros(len(futures)))
    with pytest.raises(InputError, match="energies: 'energy' is a list; accepted are a function"):
        rollout(ToyEnv(), models["states"], energies=[lambda futures: futures.sum((1, 2))])


def test_arguments_in_the_wrong_place_are_named(models):
    with pytest.raises(InputError, match="the environment comes first, then the model"):
        rollout(models["states"], ToyEnv())
    with pytest.raises(InputError, match="model is a NoneType; accepted are a model, its folder"):
        rollout(ToyEnv(), None)
    with pytest.raises(InputError, match="seed -1; accepted are 0 and more"):
        rollout(ToyEnv(), models["states"], seed=-1)
    with pytest.raises(InputError, match="model: None; accepted is a folder or the name"):
        ebm_traj.load(None)
    with pytest.raises(InputError, match="device cpux: not on this machine"):
        ebm_traj.load("hand-block", "cpux")


@pytest.mark.parametrize("env_id", ["Pusher-v5", "Reacher-v5", "ebm_traj/HandBlock-v0"])
def test_collect_train_roll_out(env_id, tmp_path):
    pytest.importorskip("mujoco")
    from ebm_traj.collect.run import CollectSettings, collect

    data = tmp_path / "data"
    settings = CollectSettings(env=env_id, episodes=6, steps=8, episodes_per_shard=6, test_fraction=0.2)
    collect(data, settings, workers=1, progress=False)
    short = TrainSettings(trainer=TrainerConfig(iterations=20), inverse_iterations=20)
    model = train(ebm_traj.Recording(data), "ebm", EBM, short, tmp_path / "run")
    result = ebm_traj.rollout(env_id, model, 3, futures=4, horizon=3)
    assert result.states.shape == (4, model.spec.size) and np.isfinite(result.futures).all()
    assert result.meta["env_id"] == env_id


# --- Rerun ---------------------------------------------------------------------------------------------


class Logged:
    """Stands for the rerun package: remembers what is logged, and when."""

    def __init__(self):
        self.entries, self.step = [], None

    def RecordingStream(self, name, recording_id):
        return self

    def __getattr__(self, archetype):
        return lambda *values, **style: (archetype, values)

    def save(self, path):
        Path(path).write_bytes(b"RRF2")

    def set_time(self, timeline, sequence):
        self.step = sequence

    def log(self, path, entry):
        self.entries.append((self.step, path, entry))

    def flush(self):
        pass

    disconnect = flush


def test_a_rerun_recording_has_every_state_action_and_plan_at_its_step(models, tmp_path, monkeypatch):
    logged = Logged()
    monkeypatch.setitem(sys.modules, "rerun", logged)
    result = rollout(ToyEnv(), models["states"], 6, futures=5, horizon=2)
    result.rerun(tmp_path / "r.rrd")
    assert (tmp_path / "r.rrd").read_bytes() == b"RRF2"
    name = result.spec.names[0]
    states = [entry[1][0] for _, path, entry in logged.entries if path == f"state/{name}"]
    assert states == pytest.approx(result.states[:, 0].tolist())
    actions = {step: entry[1][0] for step, path, entry in logged.entries if path == "action/1"}
    assert [actions[step] for step in range(6)] == pytest.approx(result.actions[:, 1].tolist())
    plans = [step for step, path, _ in logged.entries if path == "energy/chosen"]
    assert plans == result.planned_at.tolist()


def test_without_rerun_it_is_said_what_to_install(models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    result = rollout(ToyEnv(), models["states"], 3, futures=2, horizon=2)
    with pytest.raises(InputError, match=r"pip install .*rerun"):
        result.rerun(tmp_path / "r.rrd")
    assert not list(tmp_path.iterdir())


def test_a_real_rerun_file_is_written(models, tmp_path):
    pytest.importorskip("rerun")
    rollout(ToyEnv(), models["states"], 3, futures=2, horizon=2).rerun(tmp_path / "r.rrd")
    assert (tmp_path / "r.rrd").read_bytes()[:4] == b"RRF2"
