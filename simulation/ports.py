"""What a watchdog's process has of the world: the ports, each with the time that an answer takes.

An answer is made in the world, when the request arrives; it reaches a process that was stopped late, as it was. A
process that was killed does nothing any more.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx

from simulation.machine import Machine, MachineClock
from simulation.replicas import LineLease
from simulation.rows import RowStore
from simulation.servers import DEAF_AT_FIRST_SECONDS, Process
from watchdog.errors import (
    DatabaseUnavailable,
    ServerAnswerInvalid,
    ServerError,
    ServerSilent,
    ServerUnreachable,
    WatchdogError,
)
from watchdog.model.moments import Moment
from watchdog.model.outcome import GuardedWrite, Row
from watchdog.model.report import Endpoint, Listener, Served, Witness
from watchdog.model.session import Ask, CallId, ServerName, Session, SessionId, Snapshot, Status, TurnId
from watchdog.opencode.http.feed import Feed
from watchdog.timing.clock import Countable

if TYPE_CHECKING:
    from simulation.world import World

Value = TypeVar("Value")
TIMEOUT_SECONDS: Final = 5.0
ABORT_TIMEOUT_SECONDS: Final = 10.0
BUSY_TIMEOUT_SECONDS: Final = 5.0


class Line:
    """A watchdog's process as the world knows it, and the way from one to the other."""

    def __init__(self, world: "World", number: int, machine: Machine) -> None:
        self.world = world
        self.number = number
        self.lease: LineLease | None = None
        self.dead = False
        self.amid: Callable[[], object] | None = None
        """What happens to it once it has begun to do something."""
        self._touched = 0
        self.clock = Countable(MachineClock(machine))

    async def fenced(self, do: Callable[[], Coroutine[Any, Any, Value]], otherwise: type[WatchdogError]) -> Value:
        """Do something that only who has the right to act may do."""
        return await do() if self.lease is None else await self.lease.fenced(do, otherwise)

    def begun(self) -> None:
        """It noted that it is about to do something."""
        happens, self.amid = self.amid, None
        if happens is not None:
            happens()

    @property
    def is_cut_off(self) -> bool:
        """Whether it can't reach the database."""
        return self.number in self.world.database.cut_off

    def check(self) -> None:
        """Go no further if the process was killed."""
        if self.dead:
            raise asyncio.CancelledError

    async def touch(self) -> None:
        """Reach something on a disk of this machine: mostly at once."""
        self.check()
        self._touched += 1
        if self._touched % 8:
            await asyncio.sleep(0)
        else:
            await self.ask(lambda: None, seconds=self.world.latency() / 10)
        self.check()

    async def ask(self, answer: Callable[[], Value], *, seconds: float | None = None) -> Value:
        """Have the world make an answer, after a while, and wait for it."""
        self.check()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Value] = loop.create_future()

        def arrive() -> None:
            if future.done():
                return
            try:
                future.set_result(answer())
            except Exception as error:  # noqa: BLE001 - it is the answer
                future.set_exception(error)

        loop.call_later(self.world.latency() if seconds is None else seconds, arrive, context=Context())
        value = await future
        self.check()
        return value


class LineStore(RowStore):
    """The `Store` of a watchdog's process."""

    def __init__(self, line: Line) -> None:
        super().__init__(line.world.rows)
        self._line = line

    async def changed(self) -> bool:
        await self._reach()
        return await super().changed()

    async def look(
        self, *, also: Collection[SessionId] = (), full: bool = False, scan_parts: bool = False
    ) -> Snapshot:
        await self._reach()
        return await super().look(also=also, full=full, scan_parts=scan_parts)

    async def session(self, session_id: SessionId) -> Session | None:
        await self._reach()
        return await super().session(session_id)

    async def directories(self, *, since_ms: int) -> tuple[str, ...]:
        await self._reach()
        return await super().directories(since_ms=since_ms)

    async def rows(self, *, call_ids: Collection[CallId] = (), turn_ids: Collection[TurnId] = ()) -> tuple[Row, ...]:
        await self._reach()
        return await super().rows(call_ids=call_ids, turn_ids=turn_ids)

    async def below(self, session_ids: Collection[SessionId]) -> frozenset[SessionId]:
        await self._reach()
        return await super().below(session_ids)

    async def queued(self, session_id: SessionId) -> tuple[str, ...]:
        await self._reach()
        return await super().queued(session_id)

    async def turn_rows(self, turn_id: TurnId) -> tuple[Row, ...]:
        await self._reach()
        return await super().turn_rows(turn_id)

    async def write(self, writes: Sequence[GuardedWrite], *, while_newest: TurnId | None = None) -> int:
        await self._reach()
        oracles, changed = self._line.world.oracles, super().write

        async def write() -> int:
            oracles.acts(self._line.number)
            oracles.about_to_write(writes)
            count = await changed(writes, while_newest=while_newest)
            self.written.clear()
            oracles.wrote(writes, count)
            return count

        return await self._line.fenced(write, DatabaseUnavailable)

    async def _reach(self) -> None:
        """Come to the database: while somebody else has it locked, in vain."""
        world = self._line.world
        await self._line.touch()
        if self.content is not world.rows:
            self.open_another(world.rows)
        if world.locked or self._line.is_cut_off:
            await self._line.ask(lambda: None, seconds=BUSY_TIMEOUT_SECONDS)
            if world.locked or self._line.is_cut_off:
                raise DatabaseUnavailable("The database is locked.")


