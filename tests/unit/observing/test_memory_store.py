"""What is remembered survives a restart: clocks, waits and attempts; and rubbish is not taken up."""

import copy
import json
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.clock import FakeClock
from tests.fakes.journal import FakeJournal
from tests.support.properties import ANY_MACHINE
from tests.unit.observations import SERVER, busy, call, question, report, session
from watchdog import strides
from watchdog.errors import JournalUnusable
from watchdog.judging.gradual import at_once
from watchdog.model.moments import Moment
from watchdog.model.report import Attempts, Observation, ServerReport
from watchdog.model.session import (
    EMBEDDED,
    Activity,
    CallId,
    ServerName,
    Session,
    SessionId,
    Snapshot,
    Status,
    TurnId,
)
from watchdog.observing.memory import CallMemory, Memory
from watchdog.observing.memory_store import REPLICAS, Recollection, dump, restore, restore_elsewhere
from watchdog.timing.clock import Countable, Instant
from watchdog.timing.sightings import ROWS, Sightings

BOOT = "this boot"
CALL = CallId("prt_1")
HOUR = 3600.0
ASKED = question("ses_1", turn="msg_1", call_ref="call_prt_1")


@dataclass(kw_only=True)
class Process:
    """One life of a watchdog, as far as it remembers."""

    clock: FakeClock
    journal: FakeJournal
    boot_id: str = BOOT
    memory: Memory = field(default_factory=Memory)
    idle: dict[SessionId, float] = field(default_factory=dict)
    instant: Instant | None = None

    def __post_init__(self) -> None:
        self.counter = Countable(self.clock)
        self.recollection = Recollection(
            journal=self.journal, clock=self.counter, memory=self.memory, boot_id=self.boot_id
        )

    async def look(self, *sessions: Session, reports: tuple[ServerReport, ...] = (), keep: bool = True) -> float:
        """Look as the loop does. Returns the age of the call."""
        await self.recollection.recall()
        instant = self.instant = self.counter.look()
        seen = Observation(
            at_ms=instant.at_ms,
            now=instant.now,
            steady_since_ms=instant.steady_since_ms,
            snapshot=Snapshot(sessions={each.id: each for each in sessions}),
            reports=reports,
        )
        seen = await self.recollection.fold(seen, instant)
        self.idle = {id_: seen.now - since for id_, since in seen.idle_clocks.items()}
        if keep:
            await self.recollection.keep()
        return seen.now - seen.call_clocks.get(CALL, seen.now)


class CountingJournal(FakeJournal):
    """Knows how often it was told to save."""

    saves = 0
    loads = 0

    async def load(self, key: str) -> dict[str, Any] | None:
        self.loads += 1
        found = await super().load(key)
        for _ in range(10 * self.loads):  # who comes later is answered later
            await anyio.lowlevel.checkpoint()
        return found

    async def save(self, key: str, value: Any) -> None:  # noqa: ANN401 - JSON
        written = json.loads(json.dumps(value))
        await anyio.lowlevel.checkpoint()  # others go on meanwhile
        await super().save(key, written)
        self.saves += 1


@dataclass(kw_only=True)
class World:
    """A machine on which watchdogs start and die."""

    clock: FakeClock = field(default_factory=FakeClock)
    journal: CountingJournal = field(default_factory=CountingJournal)

    def start(self, boot_id: str = BOOT) -> Process:
        return Process(clock=self.clock, journal=self.journal, boot_id=boot_id)

    def began(self, id_: str = "prt_1") -> Session:
        now = self.clock.now_ms
        return session(calls=[call(id_, created_ms=now, updated_ms=now)])


@pytest.fixture
def world() -> World:
    return World()


