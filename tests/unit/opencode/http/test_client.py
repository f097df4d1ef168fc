"""opencode's HTTP API, and what becomes of every wrong answer."""

import asyncio
import inspect
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import httpx
import httpx_sse
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.server import AbortBehaviour, FakeServer, Handler, loopback, over_http, read_request, reply
from watchdog.errors import (
    ServerAnswerInvalid,
    ServerDeclined,
    ServerError,
    ServerRefused,
    ServerSilent,
    ServerUnreachable,
    SettingsError,
)
from watchdog.model.outcome import Row
from watchdog.model.report import Served, Shown
from watchdog.model.session import Activity, Ask, AskKind, ServerName, SessionId, Status, TurnId
from watchdog.opencode.http.client import OpencodeServer
from watchdog.ports import Server

SECRET = "hunter2-very-secret"  # noqa: S105 - it must show nowhere
S1, S2, T1 = SessionId("ses_1"), SessionId("ses_2"), TurnId("msg_1")
FOLDER = "/home/someone/a project"

Question = Callable[[OpencodeServer], Awaitable[object]]
Way = Callable[[FakeServer], AbstractAsyncContextManager[Server]]


def server(url: str = "http://127.0.0.1:4096", **options: object) -> OpencodeServer:
    return OpencodeServer(url, clock=FakeClock(), rng=random.Random(1), **options)  # type: ignore[arg-type]  # noqa: S311


def answering(respond: Callable[[httpx.Request], httpx.Response], *, password: str | None = None) -> OpencodeServer:
    return server(transport=httpx.MockTransport(respond), password=password)


def always(status: int = 200, *, url: str = "http://127.0.0.1:4096", **content: object) -> OpencodeServer:
    return server(url, transport=httpx.MockTransport(lambda _: httpx.Response(status, **content)))  # type: ignore[arg-type]


def part(data: str = '{"type":"tool","state":{"status":"error"}}', table: str = "part") -> Row:
    return Row(
        table=table, id="prt_1", message_id=T1, session_id=S1, created_ms=0, updated_ms=0, data=data
    )  # fmt: skip


def shown(it: Server) -> Served:
    """What says that it may be told something."""
    return Served(server=it.name, by=Shown.PROCESS)


def turn_row(data: str = '{"role":"assistant"}') -> Row:
    return Row(table="message", id=T1, message_id=T1, session_id=S1, created_ms=0, updated_ms=0, data=data)


QUESTIONS: dict[str, Question] = {
    "version": lambda it: it.version(),
    "vouches": lambda it: it.vouches(),
    "statuses": lambda it: it.statuses(FOLDER),
    "pending_asks": lambda it: it.pending_asks(FOLDER),
    "abort": lambda it: it.abort(shown(it), S1, FOLDER),
    "copy": lambda it: it.copy(S1, T1, FOLDER),
    "publish": lambda it: it.publish(shown(it), part(), FOLDER),
    "readable": lambda it: it.readable(shown(it), S1, FOLDER),
    "delete_message": lambda it: it.delete_message(shown(it), S1, T1, FOLDER),
}
each_question = pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS.keys())


async def failing(ask: Question, it: OpencodeServer) -> ServerError:
    with pytest.raises(ServerError) as caught:
        await ask(it)
    assert str(it.name) in str(caught.value)
    assert SECRET not in str(caught.value)
    return caught.value


# --- the contract: the fake in memory, and the real client speaking to the same fake on a port -------------------


@asynccontextmanager
async def in_memory(fake: FakeServer) -> AsyncIterator[Server]:
    yield fake


@asynccontextmanager
async def on_a_port(fake: FakeServer) -> AsyncIterator[Server]:
    async with loopback(over_http(fake)) as url, server(url) as it:
        yield it


both = pytest.mark.parametrize("way", [in_memory, on_a_port])


