"""Every column reacts as it should: exact branches of a known process, models right or wrong in one way.

The process is an Ornstein-Uhlenbeck one, s' = a s + sqrt(1 - a^2) e, of three joints and an object's place.
"""

import numpy as np
import pytest

from ebm_traj.datasets.branches import Branches
from ebm_traj.spec import StateSpec
from ebm_traj.yardstick import intervals
from ebm_traj.yardstick.judge import EpisodeSet, Judge
from ebm_traj.yardstick.ranks import RankJudge
from ebm_traj.yardstick.table import Row
from ebm_traj.yardstick.validity import Validity

A, DIMS, STEPS, CONTEXTS, BRANCHES, EPISODES = 0.9, 6, 30, 128, 64, 500
NOISE = np.sqrt(1 - A**2)
NAMES = ("j0", "j1", "j2", "object_x", "object_y", "object_z")
FLAWS = ("perfect", "collapsed", "frozen", "shuffled", "wide", "narrow", "biased", "object")


def run(rng: np.random.Generator, present: np.ndarray, futures: int, steps: int, wide: float = 1.0):
    """(B, D) -> (B, M, H, D)."""
    state, frames = np.repeat(present[:, None], futures, 1), []
    for _ in range(steps):
        state = A * state + wide * NOISE * rng.normal(size=state.shape)
        frames.append(state)
    return np.stack(frames, 2)


def sample(flaw: str, rng: np.random.Generator, present: np.ndarray, futures: int) -> np.ndarray:
    if flaw == "frozen":
        return np.repeat(np.repeat(present[:, None, None], futures, 1), STEPS, 2)
    if flaw == "collapsed":
        return np.repeat(run(rng, present, 1, STEPS), futures, 1)
    if flaw == "shuffled":
        return run(rng, np.roll(present, 1, 0), futures, STEPS)
    found = run(rng, present, futures, STEPS, {"wide": 1.4, "narrow": 0.7}.get(flaw, 1.0))
    if flaw == "biased":
        found += 0.4
    if flaw == "object":  # wrong in the object's place alone
        found[..., 3:] = rng.permutation(found[..., 3:])
    return found


def measure(states: np.ndarray) -> dict[str, np.ndarray]:
    """A joint has room for two standard deviations, and an object beyond 1.5 is in the hand."""
    return {
        "joint_limits": np.maximum(np.abs(states[:, 0]) - 2, 0),
        "quaternion": np.zeros(len(states)),
        "penetration": np.maximum(states[:, 3] - 1.5, 0),
    }


