"""The HTTP API from outside: clients that ask for odd things, that never read, never end, or say nothing."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel
import httpx
import pytest
from starlette.types import Receive, Scope, Send

from tests.fakes.server import FakeServer
from tests.support.control import TOKEN, UNHURRIED, Api, api
from tests.support.database import OpencodeFile
from tests.support.opencode import free_port
from tests.support.program import path, rows
from watchdog.composing import own_socket
from watchdog.control import server
from watchdog.control.access.connections import Connections
from watchdog.control.access.gate import Bounds
from watchdog.settings.addresses import Address

__all__ = ["path", "rows"]

BEARER = {"Authorization": f"Bearer {TOKEN}"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get")
ROUTES = (
    "/", "/page/app.js", "/page/", "/page/..%2f", "/healthz", "/readyz", "/metrics", "/door/proof", "/door/session",
    "/api/v1/sessions", "/api/v1/sessions/ses_1", "/api/v1/sessions/ses_1/release", "/door",
    "/api/v1/sessions/ses_1/messages/msg_1",
    "/api/v1/sessions/ses_1/hold", "/api/v1/sessions/ses_1/unhold", "/api/v1/pause", "/api/v1/resume",
    "/api/v1/operations/op_0123456789abcdef", "/api/v1/interventions", "/api/v1/interventions/1",
    "/api/v1/interventions/1/undo", "/api/v1/openapi.json", "/nowhere", "/%00", "//", "/healthz/", "*",
)  # fmt: skip
ODD_HEADERS: tuple[dict[str, str], ...] = (
    {"Accept": "application/openmetrics-text; version=xx"},
    {"Accept": "application/openmetrics-text; version=1.x.0"},
    {"Accept": "application/openmetrics-text; version=9999999999999999999999.0.0"},
    {"Accept": "application/openmetrics-text; version="},
    {"Accept": "text/plain;version=2;escaping=;q=x,,;,=;"},
    {"Accept": "text/plain;version=a.b.c"},
    {"Accept": ";" * 3000},
    {"Accept": "\xff\xfe"},
    {"If-None-Match": "\xff" * 200},
    {"Range": "bytes=0-0,-1"},
    {"Content-Type": "multipart/form-data; boundary=\xff"},
    {"Content-Type": "application/json; charset=nonsense"},
    {"Content-Encoding": "gzip"},
    {"Last-Event-ID": "\xff" * 50},
    {"Upgrade": "websocket", "Connection": "Upgrade, close"},
    {"Expect": "100-continue"},
    {"X-Forwarded-For": "10.0.0.1", "X-HTTP-Method-Override": "DELETE"},
    {"Access-Control-Request-Method": "\xff"},
    {"Cookie": "a=b;" * 500},
)


def raw(method: str, where: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request as bytes, whatever a client library would say to it."""
    named = {"Host": "localhost", "Content-Length": str(len(body)), "Connection": "close", **headers}
    lines = [f"{method} {where} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


async def said(served: Api, request: bytes) -> bytes:
    """All that is answered until the connection is closed."""
    where = httpx.URL(served.url)
    reader, writer = await asyncio.open_connection(where.host, where.port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


@asynccontextmanager
async def deaf(served: Api, count: int, request: bytes) -> AsyncIterator[list[socket.socket]]:
    """Clients with little room that ask, and never read."""
    where = httpx.URL(served.url)
    found = []
    for _ in range(count):
        each = socket.socket()
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        each.setblocking(False)
        await asyncio.get_running_loop().sock_connect(each, (where.host, where.port or 0))
        await asyncio.get_running_loop().sock_sendall(each, request)
        found.append(each)
    try:
        yield found
    finally:
        for each in found:
            each.close()


async def test_every_method_at_every_route_with_odd_headers_has_an_answer(rows: OpencodeFile) -> None:
    tried = 0
    async with api(rows, FakeServer(), bounds=UNHURRIED) as served:
        for where in ROUTES:
            for index, method in enumerate(METHODS):
                odd = ODD_HEADERS[(index + len(where)) % len(ODD_HEADERS)]
                for headers in (odd, {**BEARER, **odd}):
                    status = (await said(served, raw(method, where, headers))).partition(b"\r\n")[0]
                    assert status.split()[1] < b"500" or status.split()[1] == b"503", (method, where, headers)
                    tried += 1
        assert (await served.client.get("/healthz")).status_code == 200
    assert tried == len(ROUTES) * len(METHODS) * 2


async def test_odd_headers_get_the_metrics_that_there_are(rows: OpencodeFile) -> None:
    async with api(rows, FakeServer(), bounds=UNHURRIED) as served:
        for headers in ODD_HEADERS:
            answer = await said(served, raw("GET", "/metrics", {**BEARER, **headers}))
            assert answer.startswith(b"HTTP/1.1 200 "), headers
            assert b"opencode_watchdog_build_info{" in answer


HEADS = ("/", "/page/app.js", "/healthz", "/readyz", "/metrics", "/api/v1/sessions", "/page/none")


async def test_head_is_answered_as_get_without_a_body(rows: OpencodeFile) -> None:
    async with api(rows, FakeServer(), bounds=UNHURRIED) as served:
        for where in HEADS:
            head, answer = await said(served, raw("HEAD", where, BEARER)), await served.client.get(where)
            assert head.split()[1] == str(answer.status_code).encode(), where
            assert f"content-type: {answer.headers['content-type']}".encode() in head
            assert "/page/" not in where or f"content-length: {len(answer.content)}".encode() in head
            assert head.endswith(b"\r\n\r\n")
            assert head.count(b"\r\n\r\n") == 1
        stream = await said(served, raw("HEAD", "/api/v1/events", BEARER))
        assert b"content-type: text/event-stream" in stream
        assert b"hello" not in stream


async def test_a_crowd_that_asks_and_never_reads_keeps_no_probe_out(rows: OpencodeFile) -> None:
    """Neither one of its own address nor one of another: 127.0.0.2 stands for another machine."""
    flood = raw("GET", "/page/style.css", {"Connection": "keep-alive"}) * 30
    async with api(rows, FakeServer(), bounds=UNHURRIED) as served, deaf(served, 60, flood):
        for local in ("127.0.0.1", "127.0.0.2"):
            transport = httpx.AsyncHTTPTransport(local_address=local)
            async with httpx.AsyncClient(base_url=served.url, timeout=60, transport=transport) as probe:
                for where in ("/healthz", "/readyz") * 5:
                    assert (await probe.get(where, headers={"Connection": "close"})).status_code in {200, 503}
        assert (await served.client.get("/api/v1/sessions")).status_code == 200


async def test_who_has_the_token_is_not_pushed_out_by_who_has_none(rows: OpencodeFile) -> None:
    async with (
        api(rows, FakeServer(), bounds=UNHURRIED) as served,
        served.client.stream("GET", "/api/v1/events") as events,
    ):
        heard = events.aiter_lines()
        assert await anext(heard) == "event: hello"
        async with deaf(served, 200, b"GET / HTTP/1.1\r\n"):
            await served.ask("POST", "/api/v1/pause")
            while await anext(heard) != "event: on_hold":
                pass


async def test_clients_that_never_read_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "UNREAD_SECONDS", 0.5)
    address, stop, gone = Address(host="127.0.0.1", port=free_port()), anyio.Event(), anyio.Event()

    async def talks(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                gone.set()
                group.cancel_scope.cancel()

            group.start_soon(wait)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        listener = server.listen_at(address)

        async def serve() -> None:
            await server.serve(talks, address, listener, stop, connections=Connections())

        group.start_soon(serve)
        reads, never = [await asyncio.open_connection(address.host, address.port) for _ in range(2)]
        reads[1].write(raw("GET", "/", {}))
        never[1].write(raw("GET", "/", {}))
        never[0]._transport.pause_reading()  # type: ignore[attr-defined]
        while not gone.is_set():  # who reads goes on reading meanwhile
            assert await asyncio.wait_for(reads[0].read(1_000_000), 60)
        for _, writer in (reads, never):
            writer.transport.abort()
        stop.set()


async def test_a_crowd_at_the_socket_of_this_users_programs_leaves_descriptors_and_an_answer(tmp_path: Path) -> None:
    stop = anyio.Event()

    async def says_who(scope: Scope, _: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": repr(scope["client"]).encode()})

    own = own_socket.listen(tmp_path / "opencode.db", {}, tmp_path)
    async with anyio.create_task_group() as group:
        crowded = partial(server.serve_at, says_who, own.path, own.listener, stop, connections=Connections())
        group.start_soon(crowded)
        (running,) = own_socket.running(tmp_path / "opencode.db", {}, tmp_path)
        crowd = []
        for _ in range(300):  # clients that never end their request, which a script may leave by the hundred
            crowd.append(await asyncio.to_thread(running.connect))
            crowd[-1].sendall(b"GET / HTTP/1.1\r\n")
        reader, writer = await asyncio.open_unix_connection(sock=await asyncio.to_thread(running.connect))
        writer.write(raw("GET", "/", {}))
        answer = await asyncio.wait_for(reader.read(), 5)
        assert f"('pid {os.getpid()}', ".encode() in answer
        crowd[0].settimeout(5)
        assert crowd[0].recv(1) == b""  # the oldest went for it
        crowd[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            crowd[-1].recv(1)
        for each in crowd:
            each.close()
        writer.close()
        stop.set()
    own.close()


ENDLESS: tuple[Any, ...] = (
    ("POST", "/api/v1/pause", {"Content-Length": "10", "Content-Type": "application/json"}, b"{"),
    ("POST", "/api/v1/pause", {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}, b"1\r\n{\r\n"),
    ("POST", "/door/session", {"Content-Length": "16000"}, b""),
    ("POST", "/door/proof", {"Transfer-Encoding": "chunked"}, b"400\r\nx"),
)


async def test_a_body_that_never_ends_is_ended(rows: OpencodeFile) -> None:
    async with api(rows, FakeServer(), bounds=Bounds(body_seconds=0.5)) as served:
        for method, where, headers, body in ENDLESS:
            named = {"Host": "localhost", **BEARER, **headers}
            lines = [f"{method} {where} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
            answer = await said(served, ("\r\n".join(lines) + "\r\n\r\n").encode() + body)
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            assert b":too-slow" in answer
        assert (await served.ask("GET", "/api/v1/sessions"))["on_hold"] == []


async def test_a_body_behind_a_request_that_needs_none_holds_up_nobody(rows: OpencodeFile) -> None:
    async with api(rows, FakeServer(), bounds=Bounds(body_seconds=0.5)) as served:
        chunked = raw("GET", "/api/v1/events", {**BEARER, "Transfer-Encoding": "chunked"})
        endless = chunked.replace(b"Content-Length: 0\r\n", b"")
        assert b"event: hello" in await said(served, endless)


NONSENSE: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"x: " + b"y" * 60_000,
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 9_000,
    b"GET /" + b"a" * 60_000,
    b"POST /door/proof HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    bytes(range(256)) * 80,
)


async def test_huge_heads_and_noise_are_answered_or_hung_up_on(rows: OpencodeFile) -> None:
    async with api(rows, FakeServer(), bounds=UNHURRIED) as served:
        for each in NONSENSE:
            try:
                answer = await said(served, each)
            except ConnectionError:
                answer = b""
            assert answer.split(b" ")[1:2] in ([], [b"400"]), each[:40]
        assert (await served.client.get("/healthz")).status_code == 200


async def test_clients_that_ask_endlessly_get_few_answers_so_that_the_loop_is_there_for_the_looks(
    rows: OpencodeFile,
) -> None:
    bounds = Bounds(rate=0.1, burst=10, doubtful_rate=0.1, doubtful_burst=1, refusal_seconds=0.4, health_seconds=0.2)
    loop = asyncio.get_running_loop()
    async with api(rows, FakeServer(), bounds=bounds, begins=False) as served:
        for where, count, pause in (("/", 12, 0.4), ("/metrics", 2, 0.4), ("/healthz", 12, 0.2)):
            for _ in range(count - 1):
                await said(served, raw("GET", where, {}))
            began = loop.time()
            answer = await said(served, raw("GET", where, {}))
            assert loop.time() - began >= pause, answer
            assert answer.split()[1] == (b"200" if where == "/healthz" else b"429")


async def test_a_listed_page_may_read_what_it_is_refused(rows: OpencodeFile) -> None:
    page = "https://ui.example"
    async with api(rows, FakeServer(), bounds=Bounds(doubtful_burst=1), control_origins=[page]) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=60, trust_env=False) as stranger:
            answers = [await stranger.get("/api/v1/sessions", headers={"Origin": page}) for _ in range(2)]
            answers.append(await stranger.get("/api/v1/sessions", headers={"Origin": page, "Host": "evil.example"}))
            other = await stranger.get("/api/v1/sessions", headers={"Origin": "https://evil.example"})
        fine = await served.client.get("/api/v1/sessions", headers={"Origin": page})
    assert [each.status_code for each in answers] == [401, 429, 403]
    for each in (*answers, fine):
        assert each.headers.get_list("access-control-allow-origin") == [page]
        assert "Origin" in each.headers["vary"]
    assert "access-control-allow-origin" not in other.headers


async def test_another_token_counts_at_once_and_ends_what_the_old_one_opened(rows: OpencodeFile) -> None:
    tokens = [TOKEN]
    async with api(rows, FakeServer(), token=lambda: tokens[-1]) as served:
        async with served.client.stream("GET", "/api/v1/events") as events:
            heard = events.aiter_lines()
            assert await anext(heard) == "event: hello"
            tokens.append("another-one-" + "0" * 20)
            assert (await served.client.get("/api/v1/sessions")).status_code == 401
            new = {"Authorization": f"Bearer {tokens[-1]}"}
            assert (await served.client.post("/api/v1/pause", headers=new)).status_code == 200
            rest = [line async for line in heard]
        assert not any("on_hold" in line for line in rest)


async def test_a_flood_of_one_route_takes_nothing_from_health(rows: OpencodeFile) -> None:
    async with (
        api(rows, FakeServer(), bounds=Bounds(rate=0.01, doubtful_burst=1)) as served,
        httpx.AsyncClient(base_url=served.url, timeout=60, trust_env=False) as stranger,
    ):
        while (await stranger.get("/")).status_code != 429:
            pass
        for _ in range(20):
            assert (await stranger.get("/healthz")).status_code == 200