@both
async def test_contract_what_a_server_says(way: Way) -> None:
    async def copies(turn_id: TurnId) -> list[Row] | None:
        return [turn_row('{"role": "assistant"}'), part('{"type": "tool"}')] if turn_id == T1 else None

    fake = FakeServer(copies=copies, unreadable={S2})
    fake.busy(S1, FOLDER)
    fake.statuses_by[FOLDER][S2] = Status(activity=Activity.RETRY, retry_at_ms=1_700_000_600_000)
    asks = (
        Ask(id="que_1", kind=AskKind.QUESTION, session_id=S1, turn_id=T1, call_ref="call_1"),
        Ask(id="per_1", kind=AskKind.PERMISSION, session_id=S2),
    )
    fake.asks_by[FOLDER] = list(asks)
    async with way(fake) as it:
        assert await it.vouches()
        assert await it.statuses(FOLDER) == fake.statuses_by[FOLDER]
        assert await it.statuses("/elsewhere") == {}
        assert await it.pending_asks(FOLDER) == asks
        assert await it.pending_asks("/elsewhere") == ()
        found = await it.copy(S1, T1, FOLDER)
        assert found is not None
        assert list(found) == [turn_row('{"role": "assistant"}'), part('{"type": "tool"}')]
        assert await it.copy(S1, TurnId("msg_2"), FOLDER) is None
        assert await it.readable(shown(it), S1, FOLDER)
        assert not await it.readable(shown(it), S2, FOLDER)


@both
async def test_contract_what_a_server_does(way: Way) -> None:
    async def copies(_: TurnId) -> list[Row]:
        return [turn_row(), part()]

    fake = FakeServer(copies=copies, vouching=False)
    fake.busy(S1, FOLDER)
    async with way(fake) as it:
        assert not await it.vouches()
        with pytest.raises(ServerError, match="busy"):
            await it.delete_message(shown(it), S1, T1, FOLDER)
        await it.abort(shown(it), S1, FOLDER)
        await it.abort(shown(it), S2, "/elsewhere")
        assert fake.aborted == [(S1, FOLDER), (S2, "/elsewhere")]
        assert await it.statuses(FOLDER) == {}
        await it.delete_message(shown(it), S1, T1, FOLDER)
        assert fake.deleted == [(S1, T1)]
        await it.publish(shown(it), part(), FOLDER)
        assert [(row.id, json.loads(row.data), where) for row, where in fake.published] == [
            ("prt_1", json.loads(part().data), FOLDER)
        ]


@both
async def test_contract_an_ask_that_is_turned_down_is_gone_and_one_that_is_gone_is_an_error(way: Way) -> None:
    asks = [Ask(id=f"{kind}_1", kind=kind, session_id=S1, call_ref="call_1") for kind in AskKind]
    fake = FakeServer(asks_by={FOLDER: list(asks)})
    async with way(fake) as it:
        for ask in asks:
            await it.reject(shown(it), ask, FOLDER)
        assert await it.pending_asks(FOLDER) == ()
        assert fake.rejected == [("question_1", FOLDER), ("permission_1", FOLDER)]
        with pytest.raises(ServerError):
            await it.reject(shown(it), asks[0], FOLDER)


@both
async def test_contract_an_abort_that_lies_and_one_that_breaks(way: Way) -> None:
    fake = FakeServer(abort_behaviour=AbortBehaviour.LIES)
    fake.busy(S1, FOLDER)
    async with way(fake) as it:
        await it.abort(shown(it), S1, FOLDER)
        assert S1 in await it.statuses(FOLDER)
        fake.abort_behaviour = AbortBehaviour.RAISES
        with pytest.raises(ServerError):
            await it.abort(shown(it), S1, FOLDER)
        fake.problem = ServerError("down")
        with pytest.raises(ServerError):
            await it.statuses(FOLDER)


@pytest.mark.parametrize("folder", ["/a%20b", "/100%", "/ä ö&?#+/x", "/a%2520b"])
async def test_a_folder_arrives_as_it_is_though_opencode_decodes_it_twice(folder: str) -> None:
    fake = FakeServer()
    fake.busy(S1, folder)
    async with on_a_port(fake) as it:
        assert S1 in await it.statuses(folder)


# --- errors ----------------------------------------------------------------------------------------------------


def httpx_errors() -> Iterator[type[Exception]]:
    for module in (httpx, httpx_sse):
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, Exception):
                yield found


