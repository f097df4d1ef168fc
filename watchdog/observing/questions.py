"""One server's answers about some directories, and what prevented answers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

import anyio

from watchdog.errors import ServerError, ServerSilent
from watchdog.model.session import Ask, SessionId, Status
from watchdog.observing.slow_servers import Silences
from watchdog.ports import Server
from watchdog.sharing import gathered


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A server's answers, before it is known whether they are about this database. See `ServerReport`."""

    vouches: bool = False
    known: bool = False
    problem: str | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    statuses: Mapping[str, Mapping[SessionId, Status]] = field(default_factory=dict)
    asks: Mapping[str, tuple[Ask, ...]] = field(default_factory=dict)


async def ask(server: Server, directories: Collection[str], *, silences: Silences) -> Said:
    """Ask one server about some directories. Missing answers are left out, and named.

    Args:
        silences: where not to ask and not to wait, since it did not answer in time before.
    """
    asking = _Asking(server=server, silences=silences)
    began = silences.now()
    silences.forget(server, but=directories)
    await gathered(*(partial(asking.ask, directory) for directory in directories))
    vouches, known = await asking.vouched() if asking.statuses else (False, False)
    if directories:
        silences.learn(server, began, asking.errors)
    return Said(
        vouches=vouches,
        known=known,
        problem=asking.problem,
        problems=asking.problems,
        statuses=asking.statuses,
        asks=asking.asks,
    )


@dataclass(kw_only=True)
class _Asking:
    """One server's answers so far, and what prevented others.

    Attributes:
        problem: what prevented every answer, for people.
        problems: what prevented an answer about each directory.
        errors: all of these.
    """

    server: Server
    silences: Silences
    statuses: dict[str, dict[SessionId, Status]] = field(default_factory=dict)
    asks: dict[str, tuple[Ask, ...]] = field(default_factory=dict)
    problem: str | None = None
    problems: dict[str, str] = field(default_factory=dict)
    errors: list[ServerError] = field(default_factory=list)

    async def ask(self, directory: str) -> None:
        """Ask what it is at work on, and which asks wait for a human."""
        if (known := self.silences.problem(self.server, directory)) is not None:
            self.problems[directory] = known
            return
        busy, asked, error = await _answers(self.server, directory, self.silences)
        if busy is not None:
            self.statuses[directory] = busy
        if asked is not None:
            self.asks[directory] = asked
        if error is not None:
            self.errors.append(error)
            self.problems[directory] = str(error)
            if busy is None and isinstance(error, ServerSilent):
                self.silences.note(self.server, directory, error)

    async def vouched(self) -> tuple[bool, bool]:
        """Ask whether its silence means something, and whether its version was measured."""
        try:
            with self.silences.patient(self.server):
                return await self.server.vouches(), await self.server.known()
        except ServerError as error:
            self.errors.append(error)
            self.problem = str(error)
            return False, False


async def _answers(
    server: Server, directory: str, silences: Silences
) -> tuple[dict[SessionId, Status] | None, tuple[Ask, ...] | None, ServerError | None]:
    """A server's answer about a directory; its word on asks counts only with its word on statuses."""
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
