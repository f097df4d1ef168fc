"""A look follows what changed: what it reads is counted, and what it finds is compared with reading everything."""

# ruff: noqa: S608 - the names of tables are constants here

import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.database import NOW, OpencodeFile
from watchdog.errors import DatabaseUnavailable
from watchdog.judging.settled_rows import settled_call
from watchdog.model.outcome import GuardedWrite
from watchdog.model.session import SessionId, Snapshot
from watchdog.opencode.db.snapshot import Fetch, Known, Look
from watchdog.opencode.db.store import Limits, OpencodeDatabase

SMALL = Limits(step_rows=5, search_rows=2)


@dataclass
class Watched:
    """A database, and the statements that the watchdog issues on it."""

    rows: OpencodeFile
    store: OpencodeDatabase
    statements: list[str] = field(default_factory=list)

    async def issued(self, work: Callable[[], Any]) -> list[str]:
        self.statements.clear()
        await work()
        return list(self.statements)

    async def steps(self, work: Callable[[], Any]) -> int:
        """How many steps SQLite's virtual machine takes, in hundreds: what was read, whatever the machine."""
        driver = self.store._reader._driver
        assert driver is not None
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        await driver.set_progress_handler(tick, 100)
        await work()
        await driver.set_progress_handler(lambda: 0, 0)
        return count


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[OpencodeFile]:
    with OpencodeFile(tmp_path / "opencode.db") as rows:
        rows.connection.execute("PRAGMA synchronous = OFF")
        yield rows


