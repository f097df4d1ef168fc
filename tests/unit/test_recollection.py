"""What is remembered survives a restart: clocks, waits and attempts; and rubbish is not taken up."""

import copy
import json
from dataclasses import asdict, dataclass, field, replace
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
from watchdog.clock import Timeline
from watchdog.errors import JournalUnusable
from watchdog.memory import AskMemory, CallMemory, Memory
from watchdog.model import (
    EMBEDDED,
    Activity,
    Attempts,
    CallId,
    Observation,
    ServerName,
    ServerReport,
    Session,
    SessionId,
    Snapshot,
    Status,
    TurnId,
)
from watchdog.ports import Reading
from watchdog.recollection import REPLICAS, Recollection, dump, restore, restore_elsewhere

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
    timeline: Timeline = field(default_factory=Timeline)
    idle: dict[SessionId, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.recollection = Recollection(
            journal=self.journal, clock=self.clock, memory=self.memory, timeline=self.timeline, boot_id=self.boot_id
        )

    async def look(self, *sessions: Session, reports: tuple[ServerReport, ...] = (), keep: bool = True) -> float:
        """Look as the loop does. Returns the age of the call."""
        await self.recollection.recall()
        now = self.clock.read()
        self.timeline.advance(now)
        found = {each.id: each for each in sessions}
        seen = Observation(at_ms=now.wall_ms, snapshot=Snapshot(sessions=found), reports=reports)
        seen = self.memory.fold(seen, self.timeline.shift, now.awake_seconds)
        self.idle = dict(seen.idle_clocks)
        if keep:
            await self.recollection.keep()
        return (now.wall_ms - seen.call_clocks.get(CALL, 0)) / 1000


class CountingJournal(FakeJournal):
    """Knows how often it was told to save."""

    saves = 0

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
        assert process.timeline.step_ms is not None

    async def test_the_time_without_a_watchdog_counts(self, world: World) -> None:
        began = world.began()
        await world.start().look(began)
        world.clock.advance(600)
        assert await world.start().look(began) == pytest.approx(600, abs=0.1)

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
        world.clock.advance(600)
        there = world.elsewhere()
        process = there.start()
        await process.look(gated, reports=there.at_work(asks=[ASKED]))
        assert (there.clock.now_ms - process.memory.asks["que_1"].at_ms) / 1000 == pytest.approx(600, abs=0.1)

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
        assert process.idle == {"ses_1": there.clock.now_ms}

    async def test_a_wait_lasts_from_the_last_look_that_was_finished(self, world: Machines) -> None:
        gated, process = world.began(), world.start()
        await process.look(gated, reports=world.at_work(asks=[ASKED]), keep=False)
        world.clock.advance(8)
        process.timeline.advance(world.clock.read())  # a look began
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
        observer.memory.calls[CALL] = CallMemory(start_ms=there.clock.now_ms - 7000, known_since=60, witnessed=True)
        observer.memory.claimed_by[SessionId("ses_1")] = OTHER
        await observer.recollection.take_over()
        assert observer.memory.calls[CALL].start_ms == there.clock.now_ms - 7000

    async def test_only_there_the_memory_is_told_that_sessions_may_run_elsewhere(self, world: Machines) -> None:
        assert world.start().memory.elsewhere
        assert not World().start().memory.elsewhere


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
    timeline, clock = Timeline(), FakeClock()
    for _ in range(2):
        timeline.advance(clock.read())
        clock.sleep_machine(9)
    timeline.advance(clock.read())
    memory = Memory(
        calls={CALL: CallMemory(start_ms=1.0, known_since=2.0)},
        asks={"que_1": AskMemory(at_ms=1, known_since=2.0)},
        attempts={"cancel:prt_1": Attempts(count=1)},
        claimed_by={SessionId("ses_1"): SERVER},
        folded_at=3.0,
    )
    value: dict[str, Any] = json.loads(json.dumps(dump(memory, timeline, BOOT)))
    return value


PLACES = [
    ("version",),
    ("timeline",),
    ("timeline", "credits"),
    ("timeline", "credits", 0, "amount_ms"),
    ("timeline", "last"),
    ("timeline", "last", "awake_seconds"),
    ("timeline", "not_credited"),
    ("timeline", "not_credited", 0),
    ("timeline", "step_ms"),
    ("calls",),
    ("calls", "prt_1"),
    ("calls", "prt_1", "start_ms"),
    ("calls", "prt_1", "paused_ms"),
    ("asks",),
    ("asks", "que_1", "at_ms"),
    ("attempts",),
    ("attempts", "cancel:prt_1", "count"),
    ("attempts", "cancel:prt_1", "not_before_ms"),
    ("let_go",),
    ("claimed_by",),
    ("folded_at",),
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
        memory, timeline = Memory(), Timeline()
        assert not restore(value, memory, timeline, BOOT)
        assert (memory, timeline.dump()) == (Memory(), Timeline().dump())

    @pytest.mark.parametrize("rubbish", ["x", [1], float("nan"), {"a": 1}])
    @pytest.mark.parametrize("where", PLACES, ids=lambda each: ".".join(map(str, each)))
    def test_one_of_another_replica_is_ignored_whole_too(self, where: tuple[Any, ...], rubbish: object) -> None:
        value = remembered()
        inner: Any = value
        for key in where[:-1]:
            inner = inner[key]
        inner[where[-1]] = rubbish
        memory = Memory()
        assert not restore_elsewhere(value, memory, FakeClock().read())
        assert memory == Memory()

    @pytest.mark.parametrize("missing", sorted(remembered()))
    def test_a_value_that_is_half_written_is_ignored(self, missing: str) -> None:
        value = remembered()
        del value[missing]
        memory = Memory()
        assert not restore(value, memory, Timeline(), BOOT)
        assert memory == Memory()

    @pytest.mark.parametrize("version", [0, 2, "1", None])
    def test_another_version_is_ignored(self, version: object) -> None:
        memory = Memory()
        assert not restore({**remembered(), "version": version}, memory, Timeline(), BOOT)
        assert memory == Memory()

    @pytest.mark.parametrize("value", [{}, {"version": 1}, {"a": [1, 2]}])
    async def test_a_journal_that_holds_something_else_is_looked_past(self, world: World, value: Any) -> None:  # noqa: ANN401
        world.journal.values["memory"] = value
        assert await world.start().look(world.began()) == 0

    def test_restoring_does_not_change_the_value(self) -> None:
        value = remembered()
        before = copy.deepcopy(value)
        assert restore(value, Memory(), Timeline(), BOOT)
        assert value == before


# property: nothing is lost on the way through the file

ids = st.text("abc_123", min_size=1, max_size=6)
times = st.floats(0, 2e12, allow_nan=False)
memories = st.builds(
    Memory,
    calls=st.dictionaries(
        ids.map(CallId),
        st.builds(
            CallMemory,
            start_ms=times,
            known_since=times,
            paused_ms=times,
            paused=st.booleans(),
            written_ms=st.integers(0, 2**41),
        ),
        max_size=4,
    ),
    asks=st.dictionaries(ids, st.builds(AskMemory, at_ms=st.integers(0, 2**41), known_since=times), max_size=3),
    looks=st.just({}),
    attempts=st.dictionaries(
        ids,
        st.builds(
            Attempts,
            count=st.integers(0, 9),
            tries=st.integers(0, 9),
            not_before_ms=times,
            given_up=st.booleans(),
            newest_prompt_id=st.none() | ids,
        ),
        max_size=4,
    ),
    let_go=st.dictionaries(ids.map(TurnId), ids.map(ServerName), max_size=3),
    claimed_by=st.dictionaries(ids.map(SessionId), ids.map(ServerName), max_size=3),
    folded_at=st.none() | times,
    taken_up=st.just(False),
)
moves = st.lists(
    st.tuples(st.sampled_from(["advance", "sleep_machine", "step"]), st.floats(-5000, 50_000, allow_nan=False)),
    max_size=12,
)


@ANY_MACHINE
@given(memory=memories, history=moves, moment=st.integers(-(10**8), 10**8), later=st.floats(0, 10_000))
def test_what_is_restored_tells_the_same_ages_as_what_was_dumped(
    memory: Memory, history: list[tuple[str, float]], moment: int, later: float
) -> None:
    clock, timeline = FakeClock(), Timeline()
    timeline.advance(clock.read())
    for move, seconds in history:
        getattr(clock, move)(seconds if move == "step" else abs(seconds))
        timeline.advance(clock.read())
    other, again = Memory(), Timeline()
    assert restore(json.loads(json.dumps(dump(memory, timeline, BOOT))), other, again, BOOT)
    assert asdict(other) == {**asdict(memory), "taken_up": True}
    assert again.dump() == timeline.dump()
    clock.sleep_machine(later)
    reading: Reading = clock.read()
    assert again.advance(reading) == timeline.advance(reading)
    at = clock.now_ms + moment
    assert again.shift(at) == timeline.shift(at)
    assert again.shift(at, known_since=1000.0) == timeline.shift(at, known_since=1000.0)
    assert again.step_ms == timeline.step_ms
