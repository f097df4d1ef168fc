"""What is remembered between looks: clocks, waits, looks and attempts."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.fakes.clock import FakeClock
from tests.unit.observations import DIRECTORY, POLICY, SERVER, busy, call, question, report, session, turn
from watchdog.judging.gradual import at_once
from watchdog.judging.judge import judge
from watchdog.model.moments import NEVER, Moment
from watchdog.model.outcome import Outcome, Result
from watchdog.model.report import Attempts, Observation, ServerReport, Witness
from watchdog.model.session import Activity, Ask, AskKind, CallId, ServerName, Session, SessionId, Snapshot, Status
from watchdog.model.verdict import Verdict, VerdictKind
from watchdog.observing.memory import Memory
from watchdog.timing.clock import Countable

CALL = CallId("prt_1")
START = Moment(0.0)
SESSION = SessionId("ses_1")
ASKED = question("ses_1", turn="msg_1", call_ref="call_prt_1")


@dataclass(kw_only=True)
class World:
    """A memory with a real countable clock on hands that the test moves."""

    clock: FakeClock = field(default_factory=FakeClock)
    memory: Memory = field(default_factory=Memory)
    counter: Countable = field(init=False)

    def __post_init__(self) -> None:
        self.counter = Countable(self.clock)

    def look(self, *sessions: Session, reports: tuple[ServerReport, ...] = ()) -> Observation:
        instant = self.counter.look()
        seen = Observation(
            at_ms=instant.at_ms,
            now=instant.now,
            steady_since_ms=instant.steady_since_ms,
            snapshot=Snapshot(sessions={each.id: each for each in sessions}),
            reports=reports,
        )
        return at_once(self.memory.fold_gradually(seen, instant))

    def back(self, seconds: float) -> Moment:
        return self.counter.now() + -seconds

    def began(self, *, age: float = 0, written: float | None = None) -> Session:
        """A session whose call was created some seconds ago, and last written some seconds ago."""
        now = self.clock.now_ms
        made = call(
            created_ms=now - int(age * 1000),
            updated_ms=now - int((age if written is None else written) * 1000),
        )
        return session(calls=[made])

    def age(self, seen: Observation, id_: str = "prt_1") -> float:
        return seen.now - seen.call_clocks[CallId(id_)]

    def idle(self, seen: Observation, id_: str = "ses_1") -> float:
        return seen.now - seen.idle_clocks[SessionId(id_)]


@pytest.fixture
def world() -> World:
    return World()


def parent_and_child(world: World) -> tuple[Session, Session]:
    now = world.clock.now_ms
    task = call("prt_task", tool="task", created_ms=now, updated_ms=now, child_id=SessionId("ses_2"))
    bash = call("prt_2", session="ses_2", turn="msg_2", created_ms=now, updated_ms=now)
    return session(calls=[task]), session("ses_2", parent="ses_1", calls=[bash])


class TestFirstSight:
    def test_a_call_counts_from_its_creation(self, world: World) -> None:
        assert world.age(world.look(world.began(age=100))) == 100

    def test_a_call_that_was_written_later_counts_from_then_because_it_may_have_waited_for_an_approval(
        self, world: World
    ) -> None:
        assert world.age(world.look(world.began(age=100, written=40))) == 40

    def test_what_is_written_after_the_first_sight_moves_nothing(self, world: World) -> None:
        known = world.began(age=100)
        world.look(known)
        world.clock.advance(10)
        written = replace(known.calls[0], updated_ms=world.clock.now_ms)
        assert world.age(world.look(replace(known, calls=(written,)))) == 110

    def test_a_call_that_waits_for_a_person_now_counts_from_now(self, world: World) -> None:
        asked = (busy("ses_1", asks=[ASKED]),)
        assert world.age(world.look(world.began(age=10_800), reports=asked)) == 0

    def test_a_call_of_the_future_counts_from_now(self, world: World) -> None:
        assert world.age(world.look(world.began(age=-3600))) == 0


class TestWaits:
    def test_an_approval_after_three_hours_leaves_a_fresh_clock(self, world: World) -> None:
        gated, asked = world.began(), (busy("ses_1", asks=[ASKED]),)
        for _ in range(37):
            world.look(gated, reports=asked)
            world.clock.advance(300)
        seen = world.look(gated, reports=(busy("ses_1"),))
        assert world.age(seen) == 0
        world.clock.advance(60)
        assert world.age(world.look(gated, reports=(busy("ses_1"),))) == 60

    def test_a_wait_does_not_count_and_what_was_before_it_does(self, world: World) -> None:
        gated = world.began(age=50)
        world.look(gated, reports=(busy("ses_1"),))
        world.clock.advance(5)
        world.look(gated, reports=(busy("ses_1", asks=[ASKED]),))
        world.clock.advance(600)
        world.look(gated, reports=(busy("ses_1", asks=[ASKED]),))
        world.clock.advance(5)
        assert world.age(world.look(gated, reports=(busy("ses_1"),))) == 50
        world.clock.advance(7)
        assert world.age(world.look(gated, reports=(busy("ses_1"),))) == 57

    def test_an_ask_for_another_call_of_the_turn_stops_only_that_ones_clock(self, world: World) -> None:
        now = world.clock.now_ms
        two = session(
            calls=[call(created_ms=now, updated_ms=now), call("prt_2", created_ms=now, updated_ms=now)],
        )
        asked = (busy("ses_1", asks=[ASKED]),)
        world.look(two, reports=asked)
        world.clock.advance(30)
        seen = world.look(two, reports=asked)
        assert (world.age(seen), world.age(seen, "prt_2")) == (0, 30)

    @pytest.mark.parametrize("waits", ["human", "retry"])
    def test_a_wait_below_does_not_count_for_the_task_above(self, world: World, waits: str) -> None:
        parent, child = parent_and_child(world)
        retry = Status(activity=Activity.RETRY, retry_at_ms=world.clock.now_ms + 10**6)
        waiting = {
            "human": busy("ses_1", "ses_2", asks=[question("ses_2")]),
            "retry": report(statuses={"ses_1": Status(activity=Activity.BUSY), "ses_2": retry}),
        }[waits]
        for _ in range(3):
            world.look(parent, child, reports=(waiting,))
            world.clock.advance(100)
        seen = world.look(parent, child, reports=(waiting,))
        assert (world.age(seen, "prt_task"), world.age(seen, "prt_2")) == (0, 0)
        world.clock.advance(10)
        seen = world.look(parent, child, reports=(busy("ses_1", "ses_2"),))
        world.clock.advance(10)
        seen = world.look(parent, child, reports=(busy("ses_1", "ses_2"),))
        assert (world.age(seen, "prt_task"), world.age(seen, "prt_2")) == (10, 10)

    def test_a_wait_above_or_beside_counts(self, world: World) -> None:
        parent, child = parent_and_child(world)
        asked = (busy("ses_1", "ses_2", asks=[Ask(id="q", kind=AskKind.PERMISSION, session_id=SessionId("ses_1"))]),)
        world.look(parent, child, reports=asked)
        world.clock.advance(30)
        seen = world.look(parent, child, reports=asked)
        assert (world.age(seen, "prt_task"), world.age(seen, "prt_2")) == (0, 30)

    def test_a_retry_of_its_own_session_stops_a_calls_clock(self, world: World) -> None:
        known = world.began()
        retry = (report(statuses={"ses_1": Status(activity=Activity.RETRY)}),)
        world.look(known, reports=retry)
        world.clock.advance(30)
        assert world.age(world.look(known, reports=retry)) == 0


class TestSilentServers:
    def test_a_server_that_stops_answering_stops_the_clocks_of_what_it_held(self, world: World) -> None:
        known = world.began()
        world.look(known, reports=(busy("ses_1"),))
        world.clock.advance(10)
        silent = ServerReport(name=SERVER, problem="nobody answers")
        for _ in range(3):
            world.look(known, reports=(silent,))
            world.clock.advance(100)
        seen = world.look(known, reports=(busy("ses_1"),))
        assert world.age(seen) == 0
        world.clock.advance(10)
        assert world.age(world.look(known, reports=(busy("ses_1"),))) == 10

    def test_a_server_that_held_nothing_stops_no_clock_by_its_silence(self, world: World) -> None:
        known, other = world.began(), ServerName("http://127.0.0.1:4097")
        world.look(known, reports=(busy("ses_1"), report(name=other)))
        world.clock.advance(10)
        silent = ServerReport(name=other, problem="nobody answers")
        assert world.age(world.look(known, reports=(busy("ses_1"), silent))) == 10

    def test_a_server_that_does_not_say_what_it_asks_stops_the_clock(self, world: World) -> None:
        known, mute = world.began(), replace(busy("ses_1"), asks={})
        world.look(known, reports=(mute,))
        world.clock.advance(30)
        assert world.age(world.look(known, reports=(mute,))) == 0


X, Y = ServerName("replica X"), ServerName("replica Y")


def host(name: ServerName, *ids: str, **more: Any) -> ServerReport:  # noqa: ANN401 - fields of a report
    """A replica's host that is at work on these sessions."""
    return busy(*ids, name=name, pid=None, witness=None, **more)


