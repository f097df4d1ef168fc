"""The lease's row: the questions about it, in short transactions on a lasting connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from watchdog.postgres import own
from watchdog.postgres.kept import Kept
from watchdog.postgres.steps import SCHEMA

# ruff: noqa: S608 - the pieces are constants

ROW: Final = f"{SCHEMA}.lease"
LONGEST_SECONDS: Final = 300.0
"""No lease is longer. One of an older version does not say how long it is."""

_LOOK: Final = f"""
    SELECT lease.holder, lease.term, lease.expires_at <= clock_timestamp() AS free, CAST(lease.xmin AS text) AS mark,
        coalesce(tenure.seconds, {LONGEST_SECONDS}) AS seconds, CASE WHEN lease.expires_at > clock_timestamp()
            THEN CAST(extract(epoch FROM lease.expires_at) - extract(epoch FROM clock_timestamp()) AS float8) ELSE 0
        END AS left
    FROM {ROW} LEFT JOIN {SCHEMA}.tenure ON tenure.name = lease.name AND tenure.term = lease.term
    WHERE lease.name = 'watchdog'
"""
_TAKE: Final = f"""
    WITH taken AS (
        UPDATE {ROW} SET holder = $1, term = term + 1, expires_at = clock_timestamp() + make_interval(secs => $2)
        WHERE name = 'watchdog' AND (expires_at <= clock_timestamp() OR CAST(xmin AS text) = $3)
        RETURNING name, term
    ), noted AS (
        INSERT INTO {SCHEMA}.tenure (name, term, seconds) SELECT name, term, $2 FROM taken
        ON CONFLICT (name) DO UPDATE SET term = excluded.term, seconds = excluded.seconds
    )
    SELECT term FROM taken
"""
_RENEW: Final = f"""
    UPDATE {ROW} SET expires_at = clock_timestamp() + make_interval(secs => $3)
    WHERE name = 'watchdog' AND holder = $1 AND term = $2 AND expires_at > clock_timestamp() RETURNING true
"""
_GIVE_BACK: Final = f"""
    UPDATE {ROW} SET expires_at = '-infinity' WHERE name = 'watchdog' AND holder = $1 AND term = $2
"""
"""Earlier than any moment that the database's clock may yet go back to."""
LIMIT: Final = """
    SELECT set_config('idle_in_transaction_session_timeout', :milliseconds, true),
           set_config('lock_timeout', :milliseconds, true)
"""
LOCK: Final = f"""
    WITH locked AS MATERIALIZED (SELECT holder, term, expires_at FROM {ROW} WHERE name = 'watchdog' FOR UPDATE)
    SELECT holder, term, expires_at <= clock_timestamp() AS free FROM locked
"""
"""The clock is read after the wait for the lock: a single SELECT would read it before."""

BUSY: Final = (
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.QueryCanceledError,
    asyncpg.exceptions.TransactionRollbackError,
)
"""The server's answer if somebody else has the row: the connection is as good as before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The row, as it was read.

    Attributes:
        holder: who has it, or had it last.
        term: the number of the holder's term.
        free: it has run out, by the database's clock.
        mark: another one after each change.
        seconds: how long after its last change the holder may still trust it.
        left: until it has run out, by the database's clock. More than `seconds` if that went back.
    """

    holder: str
    term: int
    free: bool
    mark: str
    seconds: float
    left: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """The row, as it stays until the end of the transaction that locked it.

    Attributes:
        holder: who has it, or had it last.
        term: the number of the holder's term.
        free: it has run out, by the database's clock.
    """

    holder: str
    term: int
    free: bool


class Stillness:
    """How long the row has not changed, by the own clock of a replica that looks at it again and again.

    The database's clock may be set back, and then an expiry lies further ahead than any lease: nobody would act until
    that clock has caught up. A holder that is there renews, which is a change.
    """

    def __init__(self) -> None:
        self._mark: str | None = None
        self._since = 0.0

    def seconds(self, mark: str, *, asked: float, answered: float) -> float:
        """How long, at least, it had been the same when it was read.

        Args:
            mark: the row's mark.
            asked: when the question was sent, by the own clock.
            answered: when the answer came.
        """
        if mark != self._mark:
            self._mark, self._since = mark, answered
        return max(0.0, asked - self._since)


