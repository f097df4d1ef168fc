"""A server that is asked through the socket that a bridge opened inside it."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from watchdog.errors import ServerAnswerInvalid
from watchdog.model.report import Listener
from watchdog.model.session import ServerName
from watchdog.opencode.http.client import ABORT_TIMEOUT_SECONDS, OpencodeServer
from watchdog.opencode.http.doors import Door
from watchdog.opencode.processes.listeners import listener_behind
from watchdog.ports import Counter

SPOKEN: Final = range(1, 2)
"""The protocols of bridges that are understood here."""
GREETING: Final = "/opencode-watchdog"
"""What a bridge answers itself, whatever opencode it is in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Greeting:
    """What a bridge says of itself.

    Attributes:
        protocol: the newest protocol that it speaks.
        since: the oldest one.
    """

    protocol: int
    since: int

    @property
    def understood(self) -> bool:
        """Whether it speaks any that is spoken here."""
        return self.since < SPOKEN.stop and self.protocol >= SPOKEN.start


class BridgedServer(OpencodeServer):
    """An opencode process behind a door. It needs no password: the bridge is inside it.

    Args:
        door: its socket; each connection is checked to lead to the process that opened it.
    """

    def __init__(
        self,
        door: Door,
        *,
        clock: Counter,
        rng: random.Random,
        abort_timeout_seconds: float = ABORT_TIMEOUT_SECONDS,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.door: Final = door
        super().__init__(
            "http://bridge",
            clock=clock,
            rng=rng,
            abort_timeout_seconds=abort_timeout_seconds,
            on_change=on_change,
            door=door,
        )

    @property
    def name(self) -> ServerName:
        """`bridge:PID`: it has no address."""
        return ServerName(f"bridge:{self.door.pid}")

    async def listener(self) -> Listener:
        """The process behind the door."""
        return await listener_behind(self.door.pid)

    async def greet(self, *, closing: bool = False) -> Greeting:
        """Ask the bridge itself what it is.

        Args:
            closing: it shall close its socket, and be gone.

        Raises:
            ServerError: it gave no answer that can be read.
        """
        found = self._object(await self._ask("DELETE" if closing else "GET", GREETING, None))
        protocol = found.get("protocol")
        since = found.get("since", protocol)
        if not isinstance(protocol, int) or not isinstance(since, int):
            raise ServerAnswerInvalid(f"{self.name} does not answer as a bridge does.")
        return Greeting(protocol=protocol, since=since)