class TestReplicas:
    """Where hosts on any machine may run the sessions, what one left open is no evidence against another."""

    @pytest.fixture
    def world(self) -> World:
        return World(memory=Memory(elsewhere=True))

    def silent(self, world: World, *names: ServerName) -> tuple[ServerReport, ...]:
        """Hosts that say when a session showed life: long ago, as its rows do."""
        life = world.clock.now_ms - 100_000
        said = {"ses_1": Status(activity=Activity.BUSY, last_life_ms=life)}
        return tuple(report(name=name, pid=None, witness=None, statuses=said) for name in names)

    def test_a_prompt_on_another_replica_is_not_ended_for_the_call_that_a_dead_one_left(self, world: World) -> None:
        left = world.began()
        world.look(left, reports=(host(X, "ses_1"), host(Y)))
        world.clock.advance(50)
        world.look(left, reports=(host(X, "ses_1"), host(Y)))
        for _ in range(30):
            world.clock.advance(50)
            world.look(left, reports=(host(Y),))
        seen = world.look(left, reports=(host(Y, "ses_1"),))
        assert world.age(seen) == 0
        assert judge(seen, POLICY, seen.now).verdicts == ()
        world.clock.advance(61)
        seen = world.look(left, reports=(host(Y, "ses_1"),))
        assert [each.kind for each in judge(seen, POLICY, seen.now).verdicts] == [VerdictKind.STUCK_TOOL]

    def test_it_is_the_same_without_a_look_between_the_death_and_the_prompt(self, world: World) -> None:
        left = world.began()
        world.look(left, reports=(host(X, "ses_1"), host(Y)))
        world.clock.advance(59)
        unheard = ServerReport(name=X, problem="it was not heard of")
        assert world.age(world.look(left, reports=(unheard, host(Y, "ses_1")))) == 0

    def test_a_host_that_takes_up_what_it_had_let_go_of_is_not_blamed_for_what_it_left_open(
        self, world: World
    ) -> None:
        left = world.began()
        world.look(left, reports=(host(X, "ses_1"),))
        world.clock.advance(50)
        world.look(left, reports=(host(X),))
        world.clock.advance(50)
        assert world.age(world.look(left, reports=(host(X, "ses_1"),))) == 0

    def test_a_call_that_is_found_late_is_not_older_than_the_claim_of_another_host(self, world: World) -> None:
        left = world.began(age=500)
        world.look(session(), reports=(host(X, "ses_1"),))
        assert world.age(world.look(left, reports=(host(Y, "ses_1"),))) == 0

    def test_while_two_say_that_they_are_at_work_no_clock_runs_whose_rows_they_are_is_unknown(
        self, world: World
    ) -> None:
        left, both = world.began(), (host(X, "ses_1"), host(Y, "ses_1"))
        world.look(left, reports=(host(X, "ses_1"), host(Y)))
        world.clock.advance(50)
        for _ in range(2):
            world.look(left, reports=both)
            world.clock.advance(50)
        assert world.age(world.look(left, reports=both)) == 0
        assert world.memory.claimed_by == {SESSION: X}
        world.clock.advance(5)
        world.look(left, reports=(host(X, "ses_1"), host(Y)))
        world.clock.advance(5)
        assert world.age(world.look(left, reports=(host(X, "ses_1"), host(Y)))) == 5

    def test_the_time_for_which_a_replica_is_gone_does_not_age_what_waits_there(self, world: World) -> None:
        gated = world.began()
        world.look(gated, reports=(host(X, "ses_1", asks=[ASKED]), host(Y)))
        for _ in range(3):
            world.clock.advance(5)
            world.look(gated, reports=(ServerReport(name=X, problem="it was not heard of"), host(Y)))
        for _ in range(5):
            world.clock.advance(100)
            world.look(gated, reports=(host(Y),))
        world.clock.advance(5)
        assert world.age(world.look(gated, reports=(host(X, "ses_1"), host(Y)))) == 0
        world.clock.advance(7)
        assert world.age(world.look(gated, reports=(host(X, "ses_1"), host(Y)))) == 7

    def test_what_ran_before_a_replica_was_cut_off_counts_once_it_is_back(self, world: World) -> None:
        known = world.began()
        for _ in range(5):
            world.look(known, reports=(host(X, "ses_1"),))
            world.clock.advance(10)
        world.look(known, reports=(host(X, "ses_1"),))
        world.look(known, reports=(host(Y),))
        world.clock.advance(100)
        assert world.age(world.look(known, reports=(host(X, "ses_1"),))) == 50

    def test_a_claim_is_forgotten_with_its_session_and_by_the_word_of_its_host(self, world: World) -> None:
        known = world.began()
        world.look(known, reports=(host(X, "ses_1"),))
        world.look(known, reports=(host(Y),))
        assert world.memory.claimed_by == {SESSION: X}
        world.look(known, reports=(host(X),))
        assert world.memory.claimed_by == {}
        world.look(known, reports=(host(X, "ses_1"),))
        world.look(reports=(host(Y),))
        assert (world.memory.claimed_by, world.memory.heard) == ({}, {})

    def test_silence_counts_from_the_claim_of_the_host_that_is_at_work_now(self, world: World) -> None:
        quiet = replace(session(), last_life_ms=world.clock.now_ms - 100_000)
        world.look(quiet, reports=self.silent(world, X))
        world.clock.advance(1000)
        world.look(quiet, reports=())
        world.clock.advance(1000)
        seen = world.look(quiet, reports=self.silent(world, Y))
        assert world.idle(seen) == 0
        assert judge(seen, POLICY, seen.now).verdicts == ()
        world.clock.advance(31)
        seen = world.look(quiet, reports=self.silent(world, Y))
        assert [each.kind for each in judge(seen, POLICY, seen.now).verdicts] == [VerdictKind.IDLE_SESSION]

    def test_silence_counts_anew_once_a_replica_is_back(self, world: World) -> None:
        quiet = replace(session(), last_life_ms=world.clock.now_ms - 100_000)
        world.look(quiet, reports=self.silent(world, X))
        world.clock.advance(20)
        world.look(quiet, reports=(ServerReport(name=X, problem="it was not heard of"),))
        world.clock.advance(20)
        assert world.idle(world.look(quiet, reports=self.silent(world, X))) == 0

    def test_silence_does_not_count_while_two_say_that_they_are_at_work(self, world: World) -> None:
        quiet = replace(session(), last_life_ms=world.clock.now_ms - 100_000)
        world.look(quiet, reports=self.silent(world, X))
        for _ in range(3):
            world.clock.advance(20)
            assert world.idle(world.look(quiet, reports=self.silent(world, X, Y))) == 0

    def test_a_session_that_is_heard_of_for_the_first_time_is_silent_since_its_last_sign_of_life(
        self, world: World
    ) -> None:
        quiet = replace(session(), last_life_ms=world.clock.now_ms - 100_000)
        world.look(quiet, reports=(host(X),))
        assert world.idle(world.look(quiet, reports=self.silent(world, X))) == 100
        world.look(quiet, reports=(host(X),))
        assert world.idle(world.look(quiet, reports=self.silent(world, X))) == 0

    def test_at_the_very_first_look_what_is_open_is_as_old_as_it_says(self, world: World) -> None:
        quiet = replace(world.began(age=500), last_life_ms=world.clock.now_ms - 100_000)
        seen = world.look(quiet, reports=self.silent(world, X))
        assert (world.age(seen), world.idle(seen)) == (500, 100)

    def test_what_no_host_claims_is_shown_as_old_as_it_is(self, world: World) -> None:
        assert world.age(world.look(world.began(age=500), reports=(host(X),))) == 500

    def test_a_clock_that_starts_anew_is_something_to_keep(self, world: World) -> None:
        left = world.began()
        world.look(left, reports=(host(X, "ses_1"),))
        world.look(left, reports=(host(X),))
        world.clock.advance(5)
        world.look(left, reports=())
        state = world.memory.state()
        world.look(left, reports=(host(X),))
        assert world.memory.state() == state
        world.look(left, reports=(host(X, "ses_1"),))
        assert world.memory.state() != state

    def test_on_a_file_a_server_under_another_name_changes_no_clock(self) -> None:
        world = World()
        known = world.began()
        world.look(known, reports=(host(X, "ses_1"),))
        world.clock.advance(30)
        world.look(known, reports=())
        assert world.memory.claimed_by == {}
        world.clock.advance(30)
        assert world.age(world.look(known, reports=(host(Y, "ses_1"),))) == 60
        assert world.memory.heard == {}


