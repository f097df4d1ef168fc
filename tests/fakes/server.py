"""A server in memory, whose answers and misbehaviour a test decides."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

import anyio

from watchdog.errors import ServerError
from watchdog.model import Activity, Ask, Row, ServerName, SessionId, Status, TurnId, Witness


class AbortBehaviour(Enum):
    """What an abort does."""

    WORKS = "ends the session, and runs `on_abort`"
    LIES = "agrees, and changes nothing"
    HANGS = "never answers"
    RAISES = "raises `problem`, or an error of its own"


@dataclass(kw_only=True)
class FakeServer:
    """A `ports.Server`; its attributes are the script, and what it was asked is kept.

    Attributes:
        problem: raised by every question while it is set.
        statuses_by: what is not idle, by directory.
        asks_by: what waits for a human, by directory.
        turns: the turns of its database.
        unreadable: sessions whose messages can't be read.
        on_abort: what the rest of the world does when an abort works; the database closes its rows, say.
        aborted: the aborts that were asked for, with their directories.
    """

    name: ServerName = field(default_factory=lambda: ServerName("http://127.0.0.1:4096"))
    port: int | None = 4096
    vouching: bool = True
    problem: ServerError | None = None
    statuses_by: dict[str, dict[SessionId, Status]] = field(default_factory=dict)
    asks_by: dict[str, list[Ask]] = field(default_factory=dict)
    turns: set[tuple[SessionId, TurnId]] = field(default_factory=set)
    unreadable: set[SessionId] = field(default_factory=set)
    abort_behaviour: AbortBehaviour = AbortBehaviour.WORKS
    on_abort: Callable[[SessionId], Awaitable[None]] | None = None
    heard: Witness | None = field(default_factory=lambda: Witness(connected=True, since_ms=0))
    signs: dict[SessionId, int] = field(default_factory=dict)
    aborted: list[tuple[SessionId, str]] = field(default_factory=list)
    published: list[tuple[Row, str]] = field(default_factory=list)
    deleted: list[tuple[SessionId, str]] = field(default_factory=list)

    def busy(self, session_id: SessionId, directory: str) -> None:
        """Let a session be at work."""
        self.statuses_by.setdefault(directory, {})[session_id] = Status(activity=Activity.BUSY)

    async def vouches(self) -> bool:
        """Whether its silence means something."""
        await self._answer()
        return self.vouching

    async def statuses(self, directory: str) -> dict[SessionId, Status]:
        """The sessions of a directory that are not idle."""
        await self._answer()
        return dict(self.statuses_by.get(directory, {}))

    async def pending_asks(self, directory: str) -> tuple[Ask, ...]:
        """The asks of a directory."""
        await self._answer()
        return tuple(self.asks_by.get(directory, ()))

    async def abort(self, session_id: SessionId, directory: str) -> None:
        """Do what the script says. Like a real one, it agrees for any session."""
        self.aborted.append((session_id, directory))
        await self._answer()
        match self.abort_behaviour:
            case AbortBehaviour.HANGS:
                await anyio.sleep_forever()
            case AbortBehaviour.RAISES:
                raise ServerError(f"{self.name} broke.")
            case AbortBehaviour.WORKS:
                if (
                    self.statuses_by.get(directory, {}).pop(session_id, None) is not None
                    and self.on_abort is not None
                ):
                    await self.on_abort(session_id)
            case AbortBehaviour.LIES:
                pass

    async def serves(self, session_id: SessionId, turn_id: TurnId, directory: str) -> bool:  # noqa: ARG002
        """Whether the turn is in its database."""
        await self._answer()
        return (session_id, turn_id) in self.turns

    async def publish(self, row: Row, directory: str) -> None:
        """Note what its clients would see."""
        await self._answer()
        self.published.append((row, directory))

    async def readable(self, session_id: SessionId, directory: str) -> bool:  # noqa: ARG002
        """Whether the session's messages can be read."""
        await self._answer()
        return session_id not in self.unreadable

    async def delete_message(self, session_id: SessionId, message_id: str, directory: str) -> None:
        """Delete a message, unless its session is busy."""
        await self._answer()
        if session_id in self.statuses_by.get(directory, {}):
            raise ServerError(f"{self.name} can't delete {message_id}: session {session_id} is busy.")
        self.turns.discard((session_id, TurnId(message_id)))
        self.deleted.append((session_id, message_id))

    def witness(self) -> Witness | None:
        """How well its feed is heard."""
        return self.heard

    def life(self) -> dict[SessionId, int]:
        """The signs of life of the script."""
        return dict(self.signs)

    def busy_directories(self) -> frozenset[str]:
        """Where anything is at work."""
        return frozenset(directory for directory, statuses in self.statuses_by.items() if statuses)

    async def _answer(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.problem is not None:
            raise self.problem
