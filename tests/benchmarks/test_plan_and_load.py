"""Planning latency and the time until a first sample."""

import numpy as np
import pytest

from ebm_traj.benchmarks import load
from ebm_traj.benchmarks.load import LoadSettings, benchmark_load
from ebm_traj.benchmarks.plan import P50, P99, PlanSettings, benchmark_plan, energy_model
from ebm_traj.errors import InputError, RunError


def test_every_kind_of_model_plans_at_the_same_size():
    settings = PlanSettings(futures=3, horizon=2, steps=1)
    result = benchmark_plan(settings, rounds=2, calls=2)
    assert [row.name for row in result.rows] == ["hand-block", "flow", "diffusion", "fc"]
    assert result.calls == 4 and result.rows[0].ratio == 1
    for row in result.rows:
        assert 0 < row.beside[P50] <= row.beside[P99]
        assert row.beside["sampler"] and row.beside["parameters"] > 100_000
    assert "1 steps" in result.rows[0].beside["sampler"]


def test_the_motion_ratio_stands_beside_the_sampler_that_it_was_found_with_alone():
    model, motion = energy_model(PlanSettings())
    assert motion is not None and 0.9 < float(motion) < 1.1
    steps = model.sampler.steps
    other, none = energy_model(PlanSettings(steps=steps + 1))
    assert other.sampler.steps == steps + 1 and none is None


def test_a_model_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="hand-blok"):
        benchmark_plan(PlanSettings(model="hand-blok"))
    with pytest.raises(InputError, match="--model hand-blok: no shipped model"):
        LoadSettings(model="hand-blok")
    with pytest.raises(InputError, match="--steps -1"):
        PlanSettings(steps=-1)


def test_the_parts_of_a_start_add_up(monkeypatch):
    made = iter(range(100))

    def times(code):
        if "ebm_traj" not in code:
            return {"import": 1.0}
        scale = 1 + next(made)
        return {"import": 0.1 * scale, "load": 2.0 * scale, "sample": 0.5 * scale, "again": 0.2 * scale}

    monkeypatch.setattr(load, "_times", times)
    result = benchmark_load(LoadSettings(), rounds=3)
    seconds = {row.name: row.seconds for row in result.rows}
    parts = [seconds[load.STAGES[name]] for name in ("import", "load", "sample")]
    assert seconds[load.OURS] == pytest.approx(sum(parts))
    assert parts[0] == pytest.approx(0.3)  # rounds 2 to 4: the first fills the page cache
    assert seconds["import torch"] == 1.0 and len(result.text().splitlines()) >= 8


def test_a_new_process_tells_its_times_or_why_it_failed():
    assert load._times(load.IMPORT.format(statement="import json"))["import"] >= 0
    with pytest.raises(RunError, match="ModuleNotFoundError: No module named 'nothing_here'"):
        load._times(load.IMPORT.format(statement="import nothing_here"))


def test_the_programs_of_new_processes_are_python():
    compile(load.FIRST_SAMPLE.format(model="hand-block", threads=1, futures=2, horizon=1), "program", "exec")
    assert np.isfinite(load.LIMIT)
