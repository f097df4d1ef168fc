"""Whether the watchdog can work with a server: said at the start, and not by later failures."""

from itertools import count
from typing import Any, Final

import anyio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.errors import DatabaseUnavailable, DatabaseUnsupported
from watchdog.postgres.connection import (
    CONNECT_SECONDS,
    POOLED,
    STATEMENT_SECONDS,
    beside,
    place_of,
    transaction,
    translated,
)
from watchdog.postgres.kept import Kept

OLDEST: Final = 13
"""The first PostgreSQL that has `pg_current_snapshot`."""

_ASK: Final = """
    SELECT current_setting('server_version') AS version,
        CAST(current_setting('server_version_num') AS integer) / 10000 AS number, pg_is_in_recovery() AS is_standby,
        current_setting('transaction_read_only') = 'on' AS is_read_only, pg_backend_pid() AS pid
"""
_NO_STANDBY: Final = "it is a standby. Give the address of the primary, or `target_session_attrs=primary` with both"
_READ_ONLY: Final = (
    "default_transaction_read_only is on, for the server, the database or this role. Some hosters turn it on when a "
    "disk is full"
)
_PROBE_SECONDS: Final = 2 * CONNECT_SECONDS
_ROUNDS: Final = 8
_numbers = count()


async def make_sure(engine: AsyncEngine, *, writes: bool) -> None:
    """Refuse a server that the watchdog can't work with.

    Args:
        engine: connects to it.
        writes: something will be written. A watchdog that only looks may look at a standby.

    Raises:
        DatabaseUnsupported: it is too old; or a pooler in front of it gives each transaction another connection.
        DatabaseUnavailable: it can't be asked, or takes no writes.
    """
    place = place_of(engine.url)
    with translated(place, DatabaseUnavailable):
        async with transaction(engine, seconds=STATEMENT_SECONDS) as connection:
            found = (await connection.execute(text(_ASK))).one()
            driver: Any = (await connection.get_raw_connection()).driver_connection
            is_pooled = driver.get_server_pid() != found.pid
        if found.number < OLDEST:
            raise DatabaseUnsupported(
                f"The database {place} is in PostgreSQL {found.version}; the watchdog needs {OLDEST} or later."
            )
        if writes and found.is_read_only:
            why = _NO_STANDBY if found.is_standby else _READ_ONLY
            raise DatabaseUnavailable(f"The database {place} is read-only: {why}.")
        if is_pooled and await _is_lent(engine):
            raise DatabaseUnsupported(f"The database {place} {POOLED}.")


async def _is_lent(engine: AsyncEngine) -> bool:
    """Whether a pooler gives a connection another server connection after a transaction.

    Two connections hold one of the server's each, at the same time, and give them back in one order and in the other.
    Whichever a pooler lends next, the last or the first that came back, after one of the rounds it is not the same.
    Others may get those in between, so there are more rounds.
    """
    engines = [beside(engine), beside(engine)]
    kept = [Kept(each) for each in engines]
    try:
        with anyio.fail_after(_PROBE_SECONDS):
            drivers = [await each.driver() for each in kept]
            seen: tuple[set[int], set[int]] = (set(), set())
            for turn in range(_ROUNDS):
                for driver, pids in zip(drivers, seen, strict=True):
                    await driver.execute("BEGIN")
                    pids.add(await _pid(driver))
                for driver in drivers if turn % 2 else drivers[::-1]:
                    await driver.execute("COMMIT")
            return any(len(pids) > 1 for pids in seen)
    except TimeoutError as error:
        raise DatabaseUnavailable(
            f"The pooler at {place_of(engine.url)} does not give three connections at once, and the watchdog needs "
            "them. Make its pool larger."
        ) from error
    finally:
        for each, its_engine in zip(kept, engines, strict=True):
            await each.close()
            await its_engine.dispose()


async def _pid(driver: Any) -> int:  # noqa: ANN401 - asyncpg's
    """The server process. No statement is sent twice, since nobody may know where it goes."""
    pid: int = await driver.fetchval(f"SELECT pg_backend_pid() + 0 * {next(_numbers)}")
    return pid
