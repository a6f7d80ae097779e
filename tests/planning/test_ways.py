"""Ways of paths made by hand: known groups, and rows that are perfect, collapsed, too wide or elsewhere."""

import dataclasses
import json

import numpy as np
import pytest

from ebm_traj.datasets.branches import BRANCHES_FILE, Branches
from ebm_traj.errors import InputError
from ebm_traj.planning.ways import (
    NO_WAY,
    WaysConfig,
    WaysJudge,
    falls_into,
    goal_angles,
    group,
    legend,
    path_distances,
    pick_presents,
    rotation_paths,
    table,
    write_report,
)
from ebm_traj.spec import StateSpec

QUATERNION = ("qw", "qx", "qy", "qz")
SPEC = StateSpec(
    names=("x", *QUATERNION, *(f"goal_{part}" for part in QUATERNION)),
    kinds=("position", *["quaternion"] * 4, *["given"] * 4),
    indices=tuple(range(9)),
    observation_size=9,
)
STEPS, HALF, CONTEXTS = 12, 16, 10
DIRECTIONS = np.array([1.0, -1.0, 0.5, 0.0])  # radians about z at the end, one for each way
GOAL = 1.0


def about(angle, axis=2):
    """(..., 4) turns by an angle (...) about an axis."""
    q = np.zeros((*np.shape(angle), 4))
    q[..., 0], q[..., 1 + axis] = np.cos(np.asarray(angle) / 2), np.sin(np.asarray(angle) / 2)
    return q


def states(ends, noise=0.0, seed=0, axis=2, goal=GOAL):
    """(..., H, 9) futures that turn steadily from 0 to angles (...), and the goal."""
    ends = np.asarray(ends, float)
    angles = ends[..., None] * np.arange(1, STEPS + 1) / STEPS
    angles = angles + noise * np.random.default_rng(seed).normal(size=angles.shape)
    found = np.zeros((*angles.shape, 9))
    found[..., 1:5], found[..., 5:] = about(angles, axis), about(goal)
    return found


def take(count, seed, directions=DIRECTIONS):
    """(CONTEXTS, count) ends, each direction as often."""
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.resize(directions, count), (CONTEXTS, 1)), axis=1)


@pytest.fixture(scope="module")
def judge():
    ends = np.empty((CONTEXTS, 2 * HALF))
    ends[:, ::2], ends[:, 1::2] = take(HALF, 1), take(HALF, 2)
    contexts = states(np.zeros(CONTEXTS))[:, :3]
    return WaysJudge(SPEC, contexts, states(ends, 0.02), WaysConfig(radius=0.2))


def means(row):
    return {name: value[0] for name, value in row.scores.items()}


def test_distances_are_angles_whatever_the_sign_and_the_frame():
    paths = rotation_paths(states([0.4, 1.2]), SPEC, STEPS)
    mean = 0.8 * np.mean(np.arange(1, STEPS + 1) / STEPS)
    np.testing.assert_allclose(path_distances(paths, -paths), [[0, mean], [mean, 0]], atol=1e-6)
    assert rotation_paths(states([1.0]), SPEC, 4).shape == (1, 4, 4)
    np.testing.assert_allclose(rotation_paths(states([1.0]), SPEC, 1)[0, 0], about(1.0))  # the last step
    assert rotation_paths(states([1.0]), SPEC, 50).shape == (1, STEPS, 4)  # no more than there are


def test_groups_are_those_made_by_hand_and_no_two_of_a_group_are_farther_apart_than_the_radius():
    place = np.array([0.0, 5.0, 0.1, 5.2, 0.2, 9.0])
    found = group(np.abs(place[:, None] - place), 0.25)
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 2]
    assert found.sizes.tolist() == [3, 2, 1] and found.medoids.tolist() == [2, 1, 5]
    # a chain that single linkage would join from end to end
    place = np.arange(10) * 0.2
    distances = np.abs(place[:, None] - place)
    found = group(distances, 0.5)
    assert found.count == 4 or found.count == 5
    for way in range(found.count):
        inside = found.labels == way
        assert distances[np.ix_(inside, inside)].max() <= 0.5
    assert group(distances, 1e-9).count == 10 and group(distances, 2).count == 1


