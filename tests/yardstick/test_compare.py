"""Rows of a comparison react as they should to models that are perfect or wrong in one way."""

import dataclasses
import json
import math

import numpy as np
import pytest

from ebm_traj.datasets.recording import Recording
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.yardstick.columns import text_table
from ebm_traj.yardstick.compare import compare, episode_set
from ebm_traj.yardstick.table import write_scores


@pytest.fixture(scope="module")
def comparison(world):
    models = {
        "perfect": world.model(),
        "collapsed": world.model("collapsed", kind="fc"),
        "frozen": world.model("frozen", kind="other"),
        "wrong present": world.model("shuffled", kind="other"),
    }
    return compare(world.recording, models, branches=world.branches, progress=False)


@pytest.fixture(scope="module")
def row(comparison):
    return {row.name: row.scores for row in comparison.rows}


def test_a_perfect_model_scores_as_the_simulator(comparison, row):
    assert row["perfect"]["fd"] == pytest.approx(comparison.floor["fd"], rel=0.25)
    for k, floor in comparison.floor["fd_displacement"].items():
        assert row["perfect"]["fd_displacement"][k] == pytest.approx(floor, rel=0.4)
    assert row["perfect"]["diversity"] == pytest.approx(1, abs=0.03)
    assert row["perfect"]["motion"] == pytest.approx(1, abs=0.02)
    for ratio in row["perfect"]["energy_score"].values():
        assert ratio == pytest.approx(1, abs=0.03)


def test_the_simulator_row_is_one_by_construction(row):
    assert set(row["simulator"]["energy_score"].values()) == {1.0}
    assert row["simulator"]["diversity"] == pytest.approx(1, abs=0.03)
    assert row["simulator"]["fd"] is None


def test_a_collapsed_model_has_no_diversity_and_a_worse_energy_score(comparison, row):
    assert row["collapsed"]["diversity"] == row["collapsed"]["spread"] == 0
    assert row["collapsed"]["energy_score"]["mean"] > 1.2
    assert row["collapsed"]["fd"] > 3 * comparison.floor["fd"]


def test_a_frozen_model_does_not_move(row):
    assert row["frozen"]["motion"] == 0
    assert row["frozen"]["energy_score"]["mean"] > 1.2
    assert row["frozen"]["fd"] == pytest.approx(row["persistence"]["fd"])


def test_futures_of_another_present_have_a_good_frechet_distance_and_a_bad_energy_score(comparison, row):
    for name in ("wrong present", "shuffled truth"):
        assert row[name]["fd"] == pytest.approx(comparison.floor["fd"], rel=0.25)
        assert row[name]["energy_score"]["1"] > 2
        assert row[name]["fd_displacement"]["1"] > 3 * comparison.floor["fd_displacement"]["1"]
    assert row["shuffled truth"]["fd"] == pytest.approx(comparison.floor["fd"], rel=1e-9)


def test_every_model_is_timed(row):
    for name in ("perfect", "collapsed"):
        assert row[name]["futures_per_s"] > 0
        assert row[name]["plan_ms"] > 0
    assert row["persistence"]["futures_per_s"] is None


def test_numbers_repeat_with_the_seed_and_change_with_it(world):
    def fd(seed):
        found = compare(
            world.recording, {"m": world.model()}, seed=seed, rollouts=20, contexts=2, progress=False
        )
        return found.rows[0].scores["fd"], found.rows[0].scores["spread"]

    assert fd(0) == fd(0)
    assert fd(0) != fd(1)


def test_without_branches_there_is_no_ratio_but_a_spread(world):
    found = compare(world.recording, {"m": world.model()}, rollouts=50, contexts=4, futures=8, progress=False)
    assert [row.name for row in found.rows] == ["m", "persistence", "shuffled truth"]
    assert found.rows[0].scores["diversity"] is None
    assert found.rows[0].scores["energy_score"] is None
    assert found.rows[0].scores["spread"] > 0
    assert "Spread" in text_table(found)


def test_action_conditional_models_get_the_actions_that_were_taken(world):
    told = world.model(conditioning="actions", context_frames=1)
    models = {"told": told, "not told": world.model()}
    found = compare(world.recording, models, branches=world.branches, rollouts=100, progress=False)
    told_row, other = found.rows[1:3]
    # given the actions only the noise is left, so its first step is much nearer to the one true rollout
    assert told_row.scores["fd_displacement"]["1"] < 0.5 * other.scores["fd_displacement"]["1"]
    # one future for each branch, under its own actions: as diverse as the branches
    assert told_row.scores["diversity"] == pytest.approx(1, abs=0.05)