@pytest.fixture
async def watched(rows: OpencodeFile, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    async with await OpencodeDatabase.open(rows.path) as store:
        found = Watched(rows, store)
        once = aiosqlite.Connection.execute_fetchall

        def counted(self: aiosqlite.Connection, sql: str, parameters: Any = None) -> Any:  # noqa: ANN401
            found.statements.append(sql)
            return once(self, sql, parameters)

        monkeypatch.setattr(aiosqlite.Connection, "execute_fetchall", counted)
        yield found


def filled(rows: OpencodeFile, turns: int) -> None:
    """Finished turns with finished calls in them."""
    session = rows.session()
    rows.connection.execute("BEGIN")
    for _ in range(turns):
        turn = rows.turn(session, completed_at=NOW)
        rows.call(turn, status="completed")
        rows.text(turn)
    rows.connection.execute("COMMIT")


def open_ids(found: Snapshot) -> set[str]:
    sessions = found.sessions.values()
    return {call.id for each in sessions for call in each.calls} | {
        turn.id for each in sessions for turn in each.turns
    }


# What a tick costs.


async def test_a_tick_when_nothing_changed_is_one_statement_that_reads_no_table(watched: Watched) -> None:
    watched.rows.call(watched.rows.turn(watched.rows.session()))
    await watched.store.look()
    assert await watched.issued(watched.store.changed) == ["PRAGMA data_version"]


async def test_a_tick_after_one_part_changed_issues_the_same_statements_whatever_is_stored(watched: Watched) -> None:
    call = watched.rows.call(watched.rows.turn(watched.rows.session()))
    await watched.store.look()
    counts, works = [], []
    for more in (0, 50, 500):
        filled(watched.rows, more)
        await watched.store.look()
        watched.rows.set("part", call, time_updated=NOW + more)
        counts.append(len(await watched.issued(watched.store.look)))
        watched.rows.set("part", call, time_updated=NOW + more + 1)
        works.append(await watched.steps(watched.store.look))
    assert counts[0] == counts[1] == counts[2] <= 12
    assert max(works) <= works[0] + 1


async def test_a_full_look_reads_more_the_more_is_stored_so_the_count_can_tell(watched: Watched) -> None:
    await watched.store.look()
    few = await watched.steps(lambda: watched.store.look(full=True))
    filled(watched.rows, 500)
    assert await watched.steps(lambda: watched.store.look(full=True)) > few + 10


async def test_the_first_look_reads_no_part_of_finished_turns(watched: Watched) -> None:
    watched.rows.call(watched.rows.turn(watched.rows.session()))
    filled(watched.rows, 500)
    first = await watched.steps(lambda: watched.store.look(full=True))
    watched.rows.connection.execute("DELETE FROM part WHERE data LIKE '%completed%'")
    assert await watched.steps(lambda: watched.store.look(full=True)) >= first - 2


async def test_a_long_tail_is_read_in_steps(rows: OpencodeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await OpencodeDatabase.open(rows.path, limits=SMALL) as store:
        await store.look()
        calls = {rows.call(rows.turn(rows.session())) for _ in range(40)}
        begun = 0
        once = store._reader._check_schema

        async def counted(fetch: Fetch) -> None:
            nonlocal begun
            begun += 1
            await once(fetch)

        monkeypatch.setattr(store._reader, "_check_schema", counted)
        assert calls <= open_ids(await store.look())
        assert begun >= 80 / SMALL.step_rows - 2  # the last few rows of each table are read by the look itself


async def test_no_step_leaves_a_transaction_behind(rows: OpencodeFile) -> None:
    filled(rows, 20)
    async with await OpencodeDatabase.open(rows.path, limits=SMALL) as store:
        await store.look()
        while await store.search():
            rows.session()
            busy, _, _ = rows.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert busy == 0


# The search.


async def test_the_search_finds_an_open_call_in_a_closed_turn_a_little_at_a_time(rows: OpencodeFile) -> None:
    filled(rows, 10)
    turn = rows.turn(rows.session())
    call = rows.call(turn)
    rows.finish_turn(turn)
    filled(rows, 10)
    async with await OpencodeDatabase.open(rows.path, limits=SMALL) as store:
        assert open_ids(await store.look()) == set()
        steps = 1
        while await store.search():
            steps += 1
        assert steps > 15
        assert store.searched
        assert await store.changed()
        assert open_ids(await store.look()) == {call, turn}
        assert not await store.changed()
        assert not await store.search()


async def test_a_search_that_finds_nothing_new_causes_no_look(rows: OpencodeFile) -> None:
    rows.call(rows.turn(rows.session()))
    async with await OpencodeDatabase.open(rows.path, limits=SMALL) as store:
        await store.look()
        while await store.search():
            pass
        assert not await store.changed()


async def test_a_search_ends_although_rows_come_faster_than_it_steps(rows: OpencodeFile) -> None:
    turn = rows.turn(rows.session())
    for _ in range(9):
        rows.text(turn)
    async with await OpencodeDatabase.open(rows.path, limits=SMALL) as store:
        await store.look()
        steps = 0
        while await store.search():
            steps += 1
            for _ in range(SMALL.search_rows):
                rows.text(turn)
            assert steps <= 9


async def test_a_search_over_a_gap_in_the_rowids_goes_on_behind_it(rows: OpencodeFile) -> None:
    turn = rows.turn(rows.session())
    rows.call(turn)
    far = rows.call(turn)
    rows.connection.execute("UPDATE part SET rowid = 1 << 50 WHERE id = ?", (far,))
    last = rows.call(turn)
    rows.finish_turn(turn)
    async with await OpencodeDatabase.open(rows.path, limits=SMALL) as store:
        steps = 1
        while await store.search():
            steps += 1
        assert steps <= 4
        assert {far, last} <= open_ids(await store.look())


async def test_rows_that_move_in_the_middle_of_a_search_start_it_again(rows: OpencodeFile) -> None:
    filled(rows, 20)
    turn = rows.turn(rows.session())
    call = rows.call(turn)
    rows.finish_turn(turn)
    async with await OpencodeDatabase.open(rows.path, limits=SMALL) as store:
        await store.look()
        for _ in range(12):
            assert await store.search()
        rows.connection.execute("DELETE FROM part WHERE rowid <= 25")
        rows.connection.execute("VACUUM")
        while await store.search():
            pass
        assert call in open_ids(await store.look())


# When to start over.


async def reads_all_again(store: OpencodeDatabase, rows: OpencodeFile, turn: str) -> bool:
    """Whether the next look starts over: it sees a turn that was opened again behind its back."""
    rows.set("message", turn, data='{"role": "assistant"}')
    return turn in open_ids(await store.look())


@pytest.fixture
def finished(rows: OpencodeFile) -> str:
    filled(rows, 3)
    return str(rows.connection.execute("SELECT id FROM message ORDER BY rowid LIMIT 1").fetchone()[0])


async def test_ordinary_changes_start_nothing_over(rows: OpencodeFile, finished: str) -> None:
    async with await OpencodeDatabase.open(rows.path) as store:
        await store.look()
        rows.call(rows.turn(rows.session()))
        assert not await reads_all_again(store, rows, finished)
        assert finished in open_ids(await store.look(full=True))


@pytest.mark.parametrize("table", ["message", "part"])
@pytest.mark.parametrize("by", [-50, 50])
async def test_rowids_that_are_renumbered_start_over(rows: OpencodeFile, finished: str, table: str, by: int) -> None:
    """As a dump that is read back does, and as SQLite may at a VACUUM; with its indexes, 3.40 keeps the rowids."""
    rows.connection.execute(f"UPDATE {table} SET rowid = rowid + 100")
    async with await OpencodeDatabase.open(rows.path) as store:
        await store.look()
        while await store.search():
            pass
        rows.connection.execute(f"UPDATE {table} SET rowid = rowid + {by}")
        assert await reads_all_again(store, rows, finished)
        assert not store.searched


async def test_a_vacuum_loses_nothing(rows: OpencodeFile, finished: str) -> None:
    turn = rows.turn(rows.session())
    async with await OpencodeDatabase.open(rows.path) as store:
        await store.look()
        rows.delete("message", finished)
        rows.connection.execute("VACUUM")
        later = rows.turn(rows.session())
        assert open_ids(await store.look()) == {turn, later}


@pytest.mark.parametrize("table", ["message", "part"])
async def test_a_last_row_that_is_deleted_starts_over_even_if_its_rowid_is_used_again(
    rows: OpencodeFile, finished: str, table: str
) -> None:
    session = rows.session()
    rows.text(rows.turn(session, completed_at=NOW))
    async with await OpencodeDatabase.open(rows.path) as store:
        await store.look()
        rows.connection.execute(f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})")
        rows.text(rows.turn(session, completed_at=NOW))
        assert await reads_all_again(store, rows, finished)


async def test_a_database_restored_in_place_starts_over(rows: OpencodeFile, finished: str, tmp_path: Path) -> None:
    older = sqlite3.connect(tmp_path / "older.db")
    rows.connection.backup(older)
    async with await OpencodeDatabase.open(rows.path) as store:
        rows.call(rows.turn(rows.session()))
        await store.look()
        older.backup(rows.connection)
        older.close()
        assert await reads_all_again(store, rows, finished)


async def test_another_file_in_its_place_starts_over(rows: OpencodeFile, finished: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with sqlite3.connect(copy) as other:
        rows.connection.backup(other)
        other.execute("PRAGMA journal_mode = WAL")
        other.execute('UPDATE message SET data = \'{"role": "assistant"}\' WHERE id = ?', (finished,))
    other.close()
    async with await OpencodeDatabase.open(rows.path) as store:
        await store.look()
        for suffix in ("-wal", "-shm"):
            rows.path.with_name(rows.path.name + suffix).unlink(missing_ok=True)
        copy.replace(rows.path)
        assert finished in open_ids(await store.look())


async def test_what_is_forgotten_is_read_again(rows: OpencodeFile, finished: str) -> None:
    async with await OpencodeDatabase.open(rows.path) as store:
        await store.look()
        while await store.search():
            pass
        store.forget()
        assert not store.searched
        assert await store.changed()
        assert await reads_all_again(store, rows, finished)


async def test_a_reading_connection_that_is_closed_in_between_starts_nothing_over(
    rows: OpencodeFile, finished: str
) -> None:
    async with await OpencodeDatabase.open(rows.path) as store:
        await store.look()
        await store.disconnect()
        assert await store.changed()
        assert not await reads_all_again(store, rows, finished)


async def test_a_database_that_is_rewritten_at_each_look_is_unavailable(
    rows: OpencodeFile, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finished
    async with await OpencodeDatabase.open(rows.path) as store:
        await store.look()
        monkeypatch.setattr(store._tracker, "_stands", lambda _: False)
        with pytest.raises(DatabaseUnavailable, match="rewritten"):
            await store.look()


async def test_rows_that_the_watchdog_closed_and_opened_again_are_seen(rows: OpencodeFile) -> None:
    turn = rows.turn(rows.session())
    call = rows.call(turn)
    rows.finish_turn(turn)
    async with await OpencodeDatabase.open(rows.path) as store:
        await store.look(scan_parts=True)
        (row,) = await store.rows(call_ids=[call])
        settled = settled_call(row, text="ended", now_ms=NOW)
        assert settled is not None
        assert await store.write([GuardedWrite(row=row, after=settled)]) == 1
        assert open_ids(await store.look()) == set()
        (closed,) = await store.rows(call_ids=[call])
        assert await store.write([GuardedWrite(row=closed, after=row.data)]) == 1
        assert call in open_ids(await store.look())


# What must not be lost, although only the search or a full look would find it again.


@pytest.fixture
async def searched(rows: OpencodeFile) -> AsyncIterator[tuple[OpencodeDatabase, SessionId, str]]:
    """A store that has found an open call in a closed turn, its session, and the call."""
    session = rows.session()
    turn = rows.turn(session)
    call = rows.call(turn)
    rows.finish_turn(turn)
    rows.text(turn)
    async with await OpencodeDatabase.open(rows.path, limits=SMALL) as store:
        await store.look(scan_parts=True)
        yield store, session, call


async def calls_of(store: OpencodeDatabase, session: SessionId) -> list[str]:
    found = await store.session(session)
    assert found is not None
    return [call.id for call in found.calls]


async def test_what_is_open_is_known_through_a_start_over(
    rows: OpencodeFile, searched: tuple[OpencodeDatabase, SessionId, str]
) -> None:
    store, session, call = searched
    store.forget()
    assert await calls_of(store, session) == [call]
    assert call in open_ids(await store.look())
    rows.connection.execute("DELETE FROM part WHERE rowid = (SELECT max(rowid) FROM part)")
    assert await calls_of(store, session) == [call]
    assert call in open_ids(await store.look())
    assert not store.searched


async def test_what_an_earlier_process_knew_is_read_before_anything_is_searched(rows: OpencodeFile) -> None:
    session = rows.session()
    turn = rows.turn(session)
    call = rows.call(turn)
    rows.finish_turn(turn)
    async with await OpencodeDatabase.open(rows.path) as store:
        assert await calls_of(store, session) == []
        store.follow([call, "prt_of_nothing", turn])
        assert await calls_of(store, session) == [call]
        assert open_ids(await store.look()) == {call, turn}
        assert open_ids(await store.look()) == {call, turn}


async def test_a_new_connection_hides_no_commit(rows: OpencodeFile) -> None:
    """Each connection counts from the same number again."""
    session = rows.session()
    turn = rows.turn(session)
    async with await OpencodeDatabase.open(rows.path) as store:
        for _ in range(3):
            await store.look()
            await store.disconnect()
            call = rows.call(turn)
            await store.session(session)
            assert await store.changed()
            assert call in open_ids(await store.look())


async def test_a_turn_that_can_be_read_again_shows_its_calls(rows: OpencodeFile) -> None:
    turn = rows.turn(rows.session())
    call, data = rows.call(turn), rows.get("message", turn)
    rows.set("message", turn, data="{")
    async with await OpencodeDatabase.open(rows.path) as store:
        for _ in range(2):
            assert call not in open_ids(await store.look())
        rows.set("message", turn, data=data)
        assert call in open_ids(await store.look())


async def test_a_search_that_is_waited_for_loses_nothing_to_a_start_over(
    rows: OpencodeFile, searched: tuple[OpencodeDatabase, SessionId, str]
) -> None:
    store, _, _ = searched
    turn = rows.turn(rows.session())
    late = rows.call(turn)
    rows.finish_turn(turn)
    rows.connection.execute("UPDATE part SET rowid = rowid + 100")
    assert late in open_ids(await store.look(scan_parts=True))
    assert store.searched


# Anything that happens to a database, look by look.

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), st.integers(0, 3)),
        st.tuples(st.just("call"), st.integers(0, 9)),
        st.tuples(st.just("text"), st.integers(0, 9)),
        st.tuples(st.just("task"), st.integers(0, 9)),
        st.tuples(st.just("finish call"), st.integers(0, 9)),
        st.tuples(st.just("finish turn"), st.integers(0, 9)),
        st.tuples(st.just("break"), st.integers(0, 9)),
        st.tuples(st.just("delete part"), st.integers(0, 9)),
        st.tuples(st.just("delete turn"), st.integers(0, 9)),
        st.tuples(st.just("vacuum"), st.just(0)),
        st.tuples(st.just("look"), st.just(0)),
        st.tuples(st.just("disconnect"), st.just(0)),
        st.tuples(st.just("session"), st.integers(0, 3)),
    ),
    max_size=30,
)