def test_a_future_falls_into_the_way_of_the_nearest_medoid_or_into_none():
    place = np.array([0.0, 0.1, 2.0])
    ways = group(np.abs(place[:, None] - place), 0.3)
    other = np.array([0.05, 1.9, 1.0])
    assert falls_into(np.abs(other[:, None] - place), ways, 0.3).tolist() == [0, 1, NO_WAY]


def test_the_simulators_other_half_and_a_perfect_model_find_all_ways(judge):
    perfect = judge.row("perfect", states(take(HALF, 3), 0.02, seed=5))
    for row in (judge.rows[0], perfect):
        found = means(row)
        assert found["ways"] == 4 and found["recall"] == found["share"] == found["precision"] == 1
        assert found["successful"] == 1 and found["found"] == 1
        assert row.scores["ways"] == (4, 4, 4)
    assert judge.truth() == {
        **{"contexts": CONTEXTS, "ways": 4, "open": CONTEXTS},
        **{"successful": 1, "beyond_threshold": 0},
    }


def test_a_collapsed_model_is_precise_and_recalls_one_way(judge):
    right = means(judge.row("mean", states(np.full((CONTEXTS, HALF), 0.5), 0.02)))
    assert right["ways"] == 1 and right["precision"] == 1 and right["recall"] == right["share"] == 0.25
    assert right["successful"] == right["found"] == 0
    lucky = means(judge.row("goal", states(np.full((CONTEXTS, HALF), 1.0), 0.02)))
    assert lucky["successful"] == lucky["found"] == 1 and lucky["recall"] == 0.25


def test_a_model_too_wide_recalls_all_ways_at_the_price_of_precision(judge):
    ends = np.tile(np.linspace(-2.5, 2.5, HALF + 1)[:HALF], (CONTEXTS, 1))
    ends[:, :4] = DIRECTIONS
    wide = means(judge.row("wide", states(ends, 0.02)))
    assert wide["recall"] == 1 and wide["ways"] > 5 and wide["precision"] < 0.7
    elsewhere = means(judge.row("x", states(take(HALF, 3) + 2.5, 0.02, axis=0)))
    assert elsewhere["recall"] == elsewhere["precision"] == elsewhere["found"] == 0


def test_a_rare_way_counts_as_one_of_the_ways_and_little_by_its_share():
    ends = np.zeros((CONTEXTS, 2 * HALF))
    ends[:, 0] = 1.0
    judge = WaysJudge(SPEC, states(np.zeros(CONTEXTS))[:, :2], states(ends), WaysConfig(radius=0.2))
    found = means(judge.rows[0])  # the other half has it not
    assert found["recall"] == 0.5 and found["share"] == 15 / 16 and found["found"] == 0


def test_success_is_nearness_where_no_branch_arrives_and_does_not_count_where_the_present_is_there():
    ends = np.zeros((4, 8))
    ends[0], ends[1] = 1.0, 0.7
    goals = np.array([1.0, 1.0, 1.0, 0.05])  # reached, near, far, there at once
    branches = np.stack([states(row, goal=goal) for row, goal in zip(ends, goals, strict=True)])
    contexts = np.stack([states(0.0, goal=goal)[:2] * 1.0 for goal in goals])
    contexts[:, :, 1:5] = about(0.0)
    judge = WaysJudge(SPEC, contexts, branches, WaysConfig(threshold=0.1, near=0.4))
    assert judge.within[:, 0].tolist() == [0.1, 0.4, 0.4, 0.1] and judge.open.tolist() == [True] * 3 + [False]
    assert judge.rows[0].values["successful"].tolist() == [1, 1, 0, 0]
    assert judge.truth()["successful"] == pytest.approx(2 / 3) and means(judge.rows[0])["found"] == 1
    assert goal_angles(branches, contexts, SPEC)[0, 0, -1] == pytest.approx(0, abs=1e-3)


