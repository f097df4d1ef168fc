"""The backend of an embedded watchdog, on SQLite or in PostgreSQL: opened, and closed with its context."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import StaticPool

from watchdog.composing.backend import Backend
from watchdog.composing.damage import refuse_damaged
from watchdog.composing.files import open_journal
from watchdog.composing.in_postgres import replica
from watchdog.embedding.host_server import EmbeddedFleet
from watchdog.errors import DatabaseMissing, DatabaseUnsupported, SettingsError
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.opencode.processes.holders import ProcessOwners
from watchdog.opencode.processes.lock import DatabaseLock
from watchdog.ports import Clock, Hosting
from watchdog.settings.database_url import PostgresUrl
from watchdog.settings.places import home
from watchdog.settings.schema import Settings

_DRIVERS: Final = {"postgresql": "asyncpg", "sqlite": "aiosqlite"}
_MAKE: Final = {
    "postgresql": 'create_async_engine("postgresql+asyncpg://…")',
    "sqlite": 'create_async_engine("sqlite+aiosqlite:///…")',
}


@asynccontextmanager
async def backend(
    settings: Settings,
    *,
    engine: AsyncEngine | None,
    server: Hosting,
    clock: Clock,
    changed: Callable[[], None],
    alive: Callable[[], bool],
    acts: bool,
) -> AsyncIterator[Backend]:
    """Open what the settings name, or the engine.

    Args:
        server: answers for the sessions of this process.
        changed: called when the right to act was gained or lost.
        alive: whether the loop goes on.
        acts: it may act; false in a dry run.

    Raises:
        SettingsError: a setting makes no sense for this database.
        DatabaseError: the database can't be used.
        JournalUnusable: the journal can't be used, and is not `off`.
        AlreadyWatched: a watchdog already runs in this process.
    """
    if engine is not None:
        _refuse_unfit(engine)
    if not _is_in_postgres(settings, engine):
        path = settings.database if isinstance(settings.database, Path) else _path_of(engine)
        async with _on_file(settings, path, engine, server, clock) as file:
            yield file
        return
    who = {"own": server, "clock": clock, "changed": changed, "alive": alive}
    # A dry run makes nothing, so it works without a journal if there is none yet.
    async with replica(settings, engine, **who, acts=acts, needs_journal=acts) as found:
        yield found


@asynccontextmanager
async def _on_file(
    settings: Settings, path: Path, engine: AsyncEngine | None, server: Hosting, clock: Clock
) -> AsyncIterator[Backend]:
    async with (
        await OpencodeDatabase.open(path, engine=engine, local_filesystems=settings.local_filesystems) as store,
        open_journal(settings, path, os.environ, home()) as journal,
    ):
        store.refuse = partial(refuse_damaged, journal, path)
        with DatabaseLock(path) as lock:
            yield Backend(
                settings=settings,
                place=str(path),
                store=store,
                fleet=EmbeddedFleet(server),
                owners=ProcessOwners(path, clock=clock, embedded=True),
                journal=journal,
                mandate=lock,
                clock=clock,
            )


def _refuse_unfit(engine: object) -> None:
    """Refuse an engine that the watchdog can't use.

    Raises:
        SettingsError: for such an engine; it says what to pass instead.
    """
    if not isinstance(engine, AsyncEngine):
        raise SettingsError(
            f"engine is of the type {type(engine).__module__}.{type(engine).__qualname__}, and has to be an "
            "AsyncEngine of SQLAlchemy: pass what create_async_engine gives, neither a synchronous engine, which "
            "would block the event loop, nor a session, a connection or an address."
        )
    name, driver = engine.dialect.name, engine.dialect.driver
    if driver != _DRIVERS.get(name, driver):
        raise SettingsError(
            f"The engine uses the driver {driver}: the watchdog knows {name} by {_DRIVERS[name]} alone. Leave the "
            f"server's engine as it is, and make one for the watchdog, {_MAKE[name]}, or set `database`."
        )
    if name == "postgresql" and isinstance(engine.pool, StaticPool):
        raise SettingsError(
            "The engine has a StaticPool: all that goes on at once would share one connection to PostgreSQL. Pass "
            "one with a pool of its own, as create_async_engine makes it."
        )


def _is_in_postgres(settings: Settings, engine: AsyncEngine | None) -> bool:
    """Whether the sessions are in PostgreSQL.

    Raises:
        SettingsError: the engine says one thing, and the setting the other.
    """
    named = isinstance(settings.database, PostgresUrl)
    if engine is None or settings.database is None:
        return named or (engine is not None and engine.dialect.name == "postgresql")
    if named != (engine.dialect.name == "postgresql"):
        raise SettingsError(
            f"database names {settings.database}, and the engine that was passed is on {engine.dialect.name}. Leave "
            "one of the two out."
        )
    return named


def _path_of(engine: AsyncEngine | None) -> Path:
    if engine is None:
        raise DatabaseMissing("Nothing names the database: pass an engine, or set `database`.")
    if engine.dialect.name != "sqlite":
        raise DatabaseUnsupported(f"An engine of {engine.dialect.name} can't be watched: SQLite and PostgreSQL can.")
    name = engine.url.database
    if not name or name == ":memory:":
        raise DatabaseMissing("the engine has no database file; name it with the setting `database`")
    return Path(name)