class TestTime:
    def test_sleep_does_not_age_a_call(self, world: World) -> None:
        known = world.began(age=20)
        world.look(known)
        world.clock.advance(5)
        world.clock.sleep_machine(540)
        assert world.age(world.look(known)) == pytest.approx(25, abs=0.1)

    @pytest.mark.parametrize("step", [3600, -3600])
    def test_a_step_of_the_wall_clock_does_not_age_a_call_that_was_known_before(
        self, world: World, step: float
    ) -> None:
        known = world.began(age=20)
        world.look(known)
        world.clock.advance(5)
        world.clock.step(step)
        assert world.age(world.look(known)) == pytest.approx(25, abs=0.2)

    def test_the_time_for_which_the_watchdog_was_stopped_does_not_age_a_call(self, world: World) -> None:
        known = world.began(age=20)
        world.look(known)
        world.counter.plan(world.clock.read().awake_seconds + 5)
        world.clock.advance(305)
        assert world.age(world.look(known)) == pytest.approx(25, abs=0.1)

    def test_sleep_while_a_person_is_asked_is_credited_and_the_call_never_gets_older_by_it(
        self, world: World
    ) -> None:
        known, asked = world.began(age=0), (busy("ses_1", asks=[ASKED]),)
        world.look(known, reports=asked)
        world.clock.advance(60)
        world.clock.sleep_machine(540)
        world.look(known, reports=asked)
        world.clock.advance(60)
        assert world.age(world.look(known, reports=(busy("ses_1"),))) <= 0.1

    def test_sleep_does_not_count_as_silence(self, world: World) -> None:
        quiet = replace(session(), last_life_ms=world.clock.now_ms)
        heard = (busy("ses_1", witness=Witness(connected=True, since=world.back(10))),)
        world.look(quiet, reports=heard)
        world.clock.advance(5)
        world.clock.sleep_machine(540)
        assert world.idle(world.look(quiet, reports=heard)) == pytest.approx(5, abs=0.1)


