"""opencode's database through SQLAlchemy: reads in short transactions, and guarded writes.

The file is never opened with anything but SQLite: closing any descriptor on it would drop this process's POSIX
locks, and a peer could then remove the WAL under a live connection.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiosqlite
import anyio
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from watchdog.errors import DatabaseUnavailable, DatabaseUnsupported
from watchdog.model import CallId, GuardedWrite, Row, Session, SessionId, Snapshot, TurnId
from watchdog.opencode import queries
from watchdog.opencode.identity import FileIdentity, FilesystemType, check_place, filesystem_type
from watchdog.opencode.look import Fetch, Look, Record, as_ids, newest_turn, whole_row
from watchdog.opencode.sqlite_errors import primary_code, sentence

END_SECONDS = 10.0
"""How long a piece of work that was begun may resist a cancellation."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long to wait for others, and how much to read at once.

    Attributes:
        read_seconds: how long a read waits for a lock.
        write_seconds: how long a write waits for a lock.
        scan_rows: how many parts one step of a full scan reads.
    """

    read_seconds: float = 2.0
    write_seconds: float = 5.0
    scan_rows: int = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What there is to say about a database to a person who checks the set-up."""

    path: Path
    size_bytes: int
    journal_mode: str
    sqlite_version: str
    filesystem: str | None
    sessions: int
    experimental_sessions: int


