"""The timing of closed-loop control runs and tells two lines."""

import pytest

from ebm_traj.errors import InputError


@pytest.mark.parametrize(
    ("options", "named"), [({"rollouts": 0}, "--rollouts 0"), ({"steps": 3}, "--warm 3")]
)
def test_what_cannot_be_timed_is_refused_before_any_work(options, named, load_script):
    script = load_script("control_rate")
    with pytest.raises(InputError, match=named):
        script.main(script.Args(**options))


def test_it_times_planning_and_the_whole_step(load_script, capsys):
    script = load_script("control_rate")
    script.main(script.Args(futures=4, horizon=2, steps=5, rollouts=1, warm=1))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["planning", "planning and environment"]
    assert all("(p50)" in line and "(p99)" in line for line in lines)