@pytest.mark.parametrize("kind", sorted(set(httpx_errors()), key=str))
async def test_every_error_of_httpx_leaves_as_a_server_error_without_its_text(kind: type[Exception]) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        text = f"http://user:{SECRET}@host"
        if kind in {httpx.StreamConsumed, httpx.StreamClosed, httpx.ResponseNotRead, httpx.RequestNotRead}:
            raise kind
        if kind is httpx.HTTPStatusError:
            raise httpx.HTTPStatusError(text, request=request, response=httpx.Response(500))
        raise kind(text)

    for ask in QUESTIONS.values():
        await failing(ask, answering(refuse))


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (httpx.ConnectError("x"), ServerUnreachable),
        (httpx.ReadTimeout("x"), ServerUnreachable),
        (httpx.PoolTimeout("x"), ServerUnreachable),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), ServerUnreachable),
        (httpx.RemoteProtocolError("illegal status line"), ServerAnswerInvalid),
        (httpx.DecodingError("x"), ServerAnswerInvalid),
        (OSError("x"), ServerUnreachable),
        (UnicodeError("x"), ServerAnswerInvalid),
    ],
)
async def test_errors_are_sorted_by_what_they_mean(error: Exception, becomes: type[ServerError]) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(becomes):
        await answering(refuse).statuses(FOLDER)


@each_question
@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_says_that_the_password_is_missing_or_wrong(ask: Question, status: int) -> None:
    error = await failing(ask, always(status, text="no"))
    assert isinstance(error, ServerRefused)
    assert "password" in str(error)


@each_question
@pytest.mark.parametrize("status", [301, 302, 410, 429, 500, 502, 503])
async def test_any_other_status_is_no_answer(ask: Question, status: int) -> None:
    error = await failing(ask, always(status, json={}, headers={"location": "/else"}))
    assert isinstance(error, ServerAnswerInvalid)


@each_question
async def test_a_page_of_html_is_no_answer(ask: Question) -> None:
    assert isinstance(await failing(ask, always(html="<html>opencode</html>")), ServerAnswerInvalid)


WRONG = [b"", b"{", b"null", b"3", b'"busy"', b'{"a":', b"[[[", b"[" * 100_000, b"\xff\xfe"]


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
@pytest.mark.parametrize("name", sorted(set(QUESTIONS) - {"readable", "publish", "delete_message"}))
async def test_wrong_json_is_no_answer(name: str, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    assert isinstance(await failing(QUESTIONS[name], always(content=body, headers=headers)), ServerAnswerInvalid)


@pytest.mark.parametrize("body", [False, None, {}, "true", 1])
async def test_an_abort_that_does_not_answer_true_failed(body: object) -> None:
    await failing(QUESTIONS["abort"], always(json=body))


@pytest.mark.parametrize(
    "asks",
    [
        [{}],
        [{"id": "q"}],
        [{"id": 1, "sessionID": "s"}],
        [None],
        ["x"],
        {},
        [{"id": "q", "sessionID": "s", "tool": 3}],
    ],
)
async def test_an_ask_that_cannot_be_read_is_no_answer_at_all(asks: object) -> None:
    await failing(QUESTIONS["pending_asks"], always(json=asks))


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({"type": "busy"}, Status(activity=Activity.BUSY)),
        ({"type": "dreaming"}, Status(activity=Activity.BUSY)),
        ({}, Status(activity=Activity.BUSY)),
        (None, Status(activity=Activity.BUSY)),
        ({"type": ["idle"]}, Status(activity=Activity.BUSY)),
        ({"type": "retry", "next": 5.5}, Status(activity=Activity.RETRY, retry_at_ms=5)),
        ({"type": "retry", "next": "soon"}, Status(activity=Activity.RETRY)),
        ({"type": "retry", "next": True}, Status(activity=Activity.RETRY)),
        ({"type": "retry", "next": -1}, Status(activity=Activity.RETRY)),
        ({"type": "retry"}, Status(activity=Activity.RETRY)),
        ({"type": "idle"}, None),
    ],
)
async def test_in_doubt_a_session_is_alive(found: object, status: Status | None) -> None:
    assert (await always(json={S1: found}).statuses(FOLDER)).get(S1) == status


