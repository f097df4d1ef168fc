"""What people and pipes see, from values."""

import io
import json
import os
from dataclasses import replace

import pytest
from rich.console import Console
from rich.text import Text

from watchdog.console.terminal import Terminal
from watchdog.model.moments import NEVER
from watchdog.model.outcome import Outcome, Result
from watchdog.model.report import Observation
from watchdog.model.session import CallId, Damage, SessionId, Snapshot, TurnId
from watchdog.model.verdict import Judgement, Spared, SpareReason, Verdict, VerdictKind
from watchdog.reporting.documents import damage_sentences
from watchdog.reporting.tables import KIND_COLOURS, RESULT_COLOURS, Screen, complain

SESSION = SessionId("ses_" + "a" * 26)
CHILD = SessionId("ses_" + "b" * 26)
CALL = CallId("prt_" + "c" * 26)
WHY = "the bash call ran 31 min, past its limit of 30 min, which is a sentence too long for one line of a terminal"
VERDICT = Verdict(
    session_id=SESSION, kind=VerdictKind.STUCK_TASK, cancel_session_id=CHILD, why=WHY, age_seconds=1860.0,
    limit_seconds=1800.0, message_id=TurnId("msg_1"), call_id=CALL, tool="bash",
)  # fmt: skip


class Reader:
    """A screen and what was written on it."""

    def __init__(self, *, terminal: bool, as_json: bool = False) -> None:
        self.file = io.StringIO()
        # A terminal of 80 columns, whatever the tests run in.
        environ = {"TERM": "xterm-256color", "COLUMNS": "80"} if terminal else {}
        console = Console(
            file=self.file, force_terminal=terminal, width=80, color_system="standard" if terminal else None,
            highlight=False, soft_wrap=True, _environ=environ,
        )  # fmt: skip
        self.screen = Screen(console=console, as_json=as_json)

    @property
    def text(self) -> str:
        return self.file.getvalue()

    @property
    def plain(self) -> list[str]:
        """The lines without colours and without the blanks that fill them up."""
        return [line.rstrip() for line in Text.from_ansi(self.text).plain.splitlines()]


def observation(*, degraded: tuple[str, ...] = (), damaged: tuple[Damage, ...] = ()) -> Observation:
    return Observation(at_ms=0, now=NEVER, steady_since_ms=0, snapshot=Snapshot(damaged=damaged), degraded=degraded)


def spared(reason: SpareReason) -> Spared:
    return Spared(session_id=SESSION, reason=reason, why=WHY, call_id=CALL)


def outcome(result: Result) -> Outcome:
    return Outcome(session_id=SESSION, kind=VerdictKind.ORPHAN, result=result, steps=(), why=WHY)


# For a pipe.


def test_a_pipe_gets_one_line_for_each_finding_with_tabs_between_the_cells() -> None:
    reader = Reader(terminal=False)
    damage = Damage(table="part", id="prt_x", session_id=SESSION, problem="its JSON is broken")
    judgement = Judgement(verdicts=(VERDICT,), spared=(spared(SpareReason.WITHIN_LIMIT),))
    reader.screen.judgement(["the server is down", *damage_sentences(observation(damaged=(damage,)))], judgement)
    assert [line.split("\t") for line in reader.text.splitlines()] == [
        ["degraded", "the server is down"],
        ["degraded", f"part prt_x of session {SESSION} is left alone: its JSON is broken"],
        ["stuck", "stuck_task", SESSION, CHILD, "bash", "31 min", "30 min", WHY],
        ["spared", "within_limit", SESSION, CALL, WHY],
        ["summary", "1 stuck, 1 spared"],
    ]


def test_what_is_missing_is_a_dash() -> None:
    reader = Reader(terminal=False)
    bare = replace(VERDICT, tool=None, limit_seconds=None)
    reader.screen.judgement([], Judgement(verdicts=(bare,)))
    assert reader.text.splitlines()[0].split("\t")[4:7] == ["-", "31 min", "-"]


def test_no_cell_breaks_a_line_or_a_column() -> None:
    reader = Reader(terminal=False)
    reader.screen.rows("database", ("", ""), [("path", "/home/a\tb\nc")])
    reader.screen.line("problem", "one\ntwo\tthree")
    assert reader.text == "database\tpath\t/home/a b c\nproblem\tone two three\n"


def test_a_pipe_gets_no_colours_and_no_wrapped_lines() -> None:
    reader = Reader(terminal=False)
    reader.screen.outcomes([outcome(result) for result in Result])
    assert "\x1b" not in reader.text
    assert len(reader.text.splitlines()) == len(Result)


