"""The servers that can be asked, as a test lists them."""

from collections.abc import Sequence

from watchdog.model.report import Holders, Served
from watchdog.model.session import SessionId
from watchdog.ports import Server


class FakeFleet:
    """A `Fleet` in memory.

    Attributes:
        known: the servers that are known.
        hidden: servers that the next `discover` finds.
        gone: servers that the next look forgets.
        discovered: the holders that every `discover` was given.
    """

    def __init__(self, *known: Server) -> None:
        self.known: list[Server] = list(known)
        self.hidden: list[Server] = []
        self.gone: list[Server] = []
        self.discovered: list[Holders] = []

    def servers(self) -> tuple[Server, ...]:
        """The known ones, and those found so far."""
        return tuple(self.known)

    async def refresh(self) -> None:
        """Forget what the test says is gone."""
        self.known = [server for server in self.known if server not in self.gone]

    async def serving(self, session_id: SessionId) -> Sequence[tuple[Server, Served]]:  # noqa: ARG002
        """Those that serve the database by their own word."""
        return [(server, server.own) for server in self.known if server.own is not None]

    async def discover(self, holders: Holders) -> None:
        """Find what is hidden."""
        self.discovered.append(holders)
        self.known.extend(self.hidden)
        self.hidden.clear()
