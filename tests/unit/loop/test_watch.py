"""The loop: what it acts on, what it leaves, and how it goes on when things fail and ends when it is told to.

It runs on the machine's clock with intervals of milliseconds; every wait is for an event, never for a time.
"""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeFleet
from tests.fakes.journal import FakeJournal
from tests.fakes.mandate import FakeMandate
from tests.fakes.owners import FakeOwners
from tests.fakes.server import AbortBehaviour, FakeServer, endpoint
from tests.fakes.store import FakeStore
from watchdog.acting.attempt import Ladder
from watchdog.errors import (
    DatabaseUnavailable,
    JournalUnusable,
    ServerUnreachable,
    ShutdownTimedOut,
    WatchdogError,
)
from watchdog.loop.watch import Assessment, Pace, Watch
from watchdog.model.outcome import Outcome, Result, Row
from watchdog.model.policy import Policy
from watchdog.model.report import Holder, Holders, Served
from watchdog.model.session import Activity, SessionId, Snapshot, Status
from watchdog.model.verdict import SpareReason, Verdict, VerdictKind
from watchdog.ports import Clock
from watchdog.timing.clock import Advance, SystemClock

T = TypeVar("T")
PLACE = "/project"
SECONDS = 60.0
"""How long a test waits for an event before it fails."""
POLICY = Policy(tool_timeout_seconds=60, idle_timeout_seconds=30, orphan_grace_seconds=30)
QUICK = Pace(poll_interval_seconds=0.01, shutdown_grace_seconds=5)
LADDER = Ladder(abort_timeout_seconds=5, abort_grace_seconds=0.2)


SERVER_HOLDS = Holders(known=(Holder(pid=100, born_ms=0, command="opencode serve", endpoints=(endpoint(4096),)),))


