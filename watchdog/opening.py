"""Finds and opens the files that the settings name: opencode's database, and the journal of it."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from watchdog.errors import JournalUnusable
from watchdog.journal import SqliteJournal, journal_path
from watchdog.no_journal import NoJournal
from watchdog.opencode.identity import find_database
from watchdog.settings import Loaded, Settings


def locate(loaded: Loaded) -> Path:
    """The database that is set, or the one that opencode would use.

    Raises:
        DatabaseError: there is none, or it is no database.
        SettingsError: there are several and no choice was made.
    """
    return loaded.settings.database or find_database(os.environ, Path.home())


@asynccontextmanager
async def open_journal(
    settings: Settings, database: Path, environ: Mapping[str, str], home: Path, *, acts: bool = True
) -> AsyncIterator[SqliteJournal | NoJournal]:
    """The journal that the settings name for a database, or one that keeps nothing.

    Args:
        acts: something may be done. A command that only looks can do without, and says so.

    Raises:
        JournalUnusable: it can't be used, and it was not chosen to do without.
    """
    if settings.journal == "off":
        yield NoJournal()
        return
    try:
        opened = await SqliteJournal.open(settings.journal or journal_path(database, environ, home))
    except JournalUnusable as error:
        if acts:
            raise
        yield NoJournal(problem=str(error))
        return
    async with opened:
        yield opened
