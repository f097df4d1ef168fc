"""What the log says: data, once at each change, and never a word of the sessions' content."""

import json
from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from typing import Any

import pytest
import structlog

from tests.unit.observations import AT, NOW, POLICY, busy, call, observation, report, session
from watchdog.errors import DatabaseUnavailable
from watchdog.judging.judge import judge
from watchdog.loop.watch import Assessment
from watchdog.model.outcome import Outcome, Result, Step
from watchdog.model.report import Observation
from watchdog.model.session import Damage, SessionId
from watchdog.model.verdict import Verdict, VerdictKind
from watchdog.reporting.log import LogListener
from watchdog.timing.clock import Advance

Lines = list[MutableMapping[str, Any]]
STUCK = observation(session(calls=[call(age=61)]), reports=[busy("ses_1")])
QUIET = observation(session(calls=[call(age=5)]), reports=[busy("ses_1")])


@pytest.fixture
def lines() -> Iterator[Lines]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def seen(look: Observation = QUIET) -> Assessment:
    return Assessment(
        observation=look, judgement=judge(look, POLICY, AT), advance=Advance(), began_at=0.0, slow_seconds=0.01234567
    )


def verdict() -> Verdict:
    (found,) = judge(STUCK, POLICY, AT).verdicts
    return found


def outcome(result: Result) -> Outcome:
    step = Step(step="abort", at_ms=NOW, ok=True, detail="the server answered")
    return Outcome(
        session_id=SessionId("ses_1"),
        kind=VerdictKind.STUCK_TOOL,
        result=result,
        steps=(step,),
        why="it ran too long",
    )


def events(lines: Lines, *, debug: bool = False) -> list[tuple[str, str]]:
    return [(each["event"], each["log_level"]) for each in lines if debug or each["log_level"] != "debug"]


def test_a_look_is_a_line_for_debugging_with_what_is_spared_and_why(lines: Lines) -> None:
    LogListener().looked(seen(), acting=True)
    assert lines == [
        {
            "event": "watch.looked",
            "log_level": "debug",
            "verdicts": 0,
            "spared": [{"session_id": "ses_1", "reason": "within_limit", "part_id": "prt_1"}],
            "seconds": 0.0123,
        }
    ]


def test_a_verdict_is_told_with_ids_the_tool_and_times(lines: Lines) -> None:
    LogListener().found(verdict())
    assert lines == [
        {
            "event": "verdict.found",
            "log_level": "info",
            "session_id": "ses_1",
            "kind": "stuck_tool",
            "message_id": "msg_1",
            "part_id": "prt_1",
            "tool": "bash",
            "age_seconds": 61.0,
            "limit_seconds": 60,
            "cancel_session_id": "ses_1",
            "why": "the bash call ran 61 s, past its limit of 60 s",
        }
    ]


@pytest.mark.parametrize(
    ("result", "level"),
    [
        (Result.RECOVERED, "info"),
        (Result.UNCHANGED, "info"),
        (Result.DRY_RUN, "info"),
        (Result.INEFFECTIVE, "warning"),
        (Result.UNREACHABLE, "warning"),
        (Result.FAILED, "warning"),
    ],
)
def test_an_outcome_is_told_as_the_contract_has_it(lines: Lines, result: Result, level: str) -> None:
    LogListener().ended(verdict(), outcome(result), given_up=False)
    assert lines == [
        {
            "event": "outcome",
            "log_level": level,
            "session_id": "ses_1",
            "kind": "stuck_tool",
            "result": result.value,
            "steps": [
                {"step": "abort", "at": "2027-01-15T08:00:00.000Z", "ok": True, "detail": "the server answered"}
            ],
            "why": "it ran too long",
            "dropped_prompts": [],
        }
    ]


def test_giving_up_is_an_alert(lines: Lines) -> None:
    LogListener().ended(verdict(), outcome(Result.INEFFECTIVE), given_up=True)
    assert events(lines) == [("outcome", "warning"), ("verdict.given_up", "error")]
    assert lines[1]["part_id"] == "prt_1"


def test_an_error_of_the_watchdogs_own_comes_with_where_it_happened(lines: Lines) -> None:
    error = ZeroDivisionError()
    LogListener().failed(verdict(), error)
    assert events(lines) == [("verdict.failed", "error")]
    assert lines[0]["exc_info"] is error