class Diary:
    """A listener that writes everything down, and lets a test wait for it."""

    def __init__(self) -> None:
        self.looks: list[tuple[Assessment, bool]] = []
        self.held: list[Advance] = []
        self.finds: list[Verdict] = []
        self.ends: list[tuple[Outcome, bool]] = []
        self.failures: list[Exception] = []
        self.outages: list[tuple[str, float]] = []
        self._changed = anyio.Event()

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        self._note(self.looks, (assessment, acting))

    def held_back(self, advance: Advance, slow_seconds: float) -> None:  # noqa: ARG002 - of the listener
        self._note(self.held, advance)

    def found(self, verdict: Verdict) -> None:
        self._note(self.finds, verdict)

    def ended(self, verdict: Verdict, outcome: Outcome, *, given_up: bool) -> None:  # noqa: ARG002
        self._note(self.ends, (outcome, given_up))

    def failed(self, verdict: Verdict, error: Exception) -> None:  # noqa: ARG002
        self._note(self.failures, error)

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        self._note(self.outages, (str(error), retry_seconds))

    def reasons(self) -> set[SpareReason]:
        return {spared.reason for spared in self.looks[-1][0].judgement.spared} if self.looks else set()

    def results(self) -> list[Result]:
        return [outcome.result for outcome, _ in self.ends]

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until something is true; it is asked again whenever the loop tells of anything."""
        with anyio.fail_after(SECONDS):
            while not true():
                await self._changed.wait()

    async def looks_more(self, count: int) -> None:
        """Wait for so many looks that begin from now on."""
        target = len(self.looks) + count + 1
        await self.until(lambda: len(self.looks) >= target)

    def _note(self, page: list[T], line: T) -> None:
        page.append(line)
        self._changed.set()
        self._changed = anyio.Event()


@dataclass(kw_only=True)
class World:
    """A watch on a database and a server in memory."""

    store: FakeStore = field(default_factory=FakeStore)
    server: FakeServer = field(default_factory=FakeServer)
    fleet: FakeFleet = field(default_factory=FakeFleet)
    owners: FakeOwners = field(default_factory=lambda: FakeOwners(SERVER_HOLDS))
    mandate: FakeMandate = field(default_factory=FakeMandate)
    journal: FakeJournal = field(default_factory=FakeJournal)
    diary: Diary = field(default_factory=Diary)
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        self.fleet.known.append(self.server)
        self.server.on_abort = self.end

    def watch(self, pace: Pace = QUICK, *, policy: Policy = POLICY, ladder: Ladder = LADDER) -> Watch:
        return Watch(
            store=self.store,
            fleet=self.fleet,
            owners=self.owners,
            clock=self.clock,
            mandate=self.mandate,
            journal=self.journal,
            boot_id="this boot",
            policy=policy,
            pace=pace,
            ladder=ladder,
            listeners=[self.diary],
        )

    @asynccontextmanager
    async def running(
        self, pace: Pace = QUICK, *, policy: Policy = POLICY, ladder: Ladder = LADDER
    ) -> AsyncIterator[Watch]:
        """Run the loop; leaving tells it to stop and waits for its end."""
        watch, stop = self.watch(pace, policy=policy, ladder=ladder), anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(watch.run, stop)
            try:
                yield watch
            finally:
                stop.set()

    def now(self) -> int:
        return self.clock.read().wall_ms

    def hang(self, name: str = "1", *, age: float = 3600, busy: bool = True) -> SessionId:
        """A session with a call that runs for so long."""
        began = self.now() - int(age * 1000)
        rows = self.store.content
        session = rows.session(f"ses_{name}", at=began - 9, directory=PLACE)
        rows.prompt(session, f"msg_p{name}", at=began - 5)
        turn = rows.turn(session, f"msg_{name}", at=began)
        rows.call(turn, f"prt_{name}", at=began)
        self.server.turns.add((session, turn))
        if busy:
            self.server.busy(session, PLACE)
        return session

    async def end(self, session_id: SessionId) -> None:
        name = session_id.removeprefix("ses_")
        if f"prt_{name}" in self.store.content.tables["part"]:
            self.store.content.finish_call(f"prt_{name}", at=self.now())
        self.store.content.finish_turn(f"msg_{name}", at=self.now())


@pytest.fixture
def world() -> World:
    return World()


async def test_a_hung_call_is_ended_once_and_the_loop_goes_on(world: World) -> None:
    session = world.hang()
    async with world.running():
        await world.diary.until(lambda: world.diary.ends)
        await world.diary.looks_more(3)
    assert world.diary.results() == [Result.RECOVERED]
    assert world.server.aborted == [(session, PLACE)]


async def test_what_is_within_its_limit_is_looked_at_and_left(world: World) -> None:
    world.hang(age=5)
    async with world.running():
        await world.diary.looks_more(3)
    assert world.diary.finds == []
    assert world.diary.reasons() == {SpareReason.WITHIN_LIMIT}


@pytest.mark.parametrize("by_its_own_word", [True, False])
async def test_before_an_act_a_host_is_asked_and_a_family_read_but_a_server_may_be_shown_by_any_session(
    world: World, by_its_own_word: bool
) -> None:
    hung, other = world.hang("1"), world.hang("2")
    child = world.store.content.session("ses_child", parent=hung)
    world.server.shown = by_its_own_word
    seen = (await world.watch()._look_again([hung])).observation
    assert {hung, child} <= seen.snapshot.sessions.keys()
    assert (other in seen.snapshot.sessions) == (not by_its_own_word)
    assert seen.call_clocks.keys() >= {"prt_1"}


async def test_what_lives_below_is_asked_about_by_name_and_what_is_born_meanwhile_is_read(world: World) -> None:
    hung = world.hang("1")
    child = world.store.content.session("ses_child", parent=hung)
    born = SessionId("ses_born")
    statuses = world.server.statuses

    async def bears(directory: str) -> dict[SessionId, Status]:
        if born not in world.store.content.tables["session"]:
            world.store.content.session(born, parent=child)
            world.server.busy(born, PLACE)
        return await statuses(directory)

    world.server.statuses = bears  # type: ignore[method-assign]
    seen = (await world.watch()._look_again([hung])).observation
    assert {hung, child, born} <= seen.snapshot.sessions.keys()
    assert born in seen.reports[0].said


async def test_a_look_at_one_family_takes_nothing_from_what_is_remembered_of_others(world: World) -> None:
    hung, other = world.hang("1"), world.hang("2")
    watch = world.watch()
    before = (await watch.assess()).observation
    await watch._look_again([hung])
    assert watch.memory.calls.keys() == before.call_clocks.keys()
    assert watch.memory.claimed_by.keys() == watch.memory.lives.known.keys() == {hung, other}
    assert (await watch.assess()).observation.call_clocks == before.call_clocks


class TestConcurrency:
    async def test_a_session_is_acted_on_once_at_a_time_while_the_loop_ticks_on(self, world: World) -> None:
        world.hang()
        may_end = anyio.Event()

        async def slowly(session_id: SessionId) -> None:
            world.server.busy(session_id, PLACE)
            await may_end.wait()
            await world.end(session_id)

        world.server.on_abort = slowly
        async with world.running():
            await world.diary.until(lambda: world.server.aborted)
            await world.diary.looks_more(5)
            assert world.diary.looks[-1][0].judgement.verdicts
            assert (len(world.diary.finds), len(world.server.aborted)) == (1, 1)
            may_end.set()
            await world.diary.until(lambda: world.diary.ends)

    async def test_an_abort_that_hangs_keeps_nobody_elses_waiting(self, world: World) -> None:
        world.hang("1")
        world.server.abort_behaviour = AbortBehaviour.HANGS
        async with world.running(ladder=replace(LADDER, abort_timeout_seconds=0.5)):
            await world.diary.until(lambda: world.server.aborted)
            world.server.abort_behaviour = AbortBehaviour.WORKS
            world.hang("2")
            await world.diary.until(lambda: any(end.session_id == "ses_2" for end, _ in world.diary.ends))
            assert [end.session_id for end, _ in world.diary.ends] == ["ses_2"]
            await world.diary.until(lambda: len(world.diary.ends) == 2)
        assert world.diary.results() == [Result.RECOVERED, Result.INEFFECTIVE]

    async def test_no_more_than_the_set_number_is_acted_on_at_the_same_time(self, world: World) -> None:
        for number in range(5):
            world.hang(str(number))
        under_way, most, released = 0, 0, anyio.Event()

        async def slowly(session_id: SessionId) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            if under_way == 2:
                # Both places are taken: give a third every chance to push in.
                await world.diary.looks_more(3)
                released.set()
            await released.wait()
            under_way -= 1
            await world.end(session_id)

        world.server.on_abort = slowly
        async with world.running(replace(QUICK, max_concurrency=2)):
            await world.diary.until(lambda: len(world.diary.ends) == 5)
        assert most == 2
        assert world.diary.results() == [Result.RECOVERED] * 5

    async def test_five_hundred_sessions_that_are_spared_do_not_hide_the_stuck_one(self, world: World) -> None:
        for number in range(500):
            world.hang(f"old{number}", age=50)
        world.hang("stuck")
        (verdict,) = (await world.watch().assess()).judgement.verdicts
        assert verdict.session_id == "ses_stuck"


class TestFailures:
    async def test_an_error_of_its_own_in_one_verdict_is_counted_and_takes_nothing_down(self, world: World) -> None:
        world.hang("1")
        world.hang("2")
        ends = world.end

        async def breaks(session_id: SessionId) -> None:
            if session_id == "ses_1":
                raise ZeroDivisionError
            await ends(session_id)

        world.server.on_abort = breaks
        async with world.running():
            await world.diary.until(lambda: len(world.diary.ends) == 2)
            await world.diary.looks_more(2)
        assert {end.session_id: end.result for end, _ in world.diary.ends} == {
            "ses_1": Result.FAILED,
            "ses_2": Result.RECOVERED,
        }
        assert [type(error) for error in world.diary.failures] == [ZeroDivisionError]

    async def test_an_error_that_repeats_is_given_up_after_the_set_number(self, world: World) -> None:
        world.hang()
        world.clock = clock = FakeClock(wall_ms=world.clock.read().wall_ms)

        async def breaks(_: SessionId) -> None:
            world.server.busy(SessionId("ses_1"), PLACE)
            raise ZeroDivisionError

        world.server.on_abort = breaks
        watch = world.watch(replace(QUICK, max_attempts=2))
        verdict = (await watch.assess()).judgement.verdicts[0]
        assert (await watch.act(verdict)).result is Result.FAILED
        assert [given_up for _, given_up in world.diary.ends] == [False]
        assert (await watch.assess()).judgement.spared[0].reason is SpareReason.COOLING_DOWN
        assert (await watch.act(verdict)).result is Result.UNCHANGED
        clock.advance(60)
        assert (await watch.act(verdict)).result is Result.FAILED
        assert [given_up for _, given_up in world.diary.ends] == [False, False, True]
        assert (await watch.assess()).judgement.spared[0].reason is SpareReason.GIVEN_UP

    async def test_a_database_that_is_unavailable_is_tried_again_with_growing_pauses_and_recovers(
        self, world: World
    ) -> None:
        world.hang()
        world.store.failure = DatabaseUnavailable("the database is locked")
        async with world.running():
            await world.diary.until(lambda: len(world.diary.outages) == 4)
            assert world.server.aborted == []
            world.store.failure = None
            await world.diary.until(lambda: world.diary.ends)
        pauses = [seconds for _, seconds in world.diary.outages]
        assert pauses[:4] == [0.01, 0.02, 0.04, 0.08]
        assert world.diary.results() == [Result.RECOVERED]

    async def test_the_pauses_of_a_long_outage_end_at_a_minute(self, world: World) -> None:
        world.store.failure = DatabaseUnavailable("the database is locked")
        async with world.running(replace(QUICK, poll_interval_seconds=25)) as watch:
            for outages in range(1, 5):
                await world.diary.until(lambda: len(world.diary.outages) >= outages)  # noqa: B023
                watch.wake()
            await world.diary.until(lambda: len(world.diary.outages) >= 5)
        assert [seconds for _, seconds in world.diary.outages][:5] == [25, 50, 60, 60, 60]

    async def test_an_outage_of_days_breaks_nothing(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("watchdog.loop.watch._SHORTEST_PAUSE_SECONDS", 0)
        world.store.failure = DatabaseUnavailable("the database is locked")
        async with world.running(replace(QUICK, poll_interval_seconds=1e-9)) as watch:
            for outages in range(1, 1200):
                await world.diary.until(lambda: len(world.diary.outages) >= outages)  # noqa: B023
                watch.wake()
        assert all(math.isfinite(seconds) for _, seconds in world.diary.outages)

    async def test_a_lock_file_that_can_not_be_had_is_an_outage_and_not_the_end(self, world: World) -> None:
        world.hang()
        world.mandate.problem = DatabaseUnavailable("the lock file can't be opened")
        async with world.running():
            await world.diary.until(lambda: len(world.diary.outages) == 2)
            assert world.diary.finds == []
            world.mandate.problem = None
            await world.diary.until(lambda: world.diary.ends)
        assert world.diary.results() == [Result.RECOVERED]

    async def test_a_server_that_is_down_ends_nothing_and_is_told(self, world: World) -> None:
        world.hang("1", age=3600)
        world.server.problem = ServerUnreachable("nobody answers")
        async with world.running(policy=replace(POLICY, tool_timeout_seconds=7200)):
            await world.diary.until(lambda: world.diary.looks)
        assert world.diary.looks[-1][0].observation.degraded == ("nobody answers",)
        assert world.store.written == []

    async def test_a_failure_of_the_loop_itself_ends_it(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async def breaks() -> bool:
            raise ZeroDivisionError

        monkeypatch.setattr(world.store, "changed", breaks)
        with pytest.raises(ExceptionGroup) as caught:
            await world.watch().run(anyio.Event())
        assert caught.group_contains(ZeroDivisionError)


class TestLateLooks:
    """A clock of its own: what the machine did between two looks is what matters."""

    async def late(self, world: World, happen: Callable[[FakeClock], None]) -> Diary:
        clock = FakeClock(wall_ms=SystemClock().read().wall_ms)
        world.clock = clock
        world.server.problem = ServerUnreachable("not yet")
        async with world.running() as watch:
            await world.diary.until(lambda: world.diary.looks)
            world.server.problem = None
            world.hang(age=4000)
            happen(clock)
            watch.wake()
            await world.diary.until(lambda: world.diary.held)
            assert world.diary.finds == []
            await world.diary.until(lambda: world.diary.finds)
        return world.diary

    async def test_a_look_that_comes_late_acts_on_nothing_and_the_next_one_does(self, world: World) -> None:
        diary = await self.late(world, lambda clock: clock.advance(60))
        assert diary.held[0].late_seconds == pytest.approx(60, abs=0.1)

    async def test_a_look_after_sleep_acts_on_nothing_and_the_next_one_does(self, world: World) -> None:
        diary = await self.late(world, lambda clock: clock.sleep_machine(540))
        assert diary.held[0].slept_seconds == pytest.approx(540)

    async def test_looks_that_always_come_a_little_late_still_reach_a_limit(self, world: World) -> None:
        """Each is credited its lateness, which must not put the limit off again and again."""
        world.clock = clock = FakeClock(wall_ms=1_800_000_000_000)
        world.hang(age=10)
        watch = world.watch(replace(QUICK, poll_interval_seconds=300))
        looks = 0
        while not (assessment := await watch.assess()).judgement.verdicts:
            looks += 1
            delay = watch._delay(assessment.judgement)
            watch.clock.plan(watch._next_look(clock.read().awake_seconds, delay))
            clock.advance(delay + 0.4)
        assert looks == 2  # at an age of 10 s, and 30 s later, the shortest limit; the third finds the limit reached
        assert assessment.judgement.verdicts[0].age_seconds == pytest.approx(60, abs=0.01)

    async def test_a_look_that_takes_too_long_acts_on_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = FakeClock(wall_ms=SystemClock().read().wall_ms)
        world.clock = clock
        world.hang()
        statuses, slow = world.server.statuses, [30.0]

        async def slowly(directory: str) -> dict[SessionId, Status]:
            clock.advance(slow.pop() if slow else 0)
            return await statuses(directory)

        monkeypatch.setattr(world.server, "statuses", slowly)
        async with world.running():
            await world.diary.until(lambda: world.diary.held)
            assert world.diary.finds == []
            await world.diary.until(lambda: world.diary.ends)

    async def test_nine_minutes_of_sleep_end_nothing_on_waking(self, world: World) -> None:
        clock = FakeClock(wall_ms=SystemClock().read().wall_ms)
        world.clock = clock
        world.hang(age=20)
        async with world.running() as watch:
            await world.diary.until(lambda: world.diary.looks)
            clock.sleep_machine(540)
            watch.wake()
            await world.diary.looks_more(5)
        assert world.diary.finds == []


class TestWhenItLooks:
    async def test_a_wake_up_brings_the_next_look_forward(self, world: World) -> None:
        async with world.running(replace(QUICK, poll_interval_seconds=3600)) as watch:
            await world.diary.until(lambda: world.diary.looks)
            world.hang()
            watch.wake()
            await world.diary.until(lambda: world.diary.ends)

    async def test_a_limit_that_is_reached_before_the_next_poll_is_not_waited_past(self, world: World) -> None:
        world.hang(age=59.8)
        async with world.running(replace(QUICK, poll_interval_seconds=3600)):
            await world.diary.until(lambda: world.diary.ends)
        (verdict,) = world.diary.finds
        assert 60 <= verdict.age_seconds < 60 + SECONDS

    async def test_the_next_look_is_planned_for_the_earlier_of_the_poll_and_the_deadline(self, world: World) -> None:
        world.clock = FakeClock(wall_ms=1_800_000_000_000)
        world.hang(age=50)
        watch = world.watch(replace(QUICK, poll_interval_seconds=5))
        assert watch._delay((await watch.assess()).judgement) == 5
        assert watch.policy.idle_timeout_seconds == 30
        near = world.watch(replace(QUICK, poll_interval_seconds=500))
        assert near._delay((await near.assess()).judgement) == pytest.approx(10, abs=0.01)

    async def test_what_begins_right_after_a_look_is_seen_before_it_is_past_its_limit(self, world: World) -> None:
        world.clock = clock = FakeClock(wall_ms=1_800_000_000_000)
        watch = world.watch(
            replace(QUICK, poll_interval_seconds=500), policy=replace(POLICY, tool_timeouts={"bash": 7.0})
        )
        delay = watch._delay((await watch.assess()).judgement)
        clock.advance(0.001)
        world.hang(age=0)
        clock.advance(delay - 0.001)
        (spared,) = (assessment := await watch.assess()).judgement.spared
        assert spared.reason is SpareReason.WITHIN_LIMIT
        clock.advance(watch._delay(assessment.judgement))
        (verdict,) = (await watch.assess()).judgement.verdicts
        assert verdict.age_seconds == pytest.approx(7, abs=0.05)

    async def test_a_verdict_that_is_dropped_each_time_does_not_make_the_loop_spin(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.hang()
        watch = world.watch(replace(QUICK, poll_interval_seconds=3600))

        async def drop(verdict: Verdict, **_: object) -> Outcome:
            return Outcome(
                session_id=verdict.session_id, kind=verdict.kind, result=Result.UNCHANGED, steps=(), why="no"
            )

        monkeypatch.setattr(watch.remedy, "carry_out", drop)
        stop = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(watch.run, stop)
            await world.diary.until(lambda: world.diary.ends)
            assert not watch._wakeup.is_set()
            stop.set()
        assert len(world.diary.looks) == 1

    async def test_a_full_look_is_taken_at_the_start_and_every_so_often(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[None] = []
        look = world.store.look

        async def counted(*, full: bool = False, **more: Any) -> Snapshot:  # noqa: ANN401
            asked.extend([None] * full)
            return await look(full=full, **more)

        monkeypatch.setattr(world.store, "look", counted)
        clock = FakeClock(wall_ms=SystemClock().read().wall_ms)
        world.clock = clock
        async with world.running(replace(QUICK, full_scan_interval_seconds=600)):
            await world.diary.looks_more(3)
            assert len(asked) == 1
            clock.advance(601)
            await world.diary.looks_more(3)
            assert len(asked) == 2


class TestOrphans:
    async def test_what_nobody_executes_is_settled_when_the_watch_begins(self, world: World) -> None:
        world.hang(busy=False)
        world.owners.holders = Holders()
        async with world.running():
            await world.diary.until(lambda: world.diary.ends)
        assert (world.diary.finds[0].kind, world.diary.results()) == (VerdictKind.ORPHAN, [Result.RECOVERED])
        assert [count for _, count in world.store.written] == [2]

    async def test_without_recovery_on_start_what_was_there_is_left_and_what_comes_later_is_settled(
        self, world: World
    ) -> None:
        world.hang("old", busy=False)
        world.owners.holders = Holders()
        async with world.running(replace(QUICK, recover_on_start=False)):
            await world.diary.looks_more(3)
            assert world.diary.finds == []
            world.hang("new", busy=False)
            await world.diary.until(lambda: world.diary.ends)
            await world.diary.looks_more(2)
        assert [verdict.session_id for verdict in world.diary.finds] == ["ses_new"]

    async def test_open_calls_in_closed_turns_are_found_at_the_start(self, world: World) -> None:
        world.hang(busy=False)
        world.store.content.finish_turn("msg_1", at=world.now() - 1000)
        world.owners.holders = Holders()
        async with world.running():
            await world.diary.until(lambda: world.diary.ends)
        assert [count for _, count in world.store.written] == [1]

    async def test_a_second_look_has_to_confirm_that_a_server_denies_it(self, world: World) -> None:
        world.clock = clock = FakeClock(wall_ms=1_800_000_000_000)
        world.hang(busy=False)
        watch = world.watch()
        assert (await watch.assess()).judgement.spared[0].reason is SpareReason.FIRST_LOOK
        clock.advance(29)
        assert (await watch.assess()).judgement.spared[0].reason is SpareReason.FIRST_LOOK
        clock.advance(1)
        (verdict,) = (await watch.assess()).judgement.verdicts
        assert (await watch.act(verdict)).result is Result.RECOVERED

    async def test_a_process_that_opens_the_database_at_the_last_moment_stops_the_settling(
        self, world: World
    ) -> None:
        world.hang(busy=False)
        world.owners.holders = Holders()
        watch = world.watch()
        (verdict,) = (await watch.assess()).judgement.verdicts
        world.owners.holders = Holders(known=(Holder(pid=7, born_ms=0, command="opencode run"),))
        outcome = await watch.act(verdict)
        assert outcome.result is Result.UNCHANGED
        assert "opencode run (pid 7)" in outcome.why
        assert world.store.written == []

    async def test_what_another_process_runs_is_reported_and_settled_once_that_is_dead(self, world: World) -> None:
        world.clock = clock = FakeClock(wall_ms=1_800_000_000_000, auto=True)
        world.hang(busy=False)
        world.server.vouching = False
        world.owners.holders = Holders(known=(Holder(pid=7, born_ms=0, command="opencode run"),))
        watch = world.watch()
        (verdict,) = (await watch.assess()).judgement.verdicts
        outcome = await watch.act(verdict)
        assert (outcome.result, world.store.written) == (Result.UNREACHABLE, [])
        assert "opencode run (pid 7)" in outcome.why
        world.owners.holders = Holders()
        clock.advance(1)
        (verdict,) = (await watch.assess(fresh=True)).judgement.verdicts
        assert verdict.kind is VerdictKind.ORPHAN
        assert (await watch.act(verdict)).result is Result.RECOVERED


class TestMandate:
    async def test_without_the_mandate_it_only_looks_and_it_takes_over_when_the_other_is_gone(
        self, world: World
    ) -> None:
        world.hang()
        world.mandate.granted = False
        async with world.running():
            await world.diary.looks_more(3)
            assert {acting for _, acting in world.diary.looks} == {False}
            assert world.diary.looks[-1][0].judgement.verdicts
            assert world.diary.finds == []
            world.mandate.granted = True
            await world.diary.until(lambda: world.diary.ends)
        assert world.diary.results() == [Result.RECOVERED]

    async def test_a_dry_run_needs_no_mandate_does_nothing_and_repeats_itself_less_and_less(
        self, world: World
    ) -> None:
        world.hang()
        world.mandate.granted = False
        async with world.running(replace(QUICK, dry_run=True)):
            await world.diary.until(lambda: world.diary.ends)
            await world.diary.looks_more(3)
        assert world.diary.results() == [Result.DRY_RUN]
        assert (world.server.aborted, world.store.written) == ([], [])
        assert world.diary.reasons() == {SpareReason.COOLING_DOWN}


class TestShutdown:
    async def test_it_ends_at_once_when_nothing_is_under_way(self, world: World) -> None:
        stop = anyio.Event()
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as group:
                group.start_soon(world.watch(replace(QUICK, poll_interval_seconds=3600)).run, stop)
                await world.diary.until(lambda: world.diary.looks)
                stop.set()

    async def test_it_ends_during_an_outage(self, world: World) -> None:
        world.store.failure = DatabaseUnavailable("gone")
        async with world.running(replace(QUICK, poll_interval_seconds=3600)):
            await world.diary.until(lambda: world.diary.outages)

    async def test_a_stop_before_the_first_look_ends_it_without_one(self, world: World) -> None:
        stop = anyio.Event()
        stop.set()
        await world.watch().run(stop)
        assert world.diary.looks == []

    async def test_what_is_under_way_is_let_end_within_the_grace(self, world: World) -> None:
        world.hang()
        begun, may_end = anyio.Event(), anyio.Event()

        async def slowly(session_id: SessionId) -> None:
            begun.set()
            await may_end.wait()
            await world.end(session_id)

        world.server.on_abort = slowly
        stop = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(world.watch().run, stop)
            with anyio.fail_after(SECONDS):
                await begun.wait()
            stop.set()
            looks = len(world.diary.looks)
            may_end.set()
        assert world.diary.results() == [Result.RECOVERED]
        assert len(world.diary.looks) <= looks + 1

    async def test_what_does_not_end_within_the_grace_is_cancelled_and_named(self, world: World) -> None:
        world.hang()
        world.server.abort_behaviour = AbortBehaviour.HANGS
        stop, watch = anyio.Event(), world.watch(replace(QUICK, shutdown_grace_seconds=0.05))

        async def run() -> None:
            with pytest.raises(ShutdownTimedOut, match=r"1 interventions .* ses_1"):
                await watch.run(stop)

        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as group:
                group.start_soon(run)
                await world.diary.until(lambda: world.server.aborted)
                stop.set()

    async def test_a_write_that_was_begun_is_finished_and_read_back(self, world: World) -> None:
        world.hang(busy=False)
        world.owners.holders = Holders()
        publishing, may_go_on = anyio.Event(), anyio.Event()
        publish = world.server.publish

        async def slowly(served: Served, row: Row, directory: str) -> None:
            publishing.set()
            await may_go_on.wait()
            await publish(served, row, directory)

        world.server.publish = slowly  # type: ignore[method-assign]
        stop, watch = anyio.Event(), world.watch(replace(QUICK, shutdown_grace_seconds=0.05))

        async def run() -> None:
            with pytest.raises(ShutdownTimedOut):
                await watch.run(stop)

        async def let_go() -> None:
            await anyio.sleep(0.2)  # longer than the grace: only the shield keeps the write alive
            may_go_on.set()

        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as group:
                group.start_soon(run)
                await publishing.wait()
                stop.set()
                group.start_soon(let_go)
        assert len(world.server.published) == 1
        assert world.store.content.get("message", "msg_1").count("completed") == 1


async def test_a_session_that_waits_out_a_retry_is_left(world: World) -> None:
    session = world.hang()
    retry = Status(activity=Activity.RETRY, retry_at_ms=world.now() + 1_200_000)
    world.server.statuses_by = {PLACE: {session: retry}}
    async with world.running():
        await world.diary.looks_more(2)
    assert world.diary.reasons() == {SpareReason.RETRYING}


async def test_release_is_acted_on_with_a_persons_reason(world: World) -> None:
    world.hang(busy=False)
    world.owners.holders = Holders()
    watch = world.watch()
    (verdict,) = (await watch.assess()).judgement.verdicts
    await watch.act(verdict, reason="the power was cut")
    assert "the power was cut" in world.store.content.get("part", "prt_1")


class TestJournal:
    async def test_without_a_journal_that_reads_nothing_is_done_and_it_recovers_by_itself(self, world: World) -> None:
        world.hang()
        world.journal.failure = JournalUnusable("the journal is damaged")
        async with world.running():
            await world.diary.until(lambda: len(world.diary.outages) >= 3)
            assert (world.diary.looks, world.server.aborted) == ([], [])
            world.journal.failure = None
            await world.diary.until(lambda: world.diary.ends)
        assert {sentence for sentence, _ in world.diary.outages} == {"the journal is damaged"}
        assert world.diary.results() == [Result.RECOVERED]

    async def test_a_journal_that_can_not_be_pruned_is_an_outage_and_no_end_of_the_loop(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(_: int) -> int:
            raise JournalUnusable("the disk is full")

        monkeypatch.setattr(world.journal, "prune", fail)
        async with world.running(replace(QUICK, journal_retention_seconds=1)):
            await world.diary.until(lambda: len(world.diary.outages) >= 2)

    async def test_an_observer_writes_nothing_and_neither_does_a_single_look(self, world: World) -> None:
        world.hang()
        world.mandate.granted = False
        async with world.running(replace(QUICK, journal_retention_seconds=1)):
            await world.diary.looks_more(3)
        await world.watch().assess(full=True)
        assert (world.journal.values, world.journal.noted) == ({}, {})

    async def test_who_takes_over_knows_what_the_other_tried_before_it_acts(self, world: World) -> None:
        session = world.hang()
        world.server.abort_behaviour = AbortBehaviour.LIES
        world.mandate.granted = False
        async with world.running(replace(QUICK, max_attempts=1)):
            await world.diary.looks_more(2)
            other = world.watch(replace(QUICK, max_attempts=1))
            await other.close_begun()
            (verdict,) = (await other.assess()).judgement.verdicts
            await other.act(verdict)
            assert world.server.aborted == [(session, PLACE)]
            world.mandate.granted = True
            await world.diary.until(lambda: world.diary.looks[-1][1])
            await world.diary.looks_more(3)
        assert world.server.aborted == [(session, PLACE)]
        assert world.diary.reasons() == {SpareReason.GIVEN_UP}

    async def test_who_gets_the_right_back_in_a_new_term_takes_over_anew_though_no_look_saw_it_gone(
        self, world: World
    ) -> None:
        world.server.abort_behaviour = AbortBehaviour.LIES
        async with world.running(replace(QUICK, max_attempts=1)):
            await world.diary.looks_more(2)
            world.mandate.problem = DatabaseUnavailable("cut off")
            await world.diary.until(lambda: world.diary.outages)
            session = world.hang()
            other = world.watch(replace(QUICK, max_attempts=1))
            await other.close_begun()
            (verdict,) = (await other.assess()).judgement.verdicts
            await other.act(verdict)
            left = await world.journal.begin(verdict, at_ms=world.now())
            world.mandate.term, world.mandate.problem = 3, None
            await world.diary.until(lambda: world.journal.noted[left].outcome is not None)
            await world.diary.looks_more(3)
        assert world.server.aborted == [(session, PLACE)]

    async def test_an_attempt_that_a_crash_left_begun_counts_before_anything_is_done(self, world: World) -> None:
        world.hang()
        (verdict,) = (await world.watch().assess()).judgement.verdicts
        await world.journal.begin(verdict, at_ms=world.now())
        async with world.running(replace(QUICK, max_attempts=1)):
            await world.diary.until(lambda: world.diary.ends)
            await world.diary.looks_more(3)
        assert [(outcome.result, given_up) for outcome, given_up in world.diary.ends] == [(Result.INEFFECTIVE, True)]
        assert world.server.aborted == []

    async def test_an_attempt_is_kept_before_its_intervention_is_closed(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.hang()
        world.server.abort_behaviour = AbortBehaviour.LIES
        end, kept = world.journal.end, list[dict[str, Any]]()

        async def look(*args: Any, **more: Any) -> None:  # noqa: ANN401
            kept.append(world.journal.values["memory"]["attempts"])
            await end(*args, **more)

        monkeypatch.setattr(world.journal, "end", look)
        async with world.running():
            await world.diary.until(lambda: world.diary.ends)
        assert kept[0].keys() == {"cancel:prt_1", "cancel:msg_1"}
