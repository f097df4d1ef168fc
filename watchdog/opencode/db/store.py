"""opencode's database through SQLAlchemy: reads in short transactions, and guarded writes."""

import json
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiosqlite
import anyio
import anyio.to_thread
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from watchdog.errors import DatabaseUnavailable, DatabaseUnsupported
from watchdog.model.leftovers import CommandCall
from watchdog.model.outcome import GuardedWrite, Row
from watchdog.model.past import Stretch
from watchdog.model.session import CallId, Session, SessionId, Snapshot, TurnId
from watchdog.opencode.db import past, queries
from watchdog.opencode.db.reader import Reader, finished, translated
from watchdog.opencode.db.rows import newest_turn, read_command_call, whole_row
from watchdog.opencode.db.schema import experimental_sessions, second_generation
from watchdog.opencode.db.snapshot import as_ids
from watchdog.opencode.db.sqlite_errors import primary_code
from watchdog.opencode.db.tracker import Tracker
from watchdog.opencode.db.writing import write_all
from watchdog.opencode.file.identity import check_place, filesystem_type, uri_of
from watchdog.opencode.file.mounts import FilesystemType
from watchdog.opencode.file.one_file import OneFile, glance, shown
from watchdog.sharing import Batches

_MOST_SEARCHES = 3
_QUESTIONS_FOR_A_GLANCE = 12
"""Looking at the locks costs more than the whole look if nothing changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long to wait for others, and how much to read at a time.

    Attributes:
        read_seconds: how long a read waits for a lock.
        write_seconds: how long a write waits for a lock.
        step_rows: how many rows one step of a full look, or of a search that somebody waits for, reads.
        search_rows: how many parts one step of the search in the background reads.
    """

    read_seconds: float = 2.0
    write_seconds: float = 5.0
    step_rows: int = 20_000
    search_rows: int = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """The facts about a database for a person who checks the set-up."""

    path: Path
    size_bytes: int
    journal_mode: str
    sqlite_version: str
    filesystem: str | None
    sessions: int
    experimental_sessions: int
    second_generation: int