def test_joint_models_are_told_the_actions_if_asked_for(world):
    model = world.model(conditioning="actions", context_frames=1)
    told = compare(world.recording, {"m": model}, rollouts=50, progress=False).rows[0]
    model.conditioning, model.follows_actions = "joint", True
    asked = {"rollouts": 50, "progress": False, "told_actions": True}
    followed = compare(world.recording, {"m": model}, **asked).rows[0]
    assert followed.scores["fd"] == told.scores["fd"]
    assert followed.conditioning == "actions"  # as the page is to say
    model.follows_actions = False
    with pytest.raises(InputError, match="told actions: 'm' is a joint ebm model and draws its own"):
        compare(world.recording, {"m": model}, **asked)


def test_a_model_sees_the_last_frames_of_longer_contexts_and_the_actions_between_them(world):
    seen = []

    class Listening(type(world.model())):
        action_history = 2

        def sample(self, context, horizon, num_samples, *, past_actions, **kwargs):
            seen.append((context, past_actions))
            return super().sample(context, horizon, num_samples, **kwargs)

    # contexts of 6 frames are stored, one model sees 2 of them, the other 4
    test = world.recording.load("test")
    rows = test.offsets[:120, None] + np.arange(3, 9)
    branches = dataclasses.replace(world.branches, contexts=test.states[rows])
    models = {"listening": Listening(world.spec, context_frames=4), "m": world.model(kind="fc")}
    found = compare(world.recording, models, branches=branches, rollouts=30, horizon=10, progress=False)
    assert found.settings["context_frames"] == 4
    (episode_context, episode_past), (context, past) = seen[0], seen[1]
    first = test.offsets[:30, None]
    np.testing.assert_array_equal(episode_context, test.states[first + np.arange(4)])
    np.testing.assert_array_equal(episode_past, test.actions[first + np.arange(3)])
    count = len(context)
    np.testing.assert_array_equal(context, branches.contexts[:count, -4:])
    np.testing.assert_array_equal(past, test.actions[test.offsets[:count, None] + np.arange(5, 8)])


def test_rows_have_intervals_and_differences_to_the_first_energy_model(comparison, tmp_path):
    write_scores(comparison, tmp_path / "scores.json")
    found = json.loads((tmp_path / "scores.json").read_text())["rows"]
    low, high = found["perfect"]["intervals"]["energy_score"]["mean"]
    assert low < 1 < high < 1.05
    assert found["perfect"]["differences"] == {}
    value, low, high = found["collapsed"]["differences"]["energy_score"]["mean"]
    assert 0.1 < low < value < high
    assert set(found["perfect"]["energy_score"]) == {"1", "5", "20", "mean"}  # no 25 steps here
    assert found["perfect"]["energy_score_object"] is None  # and no object
    text = text_table(comparison)
    for words in (
        "ES step 1",
        "Diversity by step",
        "minADE",
        " ±.0",
        "Ranks",
        " in ",
        " out",
        "less perfect's",
    ):
        assert words in text
    assert "Pose" not in text
    assert "Invalid" not in text
    assert "does not say" in comparison.settings["validity"]


def test_memory_and_speed_of_training_are_columns_if_a_card_says_them(comparison):
    assert "Iterations/s" in text_table(comparison)
    assert "Memory, MB" not in text_table(comparison)
    told = dataclasses.replace(comparison.rows[1], card={**comparison.rows[1].card, "peak_memory_mb": 1234.5})
    rows = [comparison.rows[0], told, *comparison.rows[2:]]
    text = text_table(dataclasses.replace(comparison, rows=rows))
    assert "Memory, MB" in text
    assert "1,234" in text


