"""The responses of `GET /api/v1/events` and `GET /api/v1/state/events`."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import anyio
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from watchdog.control.events import Event, Events, Reader

HEARTBEAT_SECONDS: Final = 15.0
_TIMES: Final = frozenset({"observed_at", "now"})
_STEP: Final = 18
"""The length of a moment to tens of seconds: what moves by less is no change."""


class EventStream(Response):
    """Server-sent events until the client goes, is dropped or is no longer let in, or the API ends.

    Args:
        events: the events to send.
        last_id: the event after which to begin.
        still_in: whether the client is still let in.

    Raises:
        Busy: too many read already.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Events, last_id: str | None, *, still_in: Callable[[], bool]) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._last_id = last_id
        self._still_in = still_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Stream."""
        with self._events.read(self._last_id) as reader, reader.scope:
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_when_gone, receive, reader.scope, name="wait for a client of events to go")
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async with aclosing(self.chunks(reader)) as chunks:
                    async for chunk in chunks:
                        if not self._still_in():
                            break
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                group.cancel_scope.cancel()
        if reader.dropped:
            structlog.get_logger("watchdog").info("control.reader_dropped", why="it does not read what it is sent")

    def chunks(self, reader: Reader) -> AsyncGenerator[bytes, None]:
        """The parts of the answer."""
        return _chunks(reader)


class StateStream(EventStream):
    """The same for the state: whole at first, and again whenever it is another one.

    Args:
        look: the state now, with the last look's times in it.
    """

    def __init__(
        self, events: Events, *, still_in: Callable[[], bool], look: Callable[[], Awaitable[Mapping[str, Any]]]
    ) -> None:
        super().__init__(events, None, still_in=still_in)
        self._look = look

    async def chunks(self, reader: Reader) -> AsyncGenerator[bytes, None]:
        """The parts of the answer."""
        said: object = None
        async with aclosing(_chunks(reader)) as chunks:
            async for chunk in chunks:
                state = await self._look()
                if (now := _without_trifles(state)) != said:
                    said = now
                    yield Event(id=None, name="state", data=state).encode()
                elif chunk.startswith(b":"):
                    yield chunk


def _without_trifles(state: Mapping[str, Any]) -> object:
    """It without what is another one at each look."""
    sessions = [
        {name: value[:_STEP] if name in {"since", "until"} and value else value for name, value in each.items()}
        for each in state["sessions"]
    ]
    return {name: value for name, value in state.items() if name not in _TIMES} | {"sessions": sessions}


async def _chunks(reader: Reader) -> AsyncGenerator[bytes, None]:
    hello = {"resumed": reader.resumed, "heartbeat_seconds": HEARTBEAT_SECONDS}
    yield Event(id=None, name="hello", data=hello).encode()
    for event in reader.missed:
        yield event.encode()
    while True:
        chunk = b": alive\n\n"
        with anyio.move_on_after(HEARTBEAT_SECONDS):
            try:
                chunk = (await reader.live.receive()).encode()
            except anyio.EndOfStream:
                return
        yield chunk


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # what is left of the request's body
    scope.cancel()
