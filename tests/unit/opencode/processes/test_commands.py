"""What is read of processes, on values: whose command each belongs to, and which are never ended."""

import sys

import pytest

from tests.unit.judging.test_leftovers import member
from watchdog.opencode.processes import commands as module
from watchdog.opencode.processes.commands import Table
from watchdog.opencode.processes.stat import Stat

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="left-over commands are told on Linux only")


def stat(pid: int, *, parent: int = 1, session: int = 4711, terminal: bool = False, ended: bool = False) -> Stat:
    return Stat(pid=pid, parent=parent, session=session, terminal=terminal, birth=100, memory_bytes=0, ended=ended)


def table(*stats: Stat) -> Table:
    return Table(
        stats={each.pid: each for each in stats},
        marks={each.pid: 4700 for each in stats},
        unreadable=frozenset(),
        others=0,
        hides=False,
        elsewhere=False,
    )


@pytest.mark.parametrize(
    ("value", "pid"),
    [
        (b"4711", 4711),
        (b"4194304", 4_194_304),
        (b"4194305", None),
        (b"99999999999", None),
        (b"9" * 5000, None),
        (b"0", None),
        (b"-1", None),
        (b"x", None),
        (b"", None),
    ],
)
def test_what_is_no_pid_is_nobodys(value: bytes, pid: int | None) -> None:
    assert module._mark(b"HOME=/home\0OPENCODE_PID=" + value + b"\0X=1\0") == pid
    assert module._mark(b"HOME=/home\0") is None


class TestNeverEnded:
    def test_an_editor_at_a_terminal_whose_session_another_process_leads(self) -> None:
        at_a_terminal = table(stat(4720, session=4600, terminal=True), stat(4710, session=4710))
        assert "a person may sit" in str(module._keep([member("vim", pid=4720)], (), (), at_a_terminal.terminals))
        assert module._keep([member("make", pid=4710)], (), (), at_a_terminal.terminals) is None

    def test_what_opened_a_terminal_as_long_as_it_is_there(self) -> None:
        assert table(stat(4711), stat(4712, parent=4711, session=4712, terminal=True)).terminals == {4711, 4712}
        assert not table(stat(4711), stat(4712, parent=4711, terminal=True, ended=True)).terminals

    @pytest.mark.parametrize("program", ["opencode", "/usr/local/lib/opencode/bin/.opencode", "kilo", "/x/.kilo"])
    def test_an_opencode_by_its_name(self, program: str) -> None:
        assert "an opencode runs in it" in str(module._keep([member("sh"), member(program, "serve")], (), (), ()))
        assert module._keep([member("sh"), member(f"{program}-log")], (), (), ()) is None