class Story:
    """Rows that come, change and go. Nothing that is closed is opened again: opencode never does."""

    def __init__(self, rows: OpencodeFile) -> None:
        self.rows = rows
        self.sessions = [rows.session() for _ in range(4)]
        self.turns: list[str] = []
        self.calls: list[str] = []
        self.finished: set[str] = set()
        self.at = NOW

    def tell(self, what: str, number: int) -> None:
        self.at += 1
        turn = self.turns[number % len(self.turns)] if self.turns else None
        call = self.calls[number % len(self.calls)] if self.calls else None
        if what == "turn":
            self.turns.append(self.rows.turn(self.sessions[number], at=self.at))
        elif what == "vacuum":
            self.rows.connection.execute("VACUUM")
        elif turn is not None and what in {"call", "text", "task", "finish turn", "delete turn"}:
            self._of_turn(what, turn)
        elif call is not None:
            self._of_call(what, call)

    def _of_turn(self, what: str, turn: str) -> None:
        if what == "call":
            self.calls.append(self.rows.call(turn, at=self.at))
        elif what == "task":
            self.calls.append(self.rows.task(turn, at=self.at, child=self.sessions[0]))
        elif what == "text":
            self.rows.text(turn, at=self.at)
        elif what == "finish turn":
            self.rows.finish_turn(turn)
        else:
            self.rows.connection.execute("DELETE FROM part WHERE message_id = ?", (turn,))
            self.rows.delete("message", turn)
            self.turns.remove(turn)

    def _of_call(self, what: str, call: str) -> None:
        if what == "finish call":
            self.finished.add(call)
            self.rows.set("part", call, data='{"type": "tool", "tool": "x", "state": {"status": "completed"}}')
        elif what == "break" and call not in self.finished:
            self.rows.set("part", call, data="{")
        elif what == "delete part":
            self.rows.delete("part", call)


