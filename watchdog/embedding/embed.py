"""The watchdog inside a Python server's own event loop: `async with watchdog.running(settings, host=host, …)`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.abc import TaskGroup, TaskStatus
from sqlalchemy.ext.asyncio import AsyncEngine

from watchdog.composing.backend import Backend
from watchdog.console.logger import logger
from watchdog.embedding.backend import backend
from watchdog.embedding.host_calls import watch_loop
from watchdog.embedding.host_server import EmbeddedServer
from watchdog.embedding.own_task import OwnTask, bare
from watchdog.errors import NotActing, ShutdownTimedOut, WatchdogError
from watchdog.loop.last_look import Latest
from watchdog.loop.watch import Watch
from watchdog.model.outcome import Outcome
from watchdog.model.session import SessionId
from watchdog.operating.operations import Answer, Operations
from watchdog.operating.operator import Operator
from watchdog.operating.requests import Wanted
from watchdog.ports import Clock, Host
from watchdog.reporting.log import LogListener
from watchdog.settings.schema import Settings
from watchdog.timing.clock import Countable, SystemClock
from watchdog.timing.events import Assessment, Listener

_CUT_SECONDS: Final = 0.5
"""How much later than the loop's own grace everything is cut off."""
_LAST_ANSWERS_SECONDS: Final = 3.0


