"""Whole histories of a machine, played through memory, journal and judge.

The model knows for how long the work was observably alive: while the machine was awake, a watchdog looked in time,
and nobody was asked. No age exceeds that, whatever happens. Where nothing happens but time, waits and short restarts,
the age is exactly that.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.clock import FakeClock
from tests.support.properties import ANY_MACHINE
from tests.unit.observations import busy, call, question, report, session
from watchdog.judging.gradual import at_once
from watchdog.judging.judge import judge
from watchdog.model.policy import Policy
from watchdog.model.report import Observation, ServerReport
from watchdog.model.session import Activity, CallId, Session, SessionId, Snapshot, Status
from watchdog.observing.memory import Memory
from watchdog.observing.memory_store import dump, restore
from watchdog.timing.clock import Countable

BOOT = "this boot"
CALL, SESSION = CallId("prt_1"), SessionId("ses_1")
ASKED = question("ses_1", turn="msg_1", call_ref="call_prt_1")
INTERVAL = 5.0
UNWATCHED = 120.0
POLICY = Policy(tool_timeout_seconds=300, idle_timeout_seconds=None)


class History:
    """A call on a machine, and the watchdogs that come and go beside it."""

    def __init__(self, *, began_before: float, paused_before: float) -> None:
        self.hands = FakeClock()
        now = self.hands.now_ms
        self.session: Session = session(calls=[call(created_ms=now, updated_ms=now)])
        self.asks = False
        self.alive = 0.0
        """For how long the call was observably alive."""
        self.disturbed = False
        self.pass_time(began_before)
        if paused_before:
            self.hands.pause_machine(paused_before)
            self.disturbed = True
        self.counter, self.memory = Countable(self.hands), Memory()
        self.seen = self.look()

    @property
    def age(self) -> float:
        return self.seen.now - self.seen.call_clocks[CALL]

    def pass_time(self, seconds: float) -> None:
        self.hands.advance(seconds)
        self.alive += 0.0 if self.asks else seconds

    def look(self) -> Observation:
        reports: tuple[ServerReport, ...] = (busy("ses_1", asks=[ASKED] if self.asks else []),)
        instant = self.counter.look(patience_seconds=15)
        seen = Observation(
            at_ms=instant.at_ms,
            now=instant.now,
            steady_since_ms=instant.steady_since_ms,
            snapshot=Snapshot(sessions={SESSION: self.session}),
            reports=reports,
        )
        self.seen = at_once(self.memory.fold_gradually(seen, instant))
        self.counter.plan(instant.awake_seconds + INTERVAL)
        return self.seen

    def happen(self, kind: str, seconds: float) -> None:
        if kind == "run":
            for _ in range(int(seconds // INTERVAL)):
                self.pass_time(INTERVAL)
                self.look()
        elif kind == "ask":
            self.asks = not self.asks
            self.look()
        elif kind == "restart":
            self.restart(seconds)
        elif kind == "late":
            self.disturbed = True
            self.hands.advance(INTERVAL + seconds)
            self.alive += 0.0 if self.asks else INTERVAL + min(seconds, 0.25)
            self.look()
        else:
            self.disturbed = True
            getattr(self.hands, "step" if kind == "step_back" else kind)(-seconds if kind == "step_back" else seconds)
            self.look()

    def restart(self, away: float) -> None:
        kept = json.loads(json.dumps(at_once(dump(self.memory, self.counter, BOOT))))
        self.hands.advance(away)
        self.alive += 0.0 if self.asks else min(away, UNWATCHED)
        self.counter, self.memory = Countable(self.hands), Memory()
        assert restore(kept, self.memory, self.counter, BOOT)
        self.look()


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["run", "run", "run", "ask", "restart", "late", "sleep_machine", "step", "step_back", "pause_machine"]
        ),
        st.floats(0, 900, allow_nan=False),
    ),
    max_size=12,
)


@ANY_MACHINE
@given(began=st.floats(0, 400), paused=st.just(0.0) | st.floats(60, 50_000), events=EVENTS)
def test_no_history_makes_a_call_older_than_it_was_observably_alive(
    began: float, paused: float, events: list[tuple[str, float]]
) -> None:
    history = History(began_before=began, paused_before=paused)
    for kind, seconds in events:
        history.happen(kind, seconds)
        assert -0.001 <= history.age <= history.alive + 0.3
        if judge(history.seen, POLICY, history.seen.now).verdicts:
            assert history.alive >= 300 - 0.3
        if not history.disturbed:
            assert history.age == pytest.approx(history.alive, abs=0.1)


QUIET = st.lists(st.tuples(st.sampled_from(["run", "ask", "restart"]), st.floats(0, 900)), max_size=12)


@ANY_MACHINE
@given(began=st.floats(0, 400), events=QUIET)
def test_where_nothing_happens_but_time_waits_and_restarts_the_age_is_exact(
    began: float, events: list[tuple[str, float]]
) -> None:
    history = History(began_before=began, paused_before=0)
    for kind, seconds in events:
        history.happen(kind, seconds)
        assert history.age == pytest.approx(history.alive, abs=0.1)


@ANY_MACHINE
@given(
    left=st.floats(60, 1800),
    events=st.lists(
        st.tuples(st.sampled_from(["sleep_machine", "step", "pause_machine", "late"]), st.floats(0, 20_000)),
        max_size=6,
    ),
)
def test_no_history_lets_a_wait_for_a_provider_end_before_it_has_lasted_in_awake_time(
    left: float, events: list[tuple[str, float]]
) -> None:
    hands = FakeClock()
    counter, memory = Countable(hands), Memory()
    retry = Status(activity=Activity.RETRY, retry_at_ms=hands.now_ms + round(left * 1000))
    waiting = Snapshot(sessions={SESSION: session()})

    def due_in() -> float:
        instant = counter.look()
        seen = Observation(
            at_ms=instant.at_ms,
            now=instant.now,
            steady_since_ms=instant.steady_since_ms,
            snapshot=waiting,
            reports=(report(statuses={SESSION: retry}),),
        )
        seen = at_once(memory.fold_gradually(seen, instant))
        counter.plan(instant.awake_seconds + INTERVAL)
        return seen.retries[SESSION] - seen.now

    waited = 0.0
    assert due_in() == pytest.approx(left, abs=0.001)
    for kind, seconds in events:
        hands.advance(INTERVAL + (seconds if kind == "late" else 0.0))
        waited += INTERVAL
        if kind != "late":
            getattr(hands, kind)(seconds)
        assert due_in() == pytest.approx(left - waited, abs=0.3 * (1 + len(events)))
