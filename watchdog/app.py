"""Puts the rooms together: the only place, beside the commands, that knows them all."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from watchdog.climb import Ladder
from watchdog.clock import SystemClock, boot_id
from watchdog.errors import JournalUnusable
from watchdog.journal import SqliteJournal, journal_path
from watchdog.no_journal import NoJournal
from watchdog.ports import Clock, Fleet, Journal, Owners, Store
from watchdog.settings import Settings
from watchdog.watch import Listener, Mandate, Pace, Watch


def assemble(
    settings: Settings,
    *,
    store: Store,
    fleet: Fleet,
    owners: Owners,
    mandate: Mandate,
    journal: Journal,
    listeners: Sequence[Listener] = (),
    dry_run: bool = False,
    clock: Clock | None = None,
) -> Watch:
    """A watch with these settings on these adapters."""
    return Watch(
        store=store,
        fleet=fleet,
        owners=owners,
        clock=clock or SystemClock(),
        mandate=mandate,
        journal=journal,
        boot_id=boot_id(),
        policy=settings.policy(),
        pace=Pace(
            poll_interval_seconds=settings.poll_interval.total_seconds(),
            full_scan_interval_seconds=settings.full_scan_interval.total_seconds(),
            shutdown_grace_seconds=settings.shutdown_grace.total_seconds(),
            max_attempts=settings.max_attempts,
            max_concurrency=settings.max_concurrency,
            recover_on_start=settings.recover_on_start,
            journal_retention_seconds=(
                settings.journal_retention.total_seconds() if settings.journal_retention else None
            ),
            dry_run=dry_run,
        ),
        ladder=Ladder(
            abort_timeout_seconds=settings.abort_timeout.total_seconds(),
            abort_grace_seconds=settings.abort_grace.total_seconds(),
        ),
        listeners=listeners,
    )


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