class Watchdog:
    """A watchdog for the sessions of this process; it runs inside `running`, inside a `lifespan`, or in `serve`.

    It installs no signal handlers, never disposes of the server's engine, and leaves logging as the server set it up.
    It watches once at a time, and may be started again after its end.

    Args:
        settings: the same as for the program; `servers` and `discover` are not used.
        host: answers for the sessions of this process.
        engine: the server's own engine on the database with opencode's tables, SQLite (aiosqlite) or PostgreSQL
            (asyncpg). `settings.database` may name the database instead, or besides; without an engine the watchdog
            uses connections of its own.
        listeners: hear of every look and outcome, beside the log. They must not raise.
        dry_run: do everything but act.

    Attributes:
        failure: the error that ended the loop, if one did. `running` raises it at its end, `serve` at once.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        host: Host,
        engine: AsyncEngine | None = None,
        listeners: Sequence[Listener] = (),
        dry_run: bool = False,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._listeners = tuple(listeners)
        self._dry_run = dry_run
        self._clock = Countable(SystemClock())
        self._server = EmbeddedServer(host, self._clock)
        self._inside: _Inside | None = None
        self._own: OwnTask[_Inside] | None = None
        self.failure: BaseException | None = None

    @property
    def watch(self) -> Watch:
        """The loop; `watch.wake()` makes it look now.

        Raises:
            NotActing: it does not run.
        """
        return self._running().watch

    def touch(self, session_id: str) -> None:
        """Note a sign of life of a session, now: from here on it takes `idle_timeout` until it is idle.

        It costs one reading of the clock and one write to a dict: call it for each piece of text. Once a session is
        touched in a turn, its silence counts from then on, so keep touching it whenever it shows life. Call it in the
        loop's own thread; from another one through `loop.call_soon_threadsafe`.
        """
        self._server.touches.note(SessionId(session_id))

    async def release(
        self, session_id: str, *, reason: str | None = None, below: bool = False
    ) -> tuple[Outcome, ...]:
        """End now whatever is open in a session, and wait for the end of it. The way out: no limit applies.

        Two releases of a session at once become one, and join what the loop is doing on it. A release runs to its end
        although the task that waits for it is cancelled. A hold of the session ends once something was sent.

        Args:
            session_id: the session.
            reason: a person's words, kept in the journal and in what is ended.
            below: end what lives below it, too. Without it, a session below in which a person works is left alone,
                and if it would end with this one, so is this one: the outcome is `unchanged`, and names it.

        Returns:
            The outcome of the session, then those of what was left below it. `result` is `recovered` if the database
            shows that everything closed, and `unchanged` if nothing was open.

        Raises:
            NotActing: it does not run or is stopping, or another one acts on the file; no replica acts in PostgreSQL.
            ServerUnreachable: the replica that took it on gave no answer: it may have been done.
            NoSuchSession: the database has none with that id.
            Busy: too much is under way.
            UsageError: this is another event loop than that of the watchdog.
            DatabaseError: the database can't be used.
            JournalUnusable: the journal can't be used.
        """
        if self._own is not None:
            self._own.check_loop()
        return await self._running().release(SessionId(session_id), reason=reason, below=below)

    async def serve(self, *, task_status: TaskStatus["Watchdog"] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch until it is cancelled: for a task group of the server's own, `await group.start(dog.serve)`.

        Once cancelled it begins nothing more, finishes what it began within `shutdown_grace`, and ends. A failure of
        the loop comes out at once, and ends the task group as any task's does; `running` prevents that.

        Raises:
            DatabaseError: the database can't be used.
            JournalUnusable: the journal can't be used, and is not `off`.
            AlreadyWatched: a watchdog already runs in this process.
        """
        async with self._open() as inside:
            task_status.started(self)
            await inside.ended.wait()

    # -- inside ----------------------------------------------------------------------------------------------

    def _running(self) -> "_Inside":
        if self._inside is None:
            why = "" if self.failure is None else f", since it failed with {type(self.failure).__name__}"
            raise NotActing(
                f"This watchdog does not run{why}: ask it inside its `async with`, or while `serve` runs."
            )
        return self._inside

    @asynccontextmanager
    async def _open(self) -> AsyncIterator["_Inside"]:
        """Run the loop until some task leaves the block. Exceptions of the block come out unchanged."""
        self._own = own = OwnTask(self._live, stop=self._stop, name="watchdog")
        inside = await own.begin()
        left: BaseException | None = None
        try:
            yield inside
        except BaseException as error:  # noqa: BLE001 - the server's own: it leaves as it came
            left = error
        ended = await own.end()
        if left := left or ended or self.failure:
            raise left

    def _stop(self, inside: "_Inside") -> None:
        inside.stop.set()
        self._inside = None

    async def _live(self, begun: Callable[["_Inside"], None]) -> None:
        """Open everything, run the loop, and close everything: all in one task."""
        first = _FirstLook(self._clock, self._settings.poll_interval.total_seconds())
        async with backend(
            self._settings,
            engine=self._engine,
            server=self._server,
            clock=self._clock,
            changed=self._look_again,
            alive=lambda: first.ticking,
            acts=not self._dry_run,
        ) as found:
            self.failure = None
            inside = self._inside = self._assemble(found, first)
            begun(inside)
            try:
                await inside.run(self._failed)
            except asyncio.CancelledError:
                if not inside.stop.is_set():
                    logger().warning(
                        "watch.cancelled", why="somebody cancelled the watchdog's own task: it watches no more"
                    )
                raise
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is logged, kept, and raised at the end
                self._failed(bare(error))
            finally:
                self._inside = None
                inside.over()

    def _look_again(self) -> None:
        """The right to act was gained or lost."""
        if self._inside is not None:
            self._inside.watch.wake()

    def _assemble(self, found: Backend, first: "_FirstLook") -> "_Inside":
        watch = found.watch(listeners=[LogListener(), first, *self._listeners], dry_run=self._dry_run)

        def operator(group: TaskGroup) -> Operator:
            return Operator(
                database=found.place,
                watch=watch,
                latest=first,
                store=found.store,
                fleet=found.fleet,
                owners=found.owners,
                mandate=found.mandate,
                journal=found.journal,
                operations=Operations(group, self._clock),
                leader=found.leader,
            )

        return _Inside(watch, first, operator, found, self._clock)

    def _failed(self, error: BaseException) -> None:
        self.failure = error
        logger().error("watch.failed", exc_info=error)


class _FirstLook(Latest):
    """Keeps the last look of the loop; waits for the first one, or the next, or for word that there is none."""

    def __init__(self, clock: Clock, poll_interval_seconds: float) -> None:
        super().__init__(clock=clock, poll_interval_seconds=poll_interval_seconds)
        self.over = anyio.Event()
        self.next = anyio.Event()

    def looked(self, assessment: Assessment, *, acting: bool) -> None:
        """A look was taken."""
        super().looked(assessment, acting=acting)
        self.told()

    def unavailable(self, error: WatchdogError, retry_seconds: float) -> None:
        """A look could not be taken."""
        super().unavailable(error, retry_seconds)
        self.told()

    def told(self) -> None:
        """Wake everybody who waits for a look; the loop may have ended without one."""
        self.over.set()
        self.next.set()
        self.next = anyio.Event()


