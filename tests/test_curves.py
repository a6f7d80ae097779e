"""Panels of a log: what has no figures is left out, steps of validations follow from their iterations."""

from pathlib import Path

import matplotlib.axes
import numpy as np
import pytest

from ebm_traj.core.logs import MetricLog
from ebm_traj.curves import Panel, draw_panels
from ebm_traj.policy.curves import draw_curves


def test_panels_without_figures_are_left_out(tmp_path: Path):
    path = tmp_path / "a.png"
    rows = [{"iteration": 1.0, "loss": 2.0}, {"iteration": 2.0, "loss": 1.0}]
    assert draw_panels(path, rows, [Panel("Energies", {"energy": "energy"})]) is None
    assert not path.exists()
    assert draw_panels(path, rows, [Panel("Energies", {"energy": "e"}), Panel("Loss", {"loss": "l"})]) == path
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_policy_s_validations_stand_at_their_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with MetricLog(tmp_path, 0) as log:
        log.write(10, {"reached": 0.1, "held": 0.0, "dropped": 0.0, "steps": 1_280_000.0})
        log.write(20, {"smooth_reached": 0.5, "smooth_held": 0.4})
    drawn = {}
    plot = matplotlib.axes.Axes.plot

    def noted(self: matplotlib.axes.Axes, x: object, y: object, **told: object) -> object:
        drawn[told["label"]] = (np.array(x), np.array(y))
        return plot(self, x, y, **told)  # type: ignore[arg-type]

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", noted)
    assert draw_curves(tmp_path) == tmp_path / "curves.png"
    np.testing.assert_allclose(drawn["at some step"], [[1.28], [0.1]])
    np.testing.assert_allclose(drawn["mean network, at the last"], [[2.56], [0.4]])
