"""The bridges that are used now: of the processes that can be asked in no other way, those with a door."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from watchdog.errors import ServerError
from watchdog.model.report import Holder
from watchdog.opencode.http.bridged import BridgedServer, Greeting
from watchdog.opencode.http.doors import Door, find_doors
from watchdog.opencode.http.peers import Party, is_holder
from watchdog.ports import Clock

GREETING_SECONDS: Final = 2.0
REFUSAL_SECONDS: Final = 30.0
"""How long a door is left alone that does not answer as a bridge does."""


@dataclass(kw_only=True, slots=True)
class Bridges:
    """The bridges that are used now.

    Args:
        connect: makes a server of a door.
        folders: where doors may be.
        clock: times how long a door is left alone.
        identify: says which process a holder is, if it is still there.
    """

    connect: Callable[[Door], BridgedServer]
    folders: Sequence[Path]
    clock: Clock
    identify: Callable[[Holder], Party | None]
    used: dict[int, BridgedServer] = field(default_factory=dict)
    _refused: dict[Door, float] = field(default_factory=dict)

    async def doors(self) -> Mapping[int, Path]:
        """The doors, by process; what dead processes left is removed."""
        return await anyio.to_thread.run_sync(find_doors, self.folders, abandon_on_cancel=True)

    async def open(self, doors: Mapping[int, Path], holders: Iterable[Holder]) -> list[BridgedServer]:
        """Use the doors of these processes; those that are new are returned."""
        now = self.clock.read().awake_seconds
        self._refused = {door: until for door, until in self._refused.items() if until > now}
        new: list[BridgedServer] = []

        async def visit(holder: Holder) -> None:
            party = await anyio.to_thread.run_sync(self.identify, holder, abandon_on_cancel=True)
            if party is None:
                return
            door = Door(path=doors[holder.pid], party=party)
            if door in self._refused or (server := await self._usable(door)) is None:
                return
            if holder.pid in self.used:  # another look was faster
                await server.aclose()
                return
            self.used[holder.pid] = server
            new.append(server)

        async with anyio.create_task_group() as group:
            for holder in holders:
                if holder.pid in doors and holder.pid not in self.used:
                    group.start_soon(visit, holder, name=f"greet the bridge of {holder.pid}")
        return new

    def close(self, *, but: Iterable[Holder]) -> list[BridgedServer]:
        """Use only those of these processes from now on; those that are no longer used are returned."""
        left = {holder.pid: holder for holder in but}
        ended = [
            pid for pid, server in self.used.items() if pid not in left or not is_holder(server.door.party, left[pid])
        ]
        return [self.used.pop(pid) for pid in ended]

    async def ended(self) -> list[BridgedServer]:
        """Those whose process is gone, or has closed its door; they are no longer used."""
        used = [*self.used.items()]
        gone = await anyio.to_thread.run_sync(_gone, used, abandon_on_cancel=True)
        still = [(pid, server) for pid, server in gone if self.used.get(pid) is server]  # another look may be faster
        return [self.used.pop(pid) for pid, _ in still]

    async def greeting(self, door: Door, *, closing: bool = False) -> Greeting | None:
        """What the bridge behind a door says of itself; None if nothing that can be read.

        Args:
            closing: it shall close its door.
        """
        async with self.connect(door) as server:
            return await _greeted(server, closing=closing)

    async def _usable(self, door: Door) -> BridgedServer | None:
        server, greeting = self.connect(door), None
        try:
            greeting = await _greeted(server)
        finally:
            if greeting is None or not greeting.understood:
                self._refused[door] = self.clock.read().awake_seconds + REFUSAL_SECONDS
                with anyio.CancelScope(shield=True):
                    await server.aclose()
        return server if greeting is not None and greeting.understood else None


def _gone(used: Iterable[tuple[int, BridgedServer]]) -> list[tuple[int, BridgedServer]]:
    return [(pid, server) for pid, server in used if not server.door.is_open()]


async def _greeted(server: BridgedServer, *, closing: bool = False) -> Greeting | None:
    with anyio.move_on_after(GREETING_SECONDS), suppress(ServerError):
        return await server.greet(closing=closing)
    return None
