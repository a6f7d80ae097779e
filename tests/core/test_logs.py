"""The log of figures survives a resumption whatever its rows hold."""

from pathlib import Path

from ebm_traj.core.logs import MetricLog, read_metrics


def test_rows_of_different_figures_come_through_a_resumption(tmp_path: Path):
    with MetricLog(tmp_path) as log:
        log.write(0, {"validation": 0.5})
        log.write(1, {"loss": 2.0, "rate": 0.1})
        log.write(2, {"loss": 1.0, "validation": 0.6})
    with MetricLog(tmp_path, iteration=1) as log:
        log.write(2, {"loss": 3.0})
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"iteration": 0, "validation": 0.5},
        {"iteration": 1, "loss": 2.0, "rate": 0.1},
        {"iteration": 2, "loss": 3.0},
    ]


def test_a_row_that_was_cut_is_not_read_as_other_figures(tmp_path: Path):
    with MetricLog(tmp_path) as log:
        log.write(1, {"loss": 0.5})
        log.write(1200, {"loss": 0.25})
    path = tmp_path / "metrics.csv"
    whole = path.read_bytes()
    for cut in range(1, 12):  # from "1" for 1200 to .2 for .25
        path.write_bytes(whole[:-cut])
        assert read_metrics(path) == [{"iteration": 1, "loss": 0.5}]
