"""What servers answer that no server should: each has its sentence and its time limit, and none fills the memory."""

import asyncio
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.server import Handler, loopback, read_request
from watchdog.errors import ServerAnswerInvalid, ServerError, ServerSilent
from watchdog.opencode.http.client import OpencodeServer

FOLDER = "/home/someone/project"
ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b"
MOST_BYTES = 160 * 1024 * 1024
"""Far more than the largest answer that is read, and far less than what these servers send."""


def asking(url: str, *, seconds: float = 20, password: str | None = None) -> OpencodeServer:
    return OpencodeServer(
        url,
        clock=FakeClock(),
        rng=random.Random(1),  # noqa: S311
        timeout_seconds=seconds,
        password=password,
    )


@contextmanager
def tracing() -> Iterator[Callable[[], int]]:
    """How much memory Python has had at most since the block began."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def says(raw: bytes, *, endless: Callable[[], bytes] | None = None) -> Handler:
    """A server that answers everything with this, and goes on for ever with that."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(raw)
            await writer.drain()
            while endless is not None:
                writer.write(endless())
                await writer.drain()

    return handle


def head(status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def whole(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    return head(status, content_length=str(len(body)), **headers) + body


async def told(handler: Handler, *, seconds: float = 20) -> str:
    """What is said of a server, which must be the error of one that answers nonsense, or nothing in time."""
    async with loopback(handler) as url, asking(url, seconds=seconds) as it:
        with pytest.raises(ServerError) as caught:
            await it.statuses(FOLDER)
    text = str(caught.value)
    assert text.isprintable()
    assert text.endswith(".")
    assert isinstance(caught.value, ServerAnswerInvalid | ServerSilent), repr(caught.value)
    return text


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (whole(b"<html>Log in</html>", content_type="text/html; charset=utf-8"), "with a page (text/html)"),
        (whole(b"<html>Busy</html>", "503 Busy", content_type="text/html"), "503 with a page (text/html)"),
        (whole(b"busy", content_type="text/plain"), "something that is not JSON"),
        (whole(b"{}", content_type=ESCAPES, status="418 X"), "answered 418"),
        (whole(b"{}", "204 No Content"), "answered 204"),
        (whole(b"{}", "206 Partial Content", content_range="bytes 0-1/9"), "answered 206"),
        (whole(b"", "407 Proxy Authentication Required"), "answered 407"),
        (whole(b"", "511 Network Authentication Required"), "answered 511"),
        (whole(b"[]"), "JSON that is not an object"),
        (whole(b"\x1f\x8b{}"), "something that is not JSON"),
        (whole(zlib.compress(b"{}"), content_encoding="deflate"), "something compressed"),
        (
            whole(b"", "301 Moved", location="https://me:hunter2@box.example.org/x?token=hunter2#y"),
            "box.example.org/x,",
        ),
        (whole(b"", "302 Found", location="/login?next=hunter2"), "/login, which is not followed"),
        (whole(b"", "307 X", location="//elsewhere.example.org:8443/"), "http://elsewhere.example.org:8443/,"),
        (whole(b"", "308 X", location="javascript:alert(1)"), "a redirect to"),
        (whole(b"", "302 Found", location="http://[::1"), "an address that can't be read"),
        (whole(b"", "302 Found", location="http://x/" + "a" * 60_000), "a redirect to"),
        (whole(b"", "302 Found"), "answered 302 (nothing)"),
        (whole(b"", "304 Not Modified"), "answered 304"),
    ],
)
async def test_a_wrong_answer(raw: bytes, why: str) -> None:
    text = await told(says(raw))
    assert why in text
    assert "hunter2" not in text
    assert len(text) < 600