class TestClocks:
    async def test_eight_hours_of_sleep_before_a_restart_do_not_age_a_call(self, world: World) -> None:
        began = world.began()
        await world.start().look(began)
        world.clock.advance(60)
        world.clock.sleep_machine(8 * HOUR)
        world.clock.advance(5)
        assert await world.start().look(began) == pytest.approx(65, abs=0.1)

    async def test_what_began_after_the_last_save_does_not_age_in_the_sleep_either(self, world: World) -> None:
        await world.start().look(world.began("prt_0"))
        world.clock.advance(30)
        later = world.began()
        world.clock.advance(10)
        world.clock.sleep_machine(8 * HOUR)
        assert await world.start().look(later) <= 11

    async def test_a_step_of_the_wall_clock_before_a_restart_is_no_age(self, world: World) -> None:
        began = world.began()
        await world.start().look(began)
        world.clock.step(5 * HOUR)
        world.clock.advance(10)
        process = world.start()
        assert await process.look(began) == pytest.approx(10, abs=0.1)
        assert process.instant is not None
        assert process.instant.steady_since_ms > began.calls[0].created_ms

    @pytest.mark.parametrize(("away", "counted"), [(100, 100), (600, 120), (10_000, 120)])
    async def test_of_the_time_without_a_watchdog_two_minutes_count_at_most(
        self, world: World, away: float, counted: float
    ) -> None:
        began = world.began()
        await world.start().look(began)
        world.clock.advance(away)
        assert await world.start().look(began) == pytest.approx(counted, abs=0.1)

    async def test_after_another_boot_the_clock_is_that_of_a_first_sight(self, world: World) -> None:
        began = world.began()
        await world.start().look(began)
        world.clock.advance(HOUR)
        rewritten = session(calls=[call(created_ms=began.calls[0].created_ms, updated_ms=world.clock.now_ms)])
        assert await world.start("another boot").look(rewritten) == 0

    async def test_without_a_boot_id_every_start_is_another_boot(self, world: World) -> None:
        process = world.start("")
        process.memory.attempts["cancel:prt_1"] = Attempts(count=2)
        await process.look(world.began())
        again = world.start("")
        await again.recollection.recall()
        assert (again.memory.calls, again.memory.attempts) == ({}, {"cancel:prt_1": Attempts(count=2)})


class TestWaits:
    async def test_an_approval_after_three_hours_leaves_a_fresh_clock_with_restarts_during_the_wait(
        self, world: World
    ) -> None:
        gated, asked = world.began(), (busy("ses_1", asks=[ASKED]),)
        for _ in range(180):
            await world.start().look(gated, reports=asked)
            world.clock.advance(60)
        assert await world.start().look(gated, reports=(busy("ses_1"),)) == pytest.approx(0, abs=0.1)

    async def test_a_restart_between_the_approval_and_the_next_look_costs_nothing(self, world: World) -> None:
        gated, asked = world.began(), (busy("ses_1", asks=[ASKED]),)
        process = world.start()
        await process.look(gated, reports=(busy("ses_1"),))
        world.clock.advance(5)
        await process.look(gated, reports=asked)
        world.clock.advance(3 * HOUR)
        assert await world.start().look(gated, reports=(busy("ses_1"),)) == pytest.approx(0, abs=0.1)

    async def test_a_wait_of_which_nobody_saw_anything_starts_the_clock_at_the_write_that_ended_it(
        self, world: World
    ) -> None:
        gated = world.began()
        await world.start().look(gated, reports=(busy("ses_1"),))
        world.clock.advance(3 * HOUR)
        approved = session(calls=[call(created_ms=gated.calls[0].created_ms, updated_ms=world.clock.now_ms)])
        world.clock.advance(1)
        assert await world.start().look(approved, reports=(busy("ses_1"),)) == pytest.approx(1, abs=0.1)

    async def test_output_during_a_short_restart_does_not_start_a_clock_anew(self, world: World) -> None:
        first = world.began()
        await world.start().look(first)
        for minute in range(1, 60):
            world.clock.advance(60)
            wrote = session(calls=[call(created_ms=first.calls[0].created_ms, updated_ms=world.clock.now_ms)])
            assert await world.start().look(wrote) == pytest.approx(minute * 60, abs=0.1)

    async def test_a_look_that_comes_long_after_the_last_one_in_one_life_starts_no_clock_anew(
        self, world: World
    ) -> None:
        first, process = world.began(), world.start()
        await process.look(first)
        world.clock.advance(600)
        wrote = session(calls=[call(created_ms=first.calls[0].created_ms, updated_ms=world.clock.now_ms)])
        assert await process.look(wrote) == 600


