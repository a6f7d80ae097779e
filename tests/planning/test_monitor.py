"""The monitor against closed forms: calibrated on a model's own draws, and false alarms as stated."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from ebm_traj.errors import InputError
from ebm_traj.planning.monitor import Monitor, surprise
from ebm_traj.planning.surprise import (
    DENSITY,
    WHOLE,
    EnergyScore,
    ErrorScore,
    LikelihoodScore,
    VarianceScore,
    draw,
    read_step,
    state_mixture,
)
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.ebm import EBMConfig, TrajectoryEBM
from ebm_traj.trajectory.fc import FCConfig, FCModel
from ebm_traj.trajectory.flow import FlowConfig, FlowModel
from ebm_traj.trajectory.gaussian import GaussianConfig, GaussianModel
from ebm_traj.trajectory.mixture import MixtureConfig, MixtureModel
from ebm_traj.trajectory.network_config import NetworkConfig

STATE, ACTION, FRAMES = 4, 2, 3
SPEC = dataclasses.replace(
    StateSpec.from_size(STATE),
    kinds=("position", "position", "angle", "angle"),
    mean=np.zeros(STATE),
    std=np.ones(STATE),
    change_std=np.full(STATE, 0.5),
)
NET = NetworkConfig(context_frames=FRAMES, width=16, depth=1, architecture="mlp")
WHAT = (SPEC, -np.ones(ACTION), np.ones(ACTION))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make(cls, config, conditioning="actions"):
    return cls(config, *WHAT, conditioning).eval().requires_grad_(False)


def gaussian(members=1):
    return make(GaussianModel, GaussianConfig(NET, members=members))


def ebm(conditioning="actions", **settings):
    return make(TrajectoryEBM, EBMConfig(NET, components=2, correction_width=8, **settings), conditioning)


def mixture(conditioning="actions"):
    return make(MixtureModel, MixtureConfig(NET, components=3), conditioning)


def steps_of(model, rows, shift=(0.0,) * STATE):
    """Contexts, next frames drawn from the model and shifted by standard deviations, actions, past."""
    context = torch.randn(rows, FRAMES, STATE)
    action, past = torch.rand(rows, ACTION) * 2 - 1, torch.rand(rows, FRAMES - 1, ACTION) * 2 - 1
    step = read_step(model, context, context[:, -1], action, past)
    law = state_mixture(model, step.condition)
    x = draw(law, 1, None)[:, 0] + torch.tensor(shift) * law.log_scales[:, 0].exp()
    return context, context[:, -1] + x * 0.5, action, past


@pytest.mark.parametrize("model", [gaussian, ebm, mixture, lambda: ebm("joint"), lambda: mixture("joint")])
def test_scores_of_a_models_own_draws_have_mean_0_and_energies_standard_deviation_1(model):
    model = model()
    scores = EnergyScore(model, draws=64)(*steps_of(model, 2000))
    assert scores.shape == (2000, 1 + 2 + STATE + 1)
    assert scores[:, :-1].mean(0).abs().max() < 0.12  # the last is -log q as it is
    assert (scores[:, :3].std(0) - 1).abs().max() < 0.2


def test_a_shift_raises_the_scores_by_what_theory_says():
    model, shift = gaussian(), 3.0
    score = EnergyScore(model, draws=200)
    found = score(*steps_of(model, 4000, (0.0, shift, 0.0, 0.0))).mean(0)
    names = list(score.names)
    assert names == [WHOLE, "position", "angle", "obs_0", "obs_1", "obs_2", "obs_3", DENSITY]
    # -log p of n dimensions is |w|^2 / 2 + c: mean n / 2, standard deviation sqrt(n / 2)
    expected = {WHOLE: shift**2 / 2 / math.sqrt(2), "position": shift**2 / 2, "obs_1": shift**2}
    for name in names[:-1]:
        assert found[names.index(name)] == pytest.approx(expected.get(name, 0.0), rel=0.08, abs=0.12), name


def test_a_dimension_named_like_a_kind_is_told_from_it():
    names = ("all", "position", "angle", "d")
    spec = dataclasses.replace(SPEC, names=names)
    model = (
        GaussianModel(GaussianConfig(NET, members=1), spec, *WHAT[1:], "actions").eval().requires_grad_(False)
    )
    score, shift = EnergyScore(model, draws=200), 3.0
    singles = ("dimension all", "dimension position", "dimension angle", "d")
    assert score.names == (WHOLE, "position", "angle", *singles, DENSITY)
    assert singles[:2] in score.families and singles[2:] in score.families
    found = score(*steps_of(model, 4000, (0.0, shift, 0.0, 0.0))).mean(0)
    assert found[1] > 2 and found[2].abs() < 0.12  # the group of positions; the group of angles
    assert found[3].abs() < 0.12 and found[4] == pytest.approx(shift**2, rel=0.08)


def test_a_joint_models_surprise_is_of_the_state_not_of_the_action():
    model = ebm("joint")
    context, following, action, past = steps_of(model, 1000)
    for other in (action, torch.full_like(action, 0.999)):  # one that the model would hardly draw
        step = read_step(model, context, following, other, past)
        x = draw(state_mixture(model, step.condition), 1, None)[:, 0]
        scores = EnergyScore(model, draws=64)(context, context[:, -1] + x * 0.5, other, past)
        assert scores[:, 0].mean().abs() < 0.12


def test_the_mixture_under_an_action_is_the_joint_one_divided_by_that_of_the_action():
    model = mixture("joint")
    context, following, action, past = steps_of(model, 50)
    other = following + 0.3 * torch.randn_like(following)
    score = LikelihoodScore(model)
    difference = (score(context, following, action, past) - score(context, other, action, past))[:, 0]
    joint = [
        model.energy(torch.cat([context, frame[:, None]], 1), action[:, None], past)
        for frame in (following, other)
    ]
    torch.testing.assert_close(difference, joint[0] - joint[1], rtol=1e-3, atol=1e-3)


def test_an_energy_alone_has_no_parts_and_is_calibrated():
    model = make(TrajectoryEBM, EBMConfig(NET, residual=False, proposal="noise", start_noise=1.0), "actions")
    score = EnergyScore(model, draws=32)
    assert score.names == (WHOLE,)
    context, _, action, past = steps_of(mixture(), 500)
    condition = model.condition(context, action[:, None], past)
    x = model._sample_window(condition, None)
    found = score(context, model.decode(context, x)[0][:, 0], action, past)
    assert found.mean().abs() < 0.15 and found.std() == pytest.approx(1, abs=0.25)


def test_errors_are_in_units_of_the_fault_free_ones_and_variances_are_closed_form():
    model = gaussian(members=2)
    steps = steps_of(model, 500)
    score = ErrorScore(model)
    score.fit(score.errors(*steps))
    scores = score(*steps)
    torch.testing.assert_close(scores.square().mean(0), torch.ones(scores.shape[1]))
    law = state_mixture(model, read_step(model, *steps).condition)
    variance = (2 * law.log_scales).exp().mean(1) + (law.means[:, 0] - law.means[:, 1]).square() / 4
    torch.testing.assert_close(VarianceScore(model)(*steps)[:, 0], variance.mean(1).log())


class Plain:
    """A score that reads off the next frame: what the episodes hold is what accumulates."""

    names = ("all", "second")
    families = (("all",), ("second",))

    def __call__(self, context, next_frame, action, past_actions):
        return next_frame[:, :2]


def episodes(count, steps=60, shift=0.0, at=0, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(count, steps + 1, STATE))
    states[:, at + 1 :, 1] += shift
    return states, rng.uniform(-1, 1, (count, steps, ACTION))


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_new_fault_free_episodes_raise_alarms_at_the_stated_rate(rate):
    monitor = Monitor(gaussian(), Plain()).calibrate(*episodes(600, seed=1), false_alarm_rate=rate)
    levels = monitor.levels(*episodes(1500, seed=2))
    share = (levels.max(1) > monitor.calibration.threshold).mean()
    error = 3 * math.sqrt(rate * (1 - rate) * (1 / 300 + 1 / 1500))  # of threshold and of test
    assert abs(share - rate) < error


def test_a_lasting_shift_accumulates_by_its_excess_over_the_drift():
    monitor = Monitor(gaussian(), Plain(), usual=0.9).calibrate(*episodes(400, seed=1))
    known = monitor.calibration
    assert known.drift == pytest.approx(1.2816, abs=0.05)  # the normal's 90 % quantile
    levels = monitor.levels(*episodes(300, shift=4.0, at=20, seed=3))
    growth = (levels[:, 50] - levels[:, 30]).mean() / 20
    alone = (4.0 - known.drift[1]) / known.reach[1] / known.family_reach[1]
    assert growth == pytest.approx(alone / 2, rel=0.05)  # the other of two families adds nothing
    delay = (levels > known.threshold)[:, 20:].argmax(1)
    assert np.median(delay) < 10


class Many:
    """One score of its own and many of a kind."""

    names = ("all", *map(str, range(STATE - 1)))
    families = (("all",), names[1:])

    def __call__(self, context, next_frame, action, past_actions):
        return next_frame


class ManyAlone(Many):
    families = tuple((name,) for name in Many.names)


def test_a_family_has_one_voice_however_many_its_members():
    found = {}
    for score in (Many, ManyAlone):
        monitor = Monitor(gaussian(), score(), usual=0.9).calibrate(*episodes(400, seed=1))
        states, actions = episodes(300, seed=3)
        usual = (
            monitor._largest(monitor._sums(monitor.scores(states, actions)))
            / monitor.calibration.family_reach
        )
        assert usual.max(1).mean(0) == pytest.approx(np.ones(len(score.families)), abs=0.15)
        states[:, 41:, 0] += 1.0
        found[score] = (monitor.levels(states, actions) > monitor.calibration.threshold).any(1).mean()
    assert found[Many] > found[ManyAlone] + 0.05


def test_the_last_of_an_energys_scores_is_minus_log_q_as_it_is():
    model = gaussian()
    score, steps = EnergyScore(model, draws=16), steps_of(model, 200)
    assert score.names[-1] == DENSITY and (DENSITY,) in score.families
    torch.testing.assert_close(score(*steps)[:, -1], LikelihoodScore(model)(*steps)[:, 0])


def with_a_nan(states, actions):
    states[7, 3, 1] = np.nan
    return states, actions


def test_steps_one_by_one_give_what_whole_episodes_give():
    model = gaussian()
    states, actions = episodes(60, steps=12)
    states = np.cumsum(states * 0.3, axis=1)
    monitor = Monitor(model, ErrorScore(model)).calibrate(states, actions, 0.3)
    expected, levels = (
        monitor.surprise(states[:1], actions[:1])[0],
        monitor.levels(states[:1], actions[:1])[0],
    )
    assert np.isnan(expected[: FRAMES - 1]).all()
    for t in range(FRAMES - 1, 12):
        found = monitor.update(states[0, t + 1 - FRAMES : t + 1], states[0, t + 1], actions[0, t])
        assert found == pytest.approx(expected[t], rel=1e-4)
        assert monitor.level == pytest.approx(levels[t], rel=1e-4, abs=1e-6)
    assert not monitor.alarm
    context = states[:1, 1 : FRAMES + 1]  # batches of one are accepted, too
    for _ in range(40):
        monitor.update(torch.tensor(context), torch.full((1, STATE), 40.0), torch.zeros(1, ACTION))
    assert monitor.alarm
    monitor.reset()
    assert monitor.level == 0 and not monitor.alarm


@pytest.mark.parametrize("make_model", [gaussian, lambda: ebm("joint")])
@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e30])
def test_an_observation_that_is_no_number_raises_the_alarm(make_model, broken):
    model = make_model()
    states, actions = episodes(60, steps=12)
    score = EnergyScore(model) if isinstance(model, TrajectoryEBM) else ErrorScore(model)
    monitor = Monitor(model, score).calibrate(states, actions, 0.3)
    states = states[:2].copy()
    states[1, 6:] = broken
    expected = monitor.surprise(states, actions[:2])[1]
    assert np.isposinf(expected[5:]).all() and np.isfinite(expected[FRAMES - 1 : 5]).all()
    level = 0.0
    for t in range(5, 12):
        past = actions[1, max(0, t - FRAMES + 1) : t]
        assert math.isinf(
            monitor.update(states[1, t + 1 - FRAMES : t + 1], states[1, t + 1], actions[1, t], past)
        )
        assert level < monitor.level < math.inf
        level = monitor.level
    assert monitor.alarm and np.isfinite(monitor.levels(states, actions[:2])).all()


def test_scores_are_only_of_the_steps_asked_for():
    model = gaussian()
    states, actions = episodes(3, steps=10)
    scores = Monitor(model, ErrorScore(model)).scores(states, actions, [0, 4, 8], [10, 6, 9])
    known = np.isfinite(scores[..., 0])
    for n, steps in enumerate((range(FRAMES - 1, 10), range(4, 6), range(8, 9))):
        assert np.flatnonzero(known[n]).tolist() == list(steps)


def test_every_kind_of_model_has_a_surprise():
    states, actions = episodes(2, steps=6)
    models = [gaussian(), ebm(), mixture(), mixture("joint"), ebm("states"), make(FCModel, FCConfig(NET))]
    for model in [*models, make(FlowModel, FlowConfig(NET))]:
        found = surprise(model, states, actions)
        assert found.shape == (2, 6) and np.isfinite(found[:, FRAMES - 1 :]).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EnergyScore(make(FCModel, FCConfig(NET))), "kind 'fc' has no density"),
        (lambda: EnergyScore(ebm("joint", training="denoising")), "one of state and action together"),
        (lambda: EnergyScore(gaussian(), draws=1), "draws: 1; accepted are 2 and more"),
        (lambda: VarianceScore(ebm()), "no ensemble; accepted is gaussian"),
        (lambda: LikelihoodScore(make(FCModel, FCConfig(NET))), "no mixture"),
        (lambda: Monitor(gaussian(), usual=1.0), "usual share of steps: 1.0"),
        (
            lambda: Monitor(gaussian()).calibrate(*episodes(30)),
            "30 episodes; a false alarm rate of 0.05 needs 37",
        ),
        (lambda: Monitor(gaussian()).calibrate(*episodes(30), 1.0), "accepted are numbers between 0 and 1"),
        (
            lambda: Monitor(gaussian()).calibrate(*episodes(40, steps=2)),
            "episodes of 2 steps; needed are 3",
        ),
        (
            lambda: Monitor(gaussian()).calibrate(*with_a_nan(*episodes(40))),
            "episode 7 holds NaN or infinite values",
        ),
        (lambda: surprise(gaussian(), np.zeros((2, 5, STATE)), np.zeros((2, 5, ACTION))), "states (2, 5, 4)"),
        (lambda: Monitor(gaussian()).update(np.zeros((FRAMES, STATE)), np.zeros(STATE)), "no action"),
        (
            lambda: Monitor(gaussian()).update(np.zeros((2, FRAMES, STATE)), np.zeros(STATE)),
            "accepted is one step",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(call, words):
    with pytest.raises(InputError) as raised:
        call()
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_calibration_comes_back_from_its_file_for_the_same_model_and_score_alone(tmp_path):
    states, actions = episodes(30, seed=1)
    path = tmp_path / "calibration.json"
    for score in (EnergyScore, ErrorScore):
        model = gaussian()
        monitor = Monitor(model, score(model)).calibrate(states, actions, 0.3)
        monitor.save(path)
        again = Monitor.load(path, model, score(model))
        assert again.calibration.threshold == monitor.calibration.threshold
        ours, theirs = (
            Monitor.load(path, model, score(model)).levels(states[:3], actions[:3]) for _ in range(2)
        )
        assert np.array_equal(ours, theirs, equal_nan=True)
    with pytest.raises(InputError, match="its score are ErrorScore; this monitor has EnergyScore"):
        Monitor.load(path, model, EnergyScore(model))
    with pytest.raises(InputError, match="its draws are 16; this monitor has 8"):
        Monitor.load(path, model, ErrorScore(model, draws=8))
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(InputError, match="its weights are"):
        Monitor.load(path, model, ErrorScore(model))
    with pytest.raises(InputError, match="not calibrated"):
        Monitor(model).save(tmp_path / "none.json")
    saved = json.loads(path.read_text())
    del saved["family_reach"]
    with torch.no_grad():
        next(model.parameters()).sub_(1)
    path.write_text(json.dumps(saved))
    with pytest.raises(InputError, match="of an earlier version; calibrate anew"):
        Monitor.load(path, model, ErrorScore(model))
    path.write_text("{}")
    with pytest.raises(InputError, match="not a calibration"):
        Monitor.load(path, model)
