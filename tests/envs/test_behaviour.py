import numpy as np
import pytest

from ebm_traj.envs.behaviour import (
    NoiseSettings,
    Policy,
    RandomPolicy,
    RandomSettings,
    make_policy,
    policy_class,
    policy_record,
)
from ebm_traj.envs.exploration import BLOCK, ExploringPolicy
from ebm_traj.errors import InputError

LOW, HIGH = np.full(3, -1.0), np.full(3, 1.0)


def exploring(noise: NoiseSettings, **settings: float) -> Policy:
    return ExploringPolicy(RandomPolicy(LOW, HIGH, RandomSettings(**settings)), noise, LOW, HIGH)


def run(policy: Policy, seeds: list[int], steps: int) -> np.ndarray:
    """Actions (N, T, A) when every action is applied as it is."""
    policy.reset(seeds)
    previous = np.full((len(seeds), 3), np.nan, np.float32)
    taken = []
    for _ in range(steps):
        previous = policy.act(None, previous)
        taken.append(previous)
    return np.stack(taken, axis=1)


@pytest.mark.parametrize("noise", [NoiseSettings(every=4), NoiseSettings(probability=0.25)])
def test_a_row_does_not_depend_on_its_batch(noise: NoiseSettings):
    policy = exploring(noise)
    together = run(policy, [5, 6, 7], BLOCK + 10)
    np.testing.assert_array_equal(run(policy, [6], BLOCK + 10)[0], together[1])
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize("noise", [NoiseSettings(every=4), NoiseSettings(probability=0.25)])
@pytest.mark.parametrize("begin", [0, 5, BLOCK - 1, BLOCK])
def test_begun_in_mid_episode_it_repeats_what_it_did(noise: NoiseSettings, begin: int):
    policy = exploring(noise)
    whole = run(policy, [8, 9], BLOCK + 6)
    policy.reset([9, 8], steps=begin)
    previous = whole[::-1, begin - 1] if begin else np.full((2, 3), np.nan, np.float32)
    for step in range(begin, BLOCK + 6):
        previous = policy.act(None, previous)
        np.testing.assert_array_equal(previous, whole[::-1, step])


def test_rows_may_be_at_different_steps():
    policy = exploring(NoiseSettings(probability=0.5))
    whole = run(policy, [1, 2], BLOCK + 4)
    starts = np.array([BLOCK - 2, 3])
    policy.reset([1, 2], steps=starts)
    previous = np.stack([whole[0, starts[0] - 1], whole[1, starts[1] - 1]])
    for i in range(5):
        previous = policy.act(None, previous)
        np.testing.assert_array_equal(previous[0], whole[0, starts[0] + i])
        np.testing.assert_array_equal(previous[1], whole[1, starts[1] + i])


def test_a_reset_begins_anew():
    policy = RandomPolicy(LOW, HIGH)
    np.testing.assert_array_equal(run(policy, [1, 2], 7), run(policy, [1, 2], 7))


def test_every_kth_action_is_unforeseen_and_the_others_smooth():
    actions = run(exploring(NoiseSettings(every=4), spread=0.1), list(range(400)), 12)
    jumps = np.abs(np.diff(actions, axis=1)).mean((0, 2))
    assert np.all(jumps[[2, 6, 10]] > 0.4)  # into steps 3, 7 and 11
    assert np.all(np.delete(jumps, [2, 6, 10]) < 0.15)
    surprised = actions[:, 3::4].ravel()
    assert surprised.mean() == pytest.approx(0, abs=0.05)
    assert surprised.std() == pytest.approx(1 / np.sqrt(3), rel=0.03)  # uniform on [-1, 1]


def test_noise_with_a_probability_comes_at_any_step():
    actions = run(exploring(NoiseSettings(probability=0.25), spread=0.01), list(range(400)), 12)
    surprised = (np.abs(np.diff(actions, axis=1)) > 0.1).any(axis=2)
    # A step jumps if its action is unforeseen; after one, the process wanders back with jumps below 0.1.
    assert surprised[:, 5].mean() == pytest.approx(0.25, abs=0.08)
    assert surprised.mean(0).min() > 0.15 and surprised.mean(0).max() < 0.35