OWN, OTHER = ServerName(EMBEDDED), ServerName("replica X")


@dataclass(kw_only=True)
class Machines(World):
    """Several machines with replicas on them, each with clocks of its own, and one journal."""

    def start(self, boot_id: str = REPLICAS) -> Process:
        return super().start(boot_id)

    def elsewhere(self, *, up_seconds: float = 0) -> "Machines":
        """Another machine with the same wall clock, up for so much longer than this one was at first."""
        clock = FakeClock(wall_ms=self.clock.now_ms - up_seconds * 1000)
        clock.advance(up_seconds)
        return Machines(clock=clock, journal=self.journal)

    def at_work(self, name: ServerName = OTHER, **more: Any) -> tuple[ServerReport, ...]:  # noqa: ANN401
        return (busy("ses_1", name=name, witness=None, **more),)


class TestReplicas:
    @pytest.fixture
    def world(self) -> Machines:
        return Machines()

    async def test_a_wait_for_a_person_is_remembered_on_another_machine(self, world: Machines) -> None:
        gated, process = world.began(), world.start()
        for _ in range(60):
            await process.look(gated, reports=world.at_work(asks=[ASKED]))
            world.clock.advance(60)
        await process.look(gated, reports=world.at_work())
        world.clock.advance(2)
        there = world.elsewhere()
        assert await there.start().look(gated, reports=there.at_work()) == pytest.approx(2, abs=0.1)

    async def test_a_wait_that_nobody_saw_the_end_of_lasted_until_the_first_look(self, world: Machines) -> None:
        gated = world.began()
        await world.start().look(gated, reports=world.at_work(asks=[ASKED]))
        world.clock.advance(3 * HOUR)
        there = world.elsewhere()
        assert await there.start().look(gated, reports=there.at_work()) == pytest.approx(0, abs=0.1)

    @pytest.mark.parametrize("up_seconds", [0, 100_000])
    async def test_what_ran_goes_on_to_run_on_another_machine(self, world: Machines, up_seconds: float) -> None:
        began, process = world.began(), world.start()
        await process.look(began, reports=world.at_work())
        world.clock.advance(60)
        world.clock.sleep_machine(8 * HOUR)
        await process.look(began, reports=world.at_work())
        await process.recollection.keep()
        world.clock.advance(5)
        there = world.elsewhere(up_seconds=up_seconds)
        assert await there.start().look(began, reports=there.at_work()) == pytest.approx(65, abs=0.2)

    async def test_a_step_of_the_clock_there_is_no_age_here(self, world: Machines) -> None:
        began, process = world.began(), world.start()
        await process.look(began, reports=world.at_work())
        world.clock.step(5 * HOUR)
        world.clock.advance(10)
        await process.look(began, reports=world.at_work())
        world.clock.advance(60)
        await process.look(began, reports=world.at_work())
        there = world.elsewhere()
        assert await there.start().look(began, reports=there.at_work()) == pytest.approx(70, abs=0.2)

    async def test_what_waits_since_before_is_known_since_then(self, world: Machines) -> None:
        gated = world.began()
        await world.start().look(gated, reports=world.at_work(asks=[ASKED]))
        world.clock.advance(100)
        there = world.elsewhere()
        process = there.start()
        await process.look(gated, reports=there.at_work(asks=[ASKED]))
        assert process.counter.now() - process.memory.asks["que_1"] == pytest.approx(100, abs=0.1)

    async def test_the_host_of_the_one_that_remembered_is_another_one_here(self, world: Machines) -> None:
        began = world.began()
        await world.start().look(began, reports=world.at_work(OWN))
        world.clock.advance(600)
        for name in (OWN, OTHER):
            there = world.elsewhere()
            process = there.start()
            assert await process.look(began, reports=there.at_work(name), keep=False) == pytest.approx(0, abs=0.1)
            there.clock.advance(60)
            again = await process.look(began, reports=there.at_work(name), keep=False)
            assert again == pytest.approx(60, abs=0.1)

    @pytest.mark.parametrize("name", [OWN, OTHER])
    async def test_silence_that_this_one_has_not_witnessed_does_not_count(
        self, world: Machines, name: ServerName
    ) -> None:
        def said(machine: Machines) -> tuple[ServerReport, ...]:
            quiet = Status(activity=Activity.BUSY, last_life_ms=machine.clock.now_ms - 600_000)
            return (report(name=name, witness=None, statuses={"ses_1": quiet}),)

        quiet = replace(session(), last_life_ms=0)
        await world.start().look(quiet, reports=said(world))
        there = world.elsewhere()
        process = there.start()
        await process.look(quiet, reports=said(there))
        assert process.idle == {"ses_1": 0}

    async def test_a_wait_lasts_from_the_last_look_that_was_finished(self, world: Machines) -> None:
        gated, process = world.began(), world.start()
        await process.look(gated, reports=world.at_work(asks=[ASKED]), keep=False)
        world.clock.advance(8)
        process.counter.look()  # a look began
        await process.recollection.keep()
        world.clock.advance(60)
        there = world.elsewhere()
        assert await there.start().look(gated, reports=there.at_work()) == pytest.approx(0, abs=0.1)

    async def test_what_another_one_calls_its_own_host_is_not_taken_for_this_ones(self, world: Machines) -> None:
        first = world.start()
        first.memory.claimed_by = {SessionId("ses_1"): OWN, SessionId("ses_2"): OTHER}
        first.memory.let_go = {TurnId("msg_1"): OWN, TurnId("msg_2"): OTHER}
        await first.recollection.keep()
        second = world.elsewhere().start()
        await second.recollection.recall()
        assert (second.memory.claimed_by, second.memory.let_go) == ({"ses_2": OTHER}, {"msg_2": OTHER})

    async def test_who_takes_over_learns_of_calls_that_it_has_not_found(self, world: Machines) -> None:
        leader, there = world.start(), world.elsewhere()
        await leader.look(world.began(), reports=world.at_work())
        observer = there.start()
        await observer.look(session(), reports=there.at_work(), keep=False)
        await observer.recollection.take_over()
        assert observer.memory.calls.keys() == {CALL}

    async def test_a_call_that_was_written_while_nobody_looked_may_have_waited(self, world: Machines) -> None:
        began = world.began()
        await world.start().look(began, reports=world.at_work())
        world.clock.advance(HOUR)
        there = world.elsewhere()
        wrote = session(calls=[call(created_ms=began.calls[0].created_ms, updated_ms=there.clock.now_ms)])
        assert await there.start().look(wrote, reports=there.at_work()) == pytest.approx(0, abs=0.1)

    async def test_who_takes_over_learns_of_waits_that_it_has_not_seen(self, world: Machines) -> None:
        gated, there = world.began(), world.elsewhere()
        leader, observer = world.start(), there.start()
        await leader.look(gated, reports=world.at_work())
        await observer.look(gated, reports=there.at_work(), keep=False)
        for _ in range(60):
            await leader.look(gated, reports=world.at_work(asks=[ASKED]))
            world.clock.advance(60)
            there.clock.advance(60)  # and can't read the database
        await leader.look(gated, reports=world.at_work())
        before = observer.memory.state()
        await observer.recollection.take_over()
        assert observer.memory.state() != before
        assert await observer.look(gated, reports=there.at_work()) == pytest.approx(0, abs=0.1)

    async def test_who_takes_over_makes_nothing_older(self, world: Machines) -> None:
        began, there = world.began(), world.elsewhere()
        await world.start().look(began, reports=world.at_work())
        world.clock.advance(60)
        there.clock.advance(60)
        observer = there.start()
        observer.memory.calls[CALL] = CallMemory(observer.counter.now() + -7.0, witnessed=True)
        observer.memory.claimed_by[SessionId("ses_1")] = OTHER
        await observer.recollection.take_over()
        assert observer.counter.now() - observer.memory.calls[CALL].start == pytest.approx(7)

    async def test_only_there_the_memory_is_told_that_sessions_may_run_elsewhere(self, world: Machines) -> None:
        assert world.start().memory.elsewhere
        assert not World().start().memory.elsewhere


