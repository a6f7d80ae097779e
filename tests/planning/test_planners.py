"""Planners on a point that moves as it is told: s' = s + 0.1 a + noise, goal where a user wants it."""

import math
import time

import numpy as np
import pytest
import torch

from ebm_traj.errors import InputError
from ebm_traj.planning.cem import CEMConfig, CEMPlanner
from ebm_traj.planning.descent import DescentConfig
from ebm_traj.planning.policy import PlanningPolicy
from ebm_traj.planning.sampling import PlannerConfig, SamplingPlanner, survival, systematic
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.model import TrajectoryModel

SPEED, NOISE = 0.1, 0.01


class Point(TrajectoryModel):
    """A joint model whose own actions are uniform, in two dimensions."""

    kind, conditioning = "point", "joint"
    context_frames, window_frames, action_history, has_energy = 2, 1, 0, False
    slow = 0.0

    device = torch.device("cpu")

    def __init__(self, conditioning="joint", device="cpu"):
        torch.nn.Module.__init__(self)
        self.conditioning, self.device = conditioning, torch.device(device)
        self.action_centre, self.action_half = (make(2, device=device) for make in (torch.zeros, torch.ones))
        self.calls = 0

    follows_actions = has_mean = True

    def sample(self, context, horizon, num_samples, *, actions=None, past_actions=None, generator=None):
        self.calls += 1
        time.sleep(self.slow)
        actions = actions.expand(-1, num_samples, -1, -1)
        noise = NOISE * torch.empty_like(actions).normal_(generator=generator)
        return context[:, -1, None, None] + (SPEED * actions + noise).cumsum(2)

    def predict(self, context, actions, *, past_actions=None):
        self.calls += 1
        return context[:, -1, None, None] + (SPEED * actions).cumsum(2)

    def sample_with_actions(self, context, horizon, num_samples, *, past_actions=None, generator=None):
        actions = context.new_empty(len(context), num_samples, horizon, 2)
        actions.uniform_(-1, 1, generator=generator)
        return self.sample(context, horizon, num_samples, actions=actions, generator=generator), actions


def to(x, y):
    target = torch.tensor([x, y])
    return lambda states: (states - target.to(states)).norm(dim=-1).mean(-1)


def present(batch=3):
    return torch.zeros(batch, 2, 2), torch.zeros(batch, 1, 2)


def plan_with(planner, batch=3, seed=0, **kwargs):
    return planner.plan(*present(batch), torch.Generator().manual_seed(seed), **kwargs)


def chosen_energy(planner, **kwargs):
    plan = plan_with(planner, **kwargs)
    return float(plan.energies[torch.arange(len(plan.chosen)), plan.chosen].mean())


def test_systematic_resampling_keeps_shares():
    weights = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]])
    kept = systematic(weights, torch.Generator().manual_seed(0))
    assert kept[0].bincount(minlength=4).tolist() == [2, 1, 1, 0] and kept[1].tolist() == [3, 3, 3, 3]


def test_resampling_comes_nearer_than_shooting_and_rounds_nearer_still():
    def of(method, rounds=1):
        config = PlannerConfig(futures=64, horizon=12, method=method, rounds=rounds, settle=0.0)
        return chosen_energy(SamplingPlanner(Point(), config, to(1.0, 0.0)), batch=8)

    shooting, resampling, rounds = of("shooting"), of("resampling"), of("resampling", rounds=4)
    assert shooting > resampling + 0.02 and resampling > rounds + 0.02
    best = np.mean([1.0 - SPEED * t for t in range(1, 13) if SPEED * t <= 1] + [0, 0])
    assert rounds < 1.35 * best


def test_the_last_plan_is_taken_up_again():
    planner = SamplingPlanner(Point(), PlannerConfig(futures=64, horizon=8, rounds=1), to(1.0, 0.0))
    first = chosen_energy(planner)
    later = [chosen_energy(planner, seed=seed, ahead=0) for seed in range(1, 8)]
    assert later[-1] < first - 0.02  # the same present, planned again and again
    planner.reset()
    assert chosen_energy(planner) == pytest.approx(first)


def test_cem_finds_the_straight_way_and_needs_wishes():
    plan = plan_with(CEMPlanner(Point("actions"), CEMConfig(rounds=8, horizon=6), to(1.0, 0.0)))
    actions = plan.chosen_actions()
    assert float(actions[..., 0].mean()) > 0.8 and float(actions[..., 1].abs().mean()) < 0.35
    with pytest.raises(InputError, match="needs energies"):
        CEMPlanner(Point("actions"))
    with pytest.raises(InputError, match="without actions"):
        CEMPlanner(Point("states"), energies=to(0, 0))


