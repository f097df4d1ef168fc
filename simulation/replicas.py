"""A watchdog that is one of several: the product's own lease above a simulated row, and what it fences."""

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from sqlalchemy.ext.asyncio import create_async_engine

from simulation.leases import Database, SimulatedRow, Transaction
from watchdog.console.logger import NAME
from watchdog.errors import WatchdogError
from watchdog.postgres.lease import SECONDS, Lease
from watchdog.postgres.lease_row import BUSY

if TYPE_CHECKING:
    from simulation.ports import Line

Value = TypeVar("Value")
STATEMENT_SECONDS: Final = 5.0
_ENGINE: Final = create_async_engine("postgresql+asyncpg://database/opencode")
"""Nothing ever connects with it: the lease takes its address for its sentences."""

logging.getLogger(NAME).addHandler(logging.NullHandler())  # what the lease says of itself is expected here


class LineLease(Lease):
    """The right to act, of one watchdog's process."""

    def __init__(self, line: "Line", database: Database, changed: Callable[[], None]) -> None:
        super().__init__(_ENGINE, clock=line.clock, name=name_of(line.number), seconds=SECONDS, changed=changed)
        self._line = line
        self._database = database
        self._row: Any = SimulatedRow(  # the one thing that is not real
            database, self, name=self.name, seconds=SECONDS, statement_seconds=SECONDS / 3, lock_seconds=SECONDS / 6
        )

    async def ask(self, answer: Callable[[], Value]) -> Value:
        """Ask the database, if it can be reached; else nothing ever comes back."""
        await self._reach()
        value = await self._line.ask(answer)
        await self._reach()
        return value

    async def _reach(self) -> None:
        if self._line.number in self._database.cut_off:
            await self._line.world.for_ever()

    async def fenced(self, do: Callable[[], Coroutine[Any, Any, Value]], otherwise: type[WatchdogError]) -> Value:
        """Do something in a transaction amid which nobody else can take the right to act.

        Args:
            do: it waits for nothing.
            otherwise: raised if the database can't be used.
        """
        transaction = Transaction(self._database, STATEMENT_SECONDS)
        try:
            with anyio.fail_after(STATEMENT_SECONDS):
                await self.ask(transaction.heard)
                await self.hold(transaction)  # type: ignore[arg-type]
                return await self.ask(partial(self._commit, transaction, do))
        except (OSError, *BUSY) as error:
            raise otherwise("The database can't be used.") from error
        finally:
            transaction.end()

    def _commit(self, transaction: Transaction, do: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        transaction.heard()
        self._line.world.oracles.acts(self._line.number)
        value = at_once(do())
        transaction.commit()
        return value


def name_of(number: int) -> str:
    """The name of a watchdog's process as a replica."""
    return f"replica-{number}"


def at_once(work: Coroutine[Any, Any, Value]) -> Value:
    """The result of something that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as ended:
        value: Value = ended.value
        return value
    raise RuntimeError(f"{work!r} waits for something")