class TestTurns:
    """Whatever takes several strides on the memory is seen by nobody half done."""

    async def test_what_is_kept_while_a_look_is_folded_in_is_the_whole_of_it(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(strides, "SLICE_SECONDS", -1.0)  # the loop is given to others after each item
        process, began, reports = world.start(), world.began(), (busy("ses_1", asks=[ASKED]),)
        await process.look(began, reports=reports)
        world.clock.advance(600)  # a person thinks, and no look came
        process.memory.attempts["cancel:prt_2"] = Attempts(count=1)  # an act on another session ends meanwhile
        async with anyio.create_task_group() as group:
            group.start_soon(partial(process.look, began, reports=reports, keep=False))
            await anyio.lowlevel.checkpoint()
            group.start_soon(process.recollection.keep)
        assert await world.start().look(began, reports=reports) < 1

    async def test_two_first_looks_take_it_up_once_and_disturb_no_look(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(strides, "SLICE_SECONDS", -1.0)
        await world.start().look(world.began("prt_0"))
        world.journal.loads = 0
        process = world.start()
        some = [session(f"ses_{n}", calls=[call(f"prt_{n}", session=f"ses_{n}")]) for n in range(50)]
        reports = (busy(*(each.id for each in some)),)
        async with anyio.create_task_group() as group:
            group.start_soon(partial(process.look, *some, reports=reports))
            group.start_soon(process.recollection.recall)  # an `explain` that comes while the program starts
        assert world.journal.loads == 1


class TestSaving:
    async def test_nothing_new_is_saved_once_a_minute(self, world: World) -> None:
        process, began = world.start(), world.began()
        for _ in range(121):
            await process.look(began)
            world.clock.advance(5)
        assert world.journal.saves == 1 + 10

    async def test_something_new_is_saved_at_once_and_once(self, world: World) -> None:
        process, began = world.start(), world.began()
        await process.look(began)
        process.memory.attempts["cancel:prt_1"] = Attempts(count=1)
        await process.look(began)
        await process.look(began)
        assert world.journal.saves == 2
        await process.look(began, reports=(busy("ses_1", asks=[ASKED]),))
        assert world.journal.saves == 3

    async def test_many_outcomes_share_saves_and_each_is_kept_when_its_keeping_returns(self, world: World) -> None:
        process, most = world.start(), anyio.Semaphore(8)

        async def count(number: int) -> None:
            async with most:
                process.memory.attempts[f"cancel:prt_{number}"] = Attempts(count=1)
                await process.recollection.keep()
                assert f"cancel:prt_{number}" in world.journal.values["memory"]["attempts"]

        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(count, number)
        assert 1000 / 8 <= world.journal.saves <= 1000 / 4

    async def test_a_save_that_fails_is_shared_by_nobody(self, world: World) -> None:
        process = world.start()
        kept: list[str] = []

        async def count(key: str) -> None:
            process.memory.attempts[key] = Attempts(count=1)
            try:
                await process.recollection.keep()
            except JournalUnusable:
                world.journal.failure = None
            else:
                kept.append(key)

        world.journal.failure = JournalUnusable("the disk is full")
        async with anyio.create_task_group() as group:
            for key in ("cancel:prt_1", "cancel:prt_2", "cancel:prt_3"):
                group.start_soon(count, key)
        assert kept == ["cancel:prt_2", "cancel:prt_3"]
        assert world.journal.values["memory"]["attempts"].keys() == process.memory.attempts.keys()
        assert world.journal.saves == 1

    async def test_what_others_tried_is_taken_over_by_one_that_only_observed(self, world: World) -> None:
        observer = world.start()
        await observer.recollection.recall()
        observer.memory.attempts["cancel:prt_2"] = Attempts(count=1, tries=1)
        other = world.start()
        other.memory.attempts = {"cancel:prt_1": Attempts(count=3, tries=3, given_up=True)}
        other.memory.let_go = {TurnId("msg_1"): SERVER}
        await other.recollection.keep()
        await observer.recollection.take_over()
        assert observer.memory.attempts["cancel:prt_1"].given_up
        assert observer.memory.attempts.keys() == {"cancel:prt_1", "cancel:prt_2"}
        assert observer.memory.let_go == {"msg_1": SERVER}


def remembered() -> dict[str, Any]:
    """A memory with something of everything, as the journal keeps it."""
    hands = FakeClock()
    clock = Countable(hands)
    clock.look()
    hands.sleep_machine(9)
    now = clock.look().now
    memory = Memory(
        calls={CALL: CallMemory(now + -60.0)},
        asks={"que_1": now + -30.0},
        attempts={"cancel:prt_1": Attempts(count=1, not_before=now + 10)},
        claimed_by={SessionId("ses_1"): SERVER},
        folded_at=now,
        lives=Sightings({SessionId("ses_1"): {ROWS: (5, now + -7.0)}}),
        retries=Sightings({SessionId("ses_1"): {SERVER: (6, now + 8.0)}}),
    )
    value: dict[str, Any] = json.loads(json.dumps(at_once(dump(memory, clock, BOOT))))
    return value


PLACES = [
    ("version",),
    ("clock",),
    ("clock", "awake_seconds"),
    ("clock", "last"),
    ("clock", "last", "awake_seconds"),
    ("clock", "steady_since_ms"),
    ("clock", "steady_slack_seconds"),
    ("calls",),
    ("calls", "prt_1"),
    ("calls", "prt_1", "age_seconds"),
    ("calls", "prt_1", "written_ms"),
    ("asks", "que_1"),
    ("attempts",),
    ("attempts", "cancel:prt_1", "count"),
    ("attempts", "cancel:prt_1", "not_before_seconds"),
    ("let_go",),
    ("claimed_by",),
    ("lives",),
    ("lives", "ses_1"),
    ("lives", "ses_1", ""),
    ("retries", "ses_1", SERVER, 1),
    ("folded_seconds_ago",),
]


class TestRubbish:
    @pytest.mark.parametrize("rubbish", ["x", [1], float("nan"), {"a": 1}])
    @pytest.mark.parametrize("where", PLACES, ids=lambda each: ".".join(map(str, each)))
    def test_a_value_that_is_damaged_anywhere_is_ignored_whole(self, where: tuple[Any, ...], rubbish: object) -> None:
        value = remembered()
        inner: Any = value
        for key in where[:-1]:
            inner = inner[key]
        inner[where[-1]] = rubbish
        memory, clock = Memory(), Countable(FakeClock())
        assert not restore(value, memory, clock, BOOT)
        assert (memory, clock.dump()) == (Memory(), Countable(FakeClock()).dump())

    @pytest.mark.parametrize("rubbish", ["x", [1], float("nan"), {"a": 1}])
    @pytest.mark.parametrize("where", PLACES, ids=lambda each: ".".join(map(str, each)))
    def test_one_of_another_replica_is_ignored_whole_too(self, where: tuple[Any, ...], rubbish: object) -> None:
        value = remembered()
        inner: Any = value
        for key in where[:-1]:
            inner = inner[key]
        inner[where[-1]] = rubbish
        memory = Memory()
        assert not restore_elsewhere(value, memory, Countable(FakeClock()))
        assert memory == Memory()

    @pytest.mark.parametrize("missing", sorted(remembered()))
    def test_a_value_that_is_half_written_is_ignored(self, missing: str) -> None:
        value = remembered()
        del value[missing]
        memory = Memory()
        assert not restore(value, memory, Countable(FakeClock()), BOOT)
        assert memory == Memory()

    @pytest.mark.parametrize("version", [0, 1, 3, "2", None])
    def test_another_version_is_ignored(self, version: object) -> None:
        memory = Memory()
        assert not restore({**remembered(), "version": version}, memory, Countable(FakeClock()), BOOT)
        assert memory == Memory()

    @pytest.mark.parametrize("value", [{}, {"version": 1}, {"a": [1, 2]}])
    async def test_a_journal_that_holds_something_else_is_looked_past(self, world: World, value: Any) -> None:  # noqa: ANN401
        world.journal.values["memory"] = value
        assert await world.start().look(world.began()) == 0

    def test_restoring_does_not_change_the_value(self) -> None:
        value = remembered()
        before = copy.deepcopy(value)
        assert restore(value, Memory(), Countable(FakeClock()), BOOT)
        assert value == before


# property: nothing is lost on the way through the file

ids = st.text("abc_123", min_size=1, max_size=6)
moments = st.floats(-1e9, 1e9, allow_nan=False).map(Moment)
walls = st.integers(0, 2**41)
sightings = st.dictionaries(
    ids.map(SessionId), st.dictionaries(ids.map(ServerName), st.tuples(walls, moments), max_size=2), max_size=3
).map(Sightings)
memories = st.builds(
    Memory,
    calls=st.dictionaries(
        ids.map(CallId),
        st.builds(CallMemory, start=moments, paused=st.booleans(), written_ms=walls, witnessed=st.booleans()),
        max_size=4,
    ),
    asks=st.dictionaries(ids, moments, max_size=3),
    looks=st.just({}),
    attempts=st.dictionaries(
        ids,
        st.builds(
            Attempts,
            count=st.integers(0, 9),
            tries=st.integers(0, 9),
            not_before=st.none() | moments,
            given_up=st.booleans(),
            newest_prompt_id=st.none() | ids,
        ),
        max_size=4,
    ),
    let_go=st.dictionaries(ids.map(TurnId), ids.map(ServerName), max_size=3),
    claimed_by=st.dictionaries(ids.map(SessionId), ids.map(ServerName), max_size=3),
    lives=sightings,
    retries=sightings,
    folded_at=st.none() | moments,
)
moves = st.lists(
    st.tuples(st.sampled_from(["advance", "sleep_machine", "step"]), st.floats(-5000, 50_000, allow_nan=False)),
    max_size=12,
)


def flat(value: object) -> Any:  # noqa: ANN401 - to be compared
    """The moments in a value as numbers, roughly."""
    if isinstance(value, dict):
        if value.keys() == {"seconds"}:
            return pytest.approx(value["seconds"], abs=1e-3)
        return {key: flat(each) for key, each in value.items()}
    if isinstance(value, Moment):
        return pytest.approx(value.seconds, abs=1e-3)
    return tuple(flat(each) for each in value) if isinstance(value, tuple) else value


@ANY_MACHINE
@given(memory=memories, history=moves)
def test_what_is_restored_tells_the_same_ages_as_what_was_dumped(
    memory: Memory, history: list[tuple[str, float]]
) -> None:
    hands = FakeClock()
    clock = Countable(hands)
    clock.look()
    for move, seconds in history:
        getattr(hands, move)(seconds if move == "step" else abs(seconds))
        clock.look()
    kept = json.loads(json.dumps(at_once(dump(memory, clock, BOOT))))
    other, again = Memory(), Countable(hands)
    assert restore(kept, other, again, BOOT)
    shift = again.now() - clock.now()
    moved = {id_: replace(call, start=call.start + shift) for id_, call in memory.calls.items()}
    assert flat(asdict(replace(other, calls={}))) == flat(asdict(replace(memory, calls={}))) or shift
    assert flat({id_: call.start for id_, call in other.calls.items()}) == flat(
        {id_: call.start for id_, call in moved.items()}
    )
    assert again.look().steady_since_ms == clock.look().steady_since_ms