def test_what_must_not_be_dies_out():
    inf = torch.inf
    weights = survival(torch.tensor([[1.0, 2.0, inf, 3.0], [inf, inf, inf, inf]]), 0.3)
    assert torch.allclose(weights.sum(1), torch.ones(2)) and weights[0, 2] == 0
    assert weights[0, 0] > weights[0, 1] > weights[0, 3] > 0 and torch.equal(
        weights[1], torch.full((4,), 0.25)
    )

    def forbidden(states):
        return torch.where(states[:, -1, 0] > 0.1, inf, 0.0)

    config = PlannerConfig(futures=32, horizon=4, rounds=3, settle=0.0)
    plan = plan_with(SamplingPlanner(Point(), config, {"way": to(0.0, 1.0), "never": forbidden}))
    assert float(plan.chosen_states()[:, -1, 0].max()) <= 0.1
    with pytest.raises(InputError, match="energy 'bad': gave NaN"):
        plan_with(SamplingPlanner(Point(), config, {"bad": lambda s: s[:, 0, 0] * torch.nan}))
    with pytest.raises(InputError, match="energy 'bad': gave -infinity"):
        plan_with(SamplingPlanner(Point(), config, {"bad": lambda s: s[:, 0, 0] - inf}))


@pytest.mark.parametrize("offset", [0.0, -1000.0])
def test_only_what_was_checked_is_acted_on(offset):
    config = PlannerConfig(futures=8, horizon=4, rounds=1, elites=2, checks=4, method="shooting")
    wish = to(0.0, 1.0)
    plans = [
        plan_with(SamplingPlanner(Point(), config, lambda s, shift=shift: wish(s) + shift))
        for shift in (0.0, offset)
    ]
    assert torch.equal(plans[0].chosen, plans[1].chosen)
    ranks = wish(plans[1].states.flatten(0, 1)).view(3, 8).argsort(1).argsort(1)
    assert bool((ranks.gather(1, plans[1].chosen[:, None]) < 2).all())
    # where all must not be, none is better than another, and nothing is unknown
    never = SamplingPlanner(Point(), config, lambda s: torch.full((len(s),), torch.inf))
    assert plan_with(never).energies.isposinf().all()


def test_an_action_conditional_model_is_planned_with_too():
    config = PlannerConfig(futures=64, horizon=8, rounds=5, settle=0.0)
    planner = SamplingPlanner(Point("actions"), config, to(0.0, 1.0))
    assert float(plan_with(planner).chosen_states()[:, -1, 1].mean()) > 0.4


def test_a_deadline_cuts_the_plan_short_but_gives_one():
    model = Point()
    model.slow = 0.02
    planner = SamplingPlanner(model, PlannerConfig(futures=8, horizon=40), to(1.0, 0.0))
    began = time.perf_counter()
    plan = plan_with(planner, deadline=began + 0.05)
    assert time.perf_counter() - began < 0.5
    assert 1 <= plan.horizon < 40 and plan.states.shape[2] == plan.actions.shape[2]
    assert not plan.settled


def test_no_round_is_begun_that_would_end_after_the_deadline(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Ticking(Point):
        def predict(self, *args, **kwargs):
            now[0] += 0.1  # a round of improvement
            return super().predict(*args, **kwargs)

    planner = SamplingPlanner(
        Ticking(), PlannerConfig(futures=8, horizon=4, rounds=6, settle=0.0), to(1.0, 0.0)
    )
    plan = plan_with(planner, deadline=0.25)
    assert now[0] == pytest.approx(0.2) and (plan.rounds, plan.settled) == (3, False)


def test_plans_are_not_checked_after_the_deadline():
    calls = []
    for checks in (1, 8):
        model = Point()
        plan_with(
            SamplingPlanner(model, PlannerConfig(futures=8, horizon=4, checks=checks), to(1.0, 0.0)),
            deadline=0,
        )
        calls.append(model.calls)
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
        ),
    ],
)
def test_the_policy_reaches_the_goal_in_many_environments_at_once(device):
    names = ("x", "y")
    spec = StateSpec(names=names, kinds=("position", "position"), indices=(0, 1), observation_size=2)
    planner = SamplingPlanner(Point(device=device), PlannerConfig(futures=32, horizon=6), to(0.5, 0.0))
    policy = PlanningPolicy(planner, spec, np.zeros(2), replan_every=2)
    policy.reset([1, 2, 3, 4])
    states, actions = np.zeros((4, 2), np.float32), np.full((4, 2), np.nan, np.float32)
    for _ in range(14):
        actions = policy.act(states, actions)
        assert actions.shape == (4, 2) and np.abs(actions).max() <= 1
        states = states + SPEED * actions
    assert np.linalg.norm(states - [0.5, 0.0], axis=1).max() < 0.2
    with pytest.raises(InputError, match="replan_every: 7; plans have 6 steps"):
        PlanningPolicy(planner, spec, np.zeros(2), replan_every=7)


