"""Cost curves: a line for each value, refused before any work if a value cannot be."""

import pytest

from ebm_traj.benchmarks import curves
from ebm_traj.benchmarks.chain import OURS, PLAIN, TORCHEBM, ChainSettings
from ebm_traj.benchmarks.curves import benchmark_curve, draw_curve
from ebm_traj.benchmarks.floor import FP32
from ebm_traj.benchmarks.train import StepSettings
from ebm_traj.errors import InputError

CHAIN = ChainSettings(batch=4, size=3, width=4, depth=1, steps=2)
STEP = StepSettings(batch=20, size=3, width=4, depth=1, steps=1, buffer=30, data=50)


@pytest.mark.parametrize("parameter", list(curves.CHAIN_VALUES))
def test_a_chain_has_a_line_for_each_value(parameter):
    pytest.importorskip("torchebm")
    curve = benchmark_curve(CHAIN, parameter, [1, 3], rounds=1, block_seconds=0)
    assert [[row.name for row in rows] for rows in curve.rows] == [[OURS, TORCHEBM, FP32]] * 2
    lines = curve.text().splitlines()
    assert len(lines) == 4 and lines[2].startswith("| 1 |") and lines[3].startswith("| 3 |")


def test_a_step_of_training_has_curves_too_and_a_picture(no_peers):
    curve = benchmark_curve(STEP, "window", [1, 2], rounds=1, block_seconds=0)
    assert [row.name for row in curve.rows[0]] == [OURS, PLAIN, FP32]  # without a peer, the plain loop
    assert draw_curve(curve).startswith(b"\x89PNG")


def test_a_value_that_cannot_be_is_refused_before_anything_is_timed(monkeypatch):
    monkeypatch.setattr(curves, "measure", lambda *_, **__: pytest.fail("was timed"))
    with pytest.raises(InputError, match="--batch 0"):
        benchmark_curve(CHAIN, "batch", [4, 0])
    with pytest.raises(InputError, match="--curve window: accepted are batch, width, steps, depth"):
        benchmark_curve(CHAIN, "window")
