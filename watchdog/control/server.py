"""uvicorn inside the watchdog's own event loop."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import anyio
import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from watchdog.control.access.connections import Connections
from watchdog.errors import SettingsError
from watchdog.settings.addresses import Address
from watchdog.settings.sockets import peer_of

_BACKLOG: Final = 256
_KEEP_ALIVE_SECONDS: Final = 15
_MOST_HEADER_BYTES: Final = 16 * 1024
HEAD_SECONDS: Final = 10.0
"""How long a client may take to send its request."""
UNREAD_SECONDS: Final = 10.0
"""How long a client may read nothing of what it is sent."""
_END_SECONDS: Final = 2
_AGAIN_SECONDS: Final = 5.0
_NUMBERS: Final = count()
"""Tell connections apart that have no port."""


class _Protocol(H11Protocol):
    """HTTP/1.1 for clients that must be quick: they send their request soon, and read the answer.

    Args:
        connections: the open ones; each costs a descriptor, and the database needs some.
        parts: uvicorn's parts of a connection.
    """

    def __init__(self, connections: Connections, **parts: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(**parts)
        self._crowd = connections
        self._late: asyncio.TimerHandle | None = None
        self._unread, self._unread_since = 0, 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        if self.client is None:  # a Unix socket: each process is an address there
            self.client = f"pid {peer_of(transport.get_extra_info('socket'))}", next(_NUMBERS)
        gone = self._crowd.enter(self.client)
        for each in tuple(self.connections) if gone else ():
            if isinstance(each, _Protocol) and each.client == gone:
                each.transport.abort()
        self._late = self.loop.call_later(HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """It sends something; half a request is none."""
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if self._late is not None and answering:
            self._late.cancel()
            self._late = None
        elif self._late is None and not answering:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def end_if_unread(self) -> None:
        """Cut off a client that reads nothing of what it is sent; a slow reader may read on."""
        unread, before = self.transport.get_write_buffer_size(), self._unread
        if not unread or not before or unread < before:
            self._unread_since = self.loop.time()
        elif self.loop.time() - self._unread_since > UNREAD_SECONDS:
            self.transport.abort()
        self._unread = unread

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self._late is not None:
            self._late.cancel()
        if self.client is not None:
            self._crowd.leave(self.client)
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """A server that leaves the signals to the program."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the loop, and the loop's end ends this."""
        yield


def listen_at(address: Address) -> socket.socket:
    """A socket that listens.

    Raises:
        SettingsError: the address is taken, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    host = "127.0.0.1" if address.host == "localhost" else address.host
    # The protocol is named; otherwise asyncio would not switch Nagle's algorithm off.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, address.port))
        listener.listen(_BACKLOG)
        listener.settimeout(0)
    except OSError as error:
        listener.close()
        reason = (error.strerror or type(error).__name__).lower()
        raise SettingsError(
            f"control: {address} can't be listened at: {reason}. Give another address, or end what has this one."
        ) from error
    return listener


async def serve(
    app: ASGIApp, address: Address, first: socket.socket, stop: anyio.Event, *, connections: Connections
) -> None:
    """Serve at an address until stopped. A failure is logged, and it is tried again: it never ends the loop.

    Args:
        app: answers.
        address: where.
        first: the socket that already listens there.
        stop: set when it has to end.
        connections: the open connections.
    """
    await _keep_serving(
        partial(_serve, app, stop=stop, connections=connections),
        str(address),
        first,
        lambda: listen_at(address),
        stop,
    )


async def serve_at(
    app: ASGIApp, path: Path, listener: socket.socket, stop: anyio.Event, *, connections: Connections
) -> None:
    """Serve at a Unix socket in the same way."""
    await _keep_serving(partial(_serve, app, stop=stop, connections=connections), str(path), None, listener.dup, stop)


async def _keep_serving(
    serve: Callable[[socket.socket], Awaitable[None]],
    place: str,
    first: socket.socket | None,
    again: Callable[[], socket.socket],
    stop: anyio.Event,
) -> None:
    log = structlog.get_logger("watchdog")
    listener = first
    while not stop.is_set():
        try:
            await serve(listener or again())
        except Exception:  # whatever it is: the loop goes on without it, and the log says so
            log.exception("control.failed", address=place, retry_seconds=_AGAIN_SECONDS)
            with anyio.move_on_after(_AGAIN_SECONDS):
                await stop.wait()
        listener = None


async def _serve(app: ASGIApp, listener: socket.socket, *, stop: anyio.Event, connections: Connections) -> None:
    config = uvicorn.Config(
        app,
        http=partial(_Protocol, connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_END_SECONDS,
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
        backlog=_BACKLOG,
    )
    server = _Server(config)

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    async def end_unread() -> None:
        while True:
            await anyio.sleep(UNREAD_SECONDS / 10)
            for each in list(server.server_state.connections):
                if isinstance(each, _Protocol):
                    each.end_if_unread()

    async with anyio.create_task_group() as group:
        group.start_soon(end, name="end the HTTP API")
        group.start_soon(end_unread, name="end clients that do not read")
        with listener:
            await server.serve(sockets=[listener])
        group.cancel_scope.cancel()