class TestIdleClocks:
    def look(self, world: World, **more: Any) -> Observation:  # noqa: ANN401 - fields of a report
        now = world.clock.now_ms
        fields: dict[str, Any] = {"witness": Witness(connected=True, since=world.back(500)), **more}
        quiet = replace(session(), last_life_ms=now - 100_000)
        return world.look(quiet, reports=(replace(busy("ses_1"), **fields),))

    def test_silence_counts_from_the_last_sign_of_life_in_the_database(self, world: World) -> None:
        assert world.idle(self.look(world)) == 100

    def test_a_later_sign_of_life_on_the_feed_counts(self, world: World) -> None:
        assert world.idle(self.look(world, life={SESSION: world.back(7)})) == 7

    def test_the_life_of_another_session_does_not(self, world: World) -> None:
        assert world.idle(self.look(world, life={SessionId("ses_2"): world.back(0)})) == 100

    def test_silence_counts_only_since_the_feed_is_heard(self, world: World) -> None:
        late = Witness(connected=True, since=world.back(30))
        assert world.idle(self.look(world, witness=late)) == 30

    @pytest.mark.parametrize(
        ("gaps", "idle"),
        [(((50, 40),), 90), (((110, 90),), 90), (((200, 150),), 100)],
    )
    def test_gaps_of_the_feed_do_not_count(
        self, world: World, gaps: tuple[tuple[int, int], ...], idle: float
    ) -> None:
        lost = tuple((world.back(start), world.back(end)) for start, end in gaps)
        gappy = Witness(connected=True, since=world.back(500), gaps=lost)
        assert world.idle(self.look(world, witness=gappy)) == idle

    @pytest.mark.parametrize("witness", [None, Witness(connected=False, since=NEVER), Witness(connected=True)])
    def test_without_a_connected_feed_there_is_no_clock(self, world: World, witness: Witness | None) -> None:
        assert self.look(world, witness=witness).idle_clocks == {}

    def test_a_host_that_knows_the_last_sign_of_life_is_a_witness_without_a_feed(self, world: World) -> None:
        now = world.clock.now_ms
        lively = Status(activity=Activity.BUSY, last_life_ms=now - 4000)
        said = {DIRECTORY: {SESSION: lively}}
        assert world.idle(self.look(world, witness=None, statuses=said)) == 4

    def test_a_session_that_no_server_claims_has_no_clock(self, world: World) -> None:
        assert world.look(session(), reports=(report(),)).idle_clocks == {}

    def test_of_two_witnesses_the_one_that_saw_life_last_counts(self, world: World) -> None:
        now = world.clock.now_ms
        quiet = replace(session(), last_life_ms=now - 100_000)
        first = busy("ses_1", witness=Witness(connected=True, since=NEVER))
        second = busy("ses_1", witness=Witness(connected=True, since=NEVER), life={SESSION: world.back(3)})
        assert world.idle(world.look(quiet, reports=(first, second))) == 3


