"""scripts/monitor.py at its smallest, and one line for what it refuses."""

import json

import pytest

SMALL = (
    "--episodes 3 --calibration-episodes 4 --steps 24 --earliest 6 --latest 10 --within 5 --draws 4 "
    "--false-alarm-rate 0.4 --workers 1"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory, call_script):
    out = tmp_path_factory.mktemp("monitor") / "report"
    call_script("monitor", "--out", str(out), "--faults", "jammed", "dropped", *SMALL.split())
    return out


def test_the_report_has_a_page_figures_and_a_picture(report):
    found = json.loads((report / "monitor.json").read_text())
    assert found["episodes"] == 3 and found["within"] == 5 and found["settings"]["model"] == "hand-block"
    assert set(found["effects"]) == {"jammed", "dropped"}
    for method in ("energy", "energy, whole state", "-log q"):
        faults = found["methods"][method]["faults"]
        assert set(faults) == {"none", "jammed", "dropped"}
        assert faults["dropped"]["auroc"][0] > 0.8 and faults["dropped"]["detected"] == 1.0
        assert faults["none"]["auroc"][0] == 0.5
    page = (report / "monitor.md").read_text()
    assert "| energy |" in page and "monitor.png" in page
    assert (report / "monitor.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--seed", "-1"], "--seed -1: accepted are 0 and more"),
        (["--calibration-seed", "-1"], "--calibration-seed -1: accepted are 0 and more"),
        (["--latest", "95"], "accepted are steps from 0 to 90"),
        (["--calibration-seed", "8000010"], "have seeds in common"),
        (["--false-alarm-rate", "-1"], "false alarm rate: -1"),
        (["--calibration-episodes", "4"], "4 episodes; a false alarm rate of 0.05 needs 37"),
        (["--episodes", "1"], "--episodes 1: accepted are 2 and more"),
        (["--model", "nowhere"], "nowhere: no such folder"),
        (["--env-kwargs", "["], "not JSON"),
    ],
)
def test_what_it_refuses(argv, words, tmp_path, capsys, call_script):
    with pytest.raises(SystemExit) as exit_info:
        call_script("monitor", "--out", str(tmp_path / "report"), *argv)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert exit_info.value.code == 2 and len(lines) == 1 and words in lines[0], lines


def test_a_report_is_not_written_over(report, capsys, call_script):
    with pytest.raises(SystemExit):
        call_script("monitor", "--out", str(report))
    assert "exists" in capsys.readouterr().err
