"""An event loop whose time is virtual: it jumps to the next timer, and never waits for anything real.

What is ready at the same moment runs in an order that a seed decides. A process of the simulation can be stopped and
cut off: what it was about to run is kept back until it goes on. Threads, sockets, subprocesses and files that are
written are refused loudly, since a wait for one of them would have no place in virtual time.
"""

import asyncio
import heapq
import math
import random
import sys
import threading
from asyncio import base_events
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, NoReturn, TypeVar

Result = TypeVar("Result")

PROCESS: Final[ContextVar[int]] = ContextVar("PROCESS", default=0)
"""The process of the simulation that a task belongs to; 0 is the world itself."""
_REFUSED: Final = (
    "_thread.start_new_thread",
    "socket.__new__",
    "socket.connect",
    "subprocess.Popen",
    "sqlite3.connect",
)


class RealInputOutput(BaseException):
    """Something real was about to be awaited. No code of the product can swallow this."""


class NothingLeft(RealInputOutput):
    """Everybody waits, and no timer is left: the simulation would stand still for ever."""


class _Guard:
    """Refuses what is real while a simulated loop runs in this thread."""

    active = False
    installed = False
    start = threading.Thread.start

    @classmethod
    def install(cls) -> None:
        if not cls.installed:
            cls.installed = True
            sys.addaudithook(cls._hear)
            threading.Thread.start = cls._start  # type: ignore[method-assign, assignment]

    @staticmethod
    def _start(thread: threading.Thread) -> None:
        if _Guard.active:
            raise RealInputOutput(f"{thread!r} would be started in a simulated loop")
        _Guard.start(thread)

    @classmethod
    def _hear(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if not cls.active:
            return
        if event in _REFUSED:
            raise RealInputOutput(f"{event} in a simulated loop")
        if event == "open" and isinstance(arguments[1], str) and any(mode in arguments[1] for mode in "wax+"):
            raise RealInputOutput(f"{arguments[0]!r} would be written in a simulated loop")


class _Task(asyncio.Task[Any]):
    """A task with a number: the sets of tasks that asyncio and anyio have are gone through in no fixed order."""

    number = 0


def _number(handle: asyncio.Handle) -> int:
    """The number of the task that a handle lets go on: an order that is the same in each run."""
    task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]  # noqa: SLF001 - whose it is
    return task.number if isinstance(task, _Task) else 0


class SimulatedLoop(base_events.BaseEventLoop):
    """An asyncio event loop in virtual time, which begins at 0.

    Args:
        seed: decides the order of what is ready at the same moment.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._now = 0.0
        self._order = random.Random(seed)  # noqa: S311 - an order, no secret
        self._stopped: dict[int, list[asyncio.Handle]] = {}
        self._tasks = 0
        self.set_task_factory(self._new_task)
        self.turns = 0
        """How many times round it went."""

    def time(self) -> float:
        """What the virtual clock shows, in seconds."""
        return self._now

    def run_until_complete(self, future: Awaitable[Result]) -> Result:  # type: ignore[override]
        """Run until it is done. Whatever real is begun meanwhile is refused."""
        _Guard.install()
        _Guard.active = True
        try:
            result: Result = super().run_until_complete(future)
        finally:
            _Guard.active = False
        return result

    # -- processes -------------------------------------------------------------------------------------------------

    def stop_process(self, process: int) -> None:
        """Let nothing of a process run until it goes on: what becomes ready waits."""
        self._stopped.setdefault(process, [])

    def continue_process(self, process: int) -> None:
        """Let a process go on with what became ready meanwhile."""
        self._ready.extend(self._stopped.pop(process, ()))

    def _new_task(self, _: asyncio.AbstractEventLoop, work: Any, **more: Any) -> _Task:  # noqa: ANN401
        task = _Task(work, loop=self, **more)
        self._tasks += 1
        task.number = self._tasks
        return task

    # -- one turn --------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        if not self._ready:
            self._jump()
        while self._scheduled and self._scheduled[0].when() <= self._now:
            self._ready.append(heapq.heappop(self._scheduled))
        batch = [*self._ready]
        self._ready.clear()
        if len(batch) > 1:
            batch.sort(key=_number)
            self._order.shuffle(batch)
        self.turns += 1
        for handle in batch:
            if not handle.cancelled() and not self._kept_back(handle):
                handle._run()  # noqa: SLF001 - as every loop does

    def _jump(self) -> None:
        """Go to the next timer."""
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)
        if self._scheduled and math.isfinite(self._scheduled[0].when()):
            self._now = max(self._now, self._scheduled[0].when())
        elif not self._stopping:
            raise NothingLeft(f"nothing is left to wait for at {self._now:.3f} s of virtual time")

    def _kept_back(self, handle: asyncio.Handle) -> bool:
        if not self._stopped:
            return False
        process = handle._context.get(PROCESS, 0)  # type: ignore[attr-defined]  # noqa: SLF001 - who it belongs to
        if process not in self._stopped:
            return False
        self._stopped[process].append(handle)
        return True

    _stopping: bool

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """What is cancelled is thrown away when its time comes."""

    # -- what is refused -------------------------------------------------------------------------------------------

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> NoReturn:  # type: ignore[override]  # noqa: ANN401, ARG002
        """Refused: no thread has a place in virtual time."""
        raise RealInputOutput(f"run_in_executor({func!r}) in a simulated loop")

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, **_: Any) -> NoReturn:  # type: ignore[override]  # noqa: ANN401, ARG002
        """Refused: nobody else is there."""
        raise RealInputOutput(f"call_soon_threadsafe({callback!r}) in a simulated loop")

    def add_reader(self, fd: Any, *_: Any) -> NoReturn:  # type: ignore[override]  # noqa: ANN401
        """Refused: no descriptor is watched."""
        raise RealInputOutput(f"add_reader({fd!r}) in a simulated loop")

    def add_writer(self, fd: Any, *_: Any) -> NoReturn:  # type: ignore[override]  # noqa: ANN401
        """Refused: no descriptor is watched."""
        raise RealInputOutput(f"add_writer({fd!r}) in a simulated loop")

    def _make_socket_transport(self, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401
        raise RealInputOutput("a socket in a simulated loop")

    async def _make_subprocess_transport(self, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401
        raise RealInputOutput("a subprocess in a simulated loop")

    def _write_to_self(self) -> None:
        """Nobody has to be woken."""

    def _process_events(self, event_list: object) -> None:
        """There are none."""


def simulate(main: Callable[[SimulatedLoop], Awaitable[Result]], *, seed: int = 0) -> Result:
    """Run a coroutine to its end in a simulated loop of its own; what it leaves behind is cancelled."""
    loop = SimulatedLoop(seed)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