@pytest.fixture(scope="module")
def judged() -> tuple[Judge, dict[str, Row]]:
    rng = np.random.default_rng(1)
    spec = StateSpec(NAMES, ("position",) * DIMS, tuple(range(DIMS)), DIMS)
    spec = spec.with_statistics(np.zeros(DIMS), np.ones(DIMS), np.full(DIMS, np.sqrt(2 * (1 - A))))
    present, starts = rng.normal(size=(CONTEXTS, DIMS)), rng.normal(size=(2, EPISODES, DIMS))
    truth, other = (run(rng, start, 1, STEPS)[:, 0] for start in starts)
    episodes = EpisodeSet(
        contexts=starts[0][:, None],
        past=np.zeros((EPISODES, 0, 1)),
        truth=truth,
        actions=np.zeros((EPISODES, STEPS, 1)),
        other=np.concatenate([starts[1][:, None], other], 1),
    )
    branches = Branches(
        contexts=present[:, None],
        futures=run(rng, present, BRANCHES, STEPS),
        actions=np.zeros((CONTEXTS, BRANCHES, STEPS, 1)),
        episode=np.arange(CONTEXTS),
        t=np.zeros(CONTEXTS, int),
        spec=spec,
        settings={},
    )
    judge = Judge(spec, episodes, branches, validity=Validity(measure, truth, seed=0), seed=0)
    rows = [judge.simulator_row()]
    for flaw in FLAWS:
        rollouts, futures = sample(flaw, rng, starts[0], 1)[:, 0], sample(flaw, rng, present, BRANCHES // 2)
        rows.append(judge.row(flaw, "ebm", rollouts, futures))
    judge.add_differences(rows, rows[1])
    return judge, {row.name: row for row in rows}


@pytest.fixture(scope="module")
def rows(judged) -> dict[str, Row]:
    return judged[1]


def intervals_of(row: Row) -> dict[str, list[float]]:
    """Every interval of a row by a name."""
    found: dict[str, list[float]] = {}
    for name, value in row.intervals.items():
        found |= {f"{name} {k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


def outside(row: Row) -> set[str]:
    """The intervals that leave out 1."""
    return {name for name, (low, high) in intervals_of(row).items() if not low <= 1 <= high}


def test_there_is_an_interval_for_every_score_on_branches(rows):
    steps = {"1", "5", "20", "mean_25", "mean"}
    for row in rows.values():
        for name in ("energy_score", "energy_score_object", "diversity_at"):
            assert set(row.scores[name]) == set(row.intervals[name]) == steps
        assert {"diversity", "min_ade"} < set(row.intervals)
        for name, (low, high) in intervals_of(row).items():
            score, _, key = name.partition(" ")
            value = row.scores[score][key] if key else row.scores[score]
            assert low <= value <= high
            assert high - low < 0.2 * max(value, 1)
        for name in ("energy_score", "energy_score_object", "diversity"):
            low, high = row.bands[name]["low"], row.bands[name]["high"]
            assert np.all(np.array(low) <= row.curves[name])
            assert np.all(row.curves[name] <= np.array(high))


def test_a_perfect_model_is_right_in_every_column(judged, rows):
    row, floor = rows["perfect"], judged[0].floor()
    assert outside(row) == set()
    assert max(high - low for low, high in intervals_of(row).values()) < 0.1
    assert row.scores["ranks"]["inside"]
    assert row.scores["motion"] == pytest.approx(1, abs=0.02)
    assert row.scores["fd"] == pytest.approx(floor["fd"], rel=0.3)
    assert row.scores["validity"]["invalid"] == pytest.approx(floor["validity"]["invalid"], abs=0.005)


def test_the_simulator_row_is_the_unit_and_inside_its_own_interval(rows):
    assert set(rows["simulator"].scores["energy_score"].values()) == {1.0}
    assert rows["simulator"].scores["min_ade"] == 1.0
    assert rows["simulator"].scores["ranks"]["inside"]


@pytest.mark.parametrize("flaw", [flaw for flaw in FLAWS if flaw != "perfect"])
def test_every_flaw_shows_in_energy_score_and_ranks(rows, flaw):
    row = rows[flaw]
    key = "energy_score_object" if flaw == "object" else "energy_score"
    for low, _ in row.intervals[key].values():
        assert low > 1.005
    assert not row.scores["ranks"]["inside"]
    assert row.scores["ranks"]["excess"] > 1.5
    for value, low, high in row.differences[key].values():
        assert 0 < low < value < high


@pytest.mark.parametrize(
    ("flaw", "low", "high"),
    [
        ("collapsed", 0, 0),
        ("frozen", 0, 0),
        ("narrow", 0.65, 0.75),
        ("wide", 1.35, 1.45),
        ("shuffled", 0.97, 1.03),
        ("biased", 0.97, 1.03),
    ],
)
def test_diversity_is_that_of_the_noise(rows, flaw, low, high):
    scores = rows[flaw].scores
    for value in (scores["diversity"], *scores["diversity_at"].values()):
        assert low <= value <= high
    assert ("diversity" in outside(rows[flaw])) == (high < 0.9 or low > 1.1)


def test_motion_and_frechet_distance_know_what_they_should(judged, rows):
    floor = judged[0].floor()
    motion = {name: row.scores["motion"] for name, row in rows.items()}
    assert motion["frozen"] == 0
    assert motion["narrow"] < 0.85
    assert motion["wide"] > 1.15
    for name in ("narrow", "wide", "biased"):
        assert rows[name].scores["fd"] > 2 * floor["fd"]
    # a cloud right as a whole: only the change from the present gives it away
    assert rows["shuffled"].scores["fd"] < 1.5 * floor["fd"]
    assert rows["shuffled"].scores["fd_displacement"]["1"] > 5 * floor["fd_displacement"]["1"]


def test_the_shape_of_the_histogram_says_what_is_wrong(rows):
    def shares(name, step="20"):
        return np.array(rows[name].scores["ranks"]["at"][step]["histogram"])

    for name in ("collapsed", "narrow", "biased"):  # truth lies outside
        assert shares(name)[-1] > 0.12
    assert shares("collapsed")[-1] == pytest.approx(1, abs=0.1)
    assert shares("wide")[0] > 0.15
    assert shares("wide")[-1] < 0.05
    for row in rows.values():
        for at in row.scores["ranks"]["at"].values():
            assert sum(at["histogram"]) == pytest.approx(1)
            assert at["reliability_index"] == pytest.approx(np.abs(np.array(at["histogram"]) - 0.1).sum())


def test_minade_is_no_goal_because_too_narrow_futures_win_it(rows):
    assert rows["narrow"].intervals["min_ade"][1] < 1
    assert rows["collapsed"].intervals["min_ade"][0] > 1.1
    assert rows["wide"].intervals["min_ade"][0] > 1.1


def test_a_fault_of_the_object_shows_in_its_own_column_most(rows):
    scores = rows["object"].scores
    for key, value in scores["energy_score_object"].items():
        assert value > scores["energy_score"][key]
    assert rows["narrow"].scores["energy_score_object"]["mean"] > 1.01


def test_states_that_could_not_be_are_counted(judged, rows):
    floor = judged[0].floor()["validity"]
    assert 0.005 < floor["invalid"] < 0.02
    wide, perfect = rows["wide"].scores["validity"], rows["perfect"].scores["validity"]
    assert wide["joint_limits"] > 5 * perfect["joint_limits"]
    assert wide["penetration"] > 3 * perfect["penetration"]
    assert wide["quaternion"] == 0
    assert max(wide.values()) == wide["invalid"]
    assert rows["simulator"].scores["validity"] is None


def test_differences_are_paired_and_so_narrower_than_the_intervals(rows):
    assert rows["perfect"].differences == {}
    simulator = rows["simulator"].differences["energy_score"]["mean"]
    assert simulator[0] == pytest.approx(1 - rows["perfect"].scores["energy_score"]["mean"])
    assert simulator[1] < 0 < simulator[2]
    value, low, high = rows["frozen"].differences["energy_score"]["1"]
    frozen, perfect = (rows[name].scores["energy_score"]["1"] for name in ("frozen", "perfect"))
    assert value == pytest.approx(frozen - perfect)
    assert low < value < high


def test_intervals_hold_the_true_ratio_as_often_as_they_say():
    rng, held = np.random.default_rng(0), 0
    for trial in range(300):
        counts = intervals.draw_counts(80, trial, 300)
        size = rng.gamma(4, size=80)  # contexts differ, in both alike
        over, under = size * rng.normal(1.1, 0.2, 80), size * rng.normal(1, 0.2, 80)
        low, high = intervals.ratio_interval(over, under, counts)
        held += low <= 1.1 <= high
    assert 0.91 <= held / 300 <= 0.98


def test_the_same_state_many_times_over_is_no_fault_and_resolution_forgives_a_narrow_density():
    rng = np.random.default_rng(0)

    def draw(narrow: float) -> np.ndarray:
        free = rng.random((100, 16, 1, 1)) < 0.25  # the others are one state to the bit
        return np.where(free, rng.normal(size=(100, 16, 1, 8)), narrow * rng.normal(size=(100, 16, 1, 8)))

    branches, simulator, same, narrow, wide = (draw(width) for width in (0, 0, 0, 0.01, 0.2))
    counts = intervals.draw_counts(100, 0)
    inside = {}
    for blur in (0.0, 0.1):
        judge = RankJudge(branches, [1], 0, np.full(8, blur))
        judge.calibrate(simulator, counts)
        inside[blur] = [judge.row(model)["inside"] for model in (same, narrow, wide)]
    assert inside == {0.0: [True, False, False], 0.1: [True, True, False]}


def test_nine_in_ten_perfect_models_and_more_are_inside_the_rank_interval():
    rng, inside = np.random.default_rng(0), 0
    for trial in range(60):
        present = rng.normal(size=(60, 3))
        branches, simulator, model = (run(rng, present, 8, 2) for _ in range(3))
        judge = RankJudge(branches, [1, 2], trial)
        judge.calibrate(simulator, intervals.draw_counts(60, trial, 300))
        inside += judge.row(model)["inside"]
    assert inside >= 53
