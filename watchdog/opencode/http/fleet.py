"""The servers that can be asked: the configured ones, and those found where the database's holders listen.

A process that listens nowhere, or asks for a password that nobody gave, is asked through its bridge if it has one.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio
import anyio.abc
import anyio.to_thread

from watchdog.errors import ServerError, ServerRefused, ServerSilent
from watchdog.model.report import SAME_BIRTH_MS, Endpoint, Holder, Holders
from watchdog.observing.endpoints import leads
from watchdog.opencode.http.bridges import Bridges
from watchdog.opencode.http.client import OpencodeServer
from watchdog.opencode.http.peers import Party, listens, party_behind
from watchdog.ports import Clock

GREETING_SECONDS: Final = 2.0
REFUSAL_SECONDS: Final = 60.0
"""How long a port is left alone that does not answer as opencode does."""
SILENCE_SECONDS: Final = 5.0
"""How long one that did not answer in time is left alone at first: a newly started opencode may not answer."""


class Connect(Protocol):
    """Makes a server of a base URL; a found one stands for this very process, and no other."""

    def __call__(self, url: str, *, found: Party | None = None) -> OpencodeServer:
        """Make it; nothing is asked yet."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A port of one process. It is the same process only if its birth is the same, too."""

    pid: int
    port: int
    born_ms: int
    holder: Holder = field(compare=False, repr=False)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The addresses at which it listens on this port."""
        return tuple(each for each in self.holder.endpoints if each.port == self.port)

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs at which it can be asked from here, the likeliest first.

        An IPv6 wildcard may also be an IPv4 one.
        """
        found = [each.url for each in self.endpoints]
        found += [f"http://[::1]:{self.port}" for each in self.endpoints if each.address == "::"]
        return tuple(sorted(dict.fromkeys(found), key=lambda url: "//127." not in url))

    def is_at(self, other: "Place") -> bool:
        """Whether it is the same port of the same process."""
        same = self.pid == other.pid and self.port == other.port
        return same and abs(self.born_ms - other.born_ms) <= SAME_BIRTH_MS


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """A found server, and its process; whether it asked for a password that nobody gave."""

    server: OpencodeServer
    party: Party
    refuses: bool


