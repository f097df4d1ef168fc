"""The contract of the lease's row: what the lease relies on, in a real PostgreSQL and in the simulated one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, TypeVar

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from simulation.leases import Database, SimulatedRow, Transaction
from watchdog.postgres.connection import own_engine
from watchdog.postgres.lease_row import LONGEST_SECONDS, Found, LeaseRow

Value = TypeVar("Value")
LIMITS: dict[str, float] = {"statement_seconds": 0.4, "lock_seconds": 0.2}


Row = Any
"""A `LeaseRow` or a `SimulatedRow`: what holds for both is what is tested here."""


class Place(Protocol):
    """Where the row is."""

    def row(self, name: str, seconds: float = 30.0) -> Row:
        """The row, as one replica has it."""
        ...

    def connection(self) -> Any:  # noqa: ANN401 - of each kind
        """A transaction of somebody who writes something else."""
        ...

    async def close(self) -> None:
        """Close everything."""
        ...


class Real:
    def __init__(self, url: str) -> None:
        self.url = url
        self.stack = AsyncExitStack()

    def _engine(self) -> AsyncEngine:
        engine = own_engine(self.url)
        self.stack.push_async_callback(engine.dispose)
        return engine

    def row(self, name: str, seconds: float = 30.0) -> Row:
        row = LeaseRow(self._engine(), name=name, seconds=seconds, **LIMITS)
        self.stack.push_async_callback(row.close)
        return row

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        async with self._engine().connect() as connection:
            await connection.execution_options(isolation_level="READ COMMITTED")
            yield connection

    async def close(self) -> None:
        await self.stack.aclose()


class AtOnce:
    async def ask(self, answer: Callable[[], Value]) -> Value:
        await asyncio.sleep(0)
        return answer()


class Simulated:
    def __init__(self) -> None:
        self.database = Database(lambda: asyncio.get_running_loop().time())

    def row(self, name: str, seconds: float = 30.0) -> Row:
        return SimulatedRow(self.database, AtOnce(), name=name, seconds=seconds, **LIMITS)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        transaction = Transaction(self.database, 60.0)
        try:
            yield transaction
        finally:
            transaction.end()

    async def close(self) -> None:
        pass


@pytest.fixture(params=["real", "simulated"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    made: Place = Simulated() if request.param == "simulated" else Real(request.getfixturevalue("postgres_url"))
    yield made
    await made.close()


async def looked(row: Row) -> Found:
    async with row.transaction() as questions:
        found = await questions.look()
    assert isinstance(found, Found)
    return found


async def taken(row: Row, unchanged: str | None = None) -> int | None:
    async with row.transaction() as questions:
        term: int | None = await questions.take(unchanged)
    return term


async def test_at_first_it_is_free_and_who_takes_it_has_the_next_term(place: Place) -> None:
    first, second = place.row("a", 30.0), place.row("b", 9.0)
    await first.prepare()
    before = await looked(first)
    assert (before.free, before.seconds, before.left) == (True, LONGEST_SECONDS, 0)
    term = await taken(first)
    found = await looked(second)
    assert term == before.term + 1
    assert (found.holder, found.term, found.free, found.seconds) == ("a", term, False, 30.0)
    assert 29 < found.left <= 30
    assert found.mark != before.mark
    assert await taken(second) is None
    assert await taken(second, "no such mark") is None


async def test_one_that_has_not_changed_is_taken_by_its_mark(place: Place) -> None:
    first, second = place.row("a"), place.row("b")
    await first.prepare()
    assert await taken(first) is not None
    mark = (await looked(second)).mark
    async with first.transaction() as questions:
        assert await questions.renew((await questions.look()).term)
    assert await taken(second, mark) is None
    assert await taken(second, (await looked(second)).mark) is not None
    assert (await looked(first)).holder == "b"


async def test_what_ran_out_is_not_renewed(place: Place) -> None:
    row = place.row("a", 0.1)
    await row.prepare()
    term = await taken(row)
    await asyncio.sleep(0.15)
    async with row.transaction() as questions:
        assert not await questions.renew(term)
    assert (await looked(row)).free


async def test_only_the_holder_renews_it_and_gives_it_back(place: Place) -> None:
    first, second = place.row("a"), place.row("b")
    await first.prepare()
    term = await taken(first)
    async with second.transaction() as questions:
        assert not await questions.renew(term)
        await questions.give_back(term)
    assert not (await looked(second)).free
    async with first.transaction() as questions:
        await questions.give_back(term)
    assert (await looked(second)).free
    assert await taken(second) is not None


async def test_nothing_is_seen_of_what_is_not_committed(place: Place) -> None:
    first, second = place.row("a"), place.row("b")
    await first.prepare()
    async with first.transaction() as questions:
        await questions.take(None)
        assert (await questions.look()).holder == "a"
        assert (await looked(second)).holder != "a"


async def test_who_locks_it_keeps_others_from_changing_it_until_the_end(place: Place) -> None:
    first, second = place.row("a"), place.row("b")
    await first.prepare()
    term = await taken(first)
    async with place.connection() as connection:
        found = await first.lock(connection, seconds=5.0)
        assert (found.holder, found.term, found.free) == ("a", term, False)
        mark = (await looked(second)).mark
        with pytest.raises(asyncpg.exceptions.LockNotAvailableError):
            await taken(second, mark)
    assert await taken(second, mark) is not None


async def stopped(row: Row) -> None:
    async with row.transaction() as questions:
        await questions.take(None)
        await asyncio.sleep(LIMITS["statement_seconds"] * 2)


async def failing(row: Row) -> None:
    async with row.transaction() as questions:
        await questions.take(None)
        raise ZeroDivisionError


async def test_a_transaction_that_stands_still_is_ended_and_changes_nothing(place: Place) -> None:
    first, second = place.row("a"), place.row("b")
    await first.prepare()
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await stopped(first)
    assert (await looked(second)).holder != "a"
    assert await taken(second) is not None


async def test_one_that_fails_changes_nothing_and_the_next_one_works(place: Place) -> None:
    row = place.row("a")
    await row.prepare()
    with pytest.raises(ZeroDivisionError):
        await failing(row)
    assert (await looked(row)).holder != "a"
    assert await taken(row) is not None