class Questions:
    """The questions about the row in one transaction.

    Args:
        driver: asyncpg's connection, in the transaction.
        name: of the replica that asks.
        seconds: how long its lease lasts.
    """

    def __init__(self, driver: Any, name: str, seconds: float) -> None:  # noqa: ANN401 - it has no types
        self._driver = driver
        self._name = name
        self._seconds = seconds

    async def look(self) -> Found | None:
        """Read it; None if there is none."""
        row = await self._driver.fetchrow(_LOOK)
        return None if row is None else Found(**row)

    async def take(self, unchanged: str | None) -> int | None:
        """Take it if it has expired, or if it still has this mark. Returns the new term, or None."""
        term: int | None = await self._driver.fetchval(_TAKE, self._name, self._seconds, unchanged)
        return term

    async def renew(self, term: int) -> bool:
        """Renew it, unless it has expired or is another one's. Returns whether it was renewed."""
        return bool(await self._driver.fetchval(_RENEW, self._name, term, self._seconds))

    async def give_back(self, term: int) -> None:
        """Let the next one take it at once, if it is still this one's."""
        await self._driver.execute(_GIVE_BACK, self._name, term)


class LeaseRow:
    """The row, and the connection for the questions about it.

    Args:
        engine: what the connection comes from.
        name: of the replica that asks.
        seconds: how long its lease lasts.
        statement_seconds: the server ends a longer statement, and a transaction that stands still for longer.
        lock_seconds: the server ends a longer wait for a lock.
    """

    def __init__(
        self, engine: AsyncEngine, *, name: str, seconds: float, statement_seconds: float, lock_seconds: float
    ) -> None:
        self._engine = engine
        self._kept = Kept(engine)
        self._name = name
        self._seconds = seconds
        self._begin = f"""
            BEGIN ISOLATION LEVEL READ COMMITTED;
            SET LOCAL statement_timeout = {milliseconds(statement_seconds)};
            SET LOCAL idle_in_transaction_session_timeout = {milliseconds(statement_seconds)};
            SET LOCAL lock_timeout = {milliseconds(lock_seconds)};
            SET LOCAL synchronous_commit = on
        """

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._kept.is_open

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Questions]:
        """A short transaction; the caller sets the time limit."""
        driver = await self._kept.driver()
        try:
            await driver.execute(self._begin)
            try:
                yield Questions(driver, self._name, self._seconds)
            except BUSY:
                await driver.execute("ROLLBACK")
                raise
            await driver.execute("COMMIT")
        except BUSY:
            raise
        except BaseException as error:
            await self.close()
            if isinstance(error, asyncpg.InternalClientError):
                raise ended() from error
            raise

    async def prepare(self) -> None:
        """Make the watchdog's own tables if they are missing.

        Raises:
            JournalUnusable: they can't be made or used.
        """
        await own.prepare(self._engine)

    async def lock(self, connection: AsyncConnection, *, seconds: float) -> Locked | None:
        """Lock the row until the end of another transaction, which the server ends when nothing comes for so long.

        Raises:
            SQLAlchemyError, OSError: the database did not say, or somebody else has locked it for as long.
        """
        try:
            await connection.execute(text(LIMIT), {"milliseconds": str(milliseconds(seconds))})
            row = (await connection.execute(text(LOCK))).one_or_none()
        except asyncpg.InternalClientError as error:
            raise ended() from error
        return None if row is None else Locked(holder=row.holder, term=row.term, free=row.free)

    async def close(self) -> None:
        """Close the connection at once, also in a cancelled task: it waits for nobody's answer."""
        await self._kept.close()


def ended() -> ConnectionError:
    """What to raise for the driver's own error after it read the end of its connection amid the next question."""
    return ConnectionAbortedError("the server ended the connection while this process stood still")


def milliseconds(seconds: float) -> int:
    """A time limit in PostgreSQL's form, where zero would mean no limit."""
    return max(1, round(seconds * 1000))
