"""What people asked a running watchdog to do: each goes on to its end, whoever still waits for it."""

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum

import anyio
from anyio.abc import TaskGroup

from watchdog.acting.undo import Undoing
from watchdog.console.logger import logger
from watchdog.errors import Busy, NotActing, WatchdogError
from watchdog.model.outcome import Outcome
from watchdog.model.session import SessionId
from watchdog.operating.release import Deletion
from watchdog.ports import Clock

MOST_RUNNING = 64
MOST_KEPT = 200

Answer = tuple[Outcome, ...] | Deletion | Undoing


class OperationKind(StrEnum):
    """What was asked for."""

    RELEASE = "release"
    DELETE_MESSAGE = "delete_message"
    UNDO = "undo"


@dataclass(kw_only=True, eq=False)
class Operation:
    """One thing that was asked for.

    Attributes:
        answer: what came of it, once it ended well.
        error: what it raised, once it ended so.
    """

    id: str
    kind: OperationKind
    session_id: SessionId
    began_ms: int
    ended_ms: int | None = None
    answer: Answer | None = None
    error: Exception | None = None
    _over: anyio.Event = field(default_factory=anyio.Event)

    async def over_within(self, seconds: float) -> bool:
        """Wait for its end, but not longer than that. Whether it is over."""
        with anyio.move_on_after(seconds):
            await self._over.wait()
        return self._over.is_set()

    async def ended(self) -> None:
        """Wait for its end, whatever came of it."""
        await self._over.wait()

    async def result(self) -> Answer:
        """Wait for its end.

        Raises:
            WatchdogError: what it raised.
        """
        await self._over.wait()
        if self.error is not None:
            raise self.error
        if self.answer is None:
            raise RuntimeError(f"operation {self.id} ended without an answer")
        return self.answer

    async def run(self, work: Callable[[], Awaitable[Answer]], clock: Clock) -> None:
        """Do the work, and keep what came of it. What it raises is kept, for each who waits."""
        try:
            self.answer = await work()
        except Exception as error:  # noqa: BLE001 - told to each who asked, and to the log where it is our own
            self.error = error
            if not isinstance(error, WatchdogError):
                logger().error("operation.failed", kind=self.kind.value, session_id=self.session_id, exc_info=error)
        except anyio.get_cancelled_exc_class():
            self.error = NotActing("This watchdog stopped before that was over.")
            raise
        finally:
            self.ended_ms = clock.read().wall_ms
            self._over.set()


class Operations:
    """Runs operations. The same thing that is asked for twice at the same time is done once.

    Args:
        group: the tasks that run them; whoever asked may go away.
        clock: tells when they began and ended.
    """

    def __init__(self, group: TaskGroup, clock: Clock) -> None:
        self._group = group
        self._clock = clock
        self._running: dict[Hashable, Operation] = {}
        self._ended: OrderedDict[str, Operation] = OrderedDict()

    def begin(
        self, kind: OperationKind, key: Hashable, session_id: SessionId, work: Callable[[], Awaitable[Answer]]
    ) -> Operation:
        """Begin, or join what runs already.

        Args:
            kind: what is asked for.
            key: what it is asked for; the same key is the same thing.
            session_id: the session that it is about.
            work: does it.

        Raises:
            Busy: too many run.
        """
        running = self._running.get((kind, key))
        if running is not None:
            return running
        if len(self._running) >= MOST_RUNNING:
            raise Busy(f"{MOST_RUNNING} operations are under way; try again when one of them is over.")
        operation = Operation(
            id=f"op_{secrets.token_hex(8)}", kind=kind, session_id=session_id, began_ms=self._clock.read().wall_ms
        )
        self._running[(kind, key)] = operation
        self._group.start_soon(self._run, (kind, key), operation, work, name=f"{kind.value} {key}")
        return operation

    def get(self, operation_id: str) -> Operation | None:
        """An operation that runs, or that is one of the last that ended."""
        running = (each for each in self._running.values() if each.id == operation_id)
        return self._ended.get(operation_id) or next(running, None)

    async def over(self) -> None:
        """Wait for the end of all that run."""
        while self._running:
            await next(iter(self._running.values())).ended()

    async def _run(self, key: Hashable, operation: Operation, work: Callable[[], Awaitable[Answer]]) -> None:
        try:
            await operation.run(work, self._clock)
        finally:
            del self._running[key]
            self._ended[operation.id] = operation
            while len(self._ended) > MOST_KEPT:
                self._ended.popitem(last=False)
