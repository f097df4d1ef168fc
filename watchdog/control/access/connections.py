"""The open connections, and which one has to go when there is no more room. Pure."""

from collections import Counter
from typing import Final

MOST_STRANGERS: Final = 64
MOST_OF_ONE_ADDRESS: Final = 48
MOST_KNOWN: Final = 64

Peer = tuple[str, int]
"""The address and the port of a client: one connection."""


class Connections:
    """The connections. A new one is always let in, so a health check is, too; the oldest goes for it.

    A stranger has not shown the token on its connection. The stranger goes whose address has most of them: an address
    that floods the door pushes out only itself, and nobody who has the token.
    """

    def __init__(self) -> None:
        self._strangers: dict[Peer, None] = {}
        self._known: set[Peer] = set()

    def enter(self, peer: Peer) -> Peer | None:
        """A new connection. Returns the one that has to go for it."""
        self._strangers[peer] = None
        of_one = [each for each in self._strangers if each[0] == peer[0]]
        if len(of_one) > MOST_OF_ONE_ADDRESS:
            return self._hang_up(of_one[0])
        if len(self._strangers) <= MOST_STRANGERS:
            return None
        counts = Counter(host for host, _ in self._strangers)
        most = max(counts.values())
        return self._hang_up(next(each for each in self._strangers if counts[each[0]] == most))

    def asks(self, peer: Peer, *, known: bool) -> None:
        """A connection asks for something, with the token or without it."""
        if known and peer in self._strangers and len(self._known) < MOST_KNOWN:
            del self._strangers[peer]
            self._known.add(peer)
        elif not known and peer in self._known:
            self._known.discard(peer)
            self._strangers[peer] = None

    def leave(self, peer: Peer) -> None:
        """A connection is gone."""
        self._strangers.pop(peer, None)
        self._known.discard(peer)

    def _hang_up(self, peer: Peer) -> Peer:
        del self._strangers[peer]
        return peer