def test_cems_plans_keep_their_horizon_however_much_was_acted_on():
    planner = CEMPlanner(Point(), CEMConfig(futures=8, horizon=3, rounds=1), to(1.0, 0.0))
    for ahead in (0, 2, 5, 3):
        assert plan_with(planner, ahead=ahead).states.shape == (3, 8, 3, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"futures": 0}, "futures: 0"),
        ({"method": "magic"}, "accepted are shooting"),
        ({"temperature": 0.0}, "temperature"),
        ({"noise": math.inf}, "noise: inf"),
        ({"warm_share": 1.0}, "warm share"),
        ({"resample_every": -1}, "resample every: -1; accepted are 0 and more"),
        ({"langevin_steps": -2}, "langevin steps: -2; accepted are 0 and more"),
    ],
)
def test_settings_that_make_no_sense_say_so(settings, message):
    with pytest.raises(InputError, match=message):
        PlannerConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": math.inf}, "noise inf"),
        ({"smallest_noise": math.nan}, "smallest noise nan"),
        ({"smallest_noise": -1.0}, "smallest noise -1"),
        ({"momentum": 1.0}, "momentum 1"),
        ({"prior_share": 1.5}, "prior share 1.5"),
        ({"elites": 9, "futures": 8}, "elites: 9"),
    ],
)
def test_settings_of_cem_that_make_no_sense_say_so(settings, message):
    with pytest.raises(InputError, match=message):
        CEMConfig(**settings)


def test_langevin_needs_an_energy_and_a_wish_gives_one_number_a_future():
    with pytest.raises(InputError, match="has no energy"):
        SamplingPlanner(Point(), PlannerConfig(method="langevin"))
    planner = SamplingPlanner(Point(), PlannerConfig(futures=4, horizon=3), {"bad": lambda s: s.mean()})
    with pytest.raises(InputError, match="energy 'bad': gave shape"):
        plan_with(planner)
    wide = Slow()
    wide.window_frames = 3
    with pytest.raises(InputError, match="horizon of 2 steps; the model's energy is of windows of 3"):
        SamplingPlanner(wide, PlannerConfig(method="langevin", horizon=2))
    with pytest.raises(InputError, match="horizon of 2 steps; the energy is of windows of 3"):
        CEMPlanner(wide, CEMConfig(energy_weight=1.0, horizon=2), to(1.0, 0.0))


def test_cem_begins_with_what_a_prior_would_do():
    class Still(Point):
        def sample_with_actions(self, context, horizon, num_samples, *, past_actions=None, generator=None):
            actions = torch.full((len(context), num_samples, horizon, 2), 0.9)
            return self.predict(context, actions), actions

    def fits(spec, other):
        return None

    config = CEMConfig(rounds=1, futures=8, horizon=5, noise=0.01, prior_share=0.25)
    model, prior = Point("actions"), Still()
    model.spec = prior.spec = type("Spec", (), {"difference": fits})()
    plan = plan_with(CEMPlanner(model, config, to(1.0, 1.0), prior))
    assert torch.allclose(plan.chosen_actions(), torch.full((3, 5, 2), 0.9))
    with pytest.raises(InputError, match="conditioning is 'actions'"):
        CEMPlanner(model, config, to(1.0, 1.0), model)


class Slow(Point):
    """Its energy is |a|^2: data in which nobody hurries."""

    has_energy = True

    def path_energy(self, context, futures, actions=None, past_actions=None):
        assert futures.shape[:3] == actions.shape[:3] and context.shape[1] == self.context_frames
        return actions.square().sum(-1).mean(-1)


