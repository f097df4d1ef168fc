"""Which messages people get: one for an episode, one when it is over."""

from collections.abc import Collection
from dataclasses import replace

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.server import AbortBehaviour
from tests.pitfalls.conftest import stage
from tests.pitfalls.stage import Stage
from tests.unit.observations import AT, NOW, POLICY, back, busy, call, observation, question, report, session
from watchdog.alerts.alert import Alert, Severity
from watchdog.alerts.rules import Alerts, GivenUp
from watchdog.errors import DatabaseUnavailable, JournalUnusable
from watchdog.judging.judge import judge
from watchdog.model.outcome import Outcome, Result
from watchdog.model.report import Attempts, Observation
from watchdog.model.session import Damage, SessionId, Snapshot
from watchdog.model.verdict import Judgement, Spared, SpareReason, Verdict, VerdictKind
from watchdog.reporting.metrics import Metrics
from watchdog.settings.receivers import Occasion
from watchdog.timing.clock import Advance
from watchdog.timing.events import Assessment

__all__ = ["stage"]

STUCK = observation(session(calls=[call(age=61)]), reports=[busy("ses_1")])
(VERDICT,) = judge(STUCK, POLICY, AT).verdicts
GIVEN_UP = replace(
    STUCK, attempts={key: Attempts(count=3, given_up=True, not_before=AT + 3600) for key in VERDICT.attempt_keys}
)
HELD = replace(GIVEN_UP, on_hold={SessionId("ses_1"): "a person said to leave it"})
OVER = observation()
DEAF = observation(reports=[report(problem="http://127.0.0.1:4096 can't be reached.")])


class Told:
    """The messages of a listener, and the clock that it goes by."""

    def __init__(self, *occasions: Occasion) -> None:
        self.alerts: list[Alert] = []
        self.clock = FakeClock()
        self.listener = Alerts(
            self.alerts.append,
            clock=self.clock,
            occasions=occasions or (Occasion.GIVEN_UP, Occasion.DEGRADED),
            degraded_after_seconds=300,
            waiting_after_seconds=900,
        )

    def see(self, *looks: Observation, acting: bool = True) -> list[str]:
        """The titles that some looks bring."""
        before = len(self.alerts)
        for look in looks:
            judgement = judge(look, POLICY, AT)
            self.listener.looked(
                Assessment(observation=look, judgement=judgement, advance=Advance(), began_at=0.0), acting=acting
            )
        return self._titles(before)

    def end(self, *results: Result, verdict: Verdict = VERDICT) -> list[str]:
        """The titles that some outcomes bring."""
        before = len(self.alerts)
        for result in results:
            outcome = Outcome(
                session_id=verdict.session_id, kind=verdict.kind, result=result, steps=(), why="it ran too long"
            )
            self.listener.ended(verdict, outcome, given_up=False)
        return self._titles(before)

    def _titles(self, before: int) -> list[str]:
        return [alert.title for alert in self.alerts[before:]]


def test_what_this_run_gave_up_before_its_first_look_is_told() -> None:
    """An attempt that a crash cut short is counted when its end is found out, before anything is looked at."""
    told = Told()
    outcome = Outcome(session_id=SessionId("ses_1"), kind=VERDICT.kind, result=Result.INEFFECTIVE, steps=(), why="")
    told.listener.ended(VERDICT, outcome, given_up=True)
    assert told.see(GIVEN_UP, GIVEN_UP) == ["gave up on ses_1"]


def test_a_session_that_is_given_up_is_told_once_and_once_when_it_is_over() -> None:
    told = Told()
    assert told.see(STUCK) == []
    assert told.see(GIVEN_UP, GIVEN_UP, GIVEN_UP) == ["gave up on ses_1"]
    assert told.see(OVER, OVER) == ["ses_1 is no longer given up"]
    assert told.see(GIVEN_UP) == ["gave up on ses_1"], "another episode"
    begun, over, _ = told.alerts
    assert begun.severity is Severity.FAILURE
    assert "opencode-watchdog explain ses_1" in begun.body
    assert (over.severity, over.body) == (Severity.SUCCESS, "nothing of it is open any more")


def test_what_is_tried_once_more_is_still_given_up_until_that_has_helped() -> None:
    told = Told()
    tried = Attempts(count=3, given_up=True, not_before=AT, newest_prompt_id=VERDICT.newest_prompt_id)
    once_more = replace(STUCK, attempts=dict.fromkeys(VERDICT.attempt_keys, tried))
    assert judge(once_more, POLICY, AT).verdicts == (VERDICT,)
    assert told.see(STUCK, GIVEN_UP, once_more, GIVEN_UP, once_more, GIVEN_UP) == ["gave up on ses_1"]
    assert told.see(once_more, OVER) == ["ses_1 is no longer given up"]


