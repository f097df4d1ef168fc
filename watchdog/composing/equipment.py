"""What a command works with, whichever database the sessions are in."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio

from watchdog.acting.attempt import Confirm
from watchdog.composing.in_postgres import replica
from watchdog.composing.opening import locate
from watchdog.composing.sidecar import sidecar
from watchdog.journal.null import NoJournal
from watchdog.loop.assembly import assemble
from watchdog.loop.watch import Listener, Watch
from watchdog.model.right import Right
from watchdog.ports import Fleet, History, Owners, Store
from watchdog.settings.database_url import PostgresUrl
from watchdog.settings.schema import Loaded, Settings
from watchdog.timing.clock import SystemClock

if TYPE_CHECKING:
    from watchdog.operating.requests import Leader


class Equipment(Protocol):
    """What a command works with."""

    @property
    def place(self) -> str:
        """The database, for people."""
        ...

    @property
    def store(self) -> Store:
        """The sessions."""
        ...

    @property
    def fleet(self) -> Fleet:
        """Who runs them."""
        ...

    @property
    def owners(self) -> Owners:
        """Who has the database open."""
        ...

    @property
    def journal(self) -> History | NoJournal:
        """What was done."""
        ...

    @property
    def leader(self) -> "Leader | None":
        """Who acts instead: what is to be done is passed on to it."""
        ...

    def watch(self, *, listeners: Sequence[Listener] = (), dry_run: bool = False) -> Watch:
        """A watch on these."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _InPostgres:
    """See `Equipment`."""

    place: str
    settings: Settings
    store: Store
    fleet: Fleet
    owners: Owners
    journal: History | NoJournal
    right: Right
    confirm: Confirm
    leader: "Leader | None"

    def watch(self, *, listeners: Sequence[Listener] = (), dry_run: bool = False) -> Watch:
        return assemble(
            self.settings,
            store=self.store,
            fleet=self.fleet,
            owners=self.owners,
            mandate=self.right,
            journal=self.journal,
            listeners=listeners,
            dry_run=dry_run,
            confirm=self.confirm,
            replicas=True,
        )


@asynccontextmanager
async def equipment(loaded: Loaded, *, acts: bool, needs_journal: bool = True) -> AsyncIterator[Equipment]:
    """Open what the settings name, for a command that looks once.

    Args:
        acts: something may be done. In PostgreSQL only the holder of the lease may: where that is a replica, it is
            passed on to that one. A file's lock is not needed for what a person asks for.
        needs_journal: it can't do without.

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
        yield found


@asynccontextmanager
async def _in_postgres(loaded: Loaded, *, acts: bool, needs_journal: bool) -> AsyncIterator[Equipment]:
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
            await found.lease.make_certain()
        is_elsewhere = acts and not found.lease.acquire()
        async with anyio.create_task_group() as group:
            for task in found.tasks if is_elsewhere else (*found.tasks, *found.duties):
                group.start_soon(task)
            # Nothing is known of the replicas before they were read once.
            await found.fleet.discover(await found.owners.look())
            yield _InPostgres(
                place=found.store.place,
                settings=loaded.settings,
                store=found.store,
                fleet=found.fleet,
                owners=found.owners,
                journal=found.journal,
                right=found.lease,
                confirm=found.lease.confirm,
                leader=found.fleet.leader if is_elsewhere else None,
            )
            group.cancel_scope.cancel()
