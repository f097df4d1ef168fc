"""The lease: of all replicas on a database one may act, for a few seconds at a time, as a row in the database says.

A process may be stopped between any two of its instructions, or cut off, and not notice it. So there are three
answers to the question whether it may act, each worth more than the one before:

    acquire   what this process knows: its own clock since before the last renewal was sent
    confirm   what the database said a moment ago: right before something that can't be taken back
    hold      what stays true until the caller's transaction ends: the row is locked, and nobody can take over

The server ends a transaction that is stopped while it holds the row (`idle_in_transaction_session_timeout`). Every
moment that is stored or compared in the database is one of its own clock. If that clock goes back, an expiry may lie
further ahead than any lease: so a row is also free if it has not changed for the length of its lease, by the clock of
the replica that wants it. An expired lease is never renewed, only taken with the next term. And a process trusts only
a term that it took itself: a name that is used again after a restart, or a restored copy of the database, gives
nobody a right that another one may have, too.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from watchdog.console.logger import logger
from watchdog.errors import DatabaseUnavailable, JournalUnusable, LeaseLost
from watchdog.ports import Clock
from watchdog.postgres.connection import CONNECT_SECONDS, TROUBLE, place_of, sentence, translated
from watchdog.postgres.lease_row import BUSY, ROW, Found, LeaseRow, Locked, Stillness

SECONDS: Final = 9.0
"""How long a lease lasts. A holder that is gone is replaced after this and a sixth of it."""
_RENEWALS: Final = 3
"""How often it is renewed while it lasts. A statement about it, or a standstill that locks it, may take as long."""
_TRIES: Final = 6
"""How often others try to take it in the meantime. They wait for a lock as long."""
_RETRIES: Final = 12
"""How often a failed renewal is tried again in the meantime."""


class Lease:
    """The right to act: a mandate for the loop, and the fence of writes.

    Args:
        engine: used by nobody else. The lease keeps one connection of it, and throws it away if it does not answer.
        clock: its running seconds say when this process stops trusting what it knew.
        name: of this replica.
        seconds: how long the lease lasts after each renewal. The same for all replicas.
        changed: called whenever it is gained or lost.

    Attributes:
        term: the number of the term that this process has or had until now; None while it has none.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        clock: Clock,
        name: str,
        seconds: float = SECONDS,
        changed: Callable[[], None] | None = None,
    ) -> None:
        self.term: int | None = None
        self._clock = clock
        self.name = name
        self._seconds = seconds
        self._changed = changed
        self._place = place_of(engine.url)
        self._row = LeaseRow(
            engine,
            name=name,
            seconds=seconds,
            statement_seconds=seconds / _RENEWALS,
            lock_seconds=seconds / _TRIES,
        )
        self._still = Stillness()
        self._turn = anyio.Lock()
        self._until = self._sent = -1.0
        """On the own clock: when the trust ends; and when the last successful question was sent."""
        self._seen: str | None = None
        self._unreachable = self._doubtful = False

    # -- the loop's mandate ----------------------------------------------------------------------------------

    def acquire(self) -> bool:
        """Whether this process has it, by all that it knows. Asks nobody."""
        return self.term is not None and self._now() < self._until

    def holder(self) -> str | None:
        """The name of the replica that has it, as last read; None if none has, or it is not known."""
        return self.name if self.acquire() else self._seen

    async def open(self) -> None:
        """Make the watchdog's own tables if they are missing, and try once to take the lease.

        Raises:
            JournalUnusable: the tables can't be made or used.
            DatabaseUnavailable: the database did not say who has it.
        """
        await self._row.prepare()
        with translated(self._place, DatabaseUnavailable):
            await self._try()

    async def make_certain(self) -> None:
        """If the database's clock went back, wait for a word of the holder, or until the lease can be taken.

        For a caller that would otherwise turn to the holder, and does not try again later. After `open`.

        Raises:
            DatabaseUnavailable: the database did not say who has it.
        """
        while self._doubtful and not self.acquire():
            await self._clock.sleep(self._seconds / _TRIES)
            with translated(self._place, DatabaseUnavailable):
                await self._try()

    async def keep(self, alive: Callable[[], bool] = lambda: True) -> None:
        """Renew it while this process has it, otherwise try to take it. Never ends: cancel it.

        Args:
            alive: whether this process is fit to act. While it is not, another one may take the lease.
        """
        while True:
            await self._clock.sleep(self._pause())
            try:
                if alive():
                    await self._try()
                else:
                    await self._give_back("the loop of this watchdog has not looked for long")
            except Exception as error:  # noqa: BLE001 - said in the log, once; without this nobody here would ever act again
                self._note(error)
                if isinstance(error, asyncpg.UndefinedTableError):
                    await self._make_again()

    async def close(self) -> None:
        """Give it back for the next one to take at once, and close the connection. After `keep` has ended.

        Takes at most a third of a lease for each of the two, and never fails: a lease that is not given back expires.
        """
        try:
            await self._give_back("it is given back")
        except TROUBLE as error:
            self._note(error)
        await self._row.close()

    async def _give_back(self, why: str) -> None:
        """Let the next one take it at once, if that takes less than a third of a lease; otherwise it expires."""
        term = self.term
        if term is None or not self._let_go(term):
            return
        logger().info("lease.lost", why=why)
        with anyio.move_on_after(self._seconds / _RENEWALS, shield=True):
            async with self._turn, self._row.transaction() as row:
                await row.give_back(term)

    # -- the fence -------------------------------------------------------------------------------------------

    async def confirm(self) -> None:
        """Ask the database, right before something that can't be taken back. It is renewed by that.

        Not inside a transaction that holds it: they would wait for each other.

        Raises:
            LeaseLost: this process has it no more.
            DatabaseUnavailable: the database did not say.
        """
        asked = self._now()
        with translated(self._place, DatabaseUnavailable), anyio.fail_after(self._seconds / _RENEWALS):
            async with self._turn:
                if self.term is not None and self.acquire() and self._sent <= asked:
                    await self._renew(self.term)
        if not self.acquire():  # the answer may have waited here for long, if the process was stopped
            raise self._lost()

    async def hold(self, connection: AsyncConnection) -> None:
        """Lock it in the transaction of this connection, which is in no autocommit mode, until that ends.

        From here on the server ends the transaction when nothing comes for a third of a lease.

        Raises:
            LeaseLost: this process has it no more: nothing may be written.
            SQLAlchemyError, OSError: the database did not say, or somebody else has locked it for a third of a lease.
        """
        term = self.term
        if term is None or not self.acquire():
            raise self._lost()
        row = await self._row.lock(connection, seconds=self._seconds / _RENEWALS)
        if row is None or row.free or (row.holder, row.term) != (self.name, term):
            self._see(row)
            self._lose(term, self._reason(row))
            raise self._lost()

    # -- one turn --------------------------------------------------------------------------------------------

    async def _try(self) -> None:
        """Renew it or take it, once."""
        if self.term is not None and not self.acquire():
            self._lose(self.term, "it ran out before the database could be asked to renew it")
        with anyio.fail_after(self._patience()):
            async with self._turn:
                try:
                    await (self._take() if self.term is None else self._renew(self.term))
                except BUSY:
                    return  # somebody else has the row, and so it is not unreachable; the next turn comes soon
        self._unreachable = False

    async def _take(self) -> None:
        term, sent = None, self._now()
        async with self._row.transaction() as row:
            found = await row.look()
            if found is None:
                raise DatabaseUnavailable(f"The table {ROW} in {self._place} has lost its row; nobody can act.")
            still = self._still.seconds(found.mark, asked=sent, answered=self._now())
            limit = found.seconds * (1 + 1 / _TRIES)
            self._doubtful = found.left > limit
            if found.free or still >= limit:
                sent = self._now()
                term = await row.take(found.mark)
        self._see(found)
        if term is not None and self._now() < sent + self._seconds:
            self.term, self._sent, self._until = term, sent, sent + self._seconds
            logger().info("lease.gained", term=term)
            self._tell()

    async def _renew(self, term: int) -> None:
        renewed, found = False, None
        async with self._row.transaction() as row:
            if (sent := self._now()) < self._until:
                renewed = await row.renew(term)
            if not renewed:
                found = await row.look()
        if not renewed:
            self._see(found)
            self._lose(term, self._reason(found))
        elif self.term == term:
            self._sent, self._until = sent, sent + self._seconds

    def _patience(self) -> float:
        """Seconds for one turn: less than is left of the trust, so that its end is noticed in time."""
        limit = self._seconds / _RENEWALS if self._row.is_open else CONNECT_SECONDS
        return limit if self.term is None else min(limit, self._until - self._now())

    def _pause(self) -> float:
        if self.term is None:
            return self._seconds / _TRIES
        fresh = self._now() < self._sent + self._seconds / _RENEWALS
        pause = self._sent + self._seconds / _RENEWALS - self._now() if fresh else self._seconds / _RETRIES
        return max(0.0, min(pause, self._until - self._now()))

    async def _make_again(self) -> None:
        """Make the watchdog's own tables in a database that lacks them: one that was restored from before them."""
        with suppress(JournalUnusable):  # it is tried again, and what is missing is said meanwhile
            await self._row.prepare()

    # -- what became of it -----------------------------------------------------------------------------------

    def _lose(self, term: int, why: str) -> None:
        """Let go of a term, if it is still the one that this process has."""
        if self._let_go(term):
            logger().warning("lease.lost", why=why)

    def _let_go(self, term: int) -> bool:
        if self.term != term:
            return False
        self.term = None
        self._tell()
        return True

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

    def _lost(self) -> LeaseLost:
        who = f"{self._seen} has the right to act on {self._place}" if self._seen else "the right to act ran out"
        return LeaseLost(f"{who[0].upper()}{who[1:]}: this replica no longer has it, so it does nothing.")

    def _see(self, row: Found | Locked | None) -> None:
        self._seen = None if row is None or row.free else row.holder

    def _reason(self, row: Found | Locked | None) -> str:
        if row is None:
            return "its row is gone from the database"
        if row.free:
            return "it ran out"
        return "its term is over" if row.holder == self.name else f"{row.holder} has it"

    def _note(self, error: Exception) -> None:
        """Say that the database can't be asked, once until it can be again."""
        self._seen = None
        if self._unreachable:
            return
        self._unreachable = True
        if isinstance(error, TROUBLE):
            logger().warning("lease.unreachable", why=f"The database {self._place} {sentence(error)}.")
        elif isinstance(error, DatabaseUnavailable):
            logger().warning("lease.unreachable", why=str(error))
        else:
            logger().error("lease.failed", exc_info=error)

    def _now(self) -> float:
        return self._clock.read().running_seconds