def test_scores_json_has_the_schema_and_finite_numbers_only(comparison, tmp_path):
    def numbers(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            return [n for item in value for n in numbers(item)]
        return [value] if isinstance(value, float) else []

    comparison.rows[-1].scores["fd"], before = math.inf, comparison.rows[-1].scores["fd"]
    write_scores(comparison, tmp_path / "scores.json")
    comparison.rows[-1].scores["fd"] = before
    found = json.loads((tmp_path / "scores.json").read_text())
    assert list(tmp_path.iterdir()) == [tmp_path / "scores.json"]
    assert {"rows", "floor", "n", "steps"} <= set(found)
    assert (found["n"], found["steps"]) == (240, 29)
    for row in found["rows"].values():
        assert {"fd", "fd_displacement", "diversity", "motion", "futures_per_s"} <= set(row)
    assert set(found["rows"]["perfect"]["fd_displacement"]) == {"1", "5", "25"}
    assert set(found["floor"]["fd_displacement"]) == {"1", "5", "25"}
    assert len(found["rows"]["perfect"]["curves"]["fd"]) == 29
    assert found["rows"]["shuffled truth"]["fd"] is None
    budget = {"iterations": 100, "train_seconds": 2.0, "parameters": 10}
    assert found["rows"]["perfect"]["budget"] == budget | {"peak_memory_mb": None, "steps_per_s": 50.0}
    assert np.isfinite(numbers(found)).all()


def test_a_model_that_blows_up_is_said_to_do_so(world):
    models = {"bad": world.model("diverging")}
    found = compare(world.recording, models, branches=world.branches, rollouts=20, progress=False)
    assert found.to_json()["rows"]["bad"]["fd"] is None
    assert found.rows[1].scores["finite"] == 0
    assert "not finite" in text_table(found)


def test_contexts_and_the_floor_never_share_an_episode(world):
    # 240 test, 120 validation and 240 training episodes: the other truth is validation, then training
    split = episode_set(world.recording, 2, 10)
    assert len(split.truth) == len(split.other) == 240
    ours = {row.tobytes() for row in split.contexts[:, -1]}
    assert not ours & {row.tobytes() for row in split.other[:, 0]}
    test = world.recording.load("test")
    np.testing.assert_array_equal(split.truth[3], test.states[test.offsets[3] + 2 :][:10])
    np.testing.assert_array_equal(split.actions[3], test.actions[test.offsets[3] + 1 :][:10])


def test_bad_input_is_refused_in_one_line(world, tmp_path):
    def fails(match, models=None, recording=world.recording, **kwargs):
        with pytest.raises(InputError, match=match) as caught:
            compare(recording, models or {"m": world.model()}, progress=False, **kwargs)
        assert "\n" not in str(caught.value)

    other = StateSpec(("x", "turn", "z", "bend", "goal"), world.spec.kinds, (0, 1, 2, 3, 4), 5)
    fails("'m' does not fit.*dimension 2 \\('z'\\)", {"m": dataclasses.replace(world.model(), spec=other)})
    fails("horizon 30.*1 to 29 are accepted", horizon=30)
    fails("horizon", horizon=-1)
    fails("simulator.*rename", {"simulator": world.model()})
    fails("1 rollouts", rollouts=1)
    fails("branches: 2 futures", branches=_cut(world.branches, 2))
    fails("5 frames", {"m": world.model(context_frames=5)}, branches=world.branches)
    strange = dataclasses.replace(world.branches, settings={"run_seed": 99})
    fails("branches are of a data set of seed 99", branches=strange)
    strange = dataclasses.replace(world.branches, settings={"env_id": "Pusher-v5"})
    fails("branches are of a data set of env_id Pusher-v5", branches=strange)
    # of another data set of the same seed
    contexts = world.branches.contexts.copy()
    contexts[7, 0, 0] += 1e-3
    strange = dataclasses.replace(world.branches, contexts=contexts)
    fails(f"the frames of episode {strange.episode[7]} are not those of .*make them again", branches=strange)
    for episode, where in ((10**6, "test episodes"), (_of_split(world.recording, "train"), "test episodes")):
        episodes = world.branches.episode.copy()
        episodes[3] = episode
        strange = dataclasses.replace(world.branches, episode=episodes)
        fails(f"episode {episode} is none of the {where}", branches=strange)
    with pytest.raises(InputError, match="no run"):
        compare(world.recording, {})


def _of_split(recording, split):
    return int(recording.episode[recording.episode_rows(split)[0]])


def _cut(branches, futures):
    return dataclasses.replace(branches, futures=branches.futures[:, :futures])


def test_a_recording_without_test_episodes_is_refused(world, write_world, tmp_path):
    recording: Recording = write_world(tmp_path, (0.0, 0.5))
    with pytest.raises(InputError, match="test split"):
        compare(recording, {"m": world.model()}, progress=False)
