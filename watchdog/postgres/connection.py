"""How PostgreSQL is reached, and the sentences for when it can't be: the watchdog's own engines, and its errors."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from socket import gaierror
from typing import Any, Final, Protocol

import anyio
import asyncpg
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from watchdog.errors import SettingsError, WatchdogError

APPLICATION: Final = "opencode-watchdog"
"""The name of the watchdog's own connections in `pg_stat_activity`."""
CONNECT_SECONDS: Final = 5.0
STATEMENT_SECONDS: Final = 10.0
"""How long one statement on a connection of the watchdog's own may take."""

_OPTIONS: Final = {"passfile", "prepared_statement_cache_size", "ssl", "sslmode", "target_session_attrs"}
"""The options that may stand behind the `?` of an address."""
POOLED: Final = (
    "is behind a pooler that lends a connection for one transaction only (PgBouncer's pool_mode), and the watchdog "
    "needs connections that stay its own. Give it the address of PostgreSQL itself, or of a pool in session mode"
)
_STATEMENT_MODE: Final = "statement pooling mode"
"""PgBouncer says nothing else about that, and has no SQLSTATE of its own."""
_SENTENCES: Final = {
    "08": "can't be reached",
    "26000": POOLED,
    "42P05": POOLED,
    "22": "can't hold a value that it was given",
    "28": "refused the login: the name or the password is wrong",
    "3D000": "is not there: the server has no database of that name",
    "42501": "does not let this role do that",
    "42P01": "lacks a table that is needed",
    "53": "has no room left: too many connections, or memory or disk is full",
    "54": "can't hold anything as large as what it was given",
    "55P03": "is locked by somebody else",
    "57014": "took longer than it may for a statement",
    "57P": "is shutting down or starting",
    "25006": "is read-only: it is a standby, or default_transaction_read_only is on",
    "25P03": "ended a transaction that stood still for too long",
    "40": "could not finish a transaction beside others",
}
"""By SQLSTATE, or the beginning of one (PostgreSQL's manual, appendix A)."""

TROUBLE: Final = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the end of a connection, which came amid the next question
    OSError,
    UnicodeError,  # the name of a host that can be none
)
"""The exceptions of the driver and SQLAlchemy if the database can't be used."""


class Fence(Protocol):
    """The lease, as a writing transaction holds it."""

    async def hold(self, connection: AsyncConnection) -> None:
        """Lock the lease in this connection's transaction, and check that this process still has it.

        Raises:
            LeaseLost: it does not: nothing may be written.
        """
        ...


def own_engine(url: str, *, statement_seconds: float = STATEMENT_SECONDS) -> AsyncEngine:
    """An engine of the watchdog's own, which keeps a connection or two between one look and the next.

    Args:
        url: in SQLAlchemy's form; `sslmode`, as others write it, is asyncpg's `ssl`.
        statement_seconds: how long a statement may take.

    Raises:
        SettingsError: it has an option that the driver doesn't know.
    """
    return create_async_engine(
        _understood(url),
        pool_size=2,
        max_overflow=8,
        pool_timeout=CONNECT_SECONDS,
        hide_parameters=True,
        connect_args={
            "timeout": CONNECT_SECONDS,
            "command_timeout": statement_seconds,
            "server_settings": {"application_name": APPLICATION},
        },
    )


def _understood(url: str) -> URL:
    try:
        parts = make_url(url)
    except (ValueError, SQLAlchemyError) as error:
        raise SettingsError("The address of the database can't be read: perhaps its port is no number.") from error
    unknown = sorted(set(parts.query) - _OPTIONS)
    if unknown:
        raise SettingsError(
            f"The address {place_of(url)} has the option {', '.join(unknown)}, which asyncpg doesn't know here; it "
            f"may have {', '.join(sorted(_OPTIONS))}."
        )
    size = parts.query.get("prepared_statement_cache_size", "0")
    if not (isinstance(size, str) and size.isdecimal()):
        raise SettingsError(f"The address {place_of(url)} has a prepared_statement_cache_size that is no number.")
    mode = parts.query.get("sslmode")
    return parts if mode is None else parts.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})


def beside(engine: AsyncEngine) -> AsyncEngine:
    """A second engine on the same database, which connects as the given one does and shares none of its pool."""
    return create_async_engine(engine.url, pool=engine.sync_engine.pool.recreate(), hide_parameters=True)


@asynccontextmanager
async def transaction(engine: AsyncEngine, *, seconds: float, **options: Any) -> AsyncIterator[AsyncConnection]:  # noqa: ANN401 - SQLAlchemy's
    """A transaction that is committed at the end of the block, and ends in time, whatever the network does.

    After an error, a cancellation or too long a time its connection is thrown away: on a dead one even a rollback
    would have to be waited for. The server rolls back what it hears no more of.

    Args:
        engine: the watchdog's own, or that of the server that it is embedded in.
        seconds: how long it may take as a whole, a wait for the pool included.
        options: SQLAlchemy's execution options. The engine's isolation level is its owner's business: a transaction
            is READ COMMITTED unless they say otherwise.

    Raises:
        TimeoutError: it took longer.
    """
    with anyio.fail_after(seconds):
        connection = await _connected(engine)
        try:
            await connection.execution_options(**{"isolation_level": "READ COMMITTED", **options})
            await connection.begin()
            yield connection
            await connection.commit()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await connection.invalidate()
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await connection.close()


async def _connected(engine: AsyncEngine) -> AsyncConnection:
    """A connection that the server has not ended while it lay in the pool, as far as is known without asking."""
    while True:
        connection = await engine.connect()
        try:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            if not driver.is_closed():
                return connection
            await connection.invalidate()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await connection.close()
            raise
        await connection.close()


def place_of(url: URL | str) -> str:
    """The address of a database for people: no name, no password, no options.

    Args:
        url: in SQLAlchemy's form.
    """
    parts = make_url(url)
    host = f"[{parts.host}]" if parts.host and ":" in parts.host else parts.host or ""
    port = f":{parts.port}" if parts.port else ""
    return f"postgresql://{host}{port}/{parts.database or ''}"


@contextmanager
def translated(place: str, kind: type[WatchdogError]) -> Iterator[None]:
    """Turn exceptions of the driver and SQLAlchemy into a sentence, without the statement or its values.

    Args:
        place: the database, for people.
        kind: the error to raise instead: `DatabaseUnavailable` or `JournalUnusable`.
    """
    try:
        yield
    except TROUBLE as error:
        raise kind(f"The database {place} {sentence(error)}.") from error


def sentence(error: BaseException) -> str:
    """What went wrong, as the rest of a sentence about the database."""
    if isinstance(error, PoolTimeoutError):
        return "gave no connection in time: every one of the pool is in use"
    original = getattr(error, "orig", None) or error
    state = str(getattr(original, "sqlstate", None) or getattr(original, "pgcode", None) or "")
    if _STATEMENT_MODE in str(original):
        return POOLED
    for length in (5, 3, 2):
        if state[:length] in _SENTENCES:
            return _SENTENCES[state[:length]]
    if state:
        return f"answered with the error {state}"
    if isinstance(original, TimeoutError):
        return "did not answer in time"
    ended = asyncpg.InternalClientError
    if getattr(error, "connection_invalidated", False) or isinstance(original.__cause__ or original, ended):
        return "can't be reached: it ended the connection"
    if isinstance(original, gaierror):
        return "can't be reached: there is no host of that name, or nobody can say"
    if isinstance(original, ConnectionRefusedError):
        return "can't be reached: nothing listens there, or it refuses"
    return f"can't be reached ({type(original).__name__})"