class OpencodeFleet:
    """The configured servers and the discovered ones.

    Args:
        urls: the configured servers. Two names of one place count as one server.
        connect: makes a server of a base URL.
        clock: times how long a port that isn't opencode's is left alone.
        discover: whether to look on the ports of the processes that hold the database.
        feeds: whether each server's event feed is listened to; a command that looks once needs none.
        identify: says which process a holder is, if it is still there.
        bridges: the bridges of processes that can't be asked otherwise; None to use none.

    Raises:
        SettingsError: a URL can't be asked.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        connect: Connect,
        clock: Clock,
        discover: bool,
        feeds: bool = True,
        identify: Callable[[Holder], Party | None] = party_behind,
        bridges: Bridges | None = None,
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._discover = discover
        self._feeds = feeds
        self._identify = identify
        self._bridges = bridges
        self._replaced: dict[OpencodeServer, int] = {}
        """Servers that ask for a password, each with the process whose bridge is asked instead."""
        made = [connect(url) for url in urls]
        self._configured = _distinct(made)
        self._doubles = [server for server in made if server not in self._configured]
        self._found: dict[Place, _Found] = {}
        self._refused: dict[Place, float] = {}
        self._silent: dict[Place, int] = {}  # how often in a row there was no answer
        self._group: anyio.abc.TaskGroup | None = None
        self._listening: dict[OpencodeServer, anyio.CancelScope] = {}

    def servers(self) -> tuple[OpencodeServer, ...]:
        """The configured ones, then those found so far: each process once."""
        bridged = {} if self._bridges is None else self._bridges.used
        return tuple(each for each in self._all() if self._replaced.get(each) not in bridged)

    def _all(self) -> tuple[OpencodeServer, ...]:
        bridged = () if self._bridges is None else self._bridges.used.values()
        return (*self._configured, *(found.server for found in self._found.values()), *bridged)

    def start(self, group: anyio.abc.TaskGroup) -> None:
        """Listen to every server's feed in tasks of this group, until `aclose` or until the group is cancelled."""
        self._group = group
        for server in self._all():
            self._listen(server)

    async def aclose(self) -> None:
        """Stop listening and close every connection."""
        for server in (*self._all(), *self._doubles):
            await self._dismiss(server)
        self._found.clear()
        if self._bridges is not None:
            self._bridges.used.clear()

    async def discover(self, holders: Holders) -> None:
        """Look for servers among the processes that hold the database, and forget those that are gone."""
        for server in self._configured:
            server.know(holders)
        if not self._discover or (not holders.known and not holders.complete):
            return  # a failed look says nothing about who is gone
        places = [place for holder in holders.known for place in _places(holder)]
        now = self._clock.read().awake_seconds
        self._refused = {place: until for place, until in self._refused.items() if until > now}
        self._silent = {place: n for place, n in self._silent.items() if any(map(place.is_at, places))}
        await self._forget([known for known in self._found if not any(known.is_at(place) for place in places)])
        async with anyio.create_task_group() as group:
            for place in places:
                if self._is_new(place):
                    group.start_soon(self._visit, place, name=f"greet port {place.port}")
        if self._bridges is not None:
            await self._cross(self._bridges, [holder for holder in holders.known if not holder.embeds_us])

    async def _cross(self, bridges: Bridges, holders: Sequence[Holder]) -> None:
        """Ask the processes that have a bridge and can't be asked otherwise through that."""
        doors = await bridges.doors()
        cut_off = [holder for holder in holders if holder.pid in doors and not await self._is_reached(holder)]
        for server in bridges.close(but=cut_off):
            await self._dismiss(server)
        for server in await bridges.open(doors, cut_off):
            self._listen(server)

    async def _is_reached(self, holder: Holder) -> bool:
        """Whether a process answers where it listens. A server that asks for a password is noted as replaced."""
        refusing = []
        for found in self._found.values():
            if found.party.process.pid == holder.pid:
                if not found.refuses:
                    return True
                refusing.append(found.server)
        for server in self._configured:
            if any(leads(to, endpoint) for to in server.leads_to for endpoint in holder.endpoints):
                with suppress(ServerError):
                    if await _refuses(server):
                        refusing.append(server)
                        continue
                return True
        self._replaced.update(dict.fromkeys(refusing, holder.pid))
        return False

    async def refresh(self) -> None:
        """Forget the servers that were found and have ended since, whether or not anything is open."""
        for place, found in tuple(self._found.items()):
            if not await anyio.to_thread.run_sync(listens, found.party, place.port, abandon_on_cancel=True):
                await self._forget([place])
        for server in () if self._bridges is None else await self._bridges.ended():
            await self._dismiss(server)

    async def _forget(self, places: Iterable[Place]) -> None:
        for place in places:
            found = self._found.pop(place, None)
            if found is not None:
                self._replaced.pop(found.server, None)
                await self._dismiss(found.server)

    def _is_new(self, place: Place) -> bool:
        to = [destination for server in self._configured for destination in server.leads_to]
        if any(leads(each, endpoint) for each in to for endpoint in place.endpoints):
            return False
        return not any(known.is_at(place) for known in (*self._found, *self._refused))

    async def _visit(self, place: Place) -> None:
        """Keep the server at this place if it greets as opencode does, or asks for a password."""
        party = await anyio.to_thread.run_sync(self._identify, place.holder, abandon_on_cancel=True)
        for url in place.urls if party is not None else ():
            if party is not None and await self._greets(url, place, party):
                return
        known = next((each for each in self._silent if each.is_at(place)), None)
        tries = 0 if known is None else self._silent[known]
        pause = REFUSAL_SECONDS if tries == 0 else min(REFUSAL_SECONDS, SILENCE_SECONDS * 2 ** (tries - 1))
        self._refused[place] = self._clock.read().awake_seconds + pause

    async def _greets(self, url: str, place: Place, party: Party) -> bool:
        server = self._connect(url, found=party)
        kept = refuses = False
        try:
            with anyio.move_on_after(GREETING_SECONDS):
                refuses = await _refuses(server)  # then a person has to know
                kept = not any(known.is_at(place) for known in self._found)
            self._note(place, silent=not kept)
        except ServerError as error:
            self._note(place, silent=isinstance(error, ServerSilent))
        finally:
            if kept:
                self._found[place] = _Found(server=server, party=party, refuses=refuses)
                self._listen(server)
            else:
                with anyio.CancelScope(shield=True):
                    await server.aclose()
        return kept

    def _note(self, place: Place, *, silent: bool) -> None:
        """Note that a place gave no answer in time, or that it gave one."""
        tries = sum(self._silent.pop(each) for each in tuple(self._silent) if each.is_at(place))
        if silent:
            self._silent[place] = tries + 1

    def _listen(self, server: OpencodeServer) -> None:
        if self._group is None or not self._feeds or server in self._listening:
            return
        scope = self._listening[server] = anyio.CancelScope()
        self._group.start_soon(_follow, server, scope, name=f"feed of {server.name}")

    async def _dismiss(self, server: OpencodeServer) -> None:
        scope = self._listening.pop(server, None)
        if scope is not None:
            scope.cancel()
        with anyio.CancelScope(shield=True):
            await server.aclose()


async def _refuses(server: OpencodeServer) -> bool:
    """Whether it asks for a password that nobody gave.

    Raises:
        ServerError: it gave no answer.
    """
    try:
        await server.version()
    except ServerRefused:
        return True
    return False


async def _follow(server: OpencodeServer, scope: anyio.CancelScope) -> None:
    with scope:
        await server.feed.run()


def _places(holder: Holder) -> list[Place]:
    if holder.embeds_us:
        return []
    ports = dict.fromkeys(each.port for each in holder.endpoints)
    return [Place(pid=holder.pid, port=port, born_ms=holder.born_ms, holder=holder) for port in ports]


def _distinct(servers: Sequence[OpencodeServer]) -> tuple[OpencodeServer, ...]:
    """The URLs, without those that are an earlier one under another name."""
    kept: list[OpencodeServer] = []
    for server in servers:
        places = {server.name, *server.leads_to}
        if all(places.isdisjoint({other.name, *other.leads_to}) for other in kept):
            kept.append(server)
    return tuple(kept)