class LineFeed(Feed):
    """The product's own feed, over a stream of the world."""

    def __init__(self, line: Line, port: int, on_change: Callable[[], None]) -> None:
        super().__init__(
            httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(500)), trust_env=False),
            clock=line.clock,
            rng=random.Random(line.world.script.seed + port),  # noqa: S311 - spreads attempts
            on_change=on_change,
        )
        self._line = line
        self._port = port

    async def _events(self) -> AsyncGenerator[str]:
        process = await self._line.ask(lambda: self._line.world.listening(self._port))
        stream = None if process is None else process.listen()
        if process is None or stream is None:
            self.problem = "its event stream can't be read (ConnectError)"
            return
        try:
            while True:
                text = await stream.get(self._silence_seconds)
                self._line.check()
                if text is None:
                    self.problem = "its event stream ended"
                    return
                yield text
        except TimeoutError:
            self.problem = f"its event stream was silent for {self._silence_seconds:g} s"
        finally:
            stream.close()
            if stream in process.streams:
                process.streams.remove(stream)


class LineServer:
    """A `Server` at a port: whichever process listens there just now."""

    by_folder = True
    own: Served | None = None

    def __init__(self, line: Line, port: int, on_change: Callable[[], None]) -> None:
        self._line = line
        self._world = line.world
        self._connected_to: Process | None = None
        self._vouches: bool | None = None
        """What is known of its version: until an error, and until another process answers."""
        self.port = port
        self.feed = LineFeed(line, port, on_change)

    @property
    def name(self) -> ServerName:
        return ServerName(f"http://127.0.0.1:{self.port}")

    @property
    def leads_to(self) -> tuple[Endpoint, ...]:
        return (endpoint(self.port),)

    async def listener(self) -> Listener:
        process = await self._line.ask(lambda: self._world.listening(self.port))
        if process is None:
            return Listener()
        databases = frozenset({process.pid} if process.elsewhere or process.holds else ())
        what = f"{process.command} (pid {process.pid})"
        return Listener(sockets=(frozenset({process.pid}),), hidden=False, databases=databases, what=what)

    async def statuses(self, directory: str) -> Mapping[SessionId, Status]:
        return await self._ask(lambda process: process.statuses(directory), directory)

    async def pending_asks(self, directory: str) -> Sequence[Ask]:
        return await self._ask(lambda process: process.listed(directory), directory)

    async def copy(self, session_id: SessionId, turn_id: TurnId, directory: str) -> Sequence[Row] | None:  # noqa: ARG002
        return await self._ask(lambda process: self._world.copy_of(process, turn_id), directory)

    async def vouches(self) -> bool:
        if self._vouches is None:
            self._vouches = await self._ask(lambda process: process.vouches)
        return self._vouches

    async def known(self) -> bool:
        await self.vouches()
        return True

    async def abort(self, served: Served, session_id: SessionId, directory: str) -> None:  # noqa: ARG002
        self._world.oracles.acts(self._line.number)
        self._world.oracles.sends_abort(self.port, session_id)
        try:
            await self._ask(
                lambda process: self._world.take_abort(process, session_id), directory, limit=ABORT_TIMEOUT_SECONDS
            )
        finally:
            self._world.oracles.sent_abort(self.port, session_id)

    async def reject(self, served: Served, ask: Ask, directory: str) -> None:  # noqa: ARG002
        await self._ask(lambda process: self._world.take_reject(process, ask), directory)

    async def publish(self, served: Served, row: Row, directory: str) -> None:  # noqa: ARG002
        await self._ask(lambda process: self._world.take_publish(process, row), directory)

    async def readable(self, served: Served, session_id: SessionId, directory: str) -> bool:  # noqa: ARG002
        return await self._ask(
            lambda process: self._world.oracles.sent(process, "a read-back", session_id), directory
        )

    async def delete_message(self, served: Served, session_id: SessionId, message_id: str, directory: str) -> None:
        raise NotImplementedError("nothing here has a message deleted")

    def witness(self) -> Witness | None:
        return self.feed.witness()

    def life(self) -> Mapping[SessionId, Moment]:
        return self.feed.life()

    def forget(self, keep: Collection[SessionId]) -> None:
        self.feed.forget(keep)

    def busy_directories(self) -> Collection[str]:
        return self.feed.busy_directories()

    async def _ask(
        self, answer: Callable[[Process], Value], directory: str | None = None, *, limit: float = TIMEOUT_SECONDS
    ) -> Value:
        """Ask whoever listens."""
        try:
            return await self._asked(answer, directory, limit)
        except ServerError:
            self._vouches = None
            raise

    async def _asked(self, answer: Callable[[Process], Value], directory: str | None, limit: float) -> Value:
        process = await self._line.ask(lambda: self._world.listening(self.port))
        if process is not self._connected_to:
            self._connected_to, self._vouches = process, None
        if process is None:
            raise ServerUnreachable(f"{self.name} can't be reached.")
        young = self._world.now - process.born_at < DEAF_AT_FIRST_SECONDS
        if process.trouble == "silent" or young:
            await self._line.ask(lambda: None, seconds=limit)
            raise ServerSilent(f"{self.name} did not answer within {limit:g} s.")

        def made() -> Value:
            if not process.alive:
                raise ServerUnreachable(f"{self.name} cut the line.")
            process.was_asked = True
            if process.trouble in {"broken", "garbage"}:
                raise ServerAnswerInvalid(f"{self.name} answered 500.")
            if directory in process.bad_folders:
                raise ServerAnswerInvalid(f"{self.name} answered 400 for {directory}.")
            return answer(process)

        return await self._line.ask(made)


def endpoint(port: int) -> Endpoint:
    """A port of this machine."""
    return Endpoint(address="127.0.0.1", port=port)