def test_a_look_on_which_nothing_is_done_says_why(lines: Lines) -> None:
    LogListener().held_back(Advance(late_seconds=61.23, slept_seconds=540.01), 0.123)
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("watch.held_back", "warning")
    assert (line["late_seconds"], line["slept_seconds"], line["slow_seconds"]) == (61.2, 540.0, 0.1)


class TestOnceAtEachChange:
    def test_a_server_that_does_not_answer_is_told_when_it_begins_and_when_it_ends(self, lines: Lines) -> None:
        log, down = LogListener(), replace(QUIET, degraded=("server a is down",))
        for look in (QUIET, down, down, down, QUIET, QUIET):
            log.looked(seen(look), acting=True)
        assert [line for line in lines if line["log_level"] != "debug"] == [
            {"event": "watch.degraded", "log_level": "warning", "why": "server a is down"},
            {"event": "watch.recovered", "log_level": "info", "was": "server a is down"},
        ]

    def test_two_troubles_are_told_apart(self, lines: Lines) -> None:
        log = LogListener()
        for degraded in (("b", "a"), ("a",), ("a", "b")):
            log.looked(seen(replace(QUIET, degraded=degraded)), acting=True)
        told = [(line["event"], line.get("why") or line["was"]) for line in lines if line["log_level"] != "debug"]
        assert told == [
            ("watch.degraded", "a"),
            ("watch.degraded", "b"),
            ("watch.recovered", "b"),
            ("watch.degraded", "b"),
        ]

    def test_a_damaged_row_is_told_once(self, lines: Lines) -> None:
        log = LogListener()
        damage = Damage(table="part", id="prt_9", session_id=SessionId("ses_1"), problem="its JSON is broken")
        broken = replace(QUIET, snapshot=replace(QUIET.snapshot, damaged=(damage,)))
        for _ in range(3):
            log.looked(seen(broken), acting=True)
        (line,) = [line for line in lines if line["log_level"] != "debug"]
        assert line["why"] == "part prt_9 of session ses_1 is left alone: its JSON is broken"

    def test_a_database_that_is_unavailable_is_told_once_and_so_is_its_recovery(self, lines: Lines) -> None:
        log = LogListener()
        for seconds in (5.0, 10.0, 20.0):
            log.unavailable(DatabaseUnavailable("the database is locked"), seconds)
        log.looked(seen(), acting=True)
        log.looked(seen(), acting=True)
        log.unavailable(DatabaseUnavailable("the database is locked"), 5.0)
        assert events(lines) == [
            ("database.unavailable", "warning"),
            ("database.recovered", "info"),
            ("database.unavailable", "warning"),
        ]
        assert (lines[0]["why"], lines[0]["retry_seconds"]) == ("the database is locked", 5.0)

    def test_another_watchdog_is_told_when_it_is_met_and_when_it_is_gone(self, lines: Lines) -> None:
        log = LogListener()
        for acting in (False, False, True, True, False):
            log.looked(seen(), acting=acting)
        assert events(lines) == [
            ("watch.observing", "warning"),
            ("watch.acting", "info"),
            ("watch.observing", "warning"),
        ]

    def test_one_that_acts_from_the_start_says_nothing_of_it(self, lines: Lines) -> None:
        LogListener().looked(seen(), acting=True)
        assert events(lines) == []

    def test_a_verdict_that_is_only_observed_is_told_once_each_time_it_arises(self, lines: Lines) -> None:
        log = LogListener()
        for look in (STUCK, STUCK, QUIET, STUCK):
            log.looked(seen(look), acting=False)
        told = [event for event, _ in events(lines) if event != "watch.observing"]
        assert told == ["verdict.observed", "verdict.observed"]

    def test_a_verdict_that_is_acted_on_is_not_told_as_observed(self, lines: Lines) -> None:
        LogListener().looked(seen(STUCK), acting=True)
        assert events(lines) == []


def test_nothing_that_a_session_holds_is_in_any_line(lines: Lines) -> None:
    folder = "/home/alice/secret-project"
    log = LogListener()
    mine = session(calls=[call(age=61, call_ref="call_secret")], directory=folder)
    look = observation(mine, reports=[busy("ses_1", directories=[folder]), report(directories=[folder])])
    for acting in (True, False):
        log.looked(seen(look), acting=acting)
    for found in judge(look, POLICY, AT).verdicts:
        log.found(found)
        log.ended(found, outcome(Result.INEFFECTIVE), given_up=True)
        log.failed(found, ValueError())
    assert len(lines) >= 5
    assert "secret" not in json.dumps([{**line, "exc_info": None} for line in lines])
