"""Composition on made-up configurations whose factors are independent, so that the truth is known."""

import json

import numpy as np
import pytest
import torch

from ebm_traj.core.denoising import LEVEL, DenoisingConfig
from ebm_traj.errors import InputError
from ebm_traj.planning.composition import (
    CompositionConfig,
    FactorEnergy,
    draw,
    energy_distance,
    fit,
    picture,
    quarter,
    read_frames,
    study,
    table,
    write_report,
)
from ebm_traj.spec import StateSpec

SPEC = StateSpec(
    names=("qw", "qx", "qy", "qz", "one", "two"),
    kinds=(*["quaternion"] * 4, "angle", "angle"),
    indices=tuple(range(6)),
    observation_size=6,
)
SMALL = CompositionConfig(
    width=32, iterations=400, learning_rate=8e-3, samples=300, denoising=DenoisingConfig(batch_size=128)
)


def make_states(count=2000, seed=0):
    """Turns of about +-1.2 radians and joints of about +-1 that are moved as one."""
    rng = np.random.default_rng(seed)
    turn = rng.choice([-1.2, 1.2], count) + 0.2 * rng.normal(size=count)
    joint = rng.choice([-1.0, 1.0], count) + 0.2 * rng.normal(size=count)
    zero = np.zeros(count)
    return np.stack([np.cos(turn / 2), zero, zero, np.sin(turn / 2), joint, joint + 0.1 * zero], 1)


@pytest.fixture(scope="module")
def frames():
    return read_frames(make_states(), SPEC)


@pytest.fixture(scope="module")
def rows(frames):
    return {row.name: row for row in study(frames, SMALL, seed=0)}


def test_factors_are_read_from_configurations_and_from_samples_alike(frames):
    states = make_states()
    turn = 2 * np.arctan2(states[:, 3], states[:, 0])
    np.testing.assert_allclose(frames.factors[:, 0], turn, atol=1e-6)
    assert abs(np.corrcoef(frames.factors[:, 1], states[:, 4])[0, 1]) > 0.999
    np.testing.assert_allclose(frames.factors_of(frames.x), frames.factors, atol=1e-6)
    shares = [frames.quarter(left, high).mean() for left in (True, False) for high in (True, False)]
    assert sum(shares) == 1 and min(shares) > 0.2
    # scales are those of what A and B show, which lack two of four quarters
    shown = frames.quarter(True, False) | frames.quarter(False, True)
    np.testing.assert_allclose(frames.x[shown].mean(0), 0, atol=1e-9)


def test_an_energy_reads_its_dimensions_only_and_parts_add_up():
    torch.manual_seed(0)
    energy = FactorEnergy([1, 2], 8)
    x, condition = torch.randn(5, 4), {LEVEL: torch.full((5,), 0.3)}
    moved = x.clone()
    moved[:, [0, 3]] += 1
    assert torch.equal(energy(x, condition), energy(moved, condition))
    assert not torch.equal(energy(x, condition), energy(x + 1, condition))
    both = energy + FactorEnergy([0, 3], 8)
    torch.testing.assert_close(both(x, condition), energy(x, condition) + both.parts[1](x, condition))


def test_a_fitted_energy_has_the_mean_and_spread_of_its_data():
    x = np.random.default_rng(0).normal([1.0, 5.0, -0.5], [0.5, 1.0, 0.2], (3000, 3))
    energy = fit([0, 2], x, SMALL, seed=0)
    found = draw(energy + fit([1], x - [0, 5, 0], SMALL, seed=1), 3, SMALL, seed=0)
    np.testing.assert_allclose(found.mean(0), [1, 0, -0.5], atol=0.15)
    np.testing.assert_allclose(found.std(0), [0.5, 1, 0.2], rtol=0.25)


def test_energy_distance_is_0_for_the_same_and_grows_with_a_shift():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 800, 2))
    assert abs(energy_distance(one, other)) < 0.02
    assert 0.05 < energy_distance(one, other + 0.5) < energy_distance(one, other + 1.0)


def test_the_sum_reaches_what_neither_set_shows_and_no_other_energy_does(rows):
    together = rows["E_A(turn) + E_B(joints)"]
    assert together.share[0] > 0.9 and together.share[1] <= together.share[0] <= together.share[2]
    for name in ("all of x, data A", "all of x, data B", "all of x, both", "data A", "data B"):
        assert rows[name].share[0] < 0.15, name
        assert rows[name].distance[0] > 5 * together.distance[0], name
    truth = rows["frames held out, other half"]
    assert truth.share[0] == 1 and abs(truth.distance[0]) < 0.05


def test_the_report_has_every_row(rows, frames, tmp_path):
    page = write_report(list(rows.values()), frames, tmp_path, {"seed": 0}, "python x")
    assert table(list(rows.values())) in page.read_text()
    saved = json.loads((tmp_path / "composition.json").read_text())
    assert [row["name"] for row in saved["rows"]] == list(rows)
    assert picture(list(rows.values()), frames.limit)[:4] == b"\x89PNG"


def test_what_lacks_factors_or_frames_is_refused():
    with pytest.raises(InputError, match="0 rotations and 0 angles"):
        read_frames(np.zeros((5, 2)), StateSpec.from_size(2))
    with pytest.raises(InputError, match="fewer than 50"):
        read_frames(make_states(60), SPEC)
    with pytest.raises(InputError, match="iterations"):
        CompositionConfig(iterations=1)
    assert quarter(np.array([[1.0, 2.0]]), 1.0, True, True).tolist() == [True]


def test_the_command_refuses_a_state_without_joints(toy_folder, tmp_path, call_script, capsys):
    with pytest.raises(SystemExit) as end:
        call_script(
            "composition", "--data", str(toy_folder), "--out", str(tmp_path / "out"), "--frames", "200"
        )
    assert end.value.code == 2 and "1 rotations and 0 angles" in capsys.readouterr().err
