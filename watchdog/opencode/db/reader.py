"""The one long-lived connection for all reads, in short transactions.

Only SQLite ever opens the file: closing any descriptor on it would drop this process's POSIX locks, and a peer could
then remove the WAL under a live connection.

SQLAlchemy makes and pools the connection. Reads run on the driver's own (aiosqlite), one hop to its thread for each
statement: through SQLAlchemy a statement costs three times as much, and a tick is made of statements.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import anyio
import anyio.to_thread
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import StaticPool

from watchdog.errors import DatabaseDamaged, DatabaseUnavailable
from watchdog.opencode.db import queries
from watchdog.opencode.db.rows import Record
from watchdog.opencode.db.schema import check_schema
from watchdog.opencode.db.snapshot import Fetch
from watchdog.opencode.db.sqlite_errors import HOW_TO_MEND, is_damage, sentence
from watchdog.opencode.file.identity import FileIdentity
from watchdog.strides import in_strides

END_SECONDS = 10.0
"""How long a piece of work that has begun may resist a cancellation."""

T = TypeVar("T")


class Reader:
    """Reads one database file through an engine.

    Args:
        path: the file.
        engine: makes connections to it.
        admit: called before each connection; raises if the file must not be opened.

    Attributes:
        connection: counts the connections: each counts versions of the data from the same number again.
        file: counts the files that were read: it grows when another file has taken the path.
        lock: held while the connection is in use; writers take it, too, if an engine shares its only connection.
        ask: the queries of a look at this database, for its tables when a transaction last began.
        reads: how often the file was asked whether it changed (`version`), and read in a transaction (`transaction`).
    """

    def __init__(self, path: Path, engine: AsyncEngine, *, admit: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._engine = engine
        self._admit = admit
        self.lock = anyio.Lock(fast_acquire=True)
        self._connection: AsyncConnection | None = None
        self._driver: aiosqlite.Connection | None = None
        self._identity: FileIdentity | None = None
        self._schema: object = None
        self._columns: dict[str, tuple[str, ...]] = {}
        self.ask = queries.statements({})
        self.connection = 0
        self.file = 0
        self.reads = {"version": 0, "transaction": 0}

    @property
    def shares_connection(self) -> bool:
        """Whether others write through the same connection, whose `data_version` does not change then."""
        return isinstance(self._engine.pool, StaticPool)

    async def version(self) -> tuple[int, int] | None:
        """The connection, and its `data_version`, which changes with each commit of anybody else.

        Returns:
            None without a connection, or if its file is no longer the one at the path.

        Raises:
            DatabaseUnavailable: the file is gone or can't be read.
        """
        async with self.lock:
            with translated(self._path):
                if self._driver is None or FileIdentity.of(self._path) != self._identity:
                    return None
                self.reads["version"] += 1
                try:
                    ((version,),) = await _run(self._driver, "PRAGMA data_version", {})
                    await self._leave(self._driver)
                except BaseException:
                    await self._drop()
                    raise
                return self.connection, int(version)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Fetch]:
        """A read transaction, which ends with the block whatever happens in it.

        Raises:
            DatabaseUnavailable: the file can't be read just now.
            DatabaseUnsupported: it is no database that can be watched, or not any more.
        """
        async with self.lock:
            with translated(self._path):
                try:
                    driver = await self._connected()
                    fetch = partial(self._fetch, driver)
                    self.reads["transaction"] += 1
                    begun = not driver.in_transaction
                    if begun:
                        await _run(driver, "BEGIN", {})
                    await self._check_schema(fetch)
                    yield fetch
                    await self._leave(driver, begun=begun)
                except BaseException:
                    await self._drop()
                    raise

    async def close(self) -> None:
        """Close the connection; the next read opens it again."""
        # A server that shuts down by cancellation gets its connection back, too.
        with anyio.move_on_after(END_SECONDS, shield=True):
            async with self.lock:
                with translated(self._path):
                    await self._drop()

    async def _leave(self, driver: aiosqlite.Connection, *, begun: bool = False) -> None:
        """End the transaction. A driver with `autocommit=False` is always in one, which would never move on.

        If the owner of an engine shares its one connection, a transaction under way is the owner's.
        """
        if driver.in_transaction and (begun or not self.shares_connection):
            await _interruptible(driver, driver.rollback())

    async def _connected(self) -> aiosqlite.Connection:
        identity = FileIdentity.of(self._path)
        if self._connection is not None and identity != self._identity:
            await self._drop()
        if identity != self._identity:
            self.file += 1
            self._identity = identity
        if self._driver is not None:
            return self._driver
        await anyio.to_thread.run_sync(self._admit)
        return await finished(self._connect())

    async def _connect(self) -> aiosqlite.Connection:
        self._connection = await self._engine.connect()
        self.connection += 1
        driver: Any = (await self._connection.get_raw_connection()).driver_connection
        if not isinstance(driver, aiosqlite.Connection):
            raise TypeError(driver)
        self._driver = driver
        return driver

    async def _drop(self) -> None:
        connection, self._connection, self._driver, self._schema = self._connection, None, None, None
        self._columns.clear()
        if connection is not None:
            await finished(connection.close())

    async def _check_schema(self, fetch: Fetch) -> None:
        """Look at the tables if they are new to this connection or were altered: opencode may have been upgraded."""
        (found,) = await fetch(queries.SCHEMA_VERSION, {})
        if found["schema_version"] != self._schema:
            self._columns.clear()
            self.ask = await check_schema(fetch, self._path)
            self._schema = found["schema_version"]

    async def _fetch(
        self, driver: aiosqlite.Connection, query: str, parameters: Mapping[str, object]
    ) -> Sequence[Record]:
        if query in self._columns:
            rows = await _run(driver, query, parameters)
        else:
            # In a task of its own: a half-read cursor would keep the next statement interrupted.
            described = _described(driver, query, parameters)
            self._columns[query], rows = await finished(described, interrupt=driver.interrupt)
        columns = self._columns[query]
        return [dict(zip(columns, row, strict=True)) async for row in in_strides(rows)]


async def _described(
    driver: aiosqlite.Connection, query: str, parameters: Mapping[str, object]
) -> tuple[tuple[str, ...], Sequence[Sequence[Any]]]:
    async with driver.execute(query, dict(parameters)) as cursor:
        rows = [*await cursor.fetchall()]
        return tuple(str(column[0]) for column in cursor.description), rows


async def _run(
    driver: aiosqlite.Connection, statement: str, parameters: Mapping[str, object]
) -> Sequence[Sequence[Any]]:
    return [*await _interruptible(driver, driver.execute_fetchall(statement, dict(parameters)))]


async def _interruptible(driver: aiosqlite.Connection, work: Awaitable[T]) -> T:
    """Do a piece of work in the driver's thread. When cancelled, interrupt it, and wait for its end.

    SQLite works in a thread: a task that just stops waiting would leave a statement and its transaction behind.
    """
    try:
        return await work
    except asyncio.CancelledError:
        await driver.interrupt()
        with suppress(sqlite3.Error, ValueError):  # it comes after whatever was interrupted, and may be so itself
            await finished(_run_alone(driver))
        raise


async def _run_alone(driver: aiosqlite.Connection) -> None:
    await driver.execute_fetchall("SELECT 1")


async def finished(work: Coroutine[Any, Any, T], *, interrupt: Callable[[], Awaitable[None]] | None = None) -> T:
    """Do a piece of work to its end. When cancelled, interrupt it, wait for its end, and then be cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            if interrupt is not None and not task.done():
                await interrupt()
            done, _ = await asyncio.wait([task], timeout=END_SECONDS)
        for ended in done:
            ended.cancelled() or ended.exception()  # Nobody needs its result any more.
        raise


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn exceptions of the driver and SQLAlchemy into a sentence, without any of the statement.

    Raises:
        DatabaseUnavailable: instead of theirs; DatabaseDamaged if they report damage.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, sqlite3.Warning) as error:
        # SQLAlchemy's own text holds the statement and its parameters: only the driver's error is used.
        original = getattr(error, "orig", None) or error
        if is_damage(original):
            raise DatabaseDamaged(f"The database {path} {sentence(original)} {HOW_TO_MEND}") from original
        raise DatabaseUnavailable(f"The database {path} {sentence(original)}") from original
