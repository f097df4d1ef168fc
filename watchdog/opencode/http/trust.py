"""Who may get a password: a server that asked for one, and is the one that it was."""

from dataclasses import dataclass, field
from typing import Final

import anyio
import httpx

from watchdog.model.report import Holder, Holders
from watchdog.opencode.http.peers import Ends, Lookup, Party, is_holder, other_end

ACCEPTED_SECONDS: Final = 5.0
"""How long a process may take to accept a connection."""
_CHEAP_LOOKS: Final = 5
_LOOK_AGAIN_SECONDS: Final = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """A name and a password, which appear nowhere."""

    username: str
    password: str = field(repr=False)

    @property
    def header(self) -> bytes:
        """The header to send."""
        request = next(httpx.BasicAuth(self.username, self.password).auth_flow(httpx.Request("GET", "http://x")))
        return request.headers["authorization"].encode("ascii")


class Stranger(httpx.TransportError):
    """Somebody else has the other end of a connection. The text ends a sentence for people."""


class Trust:
    """Who is behind one base URL.

    A found server is one process: nothing is sent to anybody else. At a configured address it may be restarted, as
    another process: one that has the database open, or runs the same program as before. If processes can't be seen,
    only the connection on which it asked counts.

    Args:
        expected: the process that was found there; None for a configured address.
        lookup: finds the process at the other end of a connection.
    """

    def __init__(self, *, expected: Party | None = None, lookup: Lookup = other_end) -> None:
        self._expected = expected
        self._lookup = lookup
        self._told: Party | None = None
        self._holders: tuple[Holder, ...] = ()

    def know(self, holders: Holders) -> None:
        """Take note of the processes that have the database open."""
        self._holders = holders.known

    async def meet(self, ends: Ends | None) -> None:
        """Check, on a new connection, that it leads to the found process.

        Raises:
            Stranger: it does not, as far as anybody can tell.
        """
        if self._expected is None:
            return
        party = None if ends is None else await self._accepting(ends, self._expected)
        if party is None or party.process != self._expected.process:
            who = "nobody who can be seen" if party is None else str(party)
            raise Stranger(f"{self._expected} was found there, and now {who} listens")

    async def admit(self, ends: Ends | None, *, new: bool = False) -> None:
        """Check that the process that asked for the password may have it.

        Args:
            new: this connection had no answer yet: the server asked on an earlier one, which it closed.

        Raises:
            Stranger: it may not have it.
        """
        if self._expected is not None:
            return  # nobody else was let in
        known, party = self._told, None
        if ends is not None:
            party = await (self._accepting(ends, known) if new else self._lookup(ends, known, thorough=True))
        if party is None and new:
            raise Stranger("it closes each connection on which it asks, and who is behind the next can't be seen")
        if known is not None and (party is None or not self._may_follow(known, party)):
            who = "who answers there now can't be seen" if party is None else f"now it is {party}"
            raise Stranger(f"it was {known}, and {who}, which is not known to have the database open")
        self._told = party

    def _may_follow(self, known: Party, party: Party) -> bool:
        same = party.process == known.process or party.program == known.program
        return same or any(is_holder(party, holder) for holder in self._holders)

    async def _accepting(self, ends: Ends, expected: Party | None) -> Party | None:
        """The process that accepted a connection; waits until one has."""
        if not ends.here:
            return None
        party, looks = None, 0
        with anyio.move_on_after(ACCEPTED_SECONDS):
            while party is None:
                party = await self._lookup(ends, expected, thorough=looks >= _CHEAP_LOOKS or expected is None)
                if party is None:
                    await anyio.sleep(_LOOK_AGAIN_SECONDS)
                looks += 1
        return party
