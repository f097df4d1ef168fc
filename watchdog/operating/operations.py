"""What people asked a running watchdog to do: each runs to its end, whoever still waits for it."""

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
    """The kind of a request."""

    RELEASE = "release"
    DELETE_MESSAGE = "delete_message"
    UNDO = "undo"


@dataclass(kw_only=True, eq=False)
class Operation:
    """One request.

    Attributes:
        answer: its result, once it succeeded.
        error: its error, once it failed.
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
        """Wait for its end, but not longer than that. Returns whether it is over."""
        with anyio.move_on_after(seconds):
            await self._over.wait()
        return self._over.is_set()

    async def ended(self) -> None:
        """Wait for its end, with any result."""
        await self._over.wait()

    async def result(self) -> Answer:
        """Wait for its end.

        Raises:
            WatchdogError: its error.
        """
        await self._over.wait()
        if self.error is not None:
            raise self.error
        if self.answer is None:
            raise RuntimeError(f"operation {self.id} ended without an answer")
        return self.answer

    async def run(self, work: Callable[[], Awaitable[Answer]], clock: Clock) -> None:
        """Do the work, and keep its result. An error is kept for everybody who waits."""
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
    """Runs operations. The same request twice at the same time runs once.

    Args:
        group: the tasks that run them; the caller may go away.
        clock: says when they began and ended.
    """

    def __init__(self, group: TaskGroup, clock: Clock) -> None:
        self._group = group
        self._clock = clock
        self._running: dict[Hashable, Operation] = {}
        self._ended: OrderedDict[str, Operation] = OrderedDict()

    def begin(
        self, kind: OperationKind, key: Hashable, session_id: SessionId, work: Callable[[], Awaitable[Answer]]
    ) -> Operation:
        """Begin, or join what already runs.

        Args:
            kind: the kind of the request.
            key: identifies the request; the same key means the same request.
            session_id: the session in question.
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
        """Wait for the end of all running ones."""
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
