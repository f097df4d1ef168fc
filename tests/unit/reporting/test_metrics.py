"""The numbers for Prometheus: what they count, that they stay few, and that the page lists each."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.fakes.clock import FakeClock
from tests.support.debian import require
from tests.unit.observations import AT, NOW, POLICY, SERVER, busy, call, observation, report, session
from watchdog.errors import DatabaseUnavailable, JournalUnusable
from watchdog.judging.judge import judge
from watchdog.model.outcome import Outcome, Result
from watchdog.model.report import Attempts, Observation, Witness
from watchdog.model.session import Damage, ServerName, SessionId, Snapshot
from watchdog.model.verdict import Verdict, VerdictKind
from watchdog.reporting.metrics import CAUSES, STATES, Metrics
from watchdog.timing.clock import Advance
from watchdog.timing.events import Assessment

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
OTHER = ServerName("http://127.0.0.1:5000")
FOUND = ServerName("http://127.0.0.1:39999")
STUCK = observation(session(calls=[call(age=61)]), reports=[busy("ses_1")])
QUIET = observation(session(calls=[call(age=5)]), reports=[busy("ses_1")])
EMPTY = observation()


def made(*, dry_run: bool = False) -> Metrics:
    return Metrics(
        version="1.2.3",
        servers=[SERVER, OTHER],
        clock=FakeClock(wall_ms=NOW),
        reads=lambda: {"version": 7, "transaction": 2},
        alerts=lambda: {"sent": 3, "failed": 1, "dropped": 0},
        dry_run=dry_run,
    )


def seen(look: Observation) -> Assessment:
    return Assessment(
        observation=look, judgement=judge(look, POLICY, AT), advance=Advance(), began_at=0.0, slow_seconds=0.02
    )


def verdict() -> Verdict:
    (found,) = judge(STUCK, POLICY, AT).verdicts
    return found


def outcome(result: Result) -> Outcome:
    return Outcome(session_id=SessionId("ses_1"), kind=VerdictKind.STUCK_TOOL, result=result, steps=(), why="")


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None, f"there is no {name}{labels}"
    return found


def series(metrics: Metrics) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def test_sessions_are_counted_by_what_was_judged() -> None:
    metrics = made()
    look = observation(
        session(calls=[call(age=61)]),
        session("ses_2", calls=[call("prt_2", session="ses_2", turn="msg_2", age=5)]),
        session("ses_3", calls=[call("prt_3", session="ses_3", turn="msg_3", age=7)]),
        reports=[busy("ses_1", "ses_2", "ses_3")],
    )
    metrics.looked(seen(look), acting=True)
    assert value(metrics, "opencode_watchdog_sessions", state="stuck") == 1
    assert value(metrics, "opencode_watchdog_sessions", state="within_limit") == 2
    assert value(metrics, "opencode_watchdog_open_tool_calls") == 3
    assert value(metrics, "opencode_watchdog_oldest_unfinished_call_age_seconds") == 61
    metrics.looked(seen(EMPTY), acting=True)
    assert {value(metrics, "opencode_watchdog_sessions", state=state) for state in STATES} == {0}
    assert value(metrics, "opencode_watchdog_oldest_unfinished_call_age_seconds") == 0


def test_a_verdict_counts_once_while_it_stands_and_again_when_it_comes_back() -> None:
    metrics = made()
    for look in (STUCK, STUCK, QUIET, STUCK):
        metrics.looked(seen(look), acting=False)
    assert value(metrics, "opencode_watchdog_verdicts_total", kind="stuck_tool") == 2
    assert value(metrics, "opencode_watchdog_verdicts_total", kind="orphan") == 0


def test_a_verdict_that_waits_for_its_next_attempt_is_no_new_one_when_that_comes() -> None:
    metrics = made()
    later = Attempts(count=1, tries=1, not_before=AT + 1)
    waits = replace(STUCK, attempts=dict.fromkeys(verdict().attempt_keys, later))
    for look in (STUCK, waits, waits, STUCK):
        metrics.looked(seen(look), acting=True)
    assert value(metrics, "opencode_watchdog_verdicts_total", kind="stuck_tool") == 1


def test_outcomes_are_counted_by_kind_and_result() -> None:
    metrics = made()
    metrics.found(verdict())
    assert value(metrics, "opencode_watchdog_interventions_in_progress") == 1
    metrics.ended(verdict(), outcome(Result.INEFFECTIVE), given_up=True)
    metrics.found(verdict())
    metrics.failed(verdict(), RuntimeError("x"))
    metrics.ended(verdict(), outcome(Result.FAILED), given_up=False)
    assert value(metrics, "opencode_watchdog_interventions_in_progress") == 0
    assert value(metrics, "opencode_watchdog_outcomes_total", kind="stuck_tool", result="ineffective") == 1
    assert value(metrics, "opencode_watchdog_outcomes_total", kind="stuck_tool", result="failed") == 1
    assert value(metrics, "opencode_watchdog_given_up_total") == 1
    assert value(metrics, "opencode_watchdog_internal_errors_total") == 1


def test_the_feed_of_each_configured_server_is_shown_and_of_no_other() -> None:
    metrics = made()
    deaf = report(name=OTHER, witness=Witness(connected=False))
    metrics.looked(seen(observation(reports=[busy(), deaf, busy(name=FOUND)])), acting=True)
    assert value(metrics, "opencode_watchdog_feed_connected", server=SERVER) == 1
    assert value(metrics, "opencode_watchdog_feed_connected", server=OTHER) == 0
    assert metrics.registry.get_sample_value("opencode_watchdog_feed_connected", {"server": FOUND}) is None


def test_what_is_degraded_is_told_by_its_cause_and_ends() -> None:
    metrics = made()
    damage = Damage(table="part", id="prt_9", session_id=SessionId("ses_9"), problem="no JSON")
    look = Observation(
        at_ms=NOW,
        now=AT,
        steady_since_ms=0,
        snapshot=Snapshot(damaged=(damage,)),
        reports=(report(problem="no answer"),),
        degraded=("no answer",),
    )

    def degraded() -> set[str]:
        return {cause for cause in CAUSES if value(metrics, "opencode_watchdog_degraded", cause=cause)}

    metrics.looked(seen(look), acting=True)
    assert degraded() == {"server", "row"}
    metrics.unavailable(DatabaseUnavailable("locked"), 5.0)
    metrics.unavailable(JournalUnusable("full"), 5.0)
    assert degraded() == {"server", "row", "database", "journal"}
    metrics.looked(seen(EMPTY), acting=True)
    assert degraded() == set()


def test_the_loop_ticks_also_when_it_can_not_look() -> None:
    clock = FakeClock(wall_ms=NOW)
    metrics = Metrics(version="1", servers=[], clock=clock, reads=dict)
    metrics.looked(seen(EMPTY), acting=True)
    assert value(metrics, "opencode_watchdog_last_tick_timestamp_seconds") == NOW / 1000
    assert value(metrics, "opencode_watchdog_tick_duration_seconds_count") == 1
    assert value(metrics, "opencode_watchdog_tick_duration_seconds_sum") == 0.02
    clock.advance(5)
    metrics.unavailable(DatabaseUnavailable("locked"), 5.0)
    assert value(metrics, "opencode_watchdog_last_tick_timestamp_seconds") == NOW / 1000 + 5
    metrics.held_back(Advance(), 30.0)
    assert value(metrics, "opencode_watchdog_looks_held_back_total") == 1
    assert metrics.registry.get_sample_value("opencode_watchdog_alerts_total", {"result": "sent"}) is None


@pytest.mark.parametrize(("acting", "dry_run", "shown"), [(True, False, 1), (False, False, 0), (True, True, 0)])
def test_who_acts_is_the_one_that_may_and_does(acting: bool, dry_run: bool, shown: int) -> None:
    metrics = made(dry_run=dry_run)
    metrics.looked(seen(EMPTY), acting=acting)
    assert value(metrics, "opencode_watchdog_acting") == shown


def test_what_others_count_is_read_when_it_is_asked_for() -> None:
    metrics = made()
    assert value(metrics, "opencode_watchdog_database_reads_total", kind="version") == 7
    assert value(metrics, "opencode_watchdog_database_reads_total", kind="transaction") == 2
    assert value(metrics, "opencode_watchdog_alerts_total", result="sent") == 3


def test_nothing_that_happens_makes_a_new_series() -> None:
    metrics = made()
    before = series(metrics)
    for number in range(50):
        id_, tool = f"ses_{number}", f"tool_{number}"
        look = observation(
            session(id_, calls=[call(f"prt_{number}", session=id_, turn=f"msg_{number}", tool=tool, age=61)]),
            reports=[busy(id_), busy(name=ServerName(f"http://127.0.0.1:{6000 + number}"))],
        )
        metrics.looked(seen(look), acting=True)
        (found,) = judge(look, POLICY, AT).verdicts
        metrics.found(found)
        metrics.ended(found, outcome(Result.RECOVERED), given_up=False)
    assert series(metrics) == before
    assert len(before) < 150


def test_the_text_is_in_the_format_that_was_asked_for() -> None:
    metrics = made()
    metrics.looked(seen(STUCK), acting=True)
    content_type, text = metrics.render(None)
    assert content_type.startswith("text/plain; version=0.0.4")
    names = {family.name for family in parse_text(text.decode())}
    content_type, text = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert "opencode_watchdog_sessions" in names & {family.name for family in parse_openmetrics(text.decode())}  # type: ignore[no-untyped-call]


def test_the_page_lists_every_metric_with_its_type_and_labels() -> None:
    metrics = made()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|(.*?)\| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {name: (type_, frozenset(re.findall(r"`(\w+)`", labels))) for name, type_, labels in rows}
    real = {}
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        real[name] = (family.type, frozenset(labels))
    assert told == real


def test_promtool_has_nothing_to_say_against_them() -> None:
    promtool = require("promtool")
    metrics = made()
    metrics.looked(seen(STUCK), acting=True)
    _, text = metrics.render(None)
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr.decode()) == (0, "")
