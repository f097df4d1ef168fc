"""The watchdog inside a Python server's own event loop: `async with watchdog.running(settings, host=host, …)`."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.app import assemble
from watchdog.clock import SystemClock
from watchdog.errors import DatabaseMissing, ServerAnswerInvalid, ServerSilent, ServerUnreachable
from watchdog.lock import DatabaseLock
from watchdog.model import (
    EMBEDDED,
    Activity,
    Ask,
    Holders,
    Row,
    ServerName,
    SessionId,
    Status,
    TurnId,
    Witness,
)
from watchdog.opencode.database import OpencodeDatabase
from watchdog.opencode.owners import ProcessOwners
from watchdog.opening import open_journal
from watchdog.ports import Host, Server
from watchdog.record import LogListener
from watchdog.settings import Settings
from watchdog.watch import Listener, Watch

ANSWER_SECONDS = 5.0
"""How long a host may take to say what it is at work on. An abort has the limit of the ladder."""

Answer = TypeVar("Answer")


class EmbeddedServer:
    """A host in this process, as a server that the ladder can use. What it raises is translated, and contained."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def name(self) -> ServerName:
        """See `Server.name`."""
        return EMBEDDED

    @property
    def port(self) -> int | None:
        """An embedded host listens nowhere that matters."""
        return None

    async def statuses(self, directory: str) -> Mapping[SessionId, Status]:
        """See `Host.statuses`."""
        answer: Any = await _answer("statuses", lambda: self._host.statuses(directory), ANSWER_SECONDS)
        if not isinstance(answer, Mapping) or not all(isinstance(each, Status) for each in answer.values()):
            raise ServerAnswerInvalid("the host answered statuses with no mapping of session ids to Status")
        return {id_: status for id_, status in answer.items() if status.activity is not Activity.IDLE}

    async def pending_asks(self, directory: str) -> Sequence[Ask]:
        """See `Host.pending_asks`."""
        answer: Any = await _answer("pending_asks", lambda: self._host.pending_asks(directory), ANSWER_SECONDS)
        if not isinstance(answer, Sequence) or not all(isinstance(each, Ask) for each in answer):
            raise ServerAnswerInvalid("the host answered pending_asks with no sequence of Ask")
        return answer

    async def abort(self, session_id: SessionId, directory: str) -> None:
        """See `Host.abort`."""
        await _answer("abort", lambda: self._host.abort(session_id, directory), None)

    async def vouches(self) -> bool:
        """The host runs the sessions of this process, so its word about them counts."""
        return True

    async def reject(self, ask: Ask, directory: str) -> None:  # noqa: ARG002
        """Refused: the embedding server turns down its asks itself."""
        raise ServerAnswerInvalid("the embedding server turns down its asks itself")

    async def serves(self, session_id: SessionId, turn_id: TurnId, directory: str) -> bool:  # noqa: ARG002
        """The host uses this database by definition."""
        return True

    async def publish(self, row: Row, directory: str) -> None:
        """An embedded host reads its own database; it has no clients of the watchdog's concern."""

    async def readable(self, session_id: SessionId, directory: str) -> bool:  # noqa: ARG002
        """An embedded host reads rows in its own way; it is not asked."""
        return True

    async def delete_message(self, session_id: SessionId, message_id: str, directory: str) -> None:  # noqa: ARG002
        """Refused: the embedding server deletes its messages itself."""
        raise ServerAnswerInvalid("the embedding server deletes its messages itself")

    def witness(self) -> Witness | None:
        """A host has no feed: it says the last sign of life in its statuses, or is no witness."""
        return None

    def life(self) -> Mapping[SessionId, int]:
        """See `witness`."""
        return {}

    def forget(self, keep: Collection[SessionId]) -> None:
        """There is no feed to forget anything of."""

    def busy_directories(self) -> Collection[str]:
        """See `witness`."""
        return ()


class EmbeddedFleet:
    """The one server that is this process."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def servers(self) -> Sequence[Server]:
        """See `Fleet.servers`."""
        return (self._server,)

    async def discover(self, holders: Holders) -> None:
        """Nobody else is looked for."""


class Running:
    """A watchdog that runs.

    Attributes:
        watch: the loop; `watch.wake()` makes it look now.
        failure: the error that ended the loop, if one did. It is raised when the context is left.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.failure: Exception | None = None


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    host: Host,
    engine: AsyncEngine,
    listeners: Sequence[Listener] = (),
    dry_run: bool = False,
) -> AsyncIterator[Running]:
    """Watch a server's own sessions from inside its event loop, for as long as the context is open.

    No signal handlers are installed, the engine is never disposed, and logging stays as the server set it up. A
    failure of the loop does not take the server down: it is logged, kept in `failure`, and raised at the end.

    Args:
        settings: as for the program; `servers` and `discover` are not used.
        host: answers for the sessions of this process.
        engine: an engine on the database with opencode's tables; `settings.database` may name the file instead.
        listeners: told of every look and outcome, beside the log.
        dry_run: do everything but act.

    Raises:
        DatabaseError: the database can't be used.
        JournalUnusable: the journal can't be used, and is not `off`.
    """
    path = settings.database or _path_of(engine)
    failure: Exception | None = None
    async with (
        await OpencodeDatabase.open(path, engine=engine) as store,
        open_journal(settings, path, os.environ, Path.home()) as journal,
    ):
        with DatabaseLock(path) as lock:
            watch = assemble(
                settings,
                store=store,
                fleet=EmbeddedFleet(EmbeddedServer(host)),
                owners=ProcessOwners(path, clock=SystemClock(), embedded=True),
                mandate=lock,
                journal=journal,
                listeners=[LogListener(), *listeners],
                dry_run=dry_run,
            )
            async with _in_background(Running(watch)) as state:
                try:
                    yield state
                except Exception as error:  # noqa: BLE001 - the server's own: it leaves as it came, in no group
                    failure = error
    if failure := failure or state.failure:
        raise failure


@asynccontextmanager
async def _in_background(state: Running) -> AsyncIterator[Running]:
    """Run the loop until the block is left, then wait for its end."""
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_run, state, stop, name="watchdog")
        try:
            yield state
        finally:
            stop.set()


async def _run(state: Running, stop: anyio.Event) -> None:
    try:
        await state.watch.run(stop)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told and kept
        state.failure = error
        structlog.get_logger("watchdog").exception("watch.failed")


async def _answer(what: str, ask: Callable[[], Awaitable[Answer]], seconds: float | None) -> Answer:
    """Ask the host. In a task of its own, so that a cancellation which escapes the host ends nothing but the answer.

    Args:
        what: the question, for people.
        ask: asks it.
        seconds: how long the answer may take; None when the caller has a limit.
    """
    answers: list[Answer] = []

    async def run() -> None:
        answers.append(await ask())

    try:
        with anyio.fail_after(seconds):
            async with anyio.create_task_group() as group:
                group.start_soon(run, name=f"ask the host for {what}")
    except TimeoutError as error:
        raise ServerSilent(f"the host could not answer {what}: TimeoutError") from error
    except Exception as error:
        cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        raise ServerUnreachable(f"the host could not answer {what}: {type(cause).__name__}") from error
    if not answers:
        raise ServerUnreachable(f"the host could not answer {what}: it was cancelled")
    return answers[0]


def _path_of(engine: AsyncEngine) -> Path:
    name = engine.url.database
    if not name or name == ":memory:":
        raise DatabaseMissing("the engine has no database file; name it with the setting `database`")
    return Path(name)