def test_what_waits_for_one_that_is_tried_once_more_is_still_given_up() -> None:
    above = Spared(session_id=SessionId("ses_0"), reason=SpareReason.GIVEN_UP, why="nothing helped")
    below = replace(above, session_id=SessionId("ses_1"))
    waits = replace(above, reason=SpareReason.WAITING_ON_CHILD, why="session ses_1 below it is ended first")
    given_up = GivenUp()
    given_up.look(Judgement())
    assert len(given_up.look(Judgement(spared=(below, above)))) == 2
    for _ in range(3):
        assert given_up.look(Judgement(verdicts=(VERDICT,), spared=(waits,))) == []
        assert given_up.look(Judgement(spared=(below, above))) == []
    assert len(given_up.look(Judgement(verdicts=(VERDICT,)))) == 1, "the one above is over"


def test_what_is_over_without_being_finished_is_no_success() -> None:
    told = Told()
    assert told.see(STUCK, GIVEN_UP, HELD) == ["gave up on ses_1", "ses_1 is no longer given up"]
    assert told.alerts[-1].severity is Severity.INFO
    assert "it is not finished: " in told.alerts[-1].body


def test_a_restart_repeats_nothing_and_tells_the_end() -> None:
    told = Told()
    assert told.see(GIVEN_UP, GIVEN_UP) == []
    assert told.see(OVER) == ["ses_1 is no longer given up"]


def test_of_two_watchdogs_only_the_one_that_acts_tells() -> None:
    told = Told()
    assert told.see(STUCK, GIVEN_UP, DEAF, acting=False) == []
    told.listener.unavailable(DatabaseUnavailable("locked"), 5)
    told.clock.advance(301)
    told.listener.unavailable(DatabaseUnavailable("locked"), 5)
    assert told.alerts == []
    assert told.see(GIVEN_UP) == [], "the other one told it"
    assert told.see(OVER) == ["ses_1 is no longer given up"]


def test_what_lasted_while_the_other_one_acted_begins_anew() -> None:
    told = Told()
    assert told.see(DEAF) == []
    assert told.see(DEAF, acting=False) == []
    told.clock.advance(301)
    assert told.see(DEAF) == []
    told.clock.advance(300)
    assert told.see(DEAF) == ["degraded for 5 min"]


def test_what_is_degraded_is_told_once_it_has_lasted_and_once_when_it_is_over() -> None:
    told = Told()
    assert told.see(DEAF) == []
    told.clock.advance(299)
    assert told.see(DEAF) == []
    told.clock.advance(1)
    assert told.see(DEAF, DEAF) == ["degraded for 5 min"]
    assert told.alerts[-1].body == "http://127.0.0.1:4096 can't be reached."
    told.clock.advance(10_000)
    assert told.see(DEAF) == []
    assert told.see(OVER, OVER) == ["no longer degraded"]
    assert told.alerts[-1].body == "http://127.0.0.1:4096"


def test_what_was_degraded_for_a_moment_is_not_told() -> None:
    told = Told()
    for _ in range(10):
        assert told.see(DEAF) == []
        told.clock.advance(200)
        assert told.see(OVER) == []
        told.clock.advance(200)


def test_an_outage_of_the_database_is_told_and_what_was_known_of_servers_stands_meanwhile() -> None:
    told = Told()
    assert told.see(DEAF) == []
    for seconds in (0, 299, 1, 100):
        told.clock.advance(seconds)
        told.listener.unavailable(DatabaseUnavailable("The database is locked."), 60)
    assert [alert.body.splitlines()[0] for alert in told.alerts] == ["The database is locked."]
    assert told.see(DEAF) == ["degraded for 6.67 min", "no longer degraded"]
    told.listener.unavailable(JournalUnusable("The journal is full."), 60)
    told.clock.advance(300)
    told.listener.unavailable(JournalUnusable("The journal is full."), 60)
    assert told.alerts[-1].body == "The journal is full."


def test_many_damaged_rows_are_one_message() -> None:
    told = Told()
    damaged = tuple(
        Damage(table="part", id=f"prt_{number}", session_id=SessionId("ses_1"), problem="x") for number in range(9)
    )
    look = Observation(at_ms=NOW, now=AT, steady_since_ms=0, snapshot=Snapshot(damaged=damaged))
    told.see(look)
    told.clock.advance(300)
    assert told.see(look) == ["degraded for 5 min"]
    assert told.alerts[-1].body.startswith("9 rows can't be read")


def test_outcomes_are_told_on_request_and_the_same_one_once_while_the_session_is_unfinished() -> None:
    assert Told().end(Result.RECOVERED) == []
    told = Told(Occasion.OUTCOME)
    assert told.see(STUCK, GIVEN_UP, DEAF) == []
    assert told.end(Result.INEFFECTIVE, Result.INEFFECTIVE) == ["ses_1: stuck_tool, ineffective"]
    assert told.see(STUCK) == []
    assert told.end(Result.INEFFECTIVE, Result.RECOVERED) == ["ses_1: stuck_tool, recovered"]
    assert told.see(OVER) == []
    assert told.end(Result.RECOVERED) == ["ses_1: stuck_tool, recovered"]
    assert [alert.severity for alert in told.alerts] == [Severity.WARNING, Severity.SUCCESS, Severity.SUCCESS]


