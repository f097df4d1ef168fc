"""Asking a host in this process: what it raises, how long it hangs and how long it blocks the loop is contained."""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from inspect import isawaitable
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final, Generic, TypeVar

import anyio

from watchdog.errors import ServerSilent, ServerUnreachable
from watchdog.model import Ask, SessionId, Status
from watchdog.ports import Clock, Host
from watchdog.voice import logger

ANSWER_SECONDS: Final = 5.0
"""How long a host may take to say what it is at work on. An abort has the limit of the ladder."""
BLOCKED_SECONDS: Final = 0.5
"""From when on it is worth a line that something kept the loop from everything else."""
BEAT_SECONDS: Final = 0.1
_SELDOM_SECONDS: Final = 60.0
_MUCH_LONGER: Final = 2.0

Answer = TypeVar("Answer")


class CallableHost:
    """A host of three functions, plain ones or coroutine functions.

    A plain one is called in the loop, so that it may use what belongs to the loop, and must not block it.

    Args:
        statuses: takes a directory; the sessions of it that are not idle, and what each does.
        pending_asks: takes a directory; the questions and permissions of it that wait for a human.
        abort: takes a session and its directory; ends what the session does now. What it returns is of no meaning.
    """

    def __init__(
        self,
        *,
        statuses: Callable[[str], Mapping[SessionId, Status] | Awaitable[Mapping[SessionId, Status]]],
        pending_asks: Callable[[str], Sequence[Ask] | Awaitable[Sequence[Ask]]],
        abort: Callable[[SessionId, str], object],
    ) -> None:
        self.functions: Final[Mapping[str, Callable[..., Any]]] = {
            "statuses": statuses,
            "pending_asks": pending_asks,
            "abort": abort,
        }

    async def statuses(self, directory: str) -> Mapping[SessionId, Status]:
        """See `Host.statuses`."""
        answer: Mapping[SessionId, Status] = await self._call("statuses", directory)
        return answer

    async def pending_asks(self, directory: str) -> Sequence[Ask]:
        """See `Host.pending_asks`."""
        answer: Sequence[Ask] = await self._call("pending_asks", directory)
        return answer

    async def abort(self, session_id: SessionId, directory: str) -> None:
        """See `Host.abort`."""
        await self._call("abort", session_id, directory)

    async def _call(self, what: str, *arguments: str) -> Any:  # noqa: ANN401 - whoever asks checks the answer
        answer = self.functions[what](*arguments)
        return await answer if isawaitable(answer) else answer


class Questions:
    """Puts questions to a host, one at a time or several at once.

    Args:
        host: who is asked.
        clock: times the answers.
    """

    def __init__(self, host: Host, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self._seldom = Seldom(clock)

    async def ask(self, what: str, *arguments: str, seconds: float | None) -> Any:  # noqa: ANN401 - the caller checks it
        """Ask. In a task of its own, so that a cancellation which escapes the host ends nothing but the answer.

        Args:
            what: the method of the host.
            arguments: what it takes.
            seconds: how long the answer may take; None when the caller has a limit.

        Raises:
            ServerSilent: it took too long.
            ServerUnreachable: it raised, or was cancelled.
        """
        name = self.name(what)
        answers: list[Any] = []
        began = self._now()

        async def run() -> None:
            answers.append(await Measured(self._answer(what, *arguments), self._now, blocked))

        def blocked(for_seconds: float) -> None:
            if for_seconds >= BLOCKED_SECONDS and self._seldom.may_say(what, for_seconds):
                logger().warning(
                    "host.blocked", question=what, function=self._function(what), seconds=round(for_seconds, 2)
                )

        try:
            with anyio.fail_after(seconds):
                async with anyio.create_task_group() as group:
                    group.start_soon(run, name=f"ask the host for {what}")
        except TimeoutError as error:
            raise ServerSilent(f"{name} could not answer within {seconds or 0:g} s: TimeoutError") from error
        except Exception as error:
            cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            raise ServerUnreachable(f"{name} could not answer: {type(cause).__name__}{_place(cause)}") from error
        took = self._now() - began
        if not answers:
            raise ServerUnreachable(f"{name} could not answer: it was cancelled")
        if seconds is not None and took > seconds:  # it blocked the loop, so that nothing could cut it short
            raise ServerSilent(f"{name} took {took:.1f} s to answer, and may take {seconds:g} s")
        return answers[0]

    async def _answer(self, what: str, *arguments: str) -> Any:  # noqa: ANN401 - as above
        return await getattr(self._host, what)(*arguments)

    def name(self, what: str) -> str:
        """A method of the host, for people."""
        return f"the host's {what} ({self._function(what)})"

    def _function(self, what: str) -> str:
        functions = self._host.functions if isinstance(self._host, CallableHost) else {}
        host: Any = self._host
        function: Any = functions.get(what) or getattr(host, what, host)
        while isinstance(function, partial):
            function = function.func
        if not hasattr(function, "__qualname__"):
            function = type(function)
        return f"{function.__module__}.{function.__qualname__}"

    def _now(self) -> float:
        return self._clock.read().awake_seconds


class Measured(Generic[Answer]):
    """Awaits something, and tells how long each stretch of it took in which nothing else of the loop could run.

    Args:
        work: what is awaited.
        now: seconds, on a clock that stands still in sleep.
        told: is told of each stretch, in seconds, right after it.
    """

    def __init__(self, work: Awaitable[Answer], now: Callable[[], float], told: Callable[[float], None]) -> None:
        self._work = work
        self._now = now
        self._told = told

    def __await__(self) -> Generator[Any, Any, Answer]:
        inner: Any = self._work.__await__()
        step: Callable[[], Any] = partial(next, inner)
        while True:
            began = self._now()
            try:
                waits_for = step()
            except StopIteration as stop:
                answer: Answer = stop.value
                return answer
            finally:
                self._told(self._now() - began)
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001 - a cancellation, too, is for what is awaited
                step = partial(_throw, inner, error)
            else:
                step = partial(inner.send, value) if value is not None else partial(next, inner)


class Seldom:
    """Keeps what goes wrong again and again from filling the log: once a minute, or when it gets much worse."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said: dict[str, tuple[float, float]] = {}

    def may_say(self, what: str, how_much: float) -> bool:
        """Whether it is worth a line now; if so, it counts as said.

        Args:
            what: one of a few things.
            how_much: how bad it is.
        """
        now = self._clock.read().awake_seconds
        said_at, worst = self._said.get(what, (now - _SELDOM_SECONDS, 0.0))
        if now - said_at < _SELDOM_SECONDS and how_much < _MUCH_LONGER * worst:
            return False
        self._said[what] = (now, how_much)
        return True


async def watch_loop(clock: Clock) -> None:
    """Say in the log, afterwards, when something kept the loop from everything else, and for how long. Never ends."""
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


def _throw(inner: Any, error: BaseException) -> Any:  # noqa: ANN401 - what is awaited decides
    return inner.throw(error)


def _place(error: BaseException) -> str:
    """Where something was raised: the file's name and the line, and nothing of what was said."""
    frames = extract_tb(error.__traceback__)
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