class OpencodeDatabase:
    """opencode's database. Made by `open`; an async context manager that closes it.

    A given engine is used for everything and never disposed of, and one of its connections is kept for as long as
    this is open.
    """

    def __init__(
        self,
        path: Path,
        *,
        engine: AsyncEngine | None = None,
        limits: Limits | None = None,
        filesystem_type: FilesystemType = filesystem_type,
        local_filesystems: Collection[str] = (),
    ) -> None:
        self.path = path
        self._limits = limits or Limits()
        self._filesystem_type = filesystem_type
        self._local_filesystems = frozenset(local_filesystems)
        self._embedded = engine is not None
        self._reader = Reader(path, engine or _engine(path, "ro", self._limits.read_seconds), admit=self._admit)
        self._tracker = Tracker(self._reader, step_rows=self._limits.step_rows, search_rows=self._limits.search_rows)
        self._sessions = Batches(self._tracker.sessions)
        self._write_engine = engine or _engine(path, "rw", self._limits.write_seconds)
        self._writing = anyio.Lock()
        self._until_glance = _QUESTIONS_FOR_A_GLANCE
        self.refuse: Callable[[], Awaitable[None]] | None = None
        """Called before each write: raises if anything forbids every write, such as known damage."""

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        engine: AsyncEngine | None = None,
        limits: Limits | None = None,
        filesystem_type: FilesystemType = filesystem_type,
        local_filesystems: Collection[str] = (),
    ) -> Self:
        """Open the database and check that it can be watched.

        Args:
            path: the database file.
            engine: the engine of a server that this process embeds; without one, connections of its own.
            limits: how long to wait for locks.
            filesystem_type: tells the type of the file system that a path is on.
            local_filesystems: further types that count as local, on the operator's word.

        Raises:
            DatabaseMissing: there is no such file.
            DatabaseUnsupported: it is of a kind, a generation or in a place that can't be watched.
            OpenElsewhere: somebody has it open under another name.
            DatabaseUnavailable: it can't be read just now.
        """
        check_place(path, filesystem_type, local_filesystems=local_filesystems)
        # Before SQLite opens anything: under another name it would make a second `-wal` and `-shm`.
        await anyio.to_thread.run_sync(shown, path)
        database = cls(
            path,
            engine=engine,
            limits=limits,
            filesystem_type=filesystem_type,
            local_filesystems=local_filesystems,
        )
        try:
            async with database._reader.transaction():
                return database
        except DatabaseUnavailable as error:
            if primary_code(error.__cause__) == sqlite3.SQLITE_NOTADB:
                raise DatabaseUnsupported(
                    f"{path} is not a SQLite database. Name opencode's with --database PATH."
                ) from error.__cause__
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Further use opens them again."""
        await self._reader.close()

    async def disconnect(self) -> None:
        """Close the reading connection: then this process holds no lock. The next call opens it again.

        With somebody else's engine this does nothing.
        """
        if not self._embedded:
            await self.close()

    async def changed(self) -> bool:
        """See `Store.changed`. Now and then this also checks that nobody has the file open under another name."""
        self._until_glance -= 1
        if self._until_glance <= 0:
            await anyio.to_thread.run_sync(glance, self.path)  # if it raises, the next call checks again
            self._until_glance = _QUESTIONS_FOR_A_GLANCE
        return await self._tracker.changed()

    async def look(
        self, *, also: Collection[SessionId] = (), full: bool = False, scan_parts: bool = False
    ) -> Snapshot:
        """See `Store.look`."""
        if not scan_parts:
            return await self._tracker.look(also=also, full=full)
        for _ in range(_MOST_SEARCHES):
            await self._tracker.search_all()
            found = await self._tracker.look(also=also, full=full)
            if self._tracker.searched:  # or the look started over, and the search may have covered another file
                return found
        raise DatabaseUnavailable(f"The database {self.path} is being rewritten as a whole, again and again.")

    @property
    def reads(self) -> dict[str, int]:
        """How often it was read so far: `version` asks only whether it changed, `transaction` reads rows."""
        return dict(self._reader.reads)

    @property
    def searched(self) -> bool:
        """See `Store.searched`."""
        return self._tracker.searched

    async def search(self) -> bool:
        """See `Store.search`."""
        return await self._tracker.search()

    def follow(self, ids: Collection[str]) -> None:
        """See `Store.follow`."""
        self._tracker.follow(ids)

    def forget(self) -> None:
        """See `Store.forget`."""
        self._tracker.forget()

    async def session(self, session_id: SessionId) -> Session | None:
        """See `Store.session`."""
        return (await self._sessions.join(session_id)).get(session_id)

    async def family(self, session_ids: Collection[SessionId]) -> Snapshot:
        """See `Store.family`."""
        return await self._tracker.family(session_ids)

    async def directories(self, *, since_ms: int) -> tuple[str, ...]:
        """See `Store.directories`."""
        async with self._reader.transaction() as fetch:
            return tuple(
                str(record["directory"]) for record in await fetch(queries.DIRECTORIES, {"since_ms": since_ms})
            )

    async def rows(self, *, call_ids: Collection[CallId] = (), turn_ids: Collection[TurnId] = ()) -> tuple[Row, ...]:
        """See `Store.rows`."""
        async with self._reader.transaction() as fetch:
            parts = await fetch(queries.WHOLE_PARTS, {"ids": as_ids(call_ids)})
            messages = await fetch(queries.WHOLE_MESSAGES, {"ids": as_ids(turn_ids)})
        return tuple(whole_row(record) for record in [*parts, *messages])

    async def turn_rows(self, turn_id: TurnId) -> tuple[Row, ...]:
        """See `Store.turn_rows`."""
        async with self._reader.transaction() as fetch:
            messages = await fetch(queries.WHOLE_MESSAGES, {"ids": as_ids([turn_id])})
            parts = await fetch(queries.PARTS_OF_MESSAGES, {"ids": as_ids([turn_id])})
        return tuple(whole_row(record) for record in [*messages, *parts])

    async def message_exists(self, session_id: SessionId, message_id: str) -> bool:
        """See `Store.message_exists`."""
        async with self._reader.transaction() as fetch:
            return bool(await fetch(queries.MESSAGE_EXISTS, {"id": message_id, "session": session_id}))

    async def titles(self, session_ids: Collection[SessionId]) -> dict[SessionId, str]:
        """See `Store.titles`."""
        async with self._reader.transaction() as fetch:
            found = await fetch(queries.TITLES, {"ids": as_ids(session_ids)})
        return {SessionId(str(record["id"])): str(record["title"]) for record in found}

    async def below(self, session_ids: Collection[SessionId]) -> frozenset[SessionId]:
        """See `Store.below`."""
        async with self._reader.transaction() as fetch:
            found = await fetch(queries.BELOW, {"ids": as_ids(session_ids)})
        return frozenset(SessionId(str(record["id"])) for record in found)

    async def queued(self, session_id: SessionId) -> tuple[str, ...]:
        """See `Store.queued`."""
        async with self._reader.transaction() as fetch:
            found = await fetch(queries.QUEUED, {"ids": as_ids([session_id])})
        return tuple(str(record["id"]) for record in found)

    async def command_calls(self, spans: Sequence[tuple[int, int]]) -> tuple[CommandCall, ...]:
        """The calls that run a command, open or not, in the turns that began within some spans of wall time."""
        async with self._reader.transaction() as fetch:
            found = await fetch(queries.COMMAND_CALLS, {"spans": json.dumps(spans)})
        return tuple(read_command_call(record) for record in found)

    async def messages(self) -> int:
        """How many messages there are."""
        return await past.count(self._reader)

    async def past(self, *, since_ms: int, each: Callable[[Stretch], Awaitable[None]]) -> None:
        """Go through the turns that began since a moment, in short transactions; `each` takes some at a time."""
        await past.read_past(self._reader, since_ms=since_ms, each=each)

    async def past_of(self, session_id: SessionId) -> Stretch:
        """The turns of one session, over or not."""
        return await past.read_session(self._reader, session_id)

    async def newest_turn(self, session_id: SessionId) -> TurnId | None:
        """See `Store.newest_turn`."""
        async with self._reader.transaction() as fetch:
            return newest_turn(await fetch(queries.NEWEST, {"ids": as_ids([session_id])}))

    async def write(self, writes: Sequence[GuardedWrite], *, while_newest: TurnId | None = None) -> int:
        """See `Store.write`."""
        if not writes:
            return 0
        async with self._writing:
            if not self._reader.shares_connection:
                return await self._write(writes, while_newest)
            async with self._reader.lock:
                return await self._write(writes, while_newest)

    async def _write(self, writes: Sequence[GuardedWrite], while_newest: TurnId | None) -> int:
        if self.refuse is not None:
            await self.refuse()
        await self.disconnect()  # our own lock could hide another's
        file = await anyio.to_thread.run_sync(shown, self.path)
        with translated(self.path):
            # Short, and bounded by the wait for the lock: a write that has begun is finished even when cancelled.
            return await finished(self._write_to(file, writes, while_newest))

    async def _write_to(self, file: OneFile, writes: Sequence[GuardedWrite], while_newest: TurnId | None) -> int:
        async with self._write_engine.connect() as connection:
            try:
                await _begin(connection, "BEGIN IMMEDIATE")
                changed = await write_all(connection, file, writes, while_newest=while_newest)
            finally:
                await connection.rollback()
            if changed:
                self._tracker.follow_written(writes)
            return changed

    def _admit(self) -> None:
        """Whether SQLite may open the file, checked each time."""
        check_place(self.path, self._filesystem_type, local_filesystems=self._local_filesystems)
        glance(self.path)

    async def experimental_sessions(self) -> int:
        """How many rows of opencode's experimental session store there are, which the watchdog doesn't watch."""
        async with self._reader.transaction() as fetch:
            return await experimental_sessions(fetch)

    async def describe(self) -> Description:
        """The facts about it for a person."""
        async with self._reader.transaction() as fetch:
            (size,) = await fetch(
                "SELECT page_count * page_size AS bytes FROM pragma_page_count, pragma_page_size", {}
            )
            (sessions,) = await fetch("SELECT count(*) AS rows FROM session", {})
            (mode,) = await fetch("PRAGMA journal_mode", {})
            return Description(
                path=self.path,
                size_bytes=int(str(size["bytes"])),
                journal_mode=str(mode["journal_mode"]),
                sqlite_version=sqlite3.sqlite_version,
                filesystem=self._filesystem_type(self.path),
                sessions=int(str(sessions["rows"])),
                experimental_sessions=await experimental_sessions(fetch),
                second_generation=await second_generation(fetch),
            )


def _engine(path: Path, mode: str, busy_seconds: float) -> AsyncEngine:
    uri = uri_of(path, mode)

    async def connect() -> aiosqlite.Connection:
        # Only our own BEGIN starts a transaction, and bytes that are no UTF-8 fail no query.
        connection = await aiosqlite.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None)
        connection.text_factory = _decoded
        return connection

    return create_async_engine("sqlite+aiosqlite://", async_creator=connect, poolclass=NullPool, hide_parameters=True)


def _decoded(value: bytes) -> str:
    return value.decode(errors="replace")


async def _begin(connection: AsyncConnection, statement: str) -> None:
    """Begin a transaction, unless the owner of a given engine makes it begin by itself."""
    await connection.begin()
    driver: Any = (await connection.get_raw_connection()).driver_connection
    if not driver.in_transaction:
        await connection.execute(text(statement))
