"""Asks a host in this process, and contains what it raises, how long it hangs and how long it blocks the loop."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from inspect import isawaitable, signature
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final, Generic, TypeVar

import anyio

from watchdog.console.logger import logger
from watchdog.errors import HostUnfit, ServerSilent, ServerUnreachable
from watchdog.model.session import Ask, SessionId, Status
from watchdog.ports import Clock, Host
from watchdog.sharing import SingleFlight

ANSWER_SECONDS: Final = 5.0
"""How long a host may take to say what it is at work on. An abort has the limit of the ladder."""
BLOCKED_SECONDS: Final = 0.5
"""From this time on, it is worth a log line that something blocked the loop."""
BEAT_SECONDS: Final = 0.1
_ENDING_SECONDS: Final = 0.1
_FORMS: Final[Mapping[str, Sequence[str]]] = {"statuses": (), "pending_asks": (), "abort": ("session_id",)}
_SELDOM_SECONDS: Final = 60.0
_MUCH_LONGER: Final = 2.0

Answer = TypeVar("Answer")


class CallableHost:
    """A host of three functions, plain ones or coroutine functions.

    A plain one is called in the loop: it may use what belongs to the loop, and must not block it.

    Args:
        statuses: the sessions that are not idle, and what each does.
        pending_asks: the questions and permissions that wait for a human.
        abort: takes a session; ends what it does now. Its result is ignored.
    """

    def __init__(
        self,
        *,
        statuses: Callable[[], Mapping[SessionId, Status] | Awaitable[Mapping[SessionId, Status]]],
        pending_asks: Callable[[], Sequence[Ask] | Awaitable[Sequence[Ask]]],
        abort: Callable[[SessionId], object],
    ) -> None:
        self.functions: Final[Mapping[str, Callable[..., Any]]] = {
            "statuses": statuses,
            "pending_asks": pending_asks,
            "abort": abort,
        }

    async def statuses(self) -> Mapping[SessionId, Status]:
        """See `Host.statuses`."""
        answer: Mapping[SessionId, Status] = await self._call("statuses")
        return answer

    async def pending_asks(self) -> Sequence[Ask]:
        """See `Host.pending_asks`."""
        answer: Sequence[Ask] = await self._call("pending_asks")
        return answer

    async def abort(self, session_id: SessionId) -> None:
        """See `Host.abort`."""
        await self._call("abort", session_id)

    async def _call(self, what: str, *arguments: str) -> Any:  # noqa: ANN401 - whoever asks checks the answer
        answer = self.functions[what](*arguments)
        return await answer if isawaitable(answer) else answer


class Questions:
    """Puts questions to a host. Each runs apart from its caller, and one that does not end is left behind.

    The same question is put once at a time: further callers wait, and share the next answer. While a question that
    was left behind goes on (in a thread, say, which nothing can cut short), it is not put again.

    Args:
        host: the host to ask.
        clock: times the answers.

    Raises:
        HostUnfit: the host lacks a function, or has one of another form.
    """

    def __init__(self, host: Host, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self._seldom = Seldom(clock)
        self._shared: SingleFlight[Any] = SingleFlight()
        self._under_way: dict[tuple[str, ...], asyncio.Task[Any]] = {}
        for what, takes in _FORMS.items():
            self._check(what, takes)

    async def ask(self, what: str, *arguments: str, seconds: float | None) -> Any:  # noqa: ANN401 - the caller checks it
        """Ask.

        Args:
            what: the method of the host.
            arguments: what it takes.
            seconds: how long the answer may take; None when the caller has a limit.

        Raises:
            ServerSilent: it took too long, or still does.
            ServerUnreachable: it raised, or was cancelled.
        """
        return await self._shared.ask((what, *arguments), partial(self._put, (what, *arguments), seconds))

    async def _put(self, question: tuple[str, ...], seconds: float | None) -> Any:  # noqa: ANN401 - as above
        what, *arguments = question
        name, began = self.name(what), self._now()
        if not await self._is_free(question):
            raise ServerSilent(f"{name} has not ended since it was last asked: it is not asked again before that")

        def blocked(for_seconds: float) -> None:
            if for_seconds >= BLOCKED_SECONDS and self._seldom.may_say(what, for_seconds):
                logger().warning(
                    "host.blocked", question=what, function=self._function(what), seconds=round(for_seconds, 2)
                )

        scope = anyio.CancelScope()
        measured = Measured(self._answer(what, *arguments), self._now, blocked)

        async def run() -> Any:  # noqa: ANN401 - as above
            with scope:
                return await measured

        task = self._under_way[question] = asyncio.create_task(run(), name=f"ask the host for {what}")
        task.add_done_callback(partial(self._ended, question))
        try:
            await asyncio.wait([task], timeout=seconds)
        finally:
            cut = not task.done()
            if not _is_of_a_thread(measured.waits_for):
                scope.cancel()  # not the task: it would then end although it waits for an anyio thread
        if cut:
            raise ServerSilent(f"{name} could not answer within {seconds or 0:g} s: TimeoutError")
        if task.cancelled():
            raise ServerUnreachable(f"{name} could not answer: it was cancelled")
        if (error := task.exception()) is not None:
            cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            raise ServerUnreachable(f"{name} could not answer: {type(cause).__name__}{_place(cause)}") from error
        took = self._now() - began
        if seconds is not None and took > seconds:  # it blocked the loop, and nothing could cut it short
            raise ServerSilent(f"{name} took {took:.1f} s to answer, and may take {seconds:g} s")
        return task.result()

    async def _is_free(self, question: tuple[str, ...]) -> bool:
        """Whether an earlier one is over. One that was cut short a moment ago may need another moment to end."""
        left = self._under_way.get(question)
        if left is not None:
            await asyncio.wait([left], timeout=_ENDING_SECONDS)
        return left is None or left.done()

    def _ended(self, question: tuple[str, ...], task: asyncio.Task[Any]) -> None:
        self._under_way.pop(question, None)
        if not task.cancelled():
            task.exception()  # the caller has it, or has left it behind

    def _check(self, what: str, takes: Sequence[str]) -> None:
        """Refuse a function that can't be called in the way in which it will be."""
        function = self._given(what)
        form = f"{what}({', '.join(takes)})"
        if not callable(function):
            raise HostUnfit(f"The host {type(self._host).__qualname__} has no function {form}: give it one.")
        try:
            signature(function).bind(*takes)
        except TypeError as error:
            raise HostUnfit(
                f"It can't be watched: {self.name(what)} can't be called as {form}, {error}. A host answers for all "
                "folders at once: take the parameter `directory` out, and answer for every session."
            ) from None
        except ValueError:
            return  # nothing says what it takes

    async def _answer(self, what: str, *arguments: str) -> Any:  # noqa: ANN401 - as above
        answer = await getattr(self._host, what)(*arguments)
        return _copied(answer) if what != "abort" else None

    def name(self, what: str) -> str:
        """A method of the host, for people."""
        return f"the host's {what} ({self._function(what)})"

    def _given(self, what: str) -> Any:  # noqa: ANN401 - whatever the host has under that name
        """The function that answers, as the host's maker gave it; None if there is none."""
        functions = self._host.functions if isinstance(self._host, CallableHost) else {}
        return functions.get(what) or getattr(self._host, what, None)

    def _function(self, what: str) -> str:
        function: Any = self._given(what) or self._host
        while isinstance(function, partial):
            function = function.func
        if not hasattr(function, "__qualname__"):
            function = type(function)
        return f"{function.__module__}.{function.__qualname__}"

    def _now(self) -> float:
        return self._clock.read().awake_seconds


