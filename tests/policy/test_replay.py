"""The memory: what it gives back is what was lived through, for the goals it says."""

import numpy as np
import pytest

from ebm_traj.envs.hand_task import POSE
from ebm_traj.policy.demos import lived
from ebm_traj.policy.replay import APART, Replay, joined
from ebm_traj.policy.task import TurningTask

ENVS, STEPS = 3, 130


@pytest.fixture(scope="module")
def life() -> tuple[Replay, dict[str, np.ndarray], TurningTask]:
    """A memory of more steps than it holds, with all that the task said meanwhile."""
    settings = {"target_rotation": "z", "target_position": "ignore", "num_threads": 1, "substeps": 5}
    task = TurningTask(ENVS, 0, 0.0, 1.0, form="cube", change=0.6, **settings)
    replay = Replay(100, ENVS, task.envs.task, "cube", 0.6, 0.9)
    features, rng = task.reset(), np.random.default_rng(0)
    task._steps[0] = 330  # is cut within what is kept
    said = []
    for _ in range(STEPS):
        before = {"features": features, "poses": task.observation["achieved_goal"].copy()}
        row, step = lived(task, rng.uniform(-1.5, 1.5, (ENVS, 20)))
        replay.add(**row)
        told = {"reward": step.reward, "last": step.last_features}
        said.append(before | told | {name: value.copy() for name, value in row.items()})
        features = step.features
    task.close()
    return replay, {name: np.stack([step[name] for step in said])[30:] for name in said[0]}, task


def rows_of(replay: Replay, found: dict[str, np.ndarray], said: dict[str, np.ndarray]) -> np.ndarray:
    """Which step and environment (B, 2) each row is of; observations never repeat."""
    flat = said["observation"].reshape(-1, said["observation"].shape[-1])
    places = {row.tobytes(): i for i, row in enumerate(flat)}
    return np.stack(np.unravel_index([places[row.tobytes()] for row in found["observation"]], (100, ENVS)), 1)


def test_own_goals_give_the_rewards_and_features_that_were(life):
    replay, said, _ = life
    rows = replay.sample(400, np.random.default_rng(1), elsewhere=0.0)
    assert rows["asked"].all()
    step, env = rows_of(replay, rows, said).T
    assert (
        step.max() == 98 and step.min() == 0
    )  # the newest has no successor; the forgotten ones are not given
    batch = replay.batch(rows)
    np.testing.assert_allclose(batch.features, said["features"][step, env], atol=2e-5)
    np.testing.assert_allclose(batch.weight, ~said["cut"][step, env] | said["dropped"][step, env])
    goes_on = ~(said["cut"] | said["dropped"])[step, env]
    assert goes_on.mean() > 0.9 and not goes_on.all()
    # Features and reward within float32 of a quaternion: near 0 an angle keeps half of its digits.
    np.testing.assert_allclose(batch.next_features[goes_on], said["last"][step, env][goes_on], atol=2e-3)
    np.testing.assert_allclose(batch.reward[goes_on], said["reward"][step, env][goes_on], atol=5e-3)
    np.testing.assert_allclose(
        batch.change * 0.6, said["action"][step, env] - said["previous"][step, env], atol=1e-6
    )
    low, high = batch.room
    assert (batch.change >= low - 1e-5).all() and (batch.change <= high + 1e-5).all()


def test_the_rewards_of_several_steps_are_those_that_were(life):
    replay, said, _ = life
    rows = replay.sample(500, np.random.default_rng(1), ahead=4)
    batch = replay.batch(rows)
    step, env = rows_of(replay, rows, said).T
    lengths = []
    for row in range(500):
        total, length, own = 0.0, 0, said["goal"][step[row], env[row]]
        for at in range(step[row], min(step[row] + 4, 99)):
            if length and (said["goal"][at, env[row]] != own).any():
                break
            total += 0.9**length * said["reward"][at, env[row]]
            length += 1
            if said["dropped"][at, env[row]] or said["cut"][at, env[row]]:
                break
        last = (step[row] + length - 1, env[row])
        ended, cut = said["dropped"][last], said["cut"][last]
        assert rows["length"][row] == length and batch.weight[row] == (ended or not cut)
        assert batch.discount[row] == pytest.approx(0.0 if ended else 0.9**length)
        if ended or not cut:
            assert abs(batch.reward[row] - total) < 2e-2
        if not ended and not cut:
            np.testing.assert_allclose(batch.next_features[row], said["last"][last], atol=2e-3)
        lengths.append(length)
    assert set(lengths) == {1, 2, 3, 4}