async def test_a_copy_of_a_turn_keeps_the_ids_that_the_server_says() -> None:
    answer = {"info": {"id": "msg_9", "sessionID": S2}, "parts": [{"id": "prt_1", "messageID": T1, "sessionID": S1}]}
    copy = await always(json=answer).copy(S1, T1, FOLDER)
    assert copy is not None
    assert [(row.id, row.message_id, row.session_id, row.data) for row in copy] == [
        ("msg_9", "msg_9", S2, "{}"),
        ("prt_1", T1, S1, "{}"),
    ]


@pytest.mark.parametrize(
    "answer", [{}, {"info": {}, "parts": []}, {"info": {"id": T1, "sessionID": S1}, "parts": {}}]
)
async def test_a_turn_of_another_shape_is_no_answer(answer: object) -> None:
    with pytest.raises(ServerAnswerInvalid, match="can't be read"):
        await always(json=answer).copy(S1, T1, FOLDER)


ACTS: dict[str, Callable[[OpencodeServer, Served], Awaitable[object]]] = {
    "abort": lambda it, served: it.abort(served, S1, FOLDER),
    "reject": lambda it, served: it.reject(served, Ask(id="1", kind=AskKind.QUESTION, session_id=S1), FOLDER),
    "publish": lambda it, served: it.publish(served, part(), FOLDER),
    "readable": lambda it, served: it.readable(served, S1, FOLDER),
    "delete_message": lambda it, served: it.delete_message(served, S1, T1, FOLDER),
}


async def test_nothing_is_sent_that_was_shown_for_another_server_or_another_session() -> None:
    sent: list[str] = []

    def keep(request: httpx.Request) -> httpx.Response:
        sent.append(request.method)
        return httpx.Response(200, json=True)

    it = answering(keep)
    elsewhere = Served(server=ServerName("http://127.0.0.1:1"), by=Shown.PROCESS)
    for served in (elsewhere, Served(server=it.name, by=Shown.ROWS, sessions=frozenset([S2]))):
        for act in ACTS.values():
            with pytest.raises(ServerDeclined, match="not proven to serve"):
                await act(it, served)
    assert sent == []


async def test_a_part_that_reads_otherwise_at_the_server_is_not_overwritten() -> None:
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.method)
        done = {"id": "prt_1", "messageID": T1, "sessionID": S1, "type": "tool", "state": {"status": "completed"}}
        return httpx.Response(200, json={"info": {"id": T1, "sessionID": S1}, "parts": [done]})

    it = answering(answer)
    with pytest.raises(ServerAnswerInvalid, match="its own copy reads otherwise"):
        await it.publish(shown(it), part(), FOLDER)
    assert sent == ["GET"]


@pytest.mark.parametrize(
    ("status", "text"), [(409, "x"), (400, "Session ses_1 is busy"), (500, '{"message":"Session is busy"}')]
)
async def test_a_delete_in_a_busy_session_says_busy(status: int, text: str) -> None:
    with pytest.raises(ServerError, match="session ses_1 is busy"):
        await (it := always(status, text=text)).delete_message(shown(it), S1, T1, FOLDER)


@pytest.mark.parametrize(("statuses", "says"), [({S1: {"type": "busy"}}, "is busy"), ({}, "answered 400")])
async def test_a_delete_that_1_15_refuses_without_a_reason_is_busy_if_the_session_is(
    statuses: object, says: str
) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            return httpx.Response(400, json={"_tag": "BadRequest"})
        return httpx.Response(200, json=statuses)

    with pytest.raises(ServerAnswerInvalid, match=says):
        await (it := answering(respond)).delete_message(shown(it), S1, T1, FOLDER)


async def test_a_delete_of_what_is_not_there_says_so() -> None:
    with pytest.raises(ServerError, match="knows no message"):
        await (it := always(404, json={})).delete_message(shown(it), S1, T1, FOLDER)


