"""A backend whose sessions are in PostgreSQL: one of several replicas, of which one acts."""

import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.composing.backend import Backend
from watchdog.errors import JournalUnusable, SettingsError
from watchdog.journal.null import NoJournal
from watchdog.ports import Clock, Hosting
from watchdog.postgres.connection import beside, own_engine
from watchdog.postgres.fit import make_sure
from watchdog.postgres.journal import PostgresJournal
from watchdog.postgres.lease import Lease
from watchdog.postgres.store import PostgresStore
from watchdog.replicas.elsewhere import Elsewhere
from watchdog.replicas.replica import Replicas
from watchdog.settings.database_url import PostgresUrl
from watchdog.settings.schema import EndLeftovers, Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """The circumstances of a replica.

    Attributes:
        own: answers for the sessions of this process; None for a command, which runs none.
        clock: the clock for everything.
        changed: called when this replica gained or lost the right to act.
        acts: it may act. A replica that only looks takes no lease, and makes no tables.
        needs_journal: it can't work without one.
        alive: whether the loop of this process goes on. One that hangs leaves the lease to another.
    """

    own: Hosting | None
    clock: Clock
    changed: Callable[[], None]
    acts: bool
    needs_journal: bool
    alive: Callable[[], bool] = lambda: True


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica(Backend):
    """One replica.

    Attributes:
        engine: the shared engine.
    """

    engine: AsyncEngine
    store: PostgresStore
    fleet: Replicas
    owners: Elsewhere
    mandate: Lease
    journal: PostgresJournal | NoJournal


@asynccontextmanager
async def replica(settings: Settings, engine: AsyncEngine | None, situation: Situation) -> AsyncIterator[Replica]:
    """Open everything that a replica needs.

    Args:
        settings: `database` names the database, unless an engine is given.
        engine: the server's engine. It is shared for reads and writes, and never disposed of.
        situation: the circumstances.

    Raises:
        SettingsError: a setting does not make sense in PostgreSQL.
        DatabaseError: the database can't be used.
        JournalUnusable: the journal, or the tables of the lease, can't be made or used.
    """
    _check(settings)
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    async with AsyncExitStack() as stack:
        engines = _Engines(settings, engine, stack)
        lease = Lease(
            engines.another(),
            clock=situation.clock,
            name=name,
            seconds=settings.lease_duration.total_seconds(),
            changed=situation.changed,
        )
        store = await _store(engines, lease, situation)
        fleet = _fleet(settings, engines, lease, situation)
        if situation.acts:
            await lease.open()
            stack.push_async_callback(lease.close)
        journal = await _journal(settings, engines, lease, situation)
        yield Replica(
            settings=settings,
            place=store.place,
            engine=engines.shared,
            store=store,
            fleet=fleet,
            owners=Elsewhere(),
            journal=journal,
            mandate=lease,
            clock=situation.clock,
            confirm=lease.confirm,
            replicas=True,
            leader=fleet.leader,
            tasks=(fleet.serve,),
            duties=(partial(_keep, lease, situation.alive),) if situation.acts else (),
        )


async def _keep(lease: Lease, alive: Callable[[], bool]) -> None:
    """Keep the lease, or try to get it; when that is over, another replica may have it at once."""
    try:
        await lease.keep(alive)
    finally:
        await lease.close()


class _Engines:
    """The shared engine, and more that connect as it does. The stack disposes of those made here."""

    def __init__(self, settings: Settings, engine: AsyncEngine | None, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._given = engine
        self._url = settings.database.reveal() if isinstance(settings.database, PostgresUrl) else ""
        self.shared = engine if engine is not None else self._made(own_engine(self._url))

    def another(self) -> AsyncEngine:
        """One that shares no connection with any other."""
        return self._made(own_engine(self._url) if self._given is None else beside(self._given))

    def elsewhere(self, url: PostgresUrl) -> AsyncEngine:
        """One on another database."""
        return self._made(own_engine(url.reveal()))

    def _made(self, engine: AsyncEngine) -> AsyncEngine:
        self._stack.push_async_callback(engine.dispose)
        return engine


def _check(settings: Settings) -> None:
    """Refuse settings that make no sense.

    Raises:
        SettingsError: for such a setting.
    """
    if settings.sole_owner:
        raise SettingsError(
            "sole_owner can't be set for a database in PostgreSQL: what runs on other machines is not seen, and what "
            "no host claims is settled only by a release. Leave it out."
        )
    if settings.end_leftovers is not EndLeftovers.OFF:
        raise SettingsError(
            "end_leftovers can't be set for a database in PostgreSQL: no opencode started the commands there, and "
            "they may run on other machines. Leave it out."
        )
    if settings.journal is not None and not isinstance(settings.journal, PostgresUrl) and settings.journal != "off":
        raise SettingsError(
            f"journal can't be the file {settings.journal}: the sessions are in PostgreSQL, and their replicas share "
            'one journal there. Leave the setting out, or give an address or "off".'
        )


def _fleet(settings: Settings, engines: _Engines, lease: Lease, situation: Situation) -> Replicas:
    return Replicas(
        engines.another(),
        aside=engines.another(),
        own=situation.own,
        name=lease.name,
        clock=situation.clock,
        lease=lease,
        limits=settings.limits(),
        acts=situation.acts,
        abort_seconds=settings.abort_timeout.total_seconds(),
    )


async def _store(engines: _Engines, lease: Lease, situation: Situation) -> PostgresStore:
    await make_sure(engines.shared, writes=situation.acts)
    return await PostgresStore.open(engines.shared, clock=situation.clock, fence=lease)


async def _journal(
    settings: Settings, engines: _Engines, lease: Lease, situation: Situation
) -> PostgresJournal | NoJournal:
    if settings.journal == "off":
        return NoJournal()
    try:
        if isinstance(settings.journal, PostgresUrl):
            # The lease is no part of another database: there it is checked before each act, and that is all.
            return await PostgresJournal.open(engines.elsewhere(settings.journal), make=situation.acts)
        return await PostgresJournal.open(engines.shared, fence=lease, make=situation.acts)
    except JournalUnusable as error:
        if situation.needs_journal:
            raise
        return NoJournal(problem=str(error))
