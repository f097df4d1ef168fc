"""A proxy between the watchdog and its server that can be told to misbehave.

It listens on another loopback address with the server's own port number: the watchdog knows the process behind a
server by the port that it listens on.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

HOST: Final = "127.0.0.2"
_ERROR: Final = (
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\n"
    b'content-length: 20\r\nconnection: close\r\n\r\n{"name":"OnPurpose"}'
)


class Mode(StrEnum):
    """What it does to what passes."""

    FINE = "fine"
    CUT = "cut the feed"
    ERRORS = "answer 500"
    HALVES = "half replies"


@dataclass
class Proxy:
    """`async with Proxy(port=server.port) as proxy:` and `proxy.url`."""

    port: int
    mode: Mode = Mode.FINE
    spoilt: Counter[Mode] = field(default_factory=Counter)
    _listener: asyncio.Server | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)
    _feeds: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where the watchdog is pointed at."""
        return f"http://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connected, HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.close()
        await self._end(self._connections)

    @property
    def open_connections(self) -> int:
        """How many are open now."""
        return len(self._connections)

    async def misbehave(self, mode: Mode, seconds: float) -> None:
        """Be in that mode for a while."""
        self.mode = mode
        try:
            if mode is Mode.CUT:
                self.spoilt[mode] += len(self._feeds)
                await self._end(self._feeds)
            await asyncio.sleep(seconds)
        finally:
            self.mode = Mode.FINE

    async def _end(self, connections: set[asyncio.Task[None]]) -> None:
        ending = list(connections)
        for connection in ending:
            connection.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._serve(reader, writer), name="proxy connection")
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        connection.add_done_callback(self._feeds.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_length(head))
                await self._answer(head, body, reader, writer)
        finally:
            await _close(writer)

    async def _answer(
        self, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        is_feed = head.split(b" ", 2)[1].startswith(b"/global/event")
        me = asyncio.current_task()
        if is_feed and me is not None:
            self._feeds.add(me)
        if self.mode is Mode.ERRORS or (is_feed and self.mode is Mode.CUT):
            self.spoilt[self.mode] += 1
            if self.mode is Mode.ERRORS:
                writer.write(_ERROR)
                await writer.drain()
            return
        upstream = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            upstream[1].write(_closing(head) + body)
            await self._until_hangup(reader, self._pass_on(upstream[0], writer))
        finally:
            await _close(upstream[1])

    async def _until_hangup(self, reader: asyncio.StreamReader, passing: Coroutine[Any, Any, None]) -> None:
        both = asyncio.create_task(passing), asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if both[0].done():
                both[0].result()
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        head = await source.readuntil(b"\r\n\r\n")
        length = _length(head)
        sink.write(_closing(head))
        left = length or None  # without a length (chunks, a stream): until the other side closes
        while left is None or left > 0:
            piece = await source.read(65536)
            if not piece:
                return
            if self.mode is Mode.HALVES:
                self.spoilt[self.mode] += 1
                sink.write(piece[: len(piece) // 2])
                await sink.drain()
                return
            sink.write(piece)
            await sink.drain()
            left = None if left is None else left - len(piece)


def _length(head: bytes) -> int:
    found = re.search(rb"(?im)^content-length:\s*(\d+)", head)
    return int(found[1]) if found else 0


def _closing(head: bytes) -> bytes:
    """The same head, for a connection that ends with its one answer."""
    bare = re.sub(rb"(?im)^(connection|keep-alive):[^\r\n]*\r\n", b"", head)
    return bare[:-2] + b"Connection: close\r\n\r\n"


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()