def test_the_report_names_every_row_and_says_what_columns_are(judge, tmp_path):
    futures = states(take(HALF, 3), 0.02, seed=5)
    judged = dataclasses.replace(judge.config)
    again = WaysJudge(SPEC, judge.contexts, np.repeat(judge.branches, 2, 1), judged)
    again.rows.append(again.row("perfect", futures))
    page = write_report([again], tmp_path, {"perfect": futures}, {"seed": 0}, "python x")
    assert "| perfect | 4.0 (4.0 to 4.0) | 1.00" in table(again) and table(again) in page.read_text()
    assert "0.2 rad apart" in legend(again)
    saved = json.loads((tmp_path / "ways.json").read_text())
    assert [row["name"] for row in saved["results"][0]["rows"]] == ["simulator", "perfect"]
    assert (tmp_path / "ways.png").read_bytes()[:4] == b"\x89PNG"
    assert len(pick_presents(again)) >= 1


def test_what_has_no_rotation_or_is_not_finite_is_refused():
    with pytest.raises(InputError, match="0 rotations"):
        rotation_paths(np.zeros((2, 3, 2)), StateSpec.from_size(2), 4)
    with pytest.raises(InputError, match="not finite"):
        rotation_paths(np.full((2, 3, 9), np.nan), SPEC, 4)
    with pytest.raises(InputError, match="radius"):
        WaysConfig(radius=0)


@pytest.fixture(scope="module")
def study(toy, toy_folder, tmp_path_factory, call_script):
    """A folder with the toy recording and its branches, and a tiny model of it."""
    folder = tmp_path_factory.mktemp("ways")
    for path in toy_folder.glob("shard-*.h5"):
        (folder / path.name).symlink_to(path)
    rows = toy.episode_rows("test")[:6]
    contexts = toy.read_windows(toy.offsets[rows], 3)[0]
    turns = 0.3 * np.random.default_rng(0).normal(size=(6, 8, 5)).cumsum(-1)
    futures = np.repeat(np.repeat(contexts[:, None, -1:], 8, 1), 5, 2)
    futures[..., 2:6] = about(turns)
    Branches(
        contexts=contexts,
        futures=futures,
        actions=np.zeros((6, 8, 5, 2), np.float32),
        episode=toy.episode[rows],
        t=np.full(6, 2),
        spec=toy.spec,
        settings={"seed": 0, "split": "test", "env_id": "Toy-v0", "run_seed": 0, "mujoco": ""},
    ).save(folder / BRANCHES_FILE)
    tiny = "--iterations 4 --inverse-iterations 0 --network.width 8 --network.context-frames 2"
    argv = f"--out {folder / 'tiny'} --model fc {tiny} --validate-every 0".split()
    call_script("train_traj", "--data", str(toy_folder), *argv)
    return folder


def test_the_command_writes_page_figures_and_numbers(study, call_script, capsys):
    argv = ["--data", str(study), "--runs", str(study / "tiny"), "--contexts", "4", "--horizon", "5"]
    call_script("ways", *argv, "--out", str(study / "out"), "--points", "3")
    assert "| tiny | 1.0 (1.0 to 1.0) |" in capsys.readouterr().out  # it is deterministic
    assert {path.name for path in (study / "out").iterdir()} == {"ways.md", "ways.json", "ways.png"}
    found = json.loads((study / "out" / "ways.json").read_text())
    assert [part["config"]["radius"] for part in found["results"]] == [0.3, 0.2, 0.45]
    assert "successful" not in found["results"][0]["rows"][0]  # the toy's goal is no pose


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--horizon", "6"], "needed are 4 of 6"),
        (["--horizon", "5", "--contexts", "7"], "from 7 of 2"),
        (["--contexts", "1"], "--contexts 1"),
        (["--afresh", "-1"], "--afresh -1"),
        (["--seed", "-1"], "--seed -1: accepted are 0 and more"),
    ],
)
def test_the_command_refuses_in_one_line(study, call_script, capsys, argv, message):
    with pytest.raises(SystemExit) as end:
        call_script(
            "ways", "--data", str(study), "--runs", str(study / "tiny"), "--out", str(study / "no"), *argv
        )
    assert end.value.code == 2 and message in capsys.readouterr().err