@pytest.mark.parametrize(
    "raw",
    [
        head(transfer_encoding="chunked") + b"zz\r\n{}\r\n0\r\n\r\n",
        head(transfer_encoding="chunked") + b"-2\r\n{}\r\n0\r\n\r\n",
        head(transfer_encoding="chunked") + b"2\r\n{}xx0\r\n\r\n",
        head(transfer_encoding="chunked") + b"FFFFFFFFFFFFFFFFFFFFFFFFF\r\n{}",
        head(transfer_encoding="chunked") + b"2;" + b"x" * 200_000,
        head(transfer_encoding="chunked") + b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 50_000,
        head(transfer_encoding="gzip, chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        head(content_length="-1") + b"{}",
        head(content_length="x") + b"{}",
        head(content_length="2, 3") + b"{}",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000 + b"\r\n",
        b"HTTP/1.1 200 " + b"O" * 300_000,
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"-ERR unknown command\r\n",
        b"\x00" * 200_000,
    ],
    ids=lambda raw: repr(raw[:60]),
)
async def test_what_is_no_http(raw: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        await writer.drain()

    assert "HTTP" in (text := await told(handle)) or "broke off" in text


async def test_tls_behind_http_is_called_that() -> None:
    assert "it speaks TLS; is it https://" in await told(says(b"\x15\x03\x03\x00\x02\x02\x28\x00\x00\r\n\r\n"))


@pytest.mark.parametrize(
    ("raw", "piece"),
    [
        (head(content_type="application/json"), b" " * 65_536),
        (head(transfer_encoding="chunked"), b"10000\r\n" + b" " * 65_536 + b"\r\n"),
        (head(content_length="99999999999999"), b"[" * 65_536),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000),
        (b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 1_000),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 1_000),
        (head("401 X", content_type="text/plain"), b"x" * 65_536),
        (head("302 X", location="/x"), b"x" * 65_536),
        (head("404 X"), b"x" * 65_536),
    ],
    ids=lambda raw: repr(raw[:40]),
)
async def test_an_answer_without_an_end_ends_in_time_and_fills_no_memory(raw: bytes, piece: bytes) -> None:
    with tracing() as peak:
        async with loopback(says(raw, endless=lambda: piece)) as url, asking(url, seconds=2, password="x") as it:  # noqa: S106
            with pytest.raises(ServerError):
                await it.statuses(FOLDER)
        assert peak() < MOST_BYTES


@pytest.mark.parametrize(
    ("raw", "piece"),
    [
        (head(), b"\n"),
        (head(content_length="99999"), b" "),
        (head(transfer_encoding="chunked"), b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (head("401 No"), b"x"),
    ],
    ids=lambda raw: repr(raw[:40]),
)
async def test_an_answer_that_trickles_ends_in_time(raw: bytes, piece: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    assert "within 0.5 s" in await told(handle, seconds=0.5)


class TestTheFeed:
    @staticmethod
    async def listened(handler: Handler) -> str | None:
        async with loopback(handler) as url, asking(url) as it:
            return await it.feed.sample(
                300
            )  # no test waits for it: each of these servers ends the stream, or is ended

    @pytest.mark.parametrize(
        ("raw", "why"),
        [
            (whole(b"<html>", content_type="text/html"), "no event stream"),
            (whole(b"", "302 Found", location="/login"), "answered 302"),
            (whole(b"", "401 X"), "answered 401"),
            (whole(b"", content_type="text/event-stream"), "ended"),
            (whole(b"x", content_type="text/event-stream", content_encoding="gzip"), "Compressed"),
            (whole(b"data: {}", content_type="application/json"), "no event stream"),
            (b"220 smtp\r\n\r\n", "RemoteProtocolError"),
        ],
    )
    async def test_what_is_none_is_said(self, raw: bytes, why: str) -> None:
        assert why in str(await self.listened(says(raw)))

    @pytest.mark.parametrize(
        "piece",
        [b"data: x\n" * 10_000, b"x" * 65_536, b": comment\n" * 10_000, b"id: 1\n" * 10_000, b"\r" * 65_536],
        ids=lambda piece: repr(piece[:12]),
    )
    async def test_an_event_without_an_end_fills_no_memory(
        self, piece: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is ended by its size alone: how long that takes is the machine's business."""
        monkeypatch.setattr("watchdog.opencode.http.feed.MOST_EVENT_BYTES", 300_000)
        sent = 0

        def counted() -> bytes:
            nonlocal sent
            sent += len(piece)
            return piece

        with tracing() as peak:
            why = await self.listened(says(head(content_type="text/event-stream"), endless=counted))
            assert peak() < MOST_BYTES
        assert "DecodingError" in str(why)
        assert sent < MOST_BYTES  # what the system keeps between the two is far less


async def test_a_cookie_is_not_kept() -> None:
    """The next one at its address would be sent it; and a new one at each answer would fill the memory."""
    seen: list[bool] = []

    async def bakes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            seen.append("cookie" in request.headers)
            writer.write(whole(b"{}", set_cookie=f"session{len(seen)}=secret; Path=/"))
            await writer.drain()

    async with loopback(bakes) as url, asking(url) as it:
        for _ in range(3):
            await it.statuses(FOLDER)
        assert not it._client.cookies
    assert seen == [False] * 3
