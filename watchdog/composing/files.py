"""Finds and opens the files that the settings name: opencode's database, and the journal of it."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from watchdog.errors import JournalUnusable, SettingsError, UsageError
from watchdog.journal.null import NoJournal
from watchdog.journal.sqlite import SqliteJournal, journal_path
from watchdog.opencode.file.identity import find_database
from watchdog.settings.database_url import PostgresUrl
from watchdog.settings.places import home
from watchdog.settings.schema import Loaded, Settings


def locate(loaded: Loaded) -> Path | PostgresUrl:
    """The configured database, or the one that opencode would use.

    Raises:
        DatabaseError: there is none, or it is no database.
        SettingsError: there are several and no choice was made.
    """
    return loaded.settings.database or find_database(os.environ, home())


def locate_file(loaded: Loaded) -> Path:
    """The same, for commands that work only on a file.

    Raises:
        UsageError: it is a database in PostgreSQL.
        DatabaseError: there is none, or it is no database.
        SettingsError: there are several and no choice was made.
    """
    found = locate(loaded)
    if isinstance(found, PostgresUrl):
        raise UsageError(
            f"{found} is in PostgreSQL, where each server watches its own sessions: see `watchdog.running` in "
            "docs/embedding.md. `check`, `scan`, `explain`, `release`, `history` and the holds work there, too."
        )
    return found


@asynccontextmanager
async def open_journal(
    settings: Settings, database: Path, environ: Mapping[str, str], home: Path | None, *, needed: bool = True
) -> AsyncIterator[SqliteJournal | NoJournal]:
    """The journal that the settings name for a database, or one that keeps nothing.

    Args:
        needed: a command that only looks can work without one, and says so.

    Raises:
        JournalUnusable: it can't be used, and nobody chose to work without one.
        SettingsError: it is in PostgreSQL, and the sessions are not; or nobody knows a place for it.
    """
    if settings.journal == "off":
        yield NoJournal()
        return
    if isinstance(settings.journal, PostgresUrl):
        raise SettingsError(
            f"journal can't be {settings.journal}: the sessions are in a file, and so is their journal. Leave the "
            'setting out, or name a file, or "off".'
        )
    try:
        opened = await SqliteJournal.open(settings.journal or journal_path(database, environ, home))
    except (JournalUnusable, SettingsError) as error:
        if needed:
            raise
        yield NoJournal(problem=str(error))
        return
    async with opened:
        yield opened
