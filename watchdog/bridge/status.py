"""Which processes have the bridge, and what is in the way of the others."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from watchdog.bridge.plugin import Place, State, places
from watchdog.composing.files import locate_file
from watchdog.composing.sidecar import bridges_of
from watchdog.errors import DatabaseError, SettingsError, UsageError
from watchdog.model.report import Holder
from watchdog.opencode.http.bridges import Bridges
from watchdog.opencode.http.doors import Door, folders, trouble_with
from watchdog.opencode.http.peers import party_of
from watchdog.opencode.processes.holders import ProcessOwners
from watchdog.settings.places import home
from watchdog.settings.schema import Loaded
from watchdog.timing.clock import Countable, SystemClock


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """A process, and its bridge if it has one.

    Attributes:
        what: a name for people.
        holds: it has this database open.
        loaded: it has a bridge, which answers.
        protocol: what its bridge speaks.
        understood: this version speaks that, too.
    """

    pid: int
    what: str
    holds: bool = True
    loaded: bool = False
    protocol: int | None = None
    understood: bool = False

    @property
    def in_words(self) -> str:
        """What is to be done."""
        if self.understood:
            return "has the bridge"
        if self.loaded:
            return "has the bridge of another version: restart it"
        return "has no bridge: restart it to load the plugin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What is known of the bridge.

    Attributes:
        places: where opencode looks for the plugin; it is installed in the first.
        processes: those that have the database open, and those that have a bridge.
        warnings: what is in the way, a sentence each.
    """

    places: tuple[Place, ...]
    processes: tuple[Reached, ...]
    warnings: tuple[str, ...]

    @property
    def installed(self) -> bool:
        """Whether opencode finds any."""
        return any(place.state is not State.ABSENT for place in self.places)

    @property
    def current(self) -> bool:
        """Whether it finds that of this version, and no other."""
        return self.installed and all(place.state is not State.DIFFERENT for place in self.places)


async def look(loaded: Loaded) -> Status:
    """Look for the plugin, for the processes that have the database open, and for the bridges in them.

    Raises:
        SettingsError: nobody knows where opencode's configuration is.
    """
    holders, unknown = await _holders(loaded)
    return await status_of(loaded, holders, unknown)


async def status_of(loaded: Loaded, holders: Sequence[Holder], warnings: Sequence[str] = ()) -> Status:
    """The same for these processes, and all that have a bridge.

    Raises:
        SettingsError: nobody knows where opencode's configuration is.
    """
    troubles = [found for folder in folders(os.environ, home()) if (found := trouble_with(folder)) is not None]
    bridges = bridges_of(loaded.settings, Countable(SystemClock()))
    doors, named = await bridges.doors(), {holder.pid: holder.command for holder in holders}
    processes = [await _reached(bridges, pid, doors.get(pid), named.get(pid)) for pid in sorted({*named, *doors})]
    return Status(places=places(os.environ, home()), processes=tuple(processes), warnings=(*troubles, *warnings))


async def _reached(bridges: Bridges, pid: int, door: Path | None, command: str | None) -> Reached:
    party = await anyio.to_thread.run_sync(party_of, pid)
    what = command or (party.name if party is not None else "a process")
    greeting = None
    if door is not None and party is not None:
        greeting = await bridges.greeting(Door(path=door, party=party))
    if greeting is None:
        return Reached(pid=pid, what=what, holds=command is not None)
    return Reached(
        pid=pid,
        what=what,
        holds=command is not None,
        loaded=True,
        protocol=greeting.protocol,
        understood=greeting.understood,
    )


async def _holders(loaded: Loaded) -> tuple[tuple[Holder, ...], tuple[str, ...]]:
    try:
        path = locate_file(loaded)
    except (DatabaseError, SettingsError, UsageError) as error:
        return (), (f"Which processes have the database open is not known. {error}",)
    holders = await ProcessOwners(path, clock=SystemClock(), embedded=False).look()
    return holders.known, () if holders.why_incomplete is None else (holders.why_incomplete,)
