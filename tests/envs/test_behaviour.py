import numpy as np
import pytest

from ebm_traj.envs.behaviour import NOISE_BLOCK, RandomPolicy, RandomSettings, make_policy, policy_record
from ebm_traj.errors import InputError

LOW, HIGH = np.full(3, -1.0), np.full(3, 1.0)


def run(policy: RandomPolicy, seeds: list[int], steps: int) -> np.ndarray:
    """Actions (N, T, A) when every action is applied as it is."""
    policy.reset(seeds)
    previous = np.full((len(seeds), len(policy.low)), np.nan, np.float32)
    taken = []
    for _ in range(steps):
        previous = policy.act(None, previous)
        taken.append(previous)
    return np.stack(taken, axis=1)


MARKOV = RandomSettings(noise_every=0, noise_probability=0.25)


@pytest.mark.parametrize("settings", [RandomSettings(), MARKOV])
def test_a_row_does_not_depend_on_its_batch(settings: RandomSettings):
    policy = RandomPolicy(LOW, HIGH, settings)
    steps = NOISE_BLOCK + 10
    together = run(policy, [5, 6, 7], steps)
    np.testing.assert_array_equal(run(policy, [6], steps)[0], together[1])
    assert not np.array_equal(together[0], together[1])


def test_a_reset_begins_anew():
    policy = RandomPolicy(LOW, HIGH)
    np.testing.assert_array_equal(run(policy, [1, 2], 7), run(policy, [1, 2], 7))


def test_every_kth_action_is_unforeseen_and_the_others_smooth():
    actions = run(RandomPolicy(LOW, HIGH, RandomSettings(noise_every=4, spread=0.1)), list(range(400)), 12)
    jumps = np.abs(np.diff(actions, axis=1)).mean((0, 2))
    assert np.all(jumps[[2, 6, 10]] > 0.4)  # into steps 3, 7 and 11
    assert np.all(np.delete(jumps, [2, 6, 10]) < 0.15)
    surprised = actions[:, 3::4].ravel()
    assert surprised.mean() == pytest.approx(0, abs=0.05)
    assert surprised.std() == pytest.approx(1 / np.sqrt(3), rel=0.03)  # uniform on [-1, 1]


def test_noise_with_a_probability_comes_at_any_step():
    settings = RandomSettings(noise_every=0, noise_probability=0.25, spread=0.01)
    actions = run(RandomPolicy(LOW, HIGH, settings), list(range(400)), 12)
    surprised = (np.abs(np.diff(actions, axis=1)) > 0.1).any(axis=2)
    # A step jumps if its action is unforeseen; after one, the process wanders back with jumps below 0.1.
    assert surprised[:, 5].mean() == pytest.approx(0.25, abs=0.08)
    assert surprised.mean(0).min() > 0.15 and surprised.mean(0).max() < 0.35


def test_without_noise_it_is_the_stated_process():
    settings = RandomSettings(noise_every=0, correlation=0.8, spread=0.2)
    actions = run(RandomPolicy(LOW, HIGH, settings), list(range(200)), 60).astype(np.float64)
    assert actions.std() == pytest.approx(0.2, rel=0.03)
    assert actions[:, 0].std() == pytest.approx(0.2, rel=0.1)  # from the long-run distribution at once
    lagged = np.corrcoef(actions[:, :-1].ravel(), actions[:, 1:].ravel())[0, 1]
    assert lagged == pytest.approx(0.8, abs=0.02)


def test_it_goes_on_from_the_action_applied_not_from_its_own():
    policy = RandomPolicy(LOW, HIGH, RandomSettings(noise_every=0, correlation=0.9, spread=0.01))
    policy.reset([0])
    policy.act(None, np.full((1, 3), np.nan))
    action = policy.act(None, np.array([[0.5, -0.5, 0.0]]))
    np.testing.assert_allclose(action[0], [0.45, -0.45, 0.0], atol=0.03)


def test_the_phase_of_the_counter_goes_on_from_the_steps_given():
    policy = RandomPolicy(LOW, HIGH, RandomSettings(noise_every=4, spread=0.001))
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
    settings = RandomSettings(noise_every=0, noise_probability=0.5, spread=0.3)
    policy = make_policy(policy_record("random", settings), LOW, HIGH)
    assert isinstance(policy, RandomPolicy) and policy.settings == settings
    assert policy.goal_conditioned is False


def test_unknown_policy_and_settings_are_named():
    with pytest.raises(InputError, match="policy 'expert' is unknown; known: random"):
        policy_record("expert", RandomSettings())
    with pytest.raises(InputError, match="speed"):
        make_policy({"name": "random", "settings": {"speed": 1}}, LOW, HIGH)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_every": -1},
        {"noise_probability": 1.5},
        {"noise_probability": 0.5},  # together with noise_every = 4
        {"correlation": 1.0},
        {"spread": 0.0},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float]):
    with pytest.raises(InputError):
        RandomSettings(**settings)  # type: ignore[arg-type]


def test_a_box_without_bounds_and_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="bounds"):
        RandomPolicy(np.array([-np.inf]), np.array([np.inf]))
    policy = RandomPolicy(LOW, HIGH)
    policy.reset([0, 1])
    with pytest.raises(InputError, match=r"\(2, 2\); needed is \(2, 3\)"):
        policy.act(None, np.zeros((2, 2)))
