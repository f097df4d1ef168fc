"""The servers that can be asked: the configured ones, and those found where the database's holders listen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.abc

from watchdog.endpoints import leads
from watchdog.errors import ServerError
from watchdog.model import SAME_BIRTH_MS, Endpoint, Holder, Holders
from watchdog.opencode.server import OpencodeServer
from watchdog.ports import Clock

GREETING_SECONDS: Final = 2.0
REFUSAL_SECONDS: Final = 60.0
"""How long a port that does not answer as opencode does is left alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a process listens. The process is the same one only if its birth is the same, too."""

    pid: int
    endpoint: Endpoint
    born_ms: int

    def is_at(self, other: "Place") -> bool:
        """Whether it is the same endpoint of the same process."""
        same = self.pid == other.pid and self.endpoint == other.endpoint
        return same and abs(self.born_ms - other.born_ms) <= SAME_BIRTH_MS


class OpencodeFleet:
    """The configured servers and the discovered ones.

    Args:
        urls: the configured servers. Two names of one place are one server.
        connect: makes a server of a base URL, with the credentials that all of them share.
        clock: times how long a port that isn't opencode's is left alone.
        discover: whether to look on the ports of the processes that hold the database.
        feeds: whether each server's event feed is listened to; a command that looks once needs none.

    Raises:
        SettingsError: a URL is none that can be asked.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        connect: Callable[[str], OpencodeServer],
        clock: Clock,
        discover: bool,
        feeds: bool = True,
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._discover = discover
        self._feeds = feeds
        made = [connect(url) for url in urls]
        self._configured = _distinct(made)
        self._doubles = [server for server in made if server not in self._configured]
        self._found: dict[Place, OpencodeServer] = {}
        self._refused: dict[Place, float] = {}
        self._group: anyio.abc.TaskGroup | None = None
        self._listening: dict[OpencodeServer, anyio.CancelScope] = {}

    def servers(self) -> tuple[OpencodeServer, ...]:
        """The configured ones, then those found so far."""
        return (*self._configured, *self._found.values())

    def start(self, group: anyio.abc.TaskGroup) -> None:
        """Listen to every server's feed in tasks of this group, until `aclose` or until the group is cancelled."""
        self._group = group
        for server in self.servers():
            self._listen(server)

    async def aclose(self) -> None:
        """Stop listening and close every connection."""
        for server in (*self.servers(), *self._doubles):
            await self._dismiss(server)
        self._found.clear()

    async def discover(self, holders: Holders) -> None:
        """Look for servers among the processes that hold the database, and forget those that are gone."""
        if not self._discover or (not holders.known and not holders.complete):
            return  # a look that failed tells nothing about who is gone
        places = [place for holder in holders.known for place in _places(holder)]
        await self._forget(places)
        async with anyio.create_task_group() as group:
            for place in places:
                if self._is_new(place):
                    group.start_soon(self._visit, place, name=f"greet {place.endpoint}")

    async def _forget(self, places: Sequence[Place]) -> None:
        now = self._clock.read().awake_seconds
        self._refused = {place: until for place, until in self._refused.items() if until > now}
        for known in [known for known in self._found if not any(known.is_at(place) for place in places)]:
            await self._dismiss(self._found.pop(known))

    def _is_new(self, place: Place) -> bool:
        if any(leads(to, place.endpoint) for server in self._configured for to in server.leads_to):
            return False
        return not any(known.is_at(place) for known in (*self._found, *self._refused))

    async def _visit(self, place: Place) -> None:
        """Keep the server at this place if it greets as opencode does."""
        server = self._connect(place.endpoint.url)
        kept = False
        try:
            with anyio.move_on_after(GREETING_SECONDS):
                await server.greet()
                kept = not any(known.is_at(place) for known in self._found)
        except ServerError:
            pass
        finally:
            if kept:
                self._found[place] = server
                self._listen(server)
            else:
                self._refused[place] = self._clock.read().awake_seconds + REFUSAL_SECONDS
                with anyio.CancelScope(shield=True):
                    await server.aclose()

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


async def _follow(server: OpencodeServer, scope: anyio.CancelScope) -> None:
    with scope:
        await server.feed.run()


def _places(holder: Holder) -> list[Place]:
    if holder.embeds_us:
        return []
    return [Place(pid=holder.pid, endpoint=each, born_ms=holder.born_ms) for each in holder.endpoints]


def _distinct(servers: Sequence[OpencodeServer]) -> tuple[OpencodeServer, ...]:
    """Without the ones that are an earlier one under another name."""
    kept: list[OpencodeServer] = []
    for server in servers:
        places = {server.name, *server.leads_to}
        if all(places.isdisjoint({other.name, *other.leads_to}) for other in kept):
            kept.append(server)
    return tuple(kept)