class TestLooks:
    def test_a_row_that_nobody_executes_is_dated_from_the_look_that_found_it_so(self, world: World) -> None:
        known = world.began(age=100)
        first = world.look(known)
        at_once(world.memory.note_looks_gradually(first, {"prt_1", "msg_1"}))
        world.clock.advance(30)
        assert world.look(known).looks == {"prt_1": first.now, "msg_1": first.now}

    @pytest.mark.parametrize("change", [{"updated_ms": 5}, {"size": 5}])
    def test_a_row_that_changed_starts_anew(self, world: World, change: dict[str, Any]) -> None:
        known = world.began(age=100)
        at_once(world.memory.note_looks_gradually(world.look(known), {"prt_1", "msg_1"}))
        world.clock.advance(30)
        written = replace(known, calls=(replace(known.calls[0], **change),))
        seen = world.look(written)
        assert set(seen.looks) == {"msg_1"}
        at_once(world.memory.note_looks_gradually(seen, {"prt_1", "msg_1"}))
        world.clock.advance(30)
        assert world.look(written).looks["prt_1"] == seen.now

    def test_a_row_that_somebody_may_execute_in_between_starts_anew(self, world: World) -> None:
        known = world.began(age=100)
        at_once(world.memory.note_looks_gradually(world.look(known), {"prt_1"}))
        at_once(world.memory.note_looks_gradually(world.look(known), set()))
        assert world.look(known).looks == {}

    def test_sleep_is_no_second_look(self, world: World) -> None:
        known = world.began(age=100)
        at_once(world.memory.note_looks_gradually(world.look(known), {"prt_1"}))
        world.clock.sleep_machine(3600)
        seen = world.look(known)
        assert seen.now - seen.looks["prt_1"] <= 0.1

    def test_a_row_that_is_gone_is_forgotten(self, world: World) -> None:
        known = world.began(age=100)
        at_once(world.memory.note_looks_gradually(world.look(known), {"prt_1", "prt_gone"}))
        assert set(world.memory.looks) == {"prt_1"}


