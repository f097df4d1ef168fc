"""Lets requests in, limits what they may send, and completes every answer."""

from typing import Final

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from watchdog.control.access.connections import Connections
from watchdog.control.access.gate import Bounds, Gate
from watchdog.control.access.problems import problem_of
from watchdog.ports import Clock

CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
EXPOSED: Final = ("Location", "Retry-After")
"""The headers of an answer that a listed foreign page may read."""


class Door:
    """Lets in what the gate lets in; every answer gets its headers, and no error goes further.

    Args:
        app: the application behind it.
        gate: decides.
        connections: hears which ones showed the token.
        clock: for the rates.
    """

    def __init__(self, app: ASGIApp, *, gate: Gate, connections: Connections, clock: Clock) -> None:
        self._app = app
        self._gate = gate
        self._crowd = connections
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return None
        headers, path = Headers(scope=scope), scope["path"]
        host, port = scope.get("client") or ("unknown", 0)
        now_seconds = self._clock.read().awake_seconds
        admitted = self._gate.admits(headers)
        self._crowd.asks((host, port), known=admitted)
        exchange = _Exchange(
            receive, send, headers=headers, bounds=self._gate.bounds, origin=self._origin(headers), clock=self._clock
        )
        problem = self._gate.objection(
            method=scope["method"],
            path=path,
            headers=headers,
            admitted=admitted,
            client=host,
            now_seconds=now_seconds,
        )
        if scope["method"] == "HEAD":
            scope, exchange.headless = {**scope, "method": "GET"}, True
        pause_seconds = self._gate.pause_seconds(problem, path=path, client=host, now_seconds=now_seconds)
        if pause_seconds:
            await self._clock.sleep(pause_seconds)
        if problem is not None:
            return await problem.response(path)(scope, exchange.receive, exchange.send)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - one request must not take anything else down; the log has it
            structlog.get_logger("watchdog").error("control.request_failed", path=path, exc_info=error)
            if not exchange.started:
                await problem_of(error).response(path)(scope, exchange.receive, exchange.send)

    def _origin(self, headers: Headers) -> str | None:
        """The foreign page that asks, if it may read the answer."""
        origin = headers.get("origin")
        return origin if origin in self._gate.names.origins else None


class _Exchange:
    """One request and its answer.

    Args:
        origin: the foreign page that may read the answer.

    Attributes:
        started: the answer began.
        headless: the client wants only the head of the answer.
    """

    def __init__(
        self, receive: Receive, send: Send, *, headers: Headers, bounds: Bounds, origin: str | None, clock: Clock
    ) -> None:
        self._receive, self._send = receive, send
        self._bounds, self._origin, self._clock = bounds, origin, clock
        self._until = clock.read().awake_seconds + bounds.body_seconds
        length = headers.get("content-length", "")
        self._bytes = int(length[:20]) if length.isascii() and length.isdigit() else 0
        self._received = 0
        self._whole = False
        self._over = anyio.Event()
        self.started = False
        self.headless = False

    async def receive(self) -> Message:
        """Receive a body within limits of size and time: beyond them a read raises an `HTTPException`."""
        if self._whole and self.headless:
            await self._over.wait()
            return {"type": "http.disconnect"}
        if self._whole:
            return await self._receive()
        message = await self._in_time()
        self._whole = not message.get("more_body", False)
        self._received += len(message.get("body", b""))
        if max(self._bytes, self._received) > self._bounds.body_bytes:
            raise HTTPException(413, f"A body holds at most {self._bounds.body_bytes} bytes")
        return message

    async def _in_time(self) -> Message:
        with anyio.move_on_after(max(0.0, self._until - self._clock.read().awake_seconds)):
            return await self._receive()
        if self.started:
            return {"type": "http.disconnect"}
        seconds = f"{self._bounds.body_seconds:g}"
        raise HTTPException(408, f"The body was not there after {seconds} s", headers={"Connection": "close"})

    async def send(self, message: Message) -> None:
        """Send a part of the answer; of one without a body, only its head."""
        if message["type"] == "http.response.start":
            self.started = True
            self._dress(MutableHeaders(scope=message))
        elif self.headless:
            if self._over.is_set():
                return
            self._over.set()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _dress(self, headers: MutableHeaders) -> None:
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        if self._origin is not None and "access-control-allow-origin" not in headers:
            headers["Access-Control-Allow-Origin"] = self._origin
            headers["Access-Control-Expose-Headers"] = ", ".join(EXPOSED)
            headers.add_vary_header("Origin")
