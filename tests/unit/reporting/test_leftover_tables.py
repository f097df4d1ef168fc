"""What `leftovers` and `drain` print for people: in 80 columns, and with nothing that steers their terminal."""

from dataclasses import replace

from tests.unit.judging.test_leftovers import BORN, call, command, member
from tests.unit.reporting.test_tables import Reader
from watchdog.explaining.drain import Drain, Loss
from watchdog.model.leftovers import Commands, LeftOver
from watchdog.model.session import SessionId
from watchdog.reporting.drain_tables import drain
from watchdog.reporting.leftover_tables import leftovers

SERVES = replace(
    command(member("node", "serve.js", "\x1b[31m" + "x" * 300), member("sleep", "1", pid=4712), ports=(3000,)),
    keep="an opencode runs in it (process 4712)",
)
LEFT = LeftOver(command=SERVES, call=call(), why="its opencode (process 4700) is gone", stays="its command has `&`")
SEEN = Commands(left=(LEFT,), problems=("3 processes of other users were not looked at.",))


def test_a_person_sees_what_it_is_whose_it_is_and_what_speaks_against_an_end() -> None:
    reader = Reader(terminal=True)
    leftovers(reader.screen, SEEN, at_ms=BORN + 90_000)
    words = " ".join(reader.text.split())
    for each in ("4711", "90 s", "with 1 more", "node serve.js", "ses_1 prt_1", "may have been started to stay",
                 "listens on port 3000", "is never ended from here", "1 command left over: 2 processes"):  # fmt: skip
        assert each in words, words
    assert r"\x1b[31mxxx" in words
    assert max(map(len, reader.plain)) <= 80


def test_a_pipe_gets_a_line_with_tabs() -> None:
    reader = Reader(terminal=False)
    leftovers(reader.screen, SEEN, at_ms=BORN + 90_000)
    unread, left, summary = reader.text.splitlines()
    assert unread.startswith("unread\t")
    assert left.split("\t")[:2] == ["left over", "4711"]
    assert len(left.split("\t")) == 11
    assert summary == "summary\t1 command left over: 2 processes, 0 MB"


def test_what_would_be_lost() -> None:
    loss = Loss(session_id=SessionId("ses_1"), certain=True, why="a server is at work on it: 1 open call (bash)")
    for terminal in (True, False):
        reader = Reader(terminal=terminal)
        drain(reader.screen, Drain(at_ms=BORN, losses=(loss,)))
        for each in ("certain", "ses_1", "1 open call (bash)", "1 session would lose work"):
            assert each in " ".join(reader.text.split())