async def test_half_a_surrogate_pair_in_an_output_can_be_published() -> None:
    bodies: list[bytes] = []

    def keep(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            own = {"id": "prt_1", "messageID": T1, "sessionID": S1, "output": "cut \ud83d", "count": 1}
            return httpx.Response(
                200, content=json.dumps({"info": {"id": T1, "sessionID": S1}, "parts": [own]}).encode("ascii")
            )
        bodies.append(request.read())
        return httpx.Response(200, json={})

    it = answering(keep)
    await it.publish(shown(it), part('{"output":"cut \\ud83d","count":1}'), FOLDER)
    assert b"\\ud83d" in bodies[0]
    assert json.loads(bodies[0])["sessionID"] == S1


@pytest.mark.parametrize("row", [part("{"), part("[]"), part(table="message")])
async def test_what_is_no_part_is_not_published(row: Row) -> None:
    with pytest.raises(ServerAnswerInvalid, match="prt_1"):
        await (it := always(json={})).publish(shown(it), row, FOLDER)


async def test_an_endless_answer_is_cut_off() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 1_000_000

    await failing(QUESTIONS["statuses"], always(content=endless()))


# --- the version -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "vouches"),
    [
        ("1.14.0", True),
        ("1.14", True),
        ("1.13.9", False),
        ("1.2.27", False),
        ("1.18.33", True),
        ("2.0.0", False),
        ("7.0.33", False),
        ("7.7.9", False),
        ("1.99.0", True),
        ("0.0.0-dev-202609010000", False),
        ("1.15.0-beta.1", True),
        ("local", False),
        ("", None),
        ("1.99999999999999999999.0", False),
    ],
)
async def test_a_version_vouches_from_1_14_on(version: str, vouches: bool | None) -> None:
    it = always(json={"healthy": True, "version": version})
    if vouches is None:
        await failing(QUESTIONS["vouches"], it)
    else:
        assert await it.vouches() is vouches


async def test_the_version_is_asked_again_after_an_error() -> None:
    versions = iter(["1.18.33", "1.2.27"])

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/global/health":
            return httpx.Response(200, json={"healthy": True, "version": next(versions)})
        raise httpx.ConnectError("x")

    it = answering(respond)
    assert await it.vouches()
    assert await it.vouches()
    await failing(QUESTIONS["statuses"], it)
    assert not await it.vouches()


async def test_the_version_is_asked_again_on_a_new_connection() -> None:
    versions = iter(["1.18.33", "1.2.27", "1.2.27"])

    async def one_reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        health = request.path == ("global", "health")
        writer.write(reply({"healthy": True, "version": next(versions)} if health else {}))
        await writer.drain()

    async with loopback(one_reply) as url, server(url) as it:
        assert await it.vouches()
        await it.statuses(FOLDER)
        assert not await it.vouches()


# --- the address and the secret --------------------------------------------------------------------------------


def test_credentials_in_the_address_never_show() -> None:
    it = server(f"http://me:{SECRET}@127.0.0.1:4096/")
    assert it.name == "http://127.0.0.1:4096"
    assert SECRET not in repr(it)
    assert SECRET not in repr(vars(it))


async def test_credentials_in_the_address_are_used_and_win() -> None:
    seen: list[str] = []

    def keep(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization", ""))
        return httpx.Response(200 if seen[-1] else 401, json={})

    transport = httpx.MockTransport(keep)
    await server("http://me:p%40ss@h:1", transport=transport, password=SECRET).statuses(FOLDER)
    await server("http://h:1", transport=transport, password=SECRET).statuses(FOLDER)
    await failing(QUESTIONS["statuses"], server("http://h:1", transport=transport))
    assert seen == [
        "",
        httpx.BasicAuth("me", "p@ss")._auth_header,
        "",
        httpx.BasicAuth("opencode", SECRET)._auth_header,
        "",
    ]


async def test_a_stranger_gets_the_password_only_if_it_asks_for_one() -> None:
    seen: list[bool] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append("authorization" in request.headers)
        return httpx.Response(200 if seen[-1] or not guarded else 401, json={"healthy": True, "version": "1.18.33"})

    guarded = False
    await answering(respond, password=SECRET).version()
    assert seen == [False]
    guarded = True
    await answering(respond, password=SECRET).version()
    assert seen == [False, False, True]


@pytest.mark.parametrize(
    "url", ["", "localhost:4096", "ftp://x", "http://", "http://h:99999", "http://h/?x=1", "x@y"]
)
def test_an_address_that_is_none_is_a_setting_to_correct(url: str) -> None:
    with pytest.raises(SettingsError, match="http://HOST:PORT"):
        server(url)


def test_a_wrong_address_with_a_password_does_not_show_it() -> None:
    with pytest.raises(SettingsError) as caught:
        server(f"htp://me:{SECRET}@host")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("http://localhost:4096", "127.0.0.1:4096 [::1]:4096"),
        ("http://127.0.0.1", "127.0.0.1:80"),
        ("https://127.9.9.9", "127.9.9.9:443"),
        ("http://[::1]:5", "[::1]:5"),
        ("http://10.0.0.1:4096", "10.0.0.1:4096"),
        ("http://example.org:4096", ""),
    ],
)
def test_an_address_tells_where_it_leads_and_a_name_does_not(url: str, places: str) -> None:
    assert " ".join(map(str, server(url).leads_to)) == places


