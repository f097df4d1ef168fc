"""What failed beside others is heard again, alone: only what passes each time is put down to the machine."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TESTS = """
from pathlib import Path
import pytest

RUN = Path("run")
RUN.write_text(str(int(RUN.read_text()) + 1) if RUN.exists() else "1")

def test_passes():
    pass

@pytest.mark.parametrize("nth", range({tests}))
def test_fails_in_some_runs(nth):
    assert int(RUN.read_text()) not in {fails_in}
"""


def _ran(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", *arguments]
    there = {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=home, env=there, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("fails_in", "tests", "code"),
    [((1,), 1, 0), ((1, 2), 1, 1), ((1, 4), 1, 1), ((1,), 4, 1)],
    ids=["only beside others", "alone, too", "in one hearing of three", "too many for chance"],
)
def test_only_what_passes_alone_each_time_is_let_through(
    tmp_path: Path, fails_in: tuple[int, ...], tests: int, code: int
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(fails_in=fails_in, tests=tests))
    first = _ran(tmp_path, "pytest", "-q")
    assert first.returncode == 1
    heard = _ran(tmp_path, "tests.support.second_hearing", str(first.returncode))
    assert heard.returncode == code, heard.stdout
    assert ("mend them:\n  test_it.py::test_fails_in_some_runs[0]" in heard.stdout) == (code == 0)


def test_a_run_that_was_cut_off_is_not_heard_again(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(fails_in=(1,), tests=1))
    _ran(tmp_path, "pytest", "-q")
    heard = _ran(tmp_path, "tests.support.second_hearing", "2")
    assert (heard.returncode, heard.stdout) == (2, "")
