"""The watchdog as a process of its own: opens the database, the servers and the lock, and closes them."""

import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from watchdog.composing.backend import Backend
from watchdog.composing.damage import refuse_damaged
from watchdog.composing.files import locate_file, open_journal
from watchdog.errors import SettingsError
from watchdog.journal.null import NoJournal
from watchdog.journal.sqlite import SqliteJournal
from watchdog.loop.watch import Watch
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.opencode.http.bridged import BridgedServer
from watchdog.opencode.http.bridges import Bridges
from watchdog.opencode.http.client import OpencodeServer
from watchdog.opencode.http.doors import Door, folders
from watchdog.opencode.http.fleet import Connect, OpencodeFleet
from watchdog.opencode.http.peers import Party, party_behind
from watchdog.opencode.http.trust import Trust
from watchdog.opencode.processes.holders import ProcessOwners
from watchdog.opencode.processes.leftovers import ProcessCommands
from watchdog.opencode.processes.lock import DatabaseLock
from watchdog.ports import Counter
from watchdog.settings.certificates import problem_with
from watchdog.settings.places import home
from watchdog.settings.schema import Loaded, Settings
from watchdog.timing.clock import Countable, SystemClock


@dataclass(kw_only=True, slots=True)
class _Bell:
    """Rings the loop awake once there is a loop."""

    wake: Callable[[], None] | None = None

    def ring(self) -> None:
        if self.wake is not None:
            self.wake()

    def rings(self, watch: Watch) -> None:
        self.wake = watch.wake


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar(Backend):
    """A database in a file, with the servers that serve it."""

    path: Path
    store: OpencodeDatabase
    fleet: OpencodeFleet
    owners: ProcessOwners
    mandate: DatabaseLock
    journal: SqliteJournal | NoJournal
    clock: Countable
    processes: ProcessCommands


@asynccontextmanager
async def sidecar(loaded: Loaded, *, feeds: bool, needs_journal: bool = True) -> AsyncIterator[Sidecar]:
    """Open everything that the settings name.

    Args:
        feeds: listen to the servers' event feeds; a command that looks once needs none.
        needs_journal: it can't work without one; otherwise one that keeps nothing replaces an unusable journal.

    Raises:
        DatabaseError: the database can't be used; a UsageError if it is in PostgreSQL.
        SettingsError: a server's URL, or the file of `server_ca`, can't be used.
        JournalUnusable: the journal can't be used.
    """
    _check_authorities(loaded)
    settings, path, clock, bell = loaded.settings, locate_file(loaded), Countable(SystemClock()), _Bell()
    connect = _connector(settings, clock, bell)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(await _database(path, settings))
        journal = await stack.enter_async_context(
            open_journal(settings, path, os.environ, home(), needed=needs_journal)
        )
        store.refuse = partial(refuse_damaged, journal, path)
        mandate = stack.enter_context(DatabaseLock(path))
        mandate.announce()
        fleet = OpencodeFleet(
            settings.servers,
            connect=connect,
            clock=clock,
            discover=settings.discover,
            feeds=feeds,
            bridges=bridges_of(settings, clock, on_change=bell.ring),
        )
        stack.push_async_callback(fleet.aclose)
        owners = ProcessOwners(path, clock=clock, embedded=False, disconnect=store.disconnect)
        async with anyio.create_task_group() as group:
            fleet.start(group)
            yield Sidecar(
                path=path,
                place=str(path),
                settings=settings,
                store=store,
                fleet=fleet,
                owners=owners,
                mandate=mandate,
                journal=journal,
                clock=clock,
                processes=ProcessCommands(database=path, calls=store.command_calls, holders=owners.look, clock=clock),
                wakes=bell.rings,
            )
            group.cancel_scope.cancel()


def _connector(settings: Settings, clock: Counter, bell: _Bell) -> Connect:
    """Makes servers according to the settings."""
    rng = random.Random()  # noqa: S311 - spreads reconnections; no secret depends on it

    def connect(url: str, *, found: Party | None = None) -> OpencodeServer:
        username, password = settings.credentials_of(url)
        return OpencodeServer(
            url,
            clock=clock,
            rng=rng,
            username=username,
            password=password,
            server_ca=settings.server_ca,
            trust=Trust(expected=found),
            abort_timeout_seconds=settings.abort_timeout.total_seconds(),
            on_change=bell.ring,
        )

    return connect


def bridges_of(settings: Settings, clock: Counter, *, on_change: Callable[[], None] | None = None) -> Bridges:
    """The bridges of this user's opencode processes."""
    rng = random.Random()  # noqa: S311 - spreads reconnections

    def connect(door: Door) -> BridgedServer:
        return BridgedServer(
            door,
            clock=clock,
            rng=rng,
            abort_timeout_seconds=settings.abort_timeout.total_seconds(),
            on_change=on_change,
        )

    return Bridges(connect=connect, folders=folders(os.environ, home()), clock=clock, identify=party_behind)


def _check_authorities(loaded: Loaded) -> None:
    path = loaded.settings.server_ca
    problem = None if path is None else problem_with(path)
    if problem is not None:
        raise SettingsError(f"{loaded.sources.get('server_ca', 'settings')}: server_ca can't be {path}: {problem}.")


async def _database(path: Path, settings: Settings) -> OpencodeDatabase:
    return await OpencodeDatabase.open(path, local_filesystems=settings.local_filesystems)
