"""The backend of a command that looks once, whichever database the sessions are in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from watchdog.composing.backend import Backend
from watchdog.composing.files import locate
from watchdog.composing.in_postgres import replica
from watchdog.composing.running import running_watchdog
from watchdog.composing.sidecar import sidecar
from watchdog.reporting.tables import note
from watchdog.settings.database_url import PostgresUrl
from watchdog.settings.schema import Loaded
from watchdog.timing.clock import SystemClock


@asynccontextmanager
async def backend(
    loaded: Loaded, *, acts: bool, needs_journal: bool = True, direct: bool = False
) -> AsyncIterator[Backend]:
    """Open what the settings name, for a command that looks once.

    Args:
        acts: the command may act. In PostgreSQL only the holder of the lease may: if that is a replica, the request
            is passed on to it. On a file the request goes to the watchdog that runs, if one acts; but a person's
            request does not need the file's lock.
        direct: pass nothing on to the watchdog that runs on a file.
        needs_journal: it can't work without one.

    Raises:
        DatabaseError: the database can't be used.
        SettingsError: a setting can't be used.
        JournalUnusable: the journal can't be used.
    """
    if isinstance(locate(loaded), PostgresUrl):
        opened = _in_postgres(loaded, acts=acts, needs_journal=needs_journal)
    else:
        opened = sidecar(loaded, feeds=False, needs_journal=needs_journal)
    async with opened as found:
        running = await running_watchdog(loaded, note) if acts and not direct else None
        yield found if running is None or not running.acts else replace(found, leader=running)


@asynccontextmanager
async def _in_postgres(loaded: Loaded, *, acts: bool, needs_journal: bool) -> AsyncIterator[Backend]:
    async with replica(
        loaded.settings,
        None,
        own=None,
        clock=SystemClock(),
        changed=lambda: None,
        acts=acts,
        needs_journal=needs_journal,
    ) as found:
        if acts:
            await found.mandate.make_certain()
        is_elsewhere = acts and not found.mandate.acquire()
        async with anyio.create_task_group() as group:
            for task in found.tasks if is_elsewhere else (*found.tasks, *found.duties):
                group.start_soon(task)
            # Before the first reading nothing is known of the replicas.
            await found.fleet.discover(await found.owners.look())
            yield found if is_elsewhere else replace(found, leader=None)
            group.cancel_scope.cancel()
