"""The lease's row in a simulated PostgreSQL, with a clock and locks of its own, and who is cut off from it.

`SimulatedRow` is held to the contract of the real row (`tests/unit/postgres/test_lease_row_contract.py`), and the
product's own `Lease` decides above it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Protocol, TypeVar

from asyncpg.exceptions import LockNotAvailableError

from watchdog.postgres.lease_row import BUSY, LONGEST_SECONDS, Found, Locked

Value = TypeVar("Value")
_ASK_AGAIN_SECONDS: Final = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    holder: str = ""
    term: int = 0
    expires: float = -inf
    seconds: float = LONGEST_SECONDS
    mark: int = 0


class Way(Protocol):
    """The network between a process and the database."""

    async def ask(self, answer: Callable[[], Value]) -> Value:
        """Have the database make an answer, and wait for it."""
        ...


class Database:
    """The server that has the row.

    Args:
        clock: seconds that pass, for its own clock.

    Attributes:
        ahead: by how much its clock was set, and `set_at`: when that was last.
        row: as it was committed last.
        locked_by: the transaction that has the row locked.
        cut_off: the processes that can't reach it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.ahead = 0.0
        self.set_at = -inf
        self.row = _Row()
        self.locked_by: Transaction | None = None
        self.cut_off: set[int] = set()

    @property
    def now(self) -> float:
        """What its clock shows."""
        return self._clock() + self.ahead

    def set(self, seconds: float) -> None:
        """Set its clock, back if negative."""
        self.ahead += seconds
        self.set_at = self._clock()


class Transaction:
    """One transaction, which the database ends if nothing comes for too long.

    Attributes:
        ended: it is over: committed, rolled back, or ended by the database.
    """

    def __init__(self, database: Database, limit: float) -> None:
        self._database = database
        self._limit = limit
        self._changed: _Row | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.ended = False

    def heard(self, *, limit: float | None = None) -> None:
        """A statement came: the time without one begins anew.

        Raises:
            ConnectionAbortedError: it is over.
        """
        if self.ended:
            raise ConnectionAbortedError("the database ended the connection")
        self._limit = self._limit if limit is None else limit
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._limit, self.end, context=Context())

    @property
    def row(self) -> _Row:
        """The row as this transaction reads it."""
        return self._changed or self._database.row

    def lock(self) -> bool:
        """Lock the row until the end. Returns whether it could be."""
        self.heard()
        if self._database.locked_by not in {None, self}:
            return False
        self._database.locked_by = self
        return True

    def change(self, row: _Row) -> None:
        """Change the row, which is locked."""
        self._changed = replace(row, mark=self._database.row.mark + 1)

    def commit(self) -> None:
        """Make the change everybody's."""
        self.heard()
        if self._changed is not None:
            self._database.row = self._changed
        self.end()

    def end(self) -> None:
        """Forget the change, if it was not committed."""
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._database.locked_by is self:
            self._database.locked_by = None


class SimulatedRow:
    """What `LeaseRow` is on a real database."""

    def __init__(
        self,
        database: Database,
        way: Way,
        *,
        name: str,
        seconds: float,
        statement_seconds: float,
        lock_seconds: float,
    ) -> None:
        self.database = database
        self.way = way
        self.name = name
        self.seconds = seconds
        self.lock_seconds = lock_seconds
        self._statement_seconds = statement_seconds
        self.is_open = False

    async def prepare(self) -> None:
        """See `LeaseRow.prepare`."""
        await self.way.ask(lambda: None)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["SimulatedQuestions"]:
        """See `LeaseRow.transaction`."""
        transaction = Transaction(self.database, self._statement_seconds)
        await self.way.ask(transaction.heard)
        self.is_open = True
        try:
            yield SimulatedQuestions(self, transaction)
            await self.way.ask(transaction.commit)
        except BUSY:
            raise
        except BaseException:
            self.is_open = False
            raise
        finally:
            transaction.end()  # as the database does once it notices that nobody is there any more

    async def lock(self, connection: Any, *, seconds: float) -> Locked | None:  # noqa: ANN401 - a `Transaction` here
        """See `LeaseRow.lock`."""
        await self.way.ask(lambda: connection.heard(limit=seconds))

        def answer() -> Locked:
            row = self.database.row
            return Locked(holder=row.holder, term=row.term, free=row.expires <= self.database.now)

        return await self.locked(connection, seconds, answer)

    async def locked(self, transaction: Transaction, seconds: float, then: Callable[[], Value]) -> Value:
        """Lock the row, wait for that as long as is said, and do something at that moment."""
        waited, answers = 0.0, list[Value]()

        def lock() -> None:
            if transaction.lock():
                answers.append(then())

        await self.way.ask(lock)
        while not answers:
            if waited >= seconds:
                raise LockNotAvailableError("somebody else has the row")
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
            waited += _ASK_AGAIN_SECONDS
            await self.way.ask(lock)
        return answers[0]

    async def close(self) -> None:
        """See `LeaseRow.close`."""
        self.is_open = False


class SimulatedQuestions:
    """What `Questions` is on a real database."""

    def __init__(self, row: SimulatedRow, transaction: Transaction) -> None:
        self._row = row
        self._database = row.database
        self._transaction = transaction

    async def look(self) -> Found | None:
        """See `Questions.look`."""

        def answer() -> Found:
            self._transaction.heard()
            row, now = self._transaction.row, self._database.now
            return Found(
                holder=row.holder,
                term=row.term,
                free=row.expires <= now,
                mark=str(row.mark),
                seconds=row.seconds,
                left=max(0.0, row.expires - now),
            )

        return await self._row.way.ask(answer)

    async def take(self, unchanged: str | None) -> int | None:
        """See `Questions.take`."""

        def taken(row: _Row) -> _Row | None:
            if row.expires > self._database.now and str(row.mark) != unchanged:
                return None
            return replace(
                row, holder=self._row.name, term=row.term + 1, seconds=self._row.seconds, expires=self._until()
            )

        changed = await self._changed(taken)
        return None if changed is None else changed.term

    async def renew(self, term: int) -> bool:
        """See `Questions.renew`."""

        def renewed(row: _Row) -> _Row | None:
            if not self._has(row, term) or row.expires <= self._database.now:
                return None
            return replace(row, expires=self._until())

        return await self._changed(renewed) is not None

    async def give_back(self, term: int) -> None:
        """See `Questions.give_back`."""
        await self._changed(lambda row: replace(row, expires=-inf) if self._has(row, term) else None)

    async def _changed(self, change: Callable[[_Row], _Row | None]) -> _Row | None:
        """Change the row, if that may be: before the wait for the lock, and after it."""

        def answer() -> _Row | None:
            row = change(self._database.row)
            if row is not None:
                self._transaction.change(row)
            return row

        if await self._row.way.ask(lambda: change(self._database.row)) is None:
            return None
        return await self._row.locked(self._transaction, self._row.lock_seconds, answer)

    def _has(self, row: _Row, term: int) -> bool:
        return (row.holder, row.term) == (self._row.name, term)

    def _until(self) -> float:
        return self._database.now + self._row.seconds
