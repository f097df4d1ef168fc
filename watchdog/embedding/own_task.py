"""A piece of work in a task of its own: one task may begin it, and another one wait for its end."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import anyio

from watchdog.errors import UsageError

Begun = TypeVar("Begun")


class OwnTask(Generic[Begun]):
    """Begins the work, and waits for its end. No scope of its starter reaches into it, nor the other way round.

    Args:
        work: takes a function to call with what it makes, once it has begun.
        stop: asks what it made to end.
        name: the task's name.
    """

    def __init__(
        self,
        work: Callable[[Callable[[Begun], None]], Coroutine[object, object, None]],
        *,
        stop: Callable[[Begun], None],
        name: str,
    ) -> None:
        self._work = work
        self._stop = stop
        self._name = name

    async def begin(self) -> Begun:
        """Begin it. If cancelled in the meantime, it ends, and this waits for its end.

        Raises:
            UsageError: the event loop is none of asyncio's.
            BaseException: the error that ended it before it had begun.
        """
        if not _in_asyncio():
            raise UsageError(
                "The watchdog runs in an event loop of asyncio or uvloop, and this one is of another kind, such as "
                "trio's. Run the server on asyncio."
            )
        begun: asyncio.Future[Begun] = asyncio.get_running_loop().create_future()
        self._begun = begun
        self._task = asyncio.create_task(self._work(begun.set_result), name=self._name)
        either: list[asyncio.Future[Any]] = [self._task, begun]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if begun.done():
                self._stop(begun.result())
            else:
                self._task.cancel()
            await self._over()
            raise
        if not begun.done():
            self._task.result()
        return begun.result()

    def check_loop(self) -> None:
        """Check that this is its event loop.

        Raises:
            UsageError: it is another one.
        """
        if self._task.get_loop() is not asyncio.get_running_loop():
            raise UsageError(
                "This watchdog runs in another event loop: ask and leave it there. From another thread, that is "
                "asyncio.run_coroutine_threadsafe(…, loop).result()."
            )

    async def end(self) -> BaseException | None:
        """Make it stop, and wait for its end, whatever happens to this task in the meantime.

        Returns:
            This task's cancellation, or the error of the work.

        Raises:
            UsageError: this is another event loop. The work stops nevertheless, and this does not wait for it.
        """
        loop, made = self._task.get_loop(), self._begun.result()
        if loop is not asyncio.get_running_loop() and not loop.is_closed():
            loop.call_soon_threadsafe(self._stop, made)
        self.check_loop()
        self._stop(made)
        cancelled = await self._over()
        return cancelled or (None if self._task.cancelled() else self._task.exception())

    async def _over(self) -> asyncio.CancelledError | None:
        cancelled = None
        with anyio.CancelScope(shield=True):
            while not self._task.done():
                try:
                    await asyncio.wait([self._task])
                except asyncio.CancelledError as error:
                    cancelled = error
        return cancelled


def bare(error: BaseException) -> BaseException:
    """The cause of a group, if it is no mere Exception; else the error itself."""
    while isinstance(error, BaseExceptionGroup) and not isinstance(error, ExceptionGroup):
        error = next(each for each in error.exceptions if not isinstance(each, Exception))
    return error


def _in_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
