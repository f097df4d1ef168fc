"""The transport beside httpx's own: the same answers and the same errors, on connections that are kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.server import Handler, loopback, read_request, reply
from watchdog.opencode.wire import Wire

Streams = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SECONDS = 10.0


def says(*parts: bytes) -> Handler:
    """A server that reads a request, says this, and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()

    return handle


class Counting:
    """A server that answers every request and counts its connections.

    Attributes:
        answers: how many requests it answers on one connection before it closes that.
        more: what it says after an answer although nobody asked.
    """

    def __init__(self, *, answers: int = 1_000_000, more: bytes = b"") -> None:
        self.answers = answers
        self.more = more
        self.connections = 0
        self.begun = anyio.Event()
        self.ended = anyio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            for _ in range(self.answers):
                request = await read_request(reader)
                self.begun.set()
                if request.path == ("never",):
                    await reader.read()  # until the other side closes
                    return
                writer.write(reply({"path": request.path, "body": request.body.decode()}) + self.more)
                await writer.drain()
        finally:
            self.ended.set()


@asynccontextmanager
async def client(handler: Handler, *, clock: FakeClock | None = None) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        loopback(handler) as url,
        httpx.AsyncClient(base_url=url, transport=Wire(clock=clock or FakeClock())) as it,
    ):
        yield it


ODD = {
    "whole": reply({"a": 1}),
    "chunked": b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "until the end": b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\nall of it",
    "after a 100": b"HTTP/1.1 100 Continue\r\n\r\n" + reply([]),
    "no content": b"HTTP/1.1 204 X\r\n\r\n",
    "gzip": b"HTTP/1.1 200 X\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
    "old": b"HTTP/1.0 200 X\r\n\r\nold",
    "twice a header": b"HTTP/1.1 200 X\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 0\r\n\r\n",
    "half a body": b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nabc",
    "half a chunk": b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc",
    "half a head": b"HTTP/1.1 200 X\r\ncontent-le",
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "an endless head": b"HTTP/1.1 200 X\r\n" + b"x-a: " + b"a" * 200_000,
    "a wrong length": b"HTTP/1.1 200 X\r\ncontent-length: minus one\r\n\r\n",
}


async def outcome(transport: httpx.AsyncBaseTransport, url: str) -> object:
    """What comes of one request."""
    async with httpx.AsyncClient(base_url=url, transport=transport) as it:
        try:
            answer = await it.get("/a", params={"directory": "/pro ject"})
        except httpx.HTTPError as error:
            return type(error)
        return answer.status_code, answer.headers.multi_items(), answer.content


@pytest.mark.parametrize("said", ODD.values(), ids=ODD.keys())
async def test_whatever_a_server_says_it_comes_out_as_from_httpxs_own_transport(said: bytes) -> None:
    with anyio.fail_after(SECONDS):
        async with loopback(says(said)) as url:
            assert await outcome(Wire(clock=FakeClock()), url) == await outcome(httpx.AsyncHTTPTransport(), url)


async def test_where_nobody_listens_nobody_is_reached() -> None:
    async with loopback(says(b"")) as url:
        pass
    assert await outcome(Wire(clock=FakeClock()), url) is httpx.ConnectError


async def test_a_server_that_says_nothing_is_waited_for_no_longer_than_told() -> None:
    async with client(Counting()) as it:
        with pytest.raises(httpx.ReadTimeout):
            await it.get("/never", timeout=0.05)


async def test_requests_one_after_the_other_share_a_connection() -> None:
    server = Counting()
    async with client(server) as it:
        for _ in range(3):
            assert (await it.post("/a", content=b"hello")).json() == {"path": ["a"], "body": "hello"}
    assert server.connections == 1


async def test_requests_at_the_same_time_have_connections_of_their_own_and_keep_them() -> None:
    server = Counting()
    async with client(server) as it:
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(it.get, "/a")
    assert server.connections == 5


async def test_a_hundred_requests_are_under_way_at_most_and_the_others_wait() -> None:
    under_way, most, answered, full = 0, 0, 0, anyio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most, answered
        while True:
            await read_request(reader)
            under_way += 1
            most = max(most, under_way)
            if under_way == 100:
                full.set()
            await full.wait()
            under_way -= 1
            answered += 1
            writer.write(reply([]))
            await writer.drain()

    with anyio.fail_after(SECONDS):
        async with client(answer) as it, anyio.create_task_group() as group:
            for _ in range(150):
                group.start_soon(it.get, "/a")
    assert (most, answered) == (100, 150)


@pytest.mark.parametrize("server", [Counting(answers=1), Counting(more=b"HTTP/1.1 200 X\r\n\r\n")])
async def test_a_connection_that_the_server_closed_or_spoke_on_unasked_is_not_used_again(server: Counting) -> None:
    async with client(server) as it:
        for _ in range(3):
            assert (await it.get("/a")).json()["path"] == ["a"]
            if server.answers == 1:
                await server.ended.wait()
    assert server.connections == 3


async def test_a_connection_that_was_not_used_for_long_is_not_used_again() -> None:
    server, clock = Counting(), FakeClock()
    async with client(server, clock=clock) as it:
        await it.get("/a")
        clock.advance(4.9)
        await it.get("/a")
        assert server.connections == 1
        clock.advance(5)
        await it.get("/a")
    assert server.connections == 2


async def test_a_request_that_is_cancelled_takes_its_connection_with_it() -> None:
    server = Counting()
    async with client(server) as it:
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as group:
                group.start_soon(it.get, "/never")
                await server.begun.wait()
                group.cancel_scope.cancel()
            await server.ended.wait()
        assert (await it.get("/a")).status_code == 200
    assert server.connections == 2


async def test_a_body_that_is_not_read_to_its_end_takes_its_connection_with_it() -> None:
    server = Counting()
    async with client(server) as it:
        async with it.stream("GET", "/a"):
            pass
        assert (await it.get("/b")).json()["path"] == ["b"]
    assert server.connections == 2


async def test_closing_fails_what_is_under_way() -> None:
    server, failed = Counting(), anyio.Event()

    async def ask(it: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await it.get("/never")
        failed.set()

    with anyio.fail_after(SECONDS):
        async with client(server) as it, anyio.create_task_group() as group:
            group.start_soon(ask, it)
            await server.begun.wait()
            await it.aclose()
            await failed.wait()


async def test_closing_ends_what_is_kept() -> None:
    server = Counting()
    with anyio.fail_after(SECONDS):
        async with loopback(server) as url:
            async with httpx.AsyncClient(base_url=url, transport=Wire(clock=FakeClock())) as it:
                await it.get("/a")
                assert not server.ended.is_set()
            await server.ended.wait()
