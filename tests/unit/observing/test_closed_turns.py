"""The search in the background, and when the watch starts over, on a real database."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.fleet import FakeFleet
from tests.fakes.journal import FakeJournal
from tests.fakes.mandate import FakeMandate
from tests.fakes.owners import FakeOwners
from tests.fakes.server import FakeServer
from tests.support.database import NOW, OpencodeFile
from watchdog.acting.attempt import Ladder
from watchdog.errors import DatabaseUnavailable
from watchdog.loop.watch import Pace, Watch
from watchdog.model.interventions import Hold
from watchdog.model.policy import Policy
from watchdog.model.session import Activity, SessionId, Status
from watchdog.model.verdict import VerdictKind
from watchdog.observing.closed_turns import Search
from watchdog.opencode.db.store import Limits, OpencodeDatabase

SESSION = SessionId("ses_1")
TURN, CALL = "msg_1", "prt_1"


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[OpencodeFile]:
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        rows.connection.execute("PRAGMA synchronous = OFF")
        yield rows


@pytest.fixture
async def store(rows: OpencodeFile) -> AsyncIterator[OpencodeDatabase]:
    async with await OpencodeDatabase.open(rows.path, limits=Limits(search_rows=2)) as store:
        yield store


@pytest.fixture
def closed(rows: OpencodeFile) -> str:
    """An open call in a closed turn, behind others."""
    turn = rows.turn(rows.session(SESSION), TURN)
    for _ in range(9):
        rows.call(turn, status="completed")
    rows.call(turn, CALL)
    rows.finish_turn(turn)
    return CALL


async def test_it_searches_once_and_says_so_when_there_is_something_new(store: OpencodeDatabase, closed: str) -> None:
    found: list[None] = []
    clock = FakeClock(auto=True)
    search = Search(store, clock, found=lambda: found.append(None))
    await store.look()
    async with anyio.create_task_group() as group:
        search.go_on(group)
        search.go_on(group)
    assert len(clock.sleeps) == 4
    assert len(found) == 1
    assert [call.id for each in (await store.look()).sessions.values() for call in each.calls] == [closed]
    async with anyio.create_task_group() as group:
        search.go_on(group)
    assert len(clock.sleeps) == 4


async def test_it_goes_on_where_an_error_of_the_database_stopped_it(
    store: OpencodeDatabase, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, failing = store.search, [False, True]

    async def search() -> bool:
        if failing and failing.pop(0):
            raise DatabaseUnavailable("locked")
        return await once()

    monkeypatch.setattr(store, "search", search)
    clock = FakeClock(auto=True)
    background = Search(store, clock, found=lambda: None)
    async with anyio.create_task_group() as group:
        background.go_on(group)
    assert len(clock.sleeps) == 1
    async with anyio.create_task_group() as group:
        background.go_on(group)
    assert store.searched
    assert closed in {call.id for each in (await store.look()).sessions.values() for call in each.calls}


async def test_what_is_opened_again_behind_a_hold_is_seen_at_the_look_after_the_one_that_sees_the_hold(
    store: OpencodeDatabase, rows: OpencodeFile
) -> None:
    turn = rows.turn(rows.session(SESSION), TURN, completed_at=NOW)
    rows.call(turn, CALL, status="completed")
    journal = FakeJournal()
    watch = Watch(
        store=store,
        fleet=FakeFleet(),
        owners=FakeOwners(),
        clock=FakeClock(),
        mandate=FakeMandate(),
        journal=journal,
        boot_id="this boot",
        policy=Policy(),
        pace=Pace(),
        ladder=Ladder(),
    )
    assert (await watch.assess()).observation.snapshot.sessions == {}
    rows.set("message", TURN, data='{"role": "assistant", "time": {}}')
    rows.set("part", CALL, data='{"type": "tool", "tool": "bash", "state": {"status": "running"}}')
    assert (await watch.assess()).observation.snapshot.sessions == {}
    await journal.hold(Hold(session_id=SESSION, since_ms=NOW, until_ms=None, why="undone"))
    await watch.assess()
    assert not store.searched
    (session,) = (await watch.assess()).observation.snapshot.sessions.values()
    assert [call.id for call in session.calls] == [CALL]


async def test_what_looks_silent_is_left_until_closed_turns_are_searched(
    store: OpencodeDatabase, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first look only the turn that is open now is known, not the call in the closed one."""
    taken: list[str] = []
    server = FakeServer()
    watch = Watch(
        store=store,
        fleet=FakeFleet(server),
        owners=FakeOwners(),
        clock=FakeClock(wall_ms=NOW + 3_600_000),
        mandate=FakeMandate(),
        journal=FakeJournal(),
        boot_id="this boot",
        policy=Policy(idle_timeout_seconds=60, tool_timeout_seconds=10**9),
        pace=Pace(),
        ladder=Ladder(),
    )
    server.statuses_by = {"/project": {SESSION: Status(activity=Activity.BUSY, last_life_ms=NOW)}}
    first = await watch.assess(full=True)
    assert [verdict.kind for verdict in first.judgement.verdicts] == [VerdictKind.IDLE_SESSION]
    monkeypatch.setattr(watch.acting, "schedule", lambda verdicts, *_, **__: taken.extend(verdicts))
    async with anyio.create_task_group() as group:
        watch._schedule(first, group, acting=True)
    assert taken == []
    while await store.search():
        pass
    second = await watch.assess()
    assert [spared.call_id for spared in second.judgement.spared] == [closed]
