"""Whether a server serves this very database. Only this module says so, and hosts that speak through it.

Ids and a 200 prove nothing: a copy of the file has the same ids. The proof is that the process which listens at the
server's address has this file open; or, if no process can be seen, that the server's copy of a turn reads, field by
field, as the rows do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

from watchdog.errors import ServerError
from watchdog.model.report import Holder, Holders, Listener, Served, Shown
from watchdog.model.session import SessionId, TurnId
from watchdog.observing.comparing import Likeness, compared
from watchdog.ports import Server, Store
from watchdog.sharing import gathered

_TRIES: Final = 3
"""How often to read a copy that changes while it is compared."""


class Doubt(StrEnum):
    """Why it is not proven that a server serves this database."""

    ANOTHER_DATABASE = "another_database"
    UNSURE = "unsure"


@dataclass(frozen=True, kw_only=True, slots=True)
class NotShown:
    """It is not proven that a server serves this database. `why` is a sentence for people."""

    doubt: Doubt
    why: str


def by_process(server: Server, listener: Listener, holders: Holders) -> Served | NotShown | None:
    """What the process behind a server's address proves; None if only the server's copy can prove it.

    A process that has another database open, and not this one, is on that one. A process that has none open passes
    connections on, as an SSH tunnel does, or was not asked for anything yet. If several sockets may be the one that
    answers (`localhost` has two addresses), each has to be one of this database's.
    """
    having = [holder for holder in holders.known if holder.pid in listener.pids]
    others = listener.databases - {holder.pid for holder in having}
    if others:
        what = listener.what or server.name
        return NotShown(doubt=Doubt.ANOTHER_DATABASE, why=f"{server.name} is {what}, but on another database.")
    pids = {holder.pid for holder in having}
    if having and not listener.hidden and all(each & pids for each in listener.sockets):
        return _of_process(server, having)
    return None


def by_nobody(server: Server, holders: Holders) -> NotShown | None:
    """A server that answers is on another database if no process at all has this one open."""
    if holders.known or not holders.complete:
        return None
    why = f"{server.name} is opencode, but on another database: no process has this one open."
    return NotShown(doubt=Doubt.ANOTHER_DATABASE, why=why)


def _of_process(server: Server, having: Sequence[Holder]) -> Served:
    """Whichever of several answers, it has this file open; only with a single one is it known which."""
    (one, *more) = having
    if more:
        return Served(server=server.name, by=Shown.PROCESS)
    return Served(server=server.name, by=Shown.PROCESS, pid=one.pid, born_ms=one.born_ms)


async def by_rows(server: Server, store: Store, turns: Sequence[tuple[SessionId, TurnId, str]]) -> Served | NotShown:
    """What a server's own copy of some turns proves, each with its session and a directory.

    It is proven for the sessions all of whose turns read as here. One turn that reads differently is enough to know
    that it is another database.

    Raises:
        DatabaseError: the rows can't be read.
    """
    found = await gathered(*(partial(compare, server, store, *each) for each in turns))
    for each in found:
        if each is not None and each.doubt is Doubt.ANOTHER_DATABASE:
            return each
    unsure = {session_id: each for (session_id, _, _), each in zip(turns, found, strict=True) if each is not None}
    alike = frozenset(session_id for session_id, _, _ in turns if session_id not in unsure)
    return of_rows(server, alike) if alike else next(iter(unsure.values()))


def of_rows(server: Server, sessions: frozenset[SessionId]) -> Served:
    """It is proven for these sessions, whose turns were just found to read alike."""
    return Served(server=server.name, by=Shown.ROWS, sessions=sessions)


async def compare(
    server: Server, store: Store, session_id: SessionId, turn_id: TurnId, directory: str
) -> NotShown | None:
    """Compare a server's copy of a turn with the rows; None if they are the same."""
    for _ in range(_TRIES):
        before = await store.turn_rows(turn_id)
        try:
            copy = await server.copy(session_id, turn_id, directory)
        except ServerError as error:
            return NotShown(doubt=Doubt.UNSURE, why=str(error))
        after = await store.turn_rows(turn_id)
        if copy is None:
            why = f"{server.name} is opencode, but on another database: it has no turn {turn_id}."
            return NotShown(doubt=Doubt.ANOTHER_DATABASE, why=why)
        found = compared(before, copy, after)
        if found is Likeness.SAME:
            return None
        if found is Likeness.OTHER:
            why = f"{server.name} is opencode, but on another database: turn {turn_id} reads otherwise there."
            return NotShown(doubt=Doubt.ANOTHER_DATABASE, why=why)
    why = f"Whether {server.name} uses this database can't be told: turn {turn_id} changes too fast to be compared."
    return NotShown(doubt=Doubt.UNSURE, why=why)