def test_json_is_ascii_and_one_document() -> None:
    reader = Reader(terminal=True, as_json=True)
    reader.screen.document({"path": "/home/jörg/caf\udce9.db"})
    assert reader.text.isascii()
    assert json.loads(reader.text) == {"path": "/home/jörg/caf\udce9.db"}


# For a person.


@pytest.mark.parametrize("reason", SpareReason)
def test_a_table_fits_80_columns_and_breaks_no_id(reason: SpareReason) -> None:
    reader = Reader(terminal=True)
    judgement = Judgement(verdicts=(VERDICT,), spared=(spared(reason),))
    reader.screen.judgement([WHY], judgement)
    assert max(len(line) for line in reader.plain) <= 80
    for id_ in (SESSION, CHILD, CALL):
        assert any(id_ in line for line in reader.plain), reader.text
    assert reader.plain[-1] == "1 stuck, 1 spared"


def test_a_verdict_says_which_session_is_ended_if_it_is_another_one() -> None:
    reader = Reader(terminal=True)
    reader.screen.judgement([], Judgement(verdicts=(VERDICT,)))
    assert any(f"ends {CHILD}" in line for line in reader.plain)
    alone = Reader(terminal=True)
    alone.screen.judgement([], Judgement(verdicts=(replace(VERDICT, cancel_session_id=SESSION),)))
    assert not any("ends ses_" in line for line in alone.plain)


def test_colours_mean_something() -> None:
    assert set(RESULT_COLOURS) == set(Result)
    good = {result for result, colour in RESULT_COLOURS.items() if colour in {"green", "cyan"}}
    assert good == {Result.RECOVERED, Result.UNCHANGED, Result.DRY_RUN}
    calm, uneasy = Reader(terminal=True), Reader(terminal=True)
    calm.screen.spared([spared(SpareReason.WITHIN_LIMIT)])
    uneasy.screen.spared([spared(SpareReason.NO_WITNESS)])
    assert "\x1b[32mwithin_limit" in calm.text
    assert "\x1b[33mno_witness" in uneasy.text


@pytest.mark.parametrize("kind", VerdictKind)
def test_every_kind_has_its_colour(kind: VerdictKind) -> None:
    reader = Reader(terminal=True)
    reader.screen.judgement([], Judgement(verdicts=(replace(VERDICT, kind=kind),)))
    colour = {VerdictKind.ORPHAN: 35, VerdictKind.IDLE_SESSION: 33, VerdictKind.UNANSWERED: 34}.get(kind, 31)
    assert f"\x1b[{colour}m{kind.value}" in reader.text


def test_nothing_stuck_is_green_and_something_is_red() -> None:
    calm, stuck = Reader(terminal=True), Reader(terminal=True)
    calm.screen.judgement([], Judgement())
    stuck.screen.judgement([], Judgement(verdicts=(VERDICT,)))
    assert calm.text == "\x1b[1;32m0 stuck, 0 spared\x1b[0m\n"
    assert "\x1b[1;31m1 stuck, 0 spared" in stuck.text


def test_what_looks_like_markup_is_only_text() -> None:
    reader = Reader(terminal=True)
    reader.screen.spared([replace(spared(SpareReason.NO_WITNESS), why="a [red]tool[/red] and a [/] of [bold]")])
    reader.screen.line("problem", "[/nothing] closes")
    assert "a [red]tool[/red] and a [/] of [bold]" in " ".join(reader.plain)
    assert "problem: [/nothing] closes" in reader.plain


def test_an_empty_table_is_not_drawn() -> None:
    reader = Reader(terminal=True)
    reader.screen.outcomes([])
    assert reader.text == ""


# When nobody reads, and when something is wrong.


def test_a_screen_whose_reader_is_gone_falls_silent() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        screen = Screen(console=Terminal(file=pipe))
        screen.line("summary", "x" * 100_000)
        screen.document({"much": "x" * 100_000})
        screen.console.print("and more")


def test_a_terminal_that_is_gone_is_no_error_either() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        Terminal(file=pipe).print("x" * 100_000)


def test_a_complaint_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    complain("the [database] is gone")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: the [database] is gone\n")


def test_every_kind_and_every_result_has_its_colour() -> None:
    assert set(KIND_COLOURS) == set(VerdictKind)
    assert set(RESULT_COLOURS) == set(Result)
