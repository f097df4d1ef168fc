"""The connections to one server.

httpx's own pool hides which connection a request takes. Here the connection decides: a password goes only over a
connection on which the server asked for it, and a question on a connection that was just closed is asked once more on
a new one.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import anyio
import httpx

from watchdog.opencode.http.doors import Door
from watchdog.opencode.http.lines import Line, NetworkLine, SocketLine, TransportLine
from watchdog.opencode.http.trust import Credentials, Stranger, Trust
from watchdog.ports import Clock

MOST_LINES: Final = 64
KEPT_SECONDS: Final = 30.0
FRESH_SECONDS: Final = 2.0
"""How long after an answer a connection counts as open for requests that may be sent only once."""
REFUSAL_SECONDS: Final = 2.0
MOST_REFUSAL_BYTES: Final = 64 * 1024
CREDENTIALS: Final = "watchdog.credentials"
"""The extension of an answer that says what became of the credentials: `SENT`, `NONE`, or why they were withheld."""
LOCATION: Final = "watchdog.location"
"""The extension of an answer that says where a redirect leads."""
SENT: Final = "sent"
NONE: Final = "none"
_UNAUTHORIZED: Final = 401


class Stale(httpx.NetworkError):
    """A kept connection turned out to be closed, and the request got no answer."""


class Wire(httpx.AsyncBaseTransport):
    """Carries requests over connections of its own. It follows no redirect, and uses no proxy.

    Args:
        credentials: for a server that asks; None if there are none.
        trust: who may have them.
        clock: times how long ago a connection answered.
        tls: checks certificates; None for plain HTTP.
        transport: carries the requests instead of the network.
        door: the socket to connect to, whatever the URL says.
    """

    def __init__(
        self,
        *,
        credentials: Credentials | None,
        trust: Trust,
        clock: Clock,
        tls: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        door: Door | None = None,
    ) -> None:
        self._credentials = credentials
        self._trust = trust
        self._clock = clock
        self._tls = tls
        self._transport = transport
        self._door = door
        self._slots = anyio.Semaphore(MOST_LINES)
        self._lines: set[Line] = set()
        self._idle: list[Line] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request: once, except for a question on a connection that the other side had just closed."""
        await self._slots.acquire()
        line = None
        try:
            try:
                response, line = await self._answered(request, await self._kept(request) or self._new(request))
            except Stale:
                response, line = await self._answered(request, self._new(request))
        finally:
            if line is None:
                self._slots.release()
        response.stream = _Body(response.stream, lambda: self._done(line))
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        for line in tuple(self._lines):
            await self._drop(line)
        if self._transport is not None:
            await self._transport.aclose()

    async def _answered(self, request: httpx.Request, line: Line) -> tuple[httpx.Response, Line]:
        """The answer to a request, sent again with the password if the server asked for it and may have it."""
        response = await self._sent(request, line)
        if response.status_code != _UNAUTHORIZED or self._credentials is None or line.told:
            return _marked(response, SENT if line.told else NONE), line
        try:
            try:
                await self._trust.admit(line.ends)
                line = await self._after_refusal(request, response, line)
            except Stranger as stranger:
                if isinstance(response.stream, httpx.AsyncByteStream):
                    await response.stream.aclose()
                response.stream = httpx.ByteStream(b"")
                return _marked(response, str(stranger)), line
            line.told = True
        except BaseException:
            await self._drop(line)
            raise
        return _marked(await self._sent(request, line), SENT), line

    async def _after_refusal(self, request: httpx.Request, refusal: httpx.Response, line: Line) -> Line:
        """The connection that may carry the password: the same one, if the server keeps it.

        Raises:
            Stranger: it takes another one, and nobody can tell whom that leads to.
        """
        if await _is_drained(refusal) and line.usable:
            return line
        await self._drop(line)
        another = self._new(request)
        try:
            await another.open(request)
            if self._tls is None:  # a certificate tells for certain
                await self._trust.admit(another.ends, new=True)
        except BaseException:
            await self._drop(another)
            raise
        return another

    async def _sent(self, request: httpx.Request, line: Line) -> httpx.Response:
        """Send a request over one connection, with the password if the server asked for it there."""
        first = line.answered_at is None
        header = self._credentials.header if self._credentials is not None and line.told else None
        try:
            if first:
                await line.open(request)
                await self._trust.meet(line.ends)
            response = await line.send(request, header)
        except httpx.TransportError as error:
            await self._drop(line)
            late = isinstance(error, httpx.TimeoutException)
            if not first and not late and not line.heard and request.method == "GET":
                raise Stale(str(error)) from error
            raise
        except BaseException:
            await self._drop(line)
            raise
        line.answered_at = self._clock.read().awake_seconds
        # httpx would read where a redirect leads although it does not follow it, and fail if it can't.
        response.extensions[LOCATION] = response.headers.pop("location", None)
        return response

    async def _kept(self, request: httpx.Request) -> Line | None:
        """A connection that is open, as far as can be told; what is sent only once needs one that just answered."""
        now = self._clock.read().awake_seconds
        for line in [each for each in self._idle if not (each.usable and self._age(each, now) <= KEPT_SECONDS)]:
            await self._drop(line)
        if not self._idle or (request.method != "GET" and self._age(self._idle[-1], now) > FRESH_SECONDS):
            return None
        return self._idle.pop()

    @staticmethod
    def _age(line: Line, now: float) -> float:
        return now - (line.answered_at or 0.0)

    def _new(self, request: httpx.Request) -> Line:
        line = self._made(request.url)
        self._lines.add(line)
        return line

    def _made(self, url: httpx.URL) -> Line:
        if self._transport is not None:
            return TransportLine(self._transport)
        return NetworkLine(url, self._tls) if self._door is None else SocketLine(url, self._door)

    async def _done(self, line: Line) -> None:
        """An answer was read, or is no longer wanted."""
        self._slots.release()
        if line in self._lines and line.usable and len(self._idle) < MOST_LINES:
            self._idle.append(line)
        else:
            await self._drop(line)

    async def _drop(self, line: Line) -> None:
        self._lines.discard(line)
        if line in self._idle:
            self._idle.remove(line)
        with anyio.CancelScope(shield=True):
            await line.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of an answer; its connection is free when it is closed."""

    def __init__(self, stream: object, done: Callable[[], Awaitable[None]]) -> None:
        if not isinstance(stream, httpx.AsyncByteStream):
            raise TypeError(stream)
        self._stream = stream
        self._done: Callable[[], Awaitable[None]] | None = done

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        done, self._done = self._done, None
        try:
            await self._stream.aclose()
        finally:
            if done is not None:
                await done()


def _marked(response: httpx.Response, word: str) -> httpx.Response:
    response.extensions[CREDENTIALS] = word
    return response


async def _is_drained(refusal: httpx.Response) -> bool:
    """Read the body of a refusal to free its connection; false if that takes too long."""
    size = 0
    with anyio.move_on_after(REFUSAL_SECONDS):
        stream = refusal.stream
        if isinstance(stream, httpx.AsyncByteStream):
            async for chunk in stream:
                size += len(chunk)
                if size > MOST_REFUSAL_BYTES:
                    return False
            await stream.aclose()
            return True
    return False
