"""Carries requests over plain TCP as HTTP/1.1, on connections that are kept for the next request.

The default transport of httpx can do far more (TLS, proxies, HTTP/2), and takes three times as long for a request. A
server is asked several questions for each session that is ended there, all on loopback.
"""

import asyncio
import select
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import anyio
import h11
import httpx

from watchdog.ports import Clock

_MOST_CONNECTIONS: Final = 100
_MOST_IDLE: Final = 20
_IDLE_SECONDS: Final = 5.0
_MOST_HEADER_BYTES: Final = 100 * 1024
_READ_BYTES: Final = 64 * 1024


class Wire(httpx.AsyncBaseTransport):
    """A transport for `http` URLs of one server.

    Args:
        clock: tells how long a connection was not used: one that was not for long may be dead without a word.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._connections: set[_Connection] = set()
        self._idle: list[tuple[_Connection, float]] = []
        self._places = anyio.Semaphore(_MOST_CONNECTIONS, fast_acquire=True)
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and read the head of its answer; the body is read by whoever wants it.

        Raises:
            httpx.TransportError: as httpx's own transport raises it.
        """
        timeout = request.extensions.get("timeout", {})
        await self._places.acquire()
        connection: _Connection | None = None
        try:
            connection = self._kept() or await self._connect(request.url, timeout.get("connect"))
            await connection.send(request)
            head = await connection.head(timeout.get("read"))
        except BaseException:
            if connection is not None:
                self._drop(connection)
            self._places.release()
            raise
        return httpx.Response(
            head.status_code,
            headers=list(head.headers.raw_items()),
            stream=_Body(self, connection, timeout.get("read")),
            extensions={"network_stream": connection},
        )

    async def aclose(self) -> None:
        """Close every connection; a request that is under way fails."""
        self._closed = True
        for connection, _ in list(self._idle):
            self._drop(connection)
        for connection in self._connections:
            connection.cut()

    def put_back(self, connection: "_Connection") -> None:
        """Take back what a request was answered on, and keep it for the next one if it can take one."""
        self._places.release()
        if not self._closed and connection.ready_again() and len(self._idle) < _MOST_IDLE:
            self._idle.append((connection, self._clock.read().awake_seconds))
        else:
            self._drop(connection)

    def _kept(self) -> "_Connection | None":
        """The connection that was used last, if the server has not closed it since."""
        now = self._clock.read().awake_seconds
        while self._idle:
            connection, since = self._idle.pop()
            if now - since < _IDLE_SECONDS and not connection.spoken_on:
                return connection
            self._drop(connection)
        return None

    async def _connect(self, url: httpx.URL, seconds: float | None) -> "_Connection":
        try:
            with anyio.fail_after(seconds):
                connection = _Connection(await _connected(url.host, url.port or 80))
        except TimeoutError as error:
            raise httpx.ConnectTimeout("not connected in time") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        self._connections.add(connection)
        return connection

    def _drop(self, connection: "_Connection") -> None:
        self._connections.discard(connection)
        self._idle = [kept for kept in self._idle if kept[0] is not connection]
        connection.close()


class _Connection:
    """One connection, with one request at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._address = sock.getsockname()
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEADER_BYTES)

    @property
    def spoken_on(self) -> bool:
        """Whether the server closed it, or said something that nobody asked for."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def get_extra_info(self, name: str) -> Any:  # noqa: ANN401 - as the stream of httpx's own transport
        """The local address, as `client_addr`: it tells one connection from another."""
        return self._address if name == "client_addr" else None

    async def send(self, request: httpx.Request) -> None:
        """Send a whole request."""
        head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
        try:
            content = await request.aread()
            parts = [self._http.send(head), self._http.send(h11.Data(data=content)) if content else None]
            parts.append(self._http.send(h11.EndOfMessage()))
            await self._loop.sock_sendall(self._socket, b"".join(part for part in parts if part))
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from error
        except OSError as error:
            raise httpx.WriteError(str(error)) from error

    async def head(self, seconds: float | None) -> h11.Response:
        """Read the status and the headers of the answer."""
        while True:
            event = await self._event(seconds)
            if isinstance(event, h11.Response):
                return event

    async def body(self, seconds: float | None) -> AsyncIterator[bytes]:
        """Read the body of the answer as it comes.

        Args:
            seconds: how long the next part of it may take.
        """
        while True:
            event = await self._event(seconds)
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage | h11.PAUSED):
                return

    def ready_again(self) -> bool:
        """Whether request and answer are complete, and the server takes another one here."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        if self._http.trailing_data[0]:
            return False
        self._http.start_next_cycle()
        return True

    def close(self) -> None:
        """Close it; nobody reads or writes on it any more."""
        self._socket.close()

    def cut(self) -> None:
        """End it for whoever reads or writes on it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    async def _event(self, seconds: float | None) -> h11.Event | type[h11.PAUSED]:
        """The next event of the answer."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise httpx.RemoteProtocolError(str(error)) from error
            if isinstance(event, h11.Event) or event is h11.PAUSED:
                return event
            data = await self._read(seconds)
            if not data and self._http.their_state is h11.SEND_RESPONSE:
                raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
            self._http.receive_data(data)

    async def _read(self, seconds: float | None) -> bytes:
        try:
            with anyio.fail_after(seconds):
                return await self._loop.sock_recv(self._socket, _READ_BYTES)
        except TimeoutError as error:
            raise httpx.ReadTimeout("nothing came in time") from error
        except OSError as error:
            raise httpx.ReadError(str(error)) from error


class _Body(httpx.AsyncByteStream):
    """The body of an answer; its connection is free for the next request once it is read to its end and closed."""

    def __init__(self, wire: Wire, connection: _Connection, seconds: float | None) -> None:
        self._wire = wire
        self._connection = connection
        self._seconds = seconds
        self._open = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._connection.body(self._seconds)

    async def aclose(self) -> None:
        if self._open:
            self._open = False
            self._wire.put_back(self._connection)


async def _connected(host: str, port: int) -> socket.socket:
    """A socket that is connected to the first address of a host that can be had.

    Raises:
        OSError: none can be.
    """
    loop = asyncio.get_running_loop()
    problem: OSError | None = None
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # in a thread: it may take long
    for family, kind, protocol, _, address in places:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
        except OSError as error:
            problem = error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise problem or OSError("the host has no address")