class _Inside:
    """The parts of a watchdog while it runs.

    Args:
        operator: makes the operator for the server's requests, in tasks of a group.
        found: the backend.
    """

    def __init__(
        self,
        watch: Watch,
        first: _FirstLook,
        operator: Callable[[TaskGroup], Operator],
        found: Backend,
        clock: Clock,
    ) -> None:
        self.watch = watch
        self.stop = anyio.Event()
        self.ended = anyio.Event()
        self._first = first
        self._make_operator = operator
        self._operator: Operator | None = None
        self._found = found
        self._clock = clock
        self._overdue: tuple[SessionId, ...] = ()

    async def run(self, failed: Callable[[Exception], None]) -> None:
        """Run the loop until `stop`, then let everything end that was begun.

        Args:
            failed: called with the error that ended the loop, if one did.
        """
        async with anyio.create_task_group() as group:
            self._operator = operator = self._make_operator(group)
            if self._found.leader is not None:
                self._found.leader.answer_for(self.carry_out)
            group.start_soon(watch_loop, self._clock, name="watch the event loop")
            for task in self._found.tasks:
                group.start_soon(task)
            with anyio.CancelScope() as scope:
                group.start_soon(self._cut, scope, name="cut the last look short")
                await self._loop(failed)
            if self._overdue:
                failed(ShutdownTimedOut(f"stopped while it was still acting on {', '.join(self._overdue)}"))
            self.over()
            await self.stop.wait()
            with anyio.move_on_after(_LAST_ANSWERS_SECONDS):
                await operator.operations.over()
            group.cancel_scope.cancel()

    def over(self) -> None:
        """The loop has ended, and nobody waits for it any more."""
        self.ended.set()
        self._first.told()

    async def _loop(self, failed: Callable[[Exception], None]) -> None:
        """Run the loop, with the duties that end with it."""
        async with anyio.create_task_group() as beside:
            for duty in self._found.duties:
                beside.start_soon(duty)
            try:
                await self.watch.run(self.stop)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and kept
                failed(error)
            beside.cancel_scope.cancel()

    async def release(self, session_id: SessionId, *, reason: str | None, below: bool) -> tuple[Outcome, ...]:
        """See `Watchdog.release`."""
        answer = await (await self._ready()).release(session_id, reason=reason, below=below).result()
        if not isinstance(answer, tuple):
            raise TypeError(f"a release answered {type(answer).__name__}")
        return answer

    async def carry_out(self, wanted: Wanted) -> Answer:
        """See `Operator.carry_out`."""
        return await (await self._ready()).carry_out(wanted)

    async def _ready(self) -> Operator:
        await self._first.over.wait()
        await self._take_over()
        if self.stop.is_set() or self._operator is None:
            raise NotActing("This watchdog is stopping, and begins nothing more.")
        if self._first.assessment is None and (self._first.problem or self._found.leader is None):
            raise self._first.problem or NotActing("The loop of this watchdog failed before its first look was over.")
        return self._operator

    async def _take_over(self) -> None:
        """Make a watchdog that has just got the right to act close first what others left begun, at its next look."""
        while not (self.watch.began_to_act or self.watch.pace.dry_run or self.ended.is_set()):
            if not self._found.mandate.acquire():
                return
            if self._first.problem is not None:
                raise self._first.problem
            self.watch.wake()
            await self._first.next.wait()

    async def _cut(self, scope: anyio.CancelScope) -> None:
        """Cut a look short once the watch has to stop: the host may be slow. Interventions get the grace."""
        await self.stop.wait()
        grace_seconds = self.watch.pace.shutdown_grace_seconds
        with anyio.move_on_after(grace_seconds) as waiting:
            await self.watch.acting.stopped()
        if waiting.cancelled_caught:
            # Usually the loop itself says so, and ends.
            with anyio.move_on_after(_CUT_SECONDS):
                await self.ended.wait()
            self._overdue = () if self.ended.is_set() else tuple(sorted(self.watch.acting.begun))
        scope.cancel()


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    host: Host,
    engine: AsyncEngine | None = None,
    listeners: Sequence[Listener] = (),
    dry_run: bool = False,
) -> AsyncIterator[Watchdog]:
    """Watch a server's own sessions from inside its event loop, for as long as the context is open.

    A failure of the loop does not take the server down: it is logged, kept in `failure`, and raised at the end. See
    `Watchdog` for the arguments.

    Raises:
        DatabaseError: the database can't be used.
        JournalUnusable: the journal can't be used, and is not `off`.
        AlreadyWatched: a watchdog already runs in this process.
    """
    dog = Watchdog(settings, host=host, engine=engine, listeners=listeners, dry_run=dry_run)
    async with dog._open():  # noqa: SLF001 - of this module
        yield dog