def test_without_noise_it_is_the_stated_process():
    settings = RandomSettings(correlation=0.8, spread=0.2)
    actions = run(RandomPolicy(LOW, HIGH, settings), list(range(200)), 60).astype(np.float64)
    assert actions.std() == pytest.approx(0.2, rel=0.03)
    assert actions[:, 0].std() == pytest.approx(0.2, rel=0.1)  # from the long-run distribution at once
    lagged = np.corrcoef(actions[:, :-1].ravel(), actions[:, 1:].ravel())[0, 1]
    assert lagged == pytest.approx(0.8, abs=0.02)


def test_it_goes_on_from_the_action_applied_not_from_its_own():
    policy = RandomPolicy(LOW, HIGH, RandomSettings(correlation=0.9, spread=0.01))
    policy.reset([0])
    policy.act(None, np.full((1, 3), np.nan))
    action = policy.act(None, np.array([[0.5, -0.5, 0.0]]))
    np.testing.assert_allclose(action[0], [0.45, -0.45, 0.0], atol=0.03)


def test_the_phase_of_the_counter_goes_on_from_the_steps_given():
    policy = exploring(NoiseSettings(every=4), spread=0.001)
    policy.reset([0, 1], steps=[3, 0])
    first = policy.act(None, np.zeros((2, 3)))
    assert np.abs(first[0]).max() > 0.05 and np.abs(first[1]).max() < 0.01


def test_other_boxes_are_scaled_and_never_left():
    low, high = np.array([-2.0, 0.1, 5.0]), np.array([2.0, 0.3, 5.0])
    actions = run(RandomPolicy(low, high, RandomSettings(spread=2.0)), list(range(50)), 40)
    assert actions.dtype == np.float32
    assert np.all(actions >= low.astype(np.float32)) and np.all(actions <= high.astype(np.float32))
    np.testing.assert_allclose(actions.mean((0, 1)), [0, 0.2, 5], atol=0.1)
    np.testing.assert_allclose(actions.max((0, 1)), high, rtol=1e-3)


def test_a_policy_is_rebuilt_from_its_record():
    settings, noise = RandomSettings(spread=0.3), NoiseSettings(probability=0.5)
    record = policy_record("random", settings, noise)
    assert record["goal_conditioned"] is False and record["markov"] is True
    policy = make_policy(record, LOW, HIGH, "any", {})
    assert isinstance(policy, ExploringPolicy) and policy.noise == noise
    assert isinstance(policy.policy, RandomPolicy) and policy.policy.settings == settings
    quiet = make_policy(policy_record("random", settings), LOW, HIGH, "any", {})
    assert isinstance(quiet, RandomPolicy)


def test_unknown_policy_and_settings_are_named():
    with pytest.raises(InputError, match=r"policy 'clever' is unknown; known: expert, .*random, .*trained"):
        policy_class("clever")
    with pytest.raises(InputError, match="speed"):
        make_policy({"name": "random", "settings": {"speed": 1}}, LOW, HIGH, "any", {})


@pytest.mark.parametrize("settings", [{"correlation": 1.0}, {"spread": 0.0}])
def test_impossible_settings_are_refused(settings: dict[str, float]):
    with pytest.raises(InputError):
        RandomSettings(**settings)


@pytest.mark.parametrize("settings", [{"every": -1}, {"probability": 1.5}, {"every": 4, "probability": 0.5}])
def test_impossible_noise_is_refused(settings: dict[str, float]):
    with pytest.raises(InputError):
        NoiseSettings(**settings)  # type: ignore[arg-type]


def test_a_box_without_bounds_and_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="bounds"):
        RandomPolicy(np.array([-np.inf]), np.array([np.inf]))
    with pytest.raises(InputError, match="bounds"):
        ExploringPolicy(RandomPolicy(LOW, HIGH), NoiseSettings(4), np.array([-np.inf]), np.array([np.inf]))
    policy = RandomPolicy(LOW, HIGH)
    policy.reset([0, 1])
    with pytest.raises(InputError, match=r"\(2, 2\); needed is \(2, 3\)"):
        policy.act(None, np.zeros((2, 2)))
