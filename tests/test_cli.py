"""How scripts end."""

import subprocess
import sys
from pathlib import Path

import pytest

from ebm_traj.cli import next_step

SCRIPT = """
import dataclasses

from ebm_traj.cli import run


@dataclasses.dataclass
class Args:
    lines: int = 1


def main(args: Args) -> None:
    "Write lines."
    for number in range(args.lines):
        print("a line that somebody may read", number)


run(main, Args)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "write.py"
    path.write_text(SCRIPT)
    return path


# less than a buffer of output is written only as the program ends, more of it before
@pytest.mark.parametrize("arguments", [["--lines", "1"], ["--lines", "20000"], ["--help"]])
def test_output_that_nobody_reads_ends_without_a_word(script: Path, arguments: list[str]) -> None:
    command = [sys.executable, str(script), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert errors == ""
    assert process.returncode == 141


def test_a_list_of_commands_that_is_not_read_to_its_end_is_no_fault(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parents[1] / "scripts" / "image.py"), "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_what_the_machine_refuses_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "full.py"
    path.write_text(SCRIPT.replace('"Write lines."', 'raise OSError(28, "No space left on device", "a.h5")'))
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "full.py: error: [Errno 28] No space left on device: 'a.h5'\n"


def test_what_is_warned_of_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "warn.py"
    path.write_text(
        SCRIPT.replace('"Write lines."', 'import warnings\n    warnings.warn("nothing is validated")')
    )
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "warn.py: warning: nothing is validated\n"


def test_what_to_type_next_is_quoted() -> None:
    assert next_step("python", "a.py", "--out", Path("my run")) == "next: python a.py --out 'my run'"


def test_output_that_is_read_is_whole(script: Path) -> None:
    command = [sys.executable, str(script), "--lines", "20000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith("19999")


def test_another_broken_pipe_is_not_hidden(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    failing = SCRIPT.replace('"Write lines."', 'raise BrokenPipeError("a worker has died")')
    path.write_text(failing)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "BrokenPipeError: a worker has died" in done.stderr
