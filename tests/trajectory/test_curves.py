"""Training curves: panels for what was logged, the lowest held-out score marked, odd logs survived."""

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from ebm_traj.core.logs import MetricLog
from ebm_traj.errors import InputError
from ebm_traj.trajectory import curves
from ebm_traj.trajectory.curves import draw_curves, lowest


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = curves.save
    monkeypatch.setattr(curves, "save", lambda figure, kind: (figures.append(figure), save(figure, kind))[1])
    return figures


def log(folder, rows: dict[int, dict[str, float]]) -> None:
    with MetricLog(folder) as file:
        for iteration, figures in rows.items():
            file.write(iteration, figures)


def titles(figure: Figure) -> dict[str, list[str]]:
    """Title of each panel and the labels of its lines."""
    return {
        ax.get_title(loc="left"): [
            str(line.get_label()) for line in ax.lines if not str(line.get_label()).startswith("_")
        ]
        for ax in figure.axes
        if ax.get_visible()
    }


def test_a_contrastive_run_has_its_panels_and_no_others(tmp_path, drawn):
    names = ("energy_data", "energy_samples", "energy_gap", "displacement", "acceptance", "buffer_age_mean")
    rows = {i: {name: float(np.sin(i)) for name in ("loss", "gradient_norm", *names)} for i in range(1, 30)}
    log(tmp_path, rows)
    path = draw_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    assert matplotlib.image.imread(path).std() > 0.02  # not blank
    found = titles(drawn[0])
    assert list(found) == [
        "Loss",
        "Energies of data and samples",
        "Gap: energy of data minus samples",
        "Gradient norm, before clipping",
        "Sampler: how far a chain moves, RMS",
        "Sampler: share of steps accepted",
        "Age of replayed chains, iterations",
    ]
    assert found["Energies of data and samples"] == ["data", "samples"]
    values = next(ax for ax in drawn[0].axes if ax.get_title(loc="left") == "Loss").lines[0].get_ydata()
    assert np.allclose(values, np.sin(np.arange(1, 30)))


def test_parts_of_a_combined_objective_are_found(tmp_path, drawn):
    row = {"loss": 1.0, "denoising/loss": 0.5, "contrastive/loss": 0.5, "denoising/denoising_error": 0.3}
    log(tmp_path, {10: row, 20: row | {"contrastive/energy_data": 1.0, "contrastive/energy_samples": 2.0}})
    draw_curves(tmp_path)
    found = titles(drawn[0])
    assert found["Loss"] == ["sum", "denoising", "contrastive"]
    assert found["Errors"] == ["denoising, RMS"]
    assert found["Energies of data and samples"] == ["data", "samples"]


def test_the_lowest_held_out_score_is_marked(tmp_path, drawn):
    scores = {100: 3.0, 200: float("nan"), 300: 1.25, 400: 1.25, 500: 2.0}
    rows = {
        i: {"loss": 1.0} | ({"validation/energy_score": scores[i]} if i in scores else {})
        for i in range(50, 501, 50)
    }
    log(tmp_path, rows)
    draw_curves(tmp_path)
    assert lowest(curves.read_metrics(tmp_path / "metrics.csv")) == (300, 1.25)
    first = drawn[0].axes[0]
    assert first.get_title(loc="left").startswith("Held-out energy score")
    assert [text.get_text() for text in first.texts] == ["1.25 at 300"]
    dotted = [line for ax in drawn[0].axes for line in ax.lines if list(line.get_xdata()) == [300, 300]]
    assert len(dotted) == 2  # in every panel
    assert "lowest held-out energy score at 300" in drawn[0].get_suptitle()


def test_long_runs_have_a_running_mean(tmp_path, drawn):
    rng = np.random.default_rng(0)
    log(tmp_path, {i: {"loss": 5 + rng.normal()} for i in range(1, 1001)})
    draw_curves(tmp_path)
    thin, bold = (line.get_ydata() for line in drawn[0].axes[0].lines)
    assert len(bold) == 1000 and bold.std() < 0.3 * thin.std() and bold.mean() == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize(
    "row",
    [
        {"loss": 1.0},
        {"loss": -2.0, "step_size": 0.1},
        {"loss": float("nan"), "gradient_norm": 1.0},
        {"loss": 0.0},
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_short_constant_and_broken_logs_are_drawn(tmp_path, row, count):
    log(tmp_path, dict.fromkeys(range(1, count + 1), row))
    assert draw_curves(tmp_path).stat().st_size > 5000


def test_logs_of_nothing_known_or_nothing_at_all_are_named(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.csv: no figures of a training run"):
        draw_curves(tmp_path)
    log(tmp_path, {1: {"taste": 1.0}})
    with pytest.raises(InputError, match=r"metrics\.csv: no figures of a training run"):
        draw_curves(tmp_path)