class OpencodeDatabase:
    """opencode's database. Made by `open`; an async context manager that closes it.

    With an engine given, that engine is used for everything and never disposed, and one of its connections is
    kept for as long as this is open.
    """

    def __init__(
        self,
        path: Path,
        *,
        engine: AsyncEngine | None = None,
        limits: Limits | None = None,
        filesystem_type: FilesystemType = filesystem_type,
    ) -> None:
        self.path = path
        self._limits = limits or Limits()
        self._filesystem_type = filesystem_type
        self._embedded = engine is not None
        self._read_engine = engine or _engine(path, "ro", self._limits.read_seconds)
        self._write_engine = engine or _engine(path, "rw", self._limits.write_seconds)
        self._lock = anyio.Lock()
        self._connection: AsyncConnection | None = None
        self._identity: FileIdentity | None = None
        self._schema: int | None = None
        self._seen: int | None = None
        self._suspects: frozenset[str] = frozenset()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        engine: AsyncEngine | None = None,
        limits: Limits | None = None,
        filesystem_type: FilesystemType = filesystem_type,
    ) -> Self:
        """Open the database and make sure that it can be watched.

        Args:
            path: the database file.
            engine: the engine of a server that this process embeds; without one, connections of its own.
            limits: how long to wait for locks.
            filesystem_type: tells the type of the file system that a path is on.

        Raises:
            DatabaseMissing: there is no such file.
            DatabaseUnsupported: it is of a kind, a generation or in a place that can't be watched.
            DatabaseUnavailable: it can't be read just now.
        """
        check_place(path, filesystem_type)
        database = cls(path, engine=engine, limits=limits, filesystem_type=filesystem_type)
        try:
            async with database._transaction():
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
        """Close every connection. Used again, it opens them again."""
        # A server that shuts down by cancellation gets its connection back, too.
        with anyio.move_on_after(END_SECONDS, shield=True):
            async with self._lock:
                with _translated(self.path):
                    await self._drop()

    async def disconnect(self) -> None:
        """Close the reading connection, so that this process holds no lock; the next call opens it again.

        With an engine of somebody else's this does nothing.
        """
        if not self._embedded:
            await self.close()

    async def changed(self) -> bool:
        """See `Store.changed`."""
        async with self._transaction() as fetch:
            seen = await _single(fetch, "PRAGMA data_version")
            # Connections that share one SQLite connection don't see each other's commits in its version.
            return seen != self._seen or isinstance(self._read_engine.pool, StaticPool)

    async def look(self, *, also: Collection[SessionId] = (), full: bool = False) -> Snapshot:
        """See `Store.look`."""
        if full:
            await self._scan()
        async with self._transaction() as fetch:
            seen = await _single(fetch, "PRAGMA data_version")
            look = Look(fetch=fetch, suspects=self._suspects)
            snapshot = await look.everything(also)
            # A call is followed until it is cleanly closed, even if its turn closes before it.
            seen_open = {call.id for session in snapshot.sessions.values() for call in session.calls}
            self._suspects = look.suspects | seen_open
            self._seen = seen
        return snapshot

    async def session(self, session_id: SessionId) -> Session | None:
        """See `Store.session`."""
        async with self._transaction() as fetch:
            return await Look(fetch=fetch, suspects=self._suspects).session(session_id)

    async def directories(self) -> tuple[str, ...]:
        """See `Store.directories`."""
        async with self._transaction() as fetch:
            return tuple(str(record["directory"]) for record in await fetch(queries.DIRECTORIES, {}))

    async def rows(self, *, call_ids: Collection[CallId] = (), turn_ids: Collection[TurnId] = ()) -> tuple[Row, ...]:
        """See `Store.rows`."""
        async with self._transaction() as fetch:
            parts = await fetch(queries.WHOLE_PARTS, {"ids": as_ids(call_ids)})
            messages = await fetch(queries.WHOLE_MESSAGES, {"ids": as_ids(turn_ids)})
        return tuple(whole_row(record) for record in [*parts, *messages])

    async def message_exists(self, session_id: SessionId, message_id: str) -> bool:
        """See `Store.message_exists`."""
        async with self._transaction() as fetch:
            return bool(await fetch(queries.MESSAGE_EXISTS, {"id": message_id, "session": session_id}))

    async def newest_turn(self, session_id: SessionId) -> TurnId | None:
        """See `Store.newest_turn`."""
        async with self._transaction() as fetch:
            return newest_turn(await fetch(queries.NEWEST, {"ids": as_ids([session_id])}))

    async def write(self, writes: Sequence[GuardedWrite], *, while_newest: TurnId | None = None) -> int:
        """See `Store.write`."""
        if not writes:
            return 0
        async with self._lock:
            FileIdentity.of(self.path)
            with _translated(self.path):
                # Short, and bounded by the wait for the lock: what was begun is finished even when cancelled.
                return await _finished(self._write_all(writes, while_newest))

    async def _write_all(self, writes: Sequence[GuardedWrite], while_newest: TurnId | None) -> int:
        async with self._write_engine.connect() as connection:
            await _begin(connection, "BEGIN IMMEDIATE")
            if while_newest is not None:
                found = await _fetch(connection)(queries.NEWEST, {"ids": as_ids([writes[0].row.session_id])})
                if newest_turn(found) != while_newest:
                    await connection.rollback()
                    return 0
            for write in writes:
                result = await connection.execute(
                    text(queries.GUARDED_UPDATE[write.row.table]),
                    {"id": write.row.id, "observed": write.row.data, "after": write.after},
                )
                if result.rowcount != 1:
                    await connection.rollback()
                    return 0
            await connection.commit()
            return len(writes)

    async def experimental_sessions(self) -> int:
        """How many rows of opencode's experimental session store there are, which the watchdog doesn't watch."""
        async with self._transaction() as fetch:
            return await _experimental_sessions(fetch)

    async def describe(self) -> Description:
        """What there is to say about it to a person."""
        async with self._transaction() as fetch:
            return Description(
                path=self.path,
                size_bytes=await _single(
                    fetch, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
                ),
                journal_mode=str((await fetch("PRAGMA journal_mode", {}))[0]["journal_mode"]),
                sqlite_version=sqlite3.sqlite_version,
                filesystem=self._filesystem_type(self.path),
                sessions=await _single(fetch, "SELECT count(*) FROM session"),
                experimental_sessions=await _experimental_sessions(fetch),
            )

    async def _scan(self) -> None:
        """Find the parts that are not cleanly closed, in steps: no long transaction, and others come between."""
        found: set[str] = set()
        after = -1 << 63
        while True:
            async with self._transaction() as fetch:
                step = {"after": after, "step": self._limits.scan_rows}
                upto = (await fetch(queries.NEXT_STEP, step))[0]["place"]
                if not isinstance(upto, int):
                    break
                records = await fetch(queries.OPEN_PARTS_IN_STEP, {"after": after, "upto": upto})
            found.update(str(record["id"]) for record in records)
            after = upto
        self._suspects |= found

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Fetch]:
        """A read transaction on the long-lived connection, which ends with the block whatever happens in it."""
        async with self._lock:
            with _translated(self.path):
                try:
                    connection = await self._connected()
                    await _finished(_begin(connection, "BEGIN"))
                    fetch = _fetch(connection)
                    await self._check_schema(fetch)
                    yield fetch
                    await _finished(connection.rollback())
                except BaseException:
                    await self._drop()
                    raise

    async def _connected(self) -> AsyncConnection:
        identity = FileIdentity.of(self.path)
        if self._connection is not None and identity != self._identity:
            await self._drop()
        if self._connection is None:
            if identity != self._identity:
                self._suspects = frozenset()
            self._identity = identity
            return await _finished(self._connect())
        return self._connection

    async def _connect(self) -> AsyncConnection:
        self._connection = await self._read_engine.connect()
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._seen = self._schema = None
        if connection is not None:
            await _finished(connection.close())

    async def _check_schema(self, fetch: Fetch) -> None:
        """Look at the tables when they are new to this connection or were altered: opencode may be upgraded."""
        schema = await _single(fetch, "PRAGMA schema_version")
        if schema == self._schema:
            return
        tables: dict[str, set[str]] = {}
        for record in await fetch(queries.COLUMNS_FOUND, {}):
            tables.setdefault(str(record["table"]), set()).add(str(record["column"]))
        if "session_v2" in tables:
            raise DatabaseUnsupported(
                f"The database {self.path} is one of opencode 2.x (it has a table `session_v2`), whose sessions this "
                "version can't watch. Look for a newer opencode-watchdog."
            )
        for table, columns in queries.COLUMNS.items():
            missing = set(columns) - tables.get(table, set())
            if missing:
                what = f"columns {', '.join(sorted(missing))} in its table" if table in tables else "table"
                raise DatabaseUnsupported(
                    f"The database {self.path} is no database of opencode's: it has no {what} `{table}`."
                )
        mode = (await fetch("PRAGMA journal_mode", {}))[0]["journal_mode"]
        if mode != "wal":
            raise DatabaseUnsupported(
                f"The database {self.path} is in journal mode `{mode}`. opencode uses `wal`, and in another mode "
                "nobody can tell who has it open. Is it really opencode's own file?"
            )
        self._schema = schema