def verdict(kind: VerdictKind = VerdictKind.STUCK_TOOL, *, rows: bool = True, prompt: str = "msg_0") -> Verdict:
    return Verdict(
        session_id=SESSION,
        kind=kind,
        cancel_session_id=SESSION,
        why="it ran too long",
        age_seconds=1,
        call_ids=(CALL,) if rows else (),
        newest_prompt_id=prompt,
    )


def outcome(result: Result) -> Outcome:
    return Outcome(session_id=SESSION, kind=VerdictKind.STUCK_TOOL, result=result, steps=(), why="")


class TestAttempts:
    def note(self, world: World, result: Result, what: Verdict | None = None) -> bool:
        return world.memory.note_outcome(what or verdict(), outcome(result), now=START, pause_seconds=10, most=3)

    @pytest.mark.parametrize("result", [Result.INEFFECTIVE, Result.FAILED])
    def test_pauses_grow_and_the_last_attempt_gives_up(self, world: World, result: Result) -> None:
        told = [(self.note(world, result), world.memory.attempts[f"cancel:{CALL}"]) for _ in range(3)]
        assert [given_up for given_up, _ in told] == [False, False, True]
        assert [tried.not_before for _, tried in told] == [START + 10, START + 20, START + 3600]
        assert [tried.count for _, tried in told] == [1, 2, 3]
        assert [tried.given_up for _, tried in told] == [False, False, True]

    def test_a_pause_is_never_longer_than_ten_minutes_however_long_it_goes_on(self, world: World) -> None:
        for _ in range(2000):
            self.note(world, Result.UNREACHABLE)
        assert world.memory.attempts[f"cancel:{CALL}"].not_before == START + 600

    @pytest.mark.parametrize("result", [Result.UNREACHABLE, Result.DRY_RUN])
    def test_what_could_not_be_tried_counts_as_no_attempt_and_waits_longer_each_time(
        self, world: World, result: Result
    ) -> None:
        for _ in range(5):
            assert not self.note(world, result)
        tried = world.memory.attempts[f"cancel:{CALL}"]
        assert (tried.count, tried.tries, tried.given_up) == (0, 5, False)
        assert tried.not_before == START + 160

    def test_the_prompt_of_the_first_attempt_is_kept(self, world: World) -> None:
        self.note(world, Result.INEFFECTIVE, what=verdict(prompt="msg_0"))
        self.note(world, Result.INEFFECTIVE, what=verdict(prompt="msg_9"))
        assert world.memory.attempts[f"cancel:{CALL}"].newest_prompt_id == "msg_0"

    def test_settling_and_cancelling_are_counted_apart(self, world: World) -> None:
        self.note(world, Result.FAILED, what=verdict(VerdictKind.ORPHAN))
        assert set(world.memory.attempts) == {f"settle:{CALL}"}

    def test_a_recovery_forgets_the_attempts(self, world: World) -> None:
        self.note(world, Result.INEFFECTIVE)
        self.note(world, Result.RECOVERED)
        assert world.memory.attempts == {}

    def test_a_row_that_is_still_open_keeps_its_attempts_when_a_verdict_is_dropped(self, world: World) -> None:
        for _ in range(2):
            self.note(world, Result.INEFFECTIVE)
        self.note(world, Result.UNCHANGED)
        assert self.note(world, Result.INEFFECTIVE)
        assert world.memory.attempts[f"cancel:{CALL}"].given_up

    def test_a_session_without_open_rows_is_counted_by_its_id_and_let_go_when_it_changes(self, world: World) -> None:
        bare = verdict(VerdictKind.IDLE_SESSION, rows=False)
        self.note(world, Result.INEFFECTIVE, what=bare)
        assert set(world.memory.attempts) == {f"cancel:{SESSION}"}
        self.note(world, Result.UNCHANGED, what=bare)
        assert world.memory.attempts == {}

    def test_attempts_are_part_of_the_next_observation(self, world: World) -> None:
        known = world.began()
        world.look(known)
        self.note(world, Result.INEFFECTIVE)
        assert world.look(known).attempts == {
            f"cancel:{CALL}": Attempts(count=1, tries=1, not_before=START + 10, newest_prompt_id="msg_0")
        }