def comparable(found: Snapshot) -> tuple[dict[SessionId, Any], set[tuple[str, str]]]:
    return dict(found.sessions), {(damage.table, damage.id) for damage in found.damaged}


async def followed(store: OpencodeDatabase, last: Snapshot) -> Snapshot:
    """What a loop knows: the last look while nothing has changed, and a new one once the search is over."""
    while True:
        while await store.search():
            pass
        if await store.changed():
            last = await store.look()
        if store.searched:
            return last


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=STEPS)
async def test_look_by_look_the_same_is_seen_as_by_reading_everything(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("story") / "opencode.db"
    with OpencodeFile(path) as rows:
        rows.connection.execute("PRAGMA synchronous = OFF")
        story, last = Story(rows), Snapshot()
        async with await OpencodeDatabase.open(path, limits=SMALL) as store:
            for what, number in [*plan, ("look", 0)]:
                story.tell(what, number)
                if what == "disconnect":
                    await store.disconnect()
                elif what == "session":
                    await store.session(story.sessions[number])
                elif what == "look":
                    async with await OpencodeDatabase.open(path) as afresh:
                        expected = comparable(await afresh.look(scan_parts=True))
                    assert comparable(await followed(store, last)) == expected
                    last = await store.look()


async def test_what_is_told_to_be_followed_while_a_look_is_under_way_is_part_of_the_next_one(
    rows: OpencodeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = rows.turn(rows.session("ses_1"))
    call = rows.call(turn)
    rows.finish_turn(turn)
    whole = Look.everything
    async with await OpencodeDatabase.open(rows.path) as store:

        async def everything(look: Look, known: Known, also: Collection[SessionId]) -> Snapshot:
            found = await whole(look, known, also)
            store.follow([call])
            return found

        with monkeypatch.context() as patched:
            patched.setattr(Look, "everything", everything)
            assert (await store.look()).sessions == {}
        assert await store.session(SessionId("ses_1")) is not None
        assert await store.changed()
        assert [each.id for session in (await store.look()).sessions.values() for each in session.calls] == [call]
        assert not await store.changed()
