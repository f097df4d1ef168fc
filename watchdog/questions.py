"""What one server says of some directories, and what comes in the way of its answers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import anyio

from watchdog.errors import ServerError, ServerSilent
from watchdog.model import Ask, SessionId, Status
from watchdog.ports import Server
from watchdog.silence import Silences


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a server said, before it is known whether it is of this database. See `ServerReport`."""

    vouches: bool
    problem: str | None
    statuses: Mapping[str, Mapping[SessionId, Status]]
    asks: Mapping[str, tuple[Ask, ...]]


async def ask(server: Server, directories: Collection[str], *, silences: Silences) -> Said:
    """Ask one server about some directories. What it does not answer is missing, and named.

    Args:
        silences: where it is not asked, and not waited for, since it did not answer in time before.
    """
    asking = _Asking(server=server, silences=silences)
    began = silences.now()
    silences.forget(server, but=directories)
    async with anyio.create_task_group() as group:
        for directory in directories:
            group.start_soon(asking.ask, directory)
    vouches = bool(directories) and not asking.problems and await asking.vouched()
    if directories:
        silences.learn(server, began, asking.errors)
    return Said(
        vouches=vouches,
        problem=asking.problems[0] if asking.problems else None,
        statuses=asking.statuses,
        asks=asking.asks,
    )


@dataclass(kw_only=True)
class _Asking:
    """What one server has said so far, and what came in the way.

    Attributes:
        problems: what came in the way of an answer, for people.
        errors: the same.
    """

    server: Server
    silences: Silences
    statuses: dict[str, dict[SessionId, Status]] = field(default_factory=dict)
    asks: dict[str, tuple[Ask, ...]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    errors: list[ServerError] = field(default_factory=list)

    async def ask(self, directory: str) -> None:
        """Ask what it is at work on, and which asks wait for a human."""
        if (known := self.silences.problem(self.server, directory)) is not None:
            self.problems.append(known)
            return
        busy, asked, error = await _answers(self.server, directory, self.silences)
        if busy is not None:
            self.statuses[directory] = busy
        if asked is not None:
            self.asks[directory] = asked
        if error is not None:
            self._failed(error)
            if busy is None and isinstance(error, ServerSilent):
                self.silences.note(self.server, directory, error)

    async def vouched(self) -> bool:
        """Ask whether its silence means something."""
        try:
            with self.silences.patient(self.server):
                return await self.server.vouches()
        except ServerError as error:
            self._failed(error)
            return False

    def _failed(self, error: ServerError) -> None:
        self.errors.append(error)
        self.problems.append(str(error))


async def _answers(
    server: Server, directory: str, silences: Silences
) -> tuple[dict[SessionId, Status] | None, tuple[Ask, ...] | None, ServerError | None]:
    """What a server says of a directory; its word on asks counts only with the one on statuses."""
    statuses: dict[SessionId, Status] | None = None
    asks: tuple[Ask, ...] | None = None
    errors: list[ServerError] = []

    async def ask_asks() -> None:
        nonlocal asks
        try:
            with silences.patient(server):
                asks = tuple(await server.pending_asks(directory))
        except ServerError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(ask_asks)
        try:
            with silences.patient(server):
                statuses = dict(await server.statuses(directory))
        except ServerError as error:
            errors.insert(0, error)
            group.cancel_scope.cancel()
    return statuses, asks if statuses is not None else None, errors[0] if errors else None
