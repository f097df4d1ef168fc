"""Undo: rows go back only where nothing happened since, and stay on hold from then on."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeFleet
from tests.fakes.journal import FakeJournal
from tests.fakes.server import FakeServer
from tests.fakes.store import FakeStore
from tests.support.database import NOW
from watchdog.acting.undo import Undo, Undoing, UndoResult
from watchdog.errors import DatabaseUnavailable, ServerUnreachable
from watchdog.judging.settled_rows import settle
from watchdog.model.interventions import Hold, InterventionId
from watchdog.model.outcome import GuardedWrite, Outcome, Result, Row
from watchdog.model.report import Served
from watchdog.model.session import CallId, SessionId, TurnId
from watchdog.model.verdict import Verdict, VerdictKind

SESSION = SessionId("ses_1")
TURN = TurnId("msg_1")
CALL = CallId("prt_1")
VERDICT = Verdict(
    session_id=SESSION,
    kind=VerdictKind.ORPHAN,
    cancel_session_id=SESSION,
    why="nobody executes it",
    age_seconds=9,
    call_ids=(CALL,),
    turn_ids=(TURN,),
)
DONE = Outcome(session_id=SESSION, kind=VerdictKind.ORPHAN, result=Result.RECOVERED, steps=(), why="it was lost")


@dataclass
class Scene:
    """A session that was settled, with the journal that says so."""

    store: FakeStore = field(default_factory=FakeStore)
    fleet: FakeFleet = field(default_factory=FakeFleet)
    clock: FakeClock = field(default_factory=FakeClock)
    journal: FakeJournal = field(default_factory=FakeJournal)
    before: tuple[Row, ...] = ()

    async def settled(self, *, end: bool = True, keep: bool = True) -> "Scene":
        rows = self.store.content
        rows.call(rows.turn(rows.session(SESSION), TURN), CALL)
        self.before = await self.store.rows(call_ids=[CALL], turn_ids=[TURN])
        writes = settle(self.before, text="ended", now_ms=NOW)
        number = await self.journal.begin(VERDICT, at_ms=NOW)
        if keep:
            await self.journal.keep(number, writes)
            await self.store.write(writes)
        if end:
            await self.journal.end(number, DONE, at_ms=NOW)
        return self

    def with_server(self) -> FakeServer:
        server = StoringServer(store=self.store)
        server.turns.add((SESSION, TURN))
        self.fleet.known.append(server)
        return server

    async def undo(self) -> Undoing:
        found = await self.journal.intervention(InterventionId(1))
        assert found is not None
        undo = Undo(
            store=self.store, fleet=self.fleet, clock=self.clock, journal=self.journal, serving=self.fleet.serving
        )
        return await undo.undo(found)

    async def reads(self) -> tuple[str, ...]:
        return tuple(row.data for row in await self.store.rows(call_ids=[CALL], turn_ids=[TURN]))

    async def is_back(self) -> bool:
        return await self.reads() == tuple(row.data for row in self.before)

    async def on_hold(self) -> str | None:
        holds = await self.journal.holds(self.clock.read().wall_ms)
        return holds[SESSION].why if SESSION in holds else None


@dataclass(kw_only=True, eq=False)
class StoringServer(FakeServer):
    """Stores what it publishes, as a real one does: with the names in an order of its own."""

    store: FakeStore

    async def publish(self, served: Served, row: Row, directory: str) -> None:
        await super().publish(served, row, directory)
        store_anew(self.store, row)


def store_anew(store: FakeStore, row: Row) -> None:
    data = json.dumps(dict(reversed(json.loads(row.data).items())), separators=(",", ":"))
    assert data != row.data
    store.content.set(row.table, row.id, data=data)


async def test_the_rows_go_back_byte_by_byte_and_the_session_is_on_hold() -> None:
    scene = await Scene().settled()
    undoing = await scene.undo()
    assert undoing.result is UndoResult.UNDONE
    assert await scene.is_back()
    assert (await scene.on_hold() or "").startswith("it was undone")
    found = await scene.journal.intervention(InterventionId(1))
    assert found is not None
    assert found.undone_ms is not None


async def test_a_part_that_its_server_stored_anew_when_it_was_published_is_still_as_the_watchdog_left_it() -> None:
    scene = await Scene().settled()
    [part] = await scene.store.rows(call_ids=[CALL])
    store_anew(scene.store, part)
    assert (await scene.undo()).result is UndoResult.UNDONE
    assert await scene.is_back()


async def test_a_second_undo_touches_nothing_and_says_so() -> None:
    scene = await Scene().settled()
    await scene.undo()
    await scene.journal.unhold(SESSION)
    assert (await scene.undo()).result is UndoResult.ALREADY_UNDONE
    assert len(scene.store.written) == 2
    assert await scene.on_hold() is None


async def test_the_hold_stands_before_a_row_is_open_again() -> None:
    scene = await Scene().settled()
    seen: list[bool] = []
    scene.store.before_write = lambda: seen.append(SESSION in scene.journal.on_hold)
    await scene.undo()
    assert seen == [True]


def write_the_call(scene: Scene) -> None:
    scene.store.content.set("part", CALL, data='{"type":"tool"}')


def delete_the_call(scene: Scene) -> None:
    scene.store.content.delete("part", CALL)


def begin_a_turn(scene: Scene) -> None:
    scene.store.content.turn(SESSION, "msg_0", at=NOW + 1)


def begin_a_turn_in_the_same_millisecond(scene: Scene) -> None:
    scene.store.content.turn(SESSION, "msg_0", at=NOW)


CHANGES = [
    (write_the_call, "prt_1 was written since"),
    (delete_the_call, "prt_1 is gone"),
    (begin_a_turn, "the session went on with turn msg_0"),
    (begin_a_turn_in_the_same_millisecond, "the session went on with turn msg_0"),
]


@pytest.mark.parametrize(("change", "why"), CHANGES)
async def test_what_happened_since_is_named_and_nothing_is_touched(change: Callable[[Scene], None], why: str) -> None:
    scene = await Scene().settled()
    change(scene)
    reads = await scene.reads()
    undoing = await scene.undo()
    assert undoing.result is UndoResult.NOT_UNDONE
    assert why in undoing.why
    assert await scene.reads() == reads
    assert len(scene.store.written) == 1
    assert await scene.on_hold() is None


@pytest.mark.parametrize("change", [change for change, _ in CHANGES])
async def test_what_happens_at_the_last_moment_stops_it_too(change: Callable[[Scene], None]) -> None:
    scene = await Scene().settled()
    scene.store.before_write = lambda: change(scene)
    undoing = await scene.undo()
    assert undoing.result is UndoResult.NOT_UNDONE
    assert "at the last moment" in undoing.why
    assert not await scene.is_back()
    assert await scene.on_hold() is None


async def test_a_prompt_alone_is_no_later_turn() -> None:
    scene = await Scene().settled()
    scene.store.content.prompt(SESSION, at=NOW + 1)
    assert (await scene.undo()).result is UndoResult.UNDONE


async def test_an_earlier_hold_of_a_persons_comes_back_when_nothing_was_undone() -> None:
    scene = await Scene().settled()
    mine = Hold(session_id=SESSION, since_ms=1, until_ms=None, why="a person said so")
    await scene.journal.hold(mine)
    scene.store.before_write = lambda: write_the_call(scene)
    await scene.undo()
    assert scene.journal.on_hold == {SESSION: mine}


async def test_a_database_that_fails_leaves_no_hold_behind() -> None:
    scene = await Scene().settled()

    def fail() -> None:
        raise DatabaseUnavailable("locked")

    scene.store.before_write = fail
    with pytest.raises(DatabaseUnavailable):
        await scene.undo()
    assert await scene.on_hold() is None


async def test_an_abort_wrote_no_row_and_cannot_be_undone() -> None:
    scene = await Scene().settled(keep=False)
    undoing = await scene.undo()
    assert undoing.result is UndoResult.NOT_UNDONE
    assert "it wrote no row" in undoing.why
    assert await scene.on_hold() is None


async def test_what_is_only_begun_is_left_to_who_is_at_work_on_it() -> None:
    scene = await Scene().settled(end=False)
    undoing = await scene.undo()
    assert undoing.result is UndoResult.NOT_UNDONE
    assert "it is not over" in undoing.why
    assert not await scene.is_back()


async def test_rows_that_already_read_as_before_are_noted_and_held() -> None:
    scene = await Scene().settled()
    await scene.store.write([
        GuardedWrite(row=now, after=was.data)
        for now, was in zip(await scene.store.rows(call_ids=[CALL], turn_ids=[TURN]), scene.before, strict=True)
    ])  # fmt: skip
    undoing = await scene.undo()
    assert undoing.result is UndoResult.UNDONE
    assert "nothing had to be written" in undoing.why
    assert await scene.on_hold()


async def test_a_server_that_has_the_turn_shows_the_parts_and_reads_the_messages() -> None:
    scene = await Scene().settled()
    server = scene.with_server()
    undoing = await scene.undo()
    assert [json.loads(row.data)["state"]["status"] for row, _ in server.published] == ["running"]
    assert [step.step for step in undoing.steps] == ["write", "publish", "read_back", "hold"]


async def test_a_server_of_another_database_is_asked_for_nothing() -> None:
    scene = await Scene().settled()
    server = scene.with_server()
    server.shown = False
    assert (await scene.undo()).result is UndoResult.UNDONE
    assert server.published == []


async def test_a_server_that_is_down_stands_in_nobodys_way() -> None:
    scene = await Scene().settled()
    scene.with_server().problem = ServerUnreachable("it can't be reached")
    assert (await scene.undo()).result is UndoResult.UNDONE
    assert await scene.is_back()


async def test_messages_that_no_longer_read_take_the_undo_back() -> None:
    scene = await Scene().settled()
    left = await scene.reads()
    scene.with_server().unreadable.add(SESSION)
    undoing = await scene.undo()
    assert undoing.result is UndoResult.NOT_UNDONE
    assert "did not read" in undoing.why
    assert await scene.reads() == left
    assert await scene.on_hold() is None
