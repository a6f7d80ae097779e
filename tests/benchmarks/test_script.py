"""scripts/benchmark.py: options, files, and bad options refused in one line."""

import json

import pytest

TINY = "--batch 4 --size 3 --width 4 --depth 1 --steps 2 --rounds 1 --threads 1 --device cpu"


def test_a_chain_is_written_as_markdown_and_json(call_script, tmp_path, capsys, no_compiler):
    out = tmp_path / "new" / "chain.md"
    call_script("benchmark", "chain", *TINY.split(), "--out", str(out))
    assert out.read_text() == capsys.readouterr().out
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["settings"]["batch"] == 4 and found["threads"] == 1 and found["device"] == "cpu"
    assert found["machine"]["torch"] and found["floor"]["flop"] == 2 * (2 * 4 * 3 * 4) * 2
    assert found["rows"][0]["name"] == "ebm_traj"
    for row in found["rows"]:
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["seconds"] / found["rows"][0]["seconds"] == pytest.approx(row["ratio"])


def test_a_curve_is_drawn_beside_its_table(call_script, tmp_path):
    out = tmp_path / "curve.md"
    call_script(
        "benchmark", "chain", *TINY.split(), "--curve", "batch", "--values", "2", "4", "--out", str(out)
    )
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["values"] == [2, 4] and len(found["rows"]) == 2


@pytest.mark.parametrize(
    "argv, message",
    [
        ("chain --batch 0", "--batch 0"),
        ("chain --threads 0", "--threads 0"),
        ("chain --rounds 0", "--rounds 0"),
        ("chain --device nowhere", "--device nowhere"),
        ("chain --values 1", "--values: needed is a --curve"),
        ("chain --curve batch --values 4 0", "--batch 0"),
        ("train --buffer 1", "--buffer 1"),
        ("train --curve data --values 0", "--data 0"),
        ("plan --calls 0", "--calls 0"),
        ("plan --model nothing", "nothing"),
        ("load --model nothing", "--model nothing"),
        ("collect --episodes 0", "--episodes 0"),
        ("windows --folder no/such/folder", "--folder no/such/folder"),
        ("--out table.txt", "--out table.txt: accepted are"),
    ],
)
def test_bad_options_are_one_line_before_any_work(argv, message, call_script, capsys):
    with pytest.raises(SystemExit) as exit_info:
        call_script("benchmark", *argv.split())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert exit_info.value.code == 2 and len(lines) == 1 and message in lines[0], lines


def test_each_command_has_its_own_options(load_script):
    args = load_script("benchmark").Args
    fields = {name: args.class_for([name]).__dataclass_fields__ for name in ("collect", "chain", "plan")}
    assert "episodes" in fields["collect"] and "episodes" not in fields["chain"]
    assert "curve" in fields["chain"] and "calls" in fields["plan"]
    assert args.class_for([]) is args.class_for(["collect"])