@pytest.mark.parametrize("particles", [0, 3])
def test_cem_weighs_the_priors_energy_against_the_wish(particles):
    hurry = lambda states: -states[..., 0].mean(-1)  # noqa: E731
    found = []
    for weight in (0.0, 1.0):
        config = CEMConfig(
            rounds=10, horizon=4, particles=particles, energy_weight=weight, smallest_noise=0.01
        )
        found.append(plan_with(CEMPlanner(Slow(), config, hurry)).chosen_actions())
    assert found[0][..., 0].mean() > 0.8
    # the best a (t) of a wish -.1 mean_t sum_{s <= t} a_x (s) and an energy mean a^2 is .05 (H - t)
    best = SPEED / 2 * torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert found[1][..., 0].mean(0).sub(best).abs().max() < 0.1
    assert found[1][..., 1].abs().mean() < 0.1
    with pytest.raises(InputError, match="needs a joint model with an energy"):
        CEMPlanner(Point(), CEMConfig(energy_weight=1.0), hurry)
    with pytest.raises(InputError, match="energy weight: -1"):
        CEMConfig(energy_weight=-1.0)


class Torn(Slow):
    """Nothing is known of its energy where a goes to the right at first."""

    def path_energy(self, context, futures, actions=None, past_actions=None):
        known = super().path_energy(context, futures, actions, past_actions)
        return torch.where(actions[..., 0, 0] > 0, torch.nan, known)


def test_plans_of_unknown_energy_are_chosen_last():
    config = CEMConfig(rounds=2, futures=16, horizon=4, energy_weight=0.1)
    for planner in (
        CEMPlanner(Torn(), config, to(-1.0, 0.0)),
        SamplingPlanner(Torn(), PlannerConfig(futures=16, horizon=4, method="shooting")),
    ):
        plan = plan_with(planner, batch=8)
        assert plan.energies[torch.arange(8), plan.chosen].isfinite().all()
        assert (plan.chosen_actions()[:, 0, 0] <= 0).all()


@pytest.mark.parametrize("average", [False, True])
def test_cem_descends_from_what_it_sampled(average):
    """To the closed form of the test above, which eight samples come nowhere near."""
    hurry = lambda states: -states[..., 0].mean(-1)  # noqa: E731
    best = torch.zeros(4, 2)
    best[:, 0] = SPEED / 2 * torch.tensor([4.0, 3.0, 2.0, 1.0])
    off = []
    for steps in (0, 200):
        config = CEMConfig(
            futures=8, rounds=1, elites=2, horizon=4, prior_share=0.0, average=average,
            descent=DescentConfig(steps, rate=0.02, energy_weight=1.0),
        )  # fmt: skip
        plan = plan_with(CEMPlanner(Slow(), config, hurry))
        assert torch.allclose(plan.chosen_states(), Point().predict(*with_actions(plan))[:, 0], atol=1e-6)
        off.append(float((plan.chosen_actions() - best).abs().max()))
    assert off[1] < 0.02 < 0.2 < off[0]
    with pytest.raises(InputError, match="needs a joint model with an energy"):
        CEMPlanner(Point(), config, hurry)


def test_cem_refuses_models_it_could_not_plan_with():
    deaf, vague = Point(), Point("actions")
    deaf.follows_actions = vague.has_mean = False
    with pytest.raises(InputError, match="a joint point model draws its own actions"):
        CEMPlanner(deaf, CEMConfig(), to(1.0, 0.0))
    downhill = CEMConfig(descent=DescentConfig(3, energy_weight=0.0))
    with pytest.raises(InputError, match="CEM descent: 3 steps; a point model of conditioning 'actions'"):
        CEMPlanner(vague, downhill, to(1.0, 0.0))
    CEMPlanner(vague, CEMConfig(), to(1.0, 0.0))


def test_cem_does_not_descend_after_the_deadline():
    def choose(steps, deadline=None):
        config = CEMConfig(
            rounds=2, horizon=4, prior_share=0.0, descent=DescentConfig(steps, energy_weight=0.0)
        )
        planner = CEMPlanner(Point("actions"), config, to(1.0, 0.0))
        return plan_with(planner, deadline=deadline).chosen_actions()

    assert torch.equal(choose(5, deadline=0.0), choose(0, deadline=0.0))
    assert not torch.equal(choose(5), choose(0))


def with_actions(plan):
    """The present, and what was chosen in it."""
    actions = plan.chosen_actions()
    return present(len(actions))[0], actions[:, None]