class Measured(Generic[Answer]):
    """Awaits something, and reports how long each stretch of it took in which nothing else in the loop could run.

    Args:
        work: the thing to await.
        now: seconds, on a clock that stands still in sleep.
        told: called with each stretch, in seconds, right after it.

    Attributes:
        What it waits for now, usually a future of asyncio's.
    """

    def __init__(self, work: Awaitable[Answer], now: Callable[[], float], told: Callable[[float], None]) -> None:
        self._work = work
        self._now = now
        self._told = told
        self.waits_for: object = None

    def __await__(self) -> Generator[Any, Any, Answer]:
        inner: Any = self._work.__await__()
        step: Callable[[], Any] = partial(next, inner)
        while True:
            began = self._now()
            try:
                self.waits_for = step()
            except StopIteration as stop:
                answer: Answer = stop.value
                return answer
            finally:
                self._told(self._now() - began)
            try:
                value = yield self.waits_for
            except BaseException as error:  # noqa: BLE001 - a cancellation, too, is for what is awaited
                step = partial(_throw, inner, error)
            else:
                step = partial(inner.send, value) if value is not None else partial(next, inner)


class Seldom:
    """Limits log lines about repeated trouble: once a minute, or when it gets much worse."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said: dict[str, tuple[float, float]] = {}

    def may_say(self, what: str, how_much: float) -> bool:
        """Whether it is worth a line now; if so, it counts as logged.

        Args:
            what: the kind of trouble.
            how_much: how bad it is.
        """
        now = self._clock.read().awake_seconds
        said_at, worst = self._said.get(what, (now - _SELDOM_SECONDS, 0.0))
        if now - said_at < _SELDOM_SECONDS and how_much < _MUCH_LONGER * worst:
            return False
        self._said[what] = (now, how_much)
        return True


async def watch_loop(clock: Clock) -> None:
    """Log, afterwards, that something blocked the loop, and for how long. Never ends."""
    seldom = Seldom(clock)
    while True:
        began = clock.read().awake_seconds
        await clock.sleep(BEAT_SECONDS)
        late = clock.read().awake_seconds - began - BEAT_SECONDS
        if late >= BLOCKED_SECONDS and seldom.may_say("loop", late):
            logger().warning(
                "loop.blocked",
                seconds=round(late, 2),
                why="something ran in the event loop without awaiting, or the process was stopped",
            )


def _copied(answer: Any) -> Any:  # noqa: ANN401 - as above
    """What a host gave, as it is now: it may be the host's own and go on, and it may raise when it is read."""
    if isinstance(answer, Mapping):
        return dict(answer.items())
    return list(answer) if isinstance(answer, Sequence) else answer


def _is_of_a_thread(future: object) -> bool:
    """Whether a thread of a pool answers it, for `asyncio.to_thread` or `run_in_executor`.

    Cancelled, it would end at once and the thread would not: after many questions, threads would pile up. Only the
    future that asyncio chained it with shows it.
    """
    chained = getattr(future, "_callbacks", None) or ()
    return any("_chain_future" in getattr(callback, "__qualname__", "") for callback, _ in chained)


def _throw(inner: Any, error: BaseException) -> Any:  # noqa: ANN401 - what is awaited decides
    return inner.throw(error)


def _place(error: BaseException) -> str:
    """Where an exception was raised: the file's name and the line, and none of its words."""
    frames = extract_tb(error.__traceback__)
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