async def test_a_name_leads_where_its_connection_went() -> None:
    async with loopback(over_http(FakeServer())) as url:
        port = int(url.rpartition(":")[2])
        async with server(f"http://localhost:{port}") as named:
            await named.version()
            assert " ".join(map(str, named.leads_to)) == f"127.0.0.1:{port}"


# --- a real socket that misbehaves -------------------------------------------------------------------------------


def sends(raw: bytes, *, hang: bool = False) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        await writer.drain()
        if hang:
            await asyncio.Event().wait()

    return handle


@each_question
async def test_half_a_reply_is_no_answer(ask: Question) -> None:
    half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    async with loopback(sends(half)) as url, server(url) as it:
        assert isinstance(await failing(ask, it), ServerAnswerInvalid)


@each_question
@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"], ids=["nothing", "half"])
async def test_a_server_that_hangs_has_its_time_limit(ask: Question, raw: bytes) -> None:
    limits = {"timeout_seconds": 0.05, "abort_timeout_seconds": 0.05, "read_timeout_seconds": 0.05}
    async with loopback(sends(raw, hang=True)) as url, server(url, **limits) as it:
        error = await failing(ask, it)
        assert isinstance(error, ServerUnreachable)
        assert "within 0.05 s" in str(error)


async def test_a_server_that_trickles_has_the_same_time_limit() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with loopback(trickle) as url, server(url, timeout_seconds=0.1) as it:
        assert isinstance(await failing(QUESTIONS["statuses"], it), ServerUnreachable)


async def test_a_closed_connection_a_foreign_protocol_and_a_reset() -> None:
    async with loopback(sends(b"")) as url, server(url) as it:
        assert isinstance(await failing(QUESTIONS["statuses"], it), ServerUnreachable)
    async with loopback(sends(b"220 smtp ready\r\n\r\n")) as url, server(url) as it:
        assert isinstance(await failing(QUESTIONS["statuses"], it), ServerAnswerInvalid)
    async with server(url) as it:  # nobody listens there any more
        assert isinstance(await failing(QUESTIONS["statuses"], it), ServerUnreachable)


async def test_a_server_that_was_closed_is_unreachable() -> None:
    it = server()
    await it.aclose()
    assert isinstance(await failing(QUESTIONS["statuses"], it), ServerUnreachable)


async def test_what_is_asked_of_a_folder_is_asked_at_the_same_time_and_once_for_all_who_ask() -> None:
    """None of the three questions is answered before all three are there; ten ask them."""
    asked: list[str] = []
    all_there = anyio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            asked.append("/".join(request.path))
            if len(asked) == 3:
                all_there.set()
            await all_there.wait()
            writer.write(reply({} if request.path[0] == "session" else []))
            await writer.drain()

    async with loopback(answer) as url, server(url) as it:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(it.statuses, FOLDER)
                    group.start_soon(it.pending_asks, FOLDER)
    assert sorted(asked) == ["permission", "question", "session/status"]


async def test_a_silence_is_told_from_an_outage() -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
        await reader.read()

    async with loopback(never) as url, server(url, timeout_seconds=0.05) as it:
        with pytest.raises(ServerSilent, match=r"did not answer within 0\.05 s"):
            await it.statuses(FOLDER)
    async with server(url) as it:
        with pytest.raises(ServerUnreachable) as caught:
            await it.statuses(FOLDER)
    assert not isinstance(caught.value, ServerSilent)