@pytest.mark.parametrize(
    ("occasions", "titles"),
    [
        ([Occasion.GIVEN_UP], ["gave up on ses_1"]),
        ([Occasion.DEGRADED], ["degraded for 5 min"]),
        ([Occasion.OUTCOME], ["ses_1: orphan, failed"]),
    ],
)
def test_only_what_was_asked_for_is_told(occasions: Collection[Occasion], titles: list[str]) -> None:
    told = Told(*occasions)
    both = replace(GIVEN_UP, reports=(*GIVEN_UP.reports, *DEAF.reports))
    seen = told.see(STUCK, both)
    told.clock.advance(300)
    seen += told.see(both)
    seen += told.end(Result.FAILED, verdict=replace(VERDICT, kind=VerdictKind.ORPHAN))
    assert seen == titles


async def test_a_session_that_nothing_helps_is_a_message_and_another_when_it_is_over(stage: Stage) -> None:
    work = stage.work(age=60)
    stage.server.abort_behaviour = AbortBehaviour.LIES
    told: list[Alert] = []
    alerts = Alerts(
        told.append,
        clock=stage.time,
        occasions=tuple(Occasion),
        degraded_after_seconds=300,
        waiting_after_seconds=900,
    )
    metrics = Metrics(version="1", servers=[], clock=stage.time, reads=dict)
    stage.more += [alerts, metrics]
    async with stage.watching(tool_timeout=60, max_attempts=3) as play:
        await play.pass_time(3600)
        assert play.diary.results == [Result.INEFFECTIVE] * 3
        assert [alert.title for alert in told] == [
            f"{work.session} is stuck: stuck_tool",
            f"{work.session}: stuck_tool, ineffective",
            f"gave up on {work.session}",
        ]
        sample = metrics.registry.get_sample_value
        assert sample("opencode_watchdog_sessions", {"state": "given_up"}) == 1
        await stage.end(work.session)
        await play.look()
        assert [alert.title for alert in told[3:]] == [f"{work.session} is no longer given up"]
    assert sample("opencode_watchdog_sessions", {"state": "given_up"}) == 0
    assert sample("opencode_watchdog_given_up_total") == 1
    assert sample("opencode_watchdog_interventions_in_progress") == 0
    assert sample("opencode_watchdog_verdicts_total", {"kind": "stuck_tool"})
    assert sample("opencode_watchdog_outcomes_total", {"kind": "stuck_tool", "result": "ineffective"}) == 3


# Who waits for a person, and what is stuck.

ASKED = observation(
    session(calls=[call(age=5000, call_ref="c1")]),
    reports=[busy("ses_1", asks=[question("ses_1", call_ref="c1")])],
    ask_clocks={"que_1": back(1000)},
)


def asked(seconds: float) -> Observation:
    """The same, with a question that was first seen so long ago."""
    return replace(ASKED, ask_clocks={"que_1": back(seconds)})


def test_who_waits_for_a_person_for_long_is_told_once_in_an_episode_with_the_way_there() -> None:
    told = Told(Occasion.WAITING)
    assert told.see(asked(899)) == []
    assert told.see(asked(900), asked(1800)) == ["ses_1 has waited for a person for 15 min"]
    (alert,) = told.alerts
    assert (alert.severity, alert.waits) == (Severity.INFO, "ses_1")
    assert alert.body == (
        "a question in /work/tree waits for an answer at http://127.0.0.1:4096: opencode-watchdog explain ses_1"
    )
    assert told.see(OVER) == []
    assert told.see(asked(5), asked(4000)) == ["ses_1 has waited for a person for 66.7 min"], "another episode"


def test_a_server_that_falls_silent_ends_no_episode() -> None:
    told = Told(Occasion.WAITING)
    assert len(told.see(asked(1000), replace(OVER, reports=DEAF.reports), asked(1100))) == 1


def test_who_waits_is_told_by_the_one_that_acts_and_only_if_that_was_asked_for() -> None:
    told = Told(Occasion.WAITING)
    assert told.see(asked(1000), acting=False) == []
    assert len(told.see(asked(1000))) == 1
    assert told.see(asked(1000), acting=False) == []
    assert Told(Occasion.GIVEN_UP, Occasion.STUCK).see(asked(1000)) == []


def test_what_is_stuck_is_told_before_anything_is_done_once_while_it_is_unfinished() -> None:
    told = Told(Occasion.STUCK)
    for _ in range(2):
        told.listener.found(VERDICT)
        told.see(STUCK)
    (alert,) = told.alerts
    assert (alert.title, alert.body, alert.severity) == (
        "ses_1 is stuck: stuck_tool",
        VERDICT.why,
        Severity.WARNING,
    )
    told.see(OVER)
    told.listener.found(VERDICT)
    assert len(told.alerts) == 2
    silent = Told(Occasion.OUTCOME)
    silent.listener.found(VERDICT)
    assert silent.alerts == []