class TestForgetting:
    def test_everything_about_what_closed_is_forgotten(self, world: World) -> None:
        known = world.began()
        at_once(world.memory.note_looks_gradually(world.look(known, reports=(busy("ses_1"),)), {"prt_1", "msg_1"}))
        world.memory.note_outcome(verdict(), outcome(Result.INEFFECTIVE), now=START, pause_seconds=1, most=3)
        seen = world.look()
        at_once(world.memory.note_looks_gradually(seen, set()))
        assert (world.memory.calls, world.memory.looks, world.memory.attempts) == ({}, {}, {})
        assert (seen.call_clocks, seen.looks, seen.attempts) == ({}, {}, {})
        assert world.memory.claimed_by == {}

    def test_a_session_that_is_no_longer_unfinished_is_forgotten_though_it_is_still_in_sight(
        self, world: World
    ) -> None:
        idle = replace(session(), turns=())
        world.look(idle, reports=(busy("ses_1"),))
        bare = verdict(VerdictKind.IDLE_SESSION, rows=False)
        world.memory.note_outcome(bare, outcome(Result.INEFFECTIVE), now=START, pause_seconds=1, most=3)
        assert world.look(idle, reports=(busy("ses_1"),)).attempts
        assert not world.look(idle, reports=(report(),)).attempts

    def test_a_server_that_is_silent_for_a_look_loses_no_attempts(self, world: World) -> None:
        idle = replace(session(), turns=())
        world.look(idle, reports=(busy("ses_1"),))
        bare = verdict(VerdictKind.IDLE_SESSION, rows=False)
        world.memory.note_outcome(bare, outcome(Result.INEFFECTIVE), now=START, pause_seconds=1, most=3)
        assert world.look(idle, reports=(ServerReport(name=SERVER, problem="down"),)).attempts

    def test_a_closed_turn_with_an_open_call_is_remembered_by_its_call(self, world: World) -> None:
        now = world.clock.now_ms
        left = session(turns=[replace(turn(), open=False)], calls=[call(created_ms=now, updated_ms=now)])
        at_once(world.memory.note_looks_gradually(world.look(left), {"prt_1"}))
        world.clock.advance(10)
        assert "prt_1" in world.look(left).looks