def _engine(path: Path, mode: str, busy_seconds: float) -> AsyncEngine:
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"

    async def connect() -> aiosqlite.Connection:
        # No transaction begins but by our own BEGIN, and bytes that are no UTF-8 fail no query.
        connection = await aiosqlite.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None)
        connection.text_factory = _decoded
        return connection

    return create_async_engine("sqlite+aiosqlite://", async_creator=connect, poolclass=NullPool, hide_parameters=True)


def _decoded(value: bytes) -> str:
    return value.decode(errors="replace")


async def _begin(connection: AsyncConnection, statement: str) -> None:
    """Begin a transaction, unless the owner of an engine given to us has it begin by itself."""
    await connection.begin()
    driver: Any = (await connection.get_raw_connection()).driver_connection
    if not driver.in_transaction:
        await connection.execute(text(statement))


def _fetch(connection: AsyncConnection) -> Fetch:
    async def fetch(query: str, parameters: Mapping[str, object]) -> Sequence[Record]:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        result = await _finished(connection.execute(text(query), dict(parameters)), interrupt=driver.interrupt)
        return [dict(row) for row in result.mappings()]

    return fetch


async def _finished(work: Coroutine[Any, Any, T], *, interrupt: Callable[[], Awaitable[None]] | None = None) -> T:
    """Do a piece of work to its end. When cancelled, interrupt it, wait for its end, and then be cancelled.

    SQLite works in a thread: a task that just walks away would leave a statement and its transaction behind.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            if interrupt is not None and not task.done():
                await interrupt()
            done, _ = await asyncio.wait([task], timeout=END_SECONDS)
        for ended in done:
            ended.cancelled() or ended.exception()  # What came of it is of no interest any more.
        raise


async def _single(fetch: Fetch, query: str) -> int:
    (record,) = await fetch(query, {})
    (value,) = record.values()
    return int(str(value))


async def _experimental_sessions(fetch: Fetch) -> int:
    tables = {record["table"] for record in await fetch(queries.COLUMNS_FOUND, {})}
    return await _single(fetch, "SELECT count(*) FROM session_message") if "session_message" in tables else 0


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, sqlite3.Warning) as error:
        # SQLAlchemy's own text holds the statement and its parameters: only the driver's error is told.
        original = getattr(error, "orig", None) or error
        raise DatabaseUnavailable(f"The database {path} {sentence(original)}") from original