def test_goals_of_hindsight_are_poses_met_soon_in_the_same_episode(life):
    replay, said, task = life
    rows = replay.sample(400, np.random.default_rng(2), hindsight=0.999)
    met = ~rows["asked"]
    assert met.mean() > 0.7
    step, env = rows_of(replay, rows, said).T
    for row in np.flatnonzero(met)[:100]:
        start, stream = step[row], env[row]
        poses = said["observation"][start + 1 : start + 1 + APART, stream, -POSE + 3 :]
        at = np.flatnonzero((poses == rows["goal"][row, 3:]).all(axis=1))
        assert at.size and said["episode"][start + 1 + at[0], stream] == rows["episode"][row]
    # The next pose as a goal: nothing is left to turn, and the reward is what that is worth.
    assert (rows["length"][met] == 1).all()
    at_once = rows | {"goal": np.concatenate([rows["goal"][:, :3], rows["next_observation"][:, -4:]], axis=1)}
    batch, before = replay.batch(at_once), task.envs.task.distance
    kept = ~rows["dropped"]
    turned = before(rows["observation"][:, -POSE:], at_once["goal"]).rotation
    moved = ((rows["action"] - rows["previous"]) ** 2).sum(axis=1)
    np.testing.assert_allclose(batch.reward[kept], (4 * turned + 0.75 - 0.003 * moved)[kept], atol=5e-3)


def test_goals_met_earlier_were_met_in_the_same_episode(life):
    replay, said, _ = life
    rows = replay.sample(400, np.random.default_rng(2), earlier=0.999)
    met = ~rows["asked"]
    assert met.mean() > 0.5
    step, env = rows_of(replay, rows, said).T
    for row in np.flatnonzero(met)[:100]:
        start, stream = step[row], env[row]
        first = max(0, start - APART)
        poses = said["observation"][first:start, stream, -POSE + 3 :]
        at = np.flatnonzero((poses == rows["goal"][row, 3:]).all(axis=1))
        if start:
            assert at.size and said["episode"][first + at[0], stream] == rows["episode"][row]
        else:
            assert (rows["goal"][row, 3:] == said["observation"][0, stream, -POSE + 3 :]).all()


def test_goals_of_elsewhere_are_goals_that_were_asked_for(life):
    replay, said, _ = life
    rows = replay.sample(300, np.random.default_rng(3), elsewhere=0.5)
    assert 0.4 < (~rows["asked"]).mean() < 0.6
    known = {goal.tobytes() for goal in said["goal"].reshape(-1, POSE)[:, 3:]}
    assert all(goal.tobytes() in known for goal in np.ascontiguousarray(rows["goal"][:, 3:]))


def test_recordings_end_where_they_end(life):
    _, said, task = life
    part = {name: said[name][:20] for name in ("observation", "goal", "previous", "action")}
    part |= {name: said[name][:20] for name in ("episode", "dropped", "cut")}
    replay = Replay.of([part, part], task.envs.task, "cube", 0.6, 0.9)
    assert replay.size == 40
    rows = replay.sample(2000, np.random.default_rng(0), hindsight=0.5)
    both = joined(rows, rows)
    assert both["goal"].shape == (4000, POSE)
    last = (rows["observation"][:, None] == said["observation"][19][None]).all(axis=2).any(axis=1)
    assert last.any() and rows["cut"][last].all()
    assert rows["asked"][last].mean() > 0.9  # hardly any later pose is of the same episode
