"""One connection to a server: what was asked on it, what came back over it, and whom it leads to."""

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import anyio
import httpcore
import httpx

from watchdog.model.report import Endpoint
from watchdog.observing.endpoints import normal
from watchdog.opencode.http.doors import Door
from watchdog.opencode.http.peers import Ends

HTTPS_PORT, HTTP_PORT = 443, 80
ENDS: Final = "watchdog.ends"
"""The extension of an answer that names its connection."""


class Line(Protocol):
    """A connection, over which one request goes at a time.

    Attributes:
        told: the server asked for a password on it, and may have it: each request on it carries the password.
        answered_at: when the last answer began, in seconds of the awake clock; None before the first.
    """

    told: bool
    answered_at: float | None

    @property
    def ends(self) -> Ends | None:
        """Its two ends; None while it is not open, or if it has none."""
        ...

    @property
    def usable(self) -> bool:
        """Whether another request may go over it."""
        ...

    @property
    def heard(self) -> bool:
        """Whether a byte came back since the last request was sent."""
        ...

    async def open(self, request: httpx.Request) -> None:
        """Connect, as quickly as the request demands; again is once."""
        ...

    async def send(self, request: httpx.Request, authorization: bytes | None) -> httpx.Response:
        """Send a request, and wait for the head of its answer."""
        ...

    async def aclose(self) -> None:
        """Close it."""
        ...


class NetworkLine:
    """See `Line`."""

    def __init__(self, url: httpx.URL, tls: ssl.SSLContext | None) -> None:
        self.told = False
        self.answered_at: float | None = None
        self._host = url.raw_host.decode("ascii")
        self._port = url.port or (HTTP_PORT if tls is None else HTTPS_PORT)
        self._origin = httpcore.Origin(url.raw_scheme, url.raw_host, self._port)
        self._tls = tls
        self._ear: _Ear | None = None
        self._connection: httpcore.AsyncHTTP11Connection | None = None
        self.ends: Ends | None = None

    @property
    def usable(self) -> bool:
        """See `Line`."""
        return self._connection is not None and self._connection.is_idle() and not self._connection.has_expired()

    @property
    def heard(self) -> bool:
        """See `Line`."""
        return self._ear is not None and self._ear.heard

    async def open(self, request: httpx.Request) -> None:
        """See `Line`."""
        if self._connection is not None:
            return
        seconds = request.extensions.get("timeout", {}).get("connect")
        with translated():
            stream = await self._reached(seconds)
            try:
                self._checked(stream)
                if self._tls is not None:
                    stream = await stream.start_tls(self._tls, server_hostname=self._host, timeout=seconds)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await stream.aclose()
                raise
        self._ear = _Ear(stream)
        self._connection = httpcore.AsyncHTTP11Connection(origin=self._origin, stream=self._ear)

    async def _reached(self, seconds: float | None) -> httpcore.AsyncNetworkStream:
        return await httpcore.AnyIOBackend().connect_tcp(self._host, self._port, timeout=seconds)

    def _checked(self, stream: httpcore.AsyncNetworkStream) -> None:
        self.ends = _ends(stream)

    async def send(self, request: httpx.Request, authorization: bytes | None) -> httpx.Response:
        """See `Line`."""
        await self.open(request)
        if self._connection is None or self._ear is None:
            raise AssertionError
        self._ear.heard = False
        own = [] if authorization is None else [(b"authorization", authorization)]
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=self._origin.scheme, host=self._origin.host, port=self._port, target=request.url.raw_path
            ),
            headers=[*request.headers.raw, *own],
            content=request.stream,
            extensions=request.extensions,
        )
        with translated():
            try:
                found = await self._connection.handle_async_request(asked)
            except httpcore.RemoteProtocolError as error:
                if not self.heard:
                    raise
                # for half an answer, too, httpcore says that there was none
                raise httpcore.RemoteProtocolError(f"Half an answer. {error}") from error
        return httpx.Response(found.status, headers=found.headers, stream=_Body(found), extensions={ENDS: self.ends})

    async def aclose(self) -> None:
        """See `Line`."""
        if self._connection is not None:
            with translated():
                await self._connection.aclose()


class SocketLine(NetworkLine):
    """A connection through a door. It has no ends that could be looked up: the kernel says whom it leads to."""

    def __init__(self, url: httpx.URL, door: Door) -> None:
        super().__init__(url, None)
        self._door = door

    async def _reached(self, seconds: float | None) -> httpcore.AsyncNetworkStream:
        return await httpcore.AnyIOBackend().connect_unix_socket(str(self._door.path), timeout=seconds)

    def _checked(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._door.check(stream.get_extra_info("socket"))


class TransportLine:
    """A transport that carries requests instead of the network, as a connection that is never closed."""

    ends: Ends | None = None
    usable = True
    heard = True

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.told = False
        self.answered_at: float | None = None
        self._transport = transport

    async def open(self, request: httpx.Request) -> None:
        """It is always open."""

    async def send(self, request: httpx.Request, authorization: bytes | None) -> httpx.Response:
        """See `Line`."""
        if authorization is not None:
            request.headers["authorization"] = authorization.decode("ascii")
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """The owner of the transport closes it."""


class _Body(httpx.AsyncByteStream):
    """The body of an answer, with errors as httpx has them."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> Any:  # noqa: ANN401 - an async generator
        with translated():
            async for chunk in self._response.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        with translated():
            await self._response.aclose()


class _Ear(httpcore.AsyncNetworkStream):
    """A stream that knows whether anything came back."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self.heard = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's name
        found = await self._stream.read(max_bytes, timeout)
        self.heard = self.heard or bool(found)
        return found

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        return await self._stream.start_tls(ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's
        return self._stream.get_extra_info(info)


@contextmanager
def translated() -> Iterator[None]:
    """Turn every error of httpcore into the one of httpx with the same name."""
    try:
        yield
    except _RAISED as error:
        kind = getattr(httpx, type(error).__name__, httpx.NetworkError)
        raise kind(str(error)) from error


_RAISED = (
    httpcore.ConnectionNotAvailable,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)


def _ends(stream: httpcore.AsyncNetworkStream) -> Ends | None:
    """Where it begins and ends, asked while it is open: later nobody may know."""
    try:
        near, far = stream.get_extra_info("client_addr"), stream.get_extra_info("server_addr")
    except OSError:
        return None
    return None if near is None or far is None else Ends(near=_endpoint(near), far=_endpoint(far))


def _endpoint(address: Iterable[Any]) -> Endpoint:
    host, port, *_ = address
    return Endpoint(address=normal(host), port=port)
