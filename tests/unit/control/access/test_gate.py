"""Who may ask the HTTP API: decided without HTTP, and each way in tried over HTTP."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from tests.fakes.server import FakeServer
from tests.support.control import TOKEN, UNHURRIED, Api, api
from tests.support.database import OpencodeFile
from tests.support.program import path, rows
from tests.support.waiting import wait_until
from tests.unit.cli.test_commands import at_work
from watchdog.control import server
from watchdog.control.access.gate import Bounds, Bucket, Gate, Names, OwnersGate
from watchdog.control.access.keys import Keys
from watchdog.control.access.problems import Problem
from watchdog.control.app import OPEN_PATHS

__all__ = ["path", "rows"]

HOST = "127.0.0.1:4097"


def decide(
    gate: Gate, *, method: str = "GET", path: str = "/api/v1/sessions", at: float = 0.0, **headers: str
) -> str:
    """The name of what stands against a request, or `in`."""
    named = {"host": HOST, "authorization": f"Bearer {TOKEN}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    shown = Headers({name: value for name, value in named.items() if value})
    found = gate.objection(
        method=method,
        path=path,
        headers=shown,
        admitted=gate.admits(shown),
        client="127.0.0.1",
        now_seconds=at,
    )
    return "in" if found is None else found.name


def gate(*, hosts: tuple[str, ...] = (), any_address: bool = False, origins: tuple[str, ...] = ()) -> Gate:
    names = Names(hosts=hosts, any_address=any_address, origins=origins)
    return Gate(keys=Keys(lambda: TOKEN), names=names, bounds=Bounds(), open_paths=OPEN_PATHS)


@pytest.mark.parametrize("host", [HOST, "localhost", "localhost:80", "[::1]:4097", "127.1.2.3", "LOCALHOST:4097"])
def test_loopback_names_are_ours(host: str) -> None:
    assert decide(gate(), host=host) == "in"


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "evil.example:4097", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.7",
        "localhost@evil.example", "localhost/", "localhost:x", "[::1", "2130706433", "127.0.0.1 evil.example",
    ],
)  # fmt: skip
def test_other_names_are_foreign_whatever_is_shown(host: str) -> None:
    assert decide(gate(), host=host) == "foreign-host"
    assert decide(gate(), host=host, path="/healthz") == "foreign-host"


def test_listed_names_and_with_remote_access_every_address_is_ours() -> None:
    assert decide(gate(hosts=("watch.example",)), host="watch.example:80") == "in"
    assert decide(gate(hosts=("watch.example",)), host="evil.watch.example") == "foreign-host"
    assert decide(gate(any_address=True), host="10.0.0.7:4097") == "in"
    assert decide(gate(any_address=True), host="evil.example") == "foreign-host"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    ("origin", "found"),
    [
        (f"http://{HOST}", "in"),
        (f"https://{HOST}", "in"),
        ("http://127.0.0.1:4096", "foreign-origin"),
        ("http://127.0.0.1", "foreign-origin"),
        ("http://localhost:4097", "foreign-origin"),
        ("http://evil.example", "foreign-origin"),
        ("null", "foreign-origin"),
        ("ftp://127.0.0.1:4097", "foreign-origin"),
        (f"http://{HOST}.evil.example", "foreign-origin"),
        (f"http://x@{HOST}", "foreign-origin"),
    ],
)
def test_only_the_api_s_own_page_may_call_it(method: str, origin: str, found: str) -> None:
    assert decide(gate(), method=method, origin=origin) == found


def test_the_page_of_an_ipv6_address_is_the_api_s_own_too() -> None:
    assert decide(gate(), method="POST", host="[::1]:4097", origin="http://[::1]:4097") == "in"
    assert decide(gate(), method="POST", host="[::1]:4097", origin="http://[::1]:4098") == "foreign-origin"


def test_a_listed_page_may_call_it() -> None:
    listed = gate(origins=("https://ui.example",))
    assert decide(listed, method="POST", origin="https://ui.example") == "in"
    assert decide(listed, method="POST", origin="http://ui.example") == "foreign-origin"
    assert decide(listed, method="OPTIONS", origin="https://ui.example", authorization="") == "in"
    assert decide(listed, method="OPTIONS", authorization="") == "unauthorized"


def test_what_a_browser_marks_as_cross_site_changes_nothing_but_may_be_a_link_to_the_page() -> None:
    assert decide(gate(), method="POST", sec_fetch_site="cross-site") == "foreign-origin"
    assert decide(gate(), method="POST", sec_fetch_site="same-site") == "foreign-origin"
    assert decide(gate(), method="POST", sec_fetch_site="same-origin") == "in"
    assert decide(gate(), path="/", sec_fetch_site="cross-site", sec_fetch_mode="navigate", authorization="") == "in"
    assert decide(gate(), path="/", sec_fetch_site="cross-site", sec_fetch_mode="no-cors") == "foreign-origin"


@pytest.mark.parametrize(
    "shown",
    [
        "", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN} x", f"Bearer {TOKEN}, Bearer {TOKEN}",
    ],
)  # fmt: skip
def test_without_the_token_nothing_is_let_in(shown: str) -> None:
    assert decide(gate(), authorization=shown) == "unauthorized"
    assert decide(gate(), authorization=shown, path="/metrics") == "unauthorized"
    assert decide(gate(), authorization=shown, path="/page") == "unauthorized"
    assert decide(gate(), authorization=shown, path="/", method="POST") == "unauthorized"


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/healthz", "/readyz"])
def test_what_holds_nothing_needs_no_token(path: str) -> None:
    assert decide(gate(), authorization="", path=path) == "in"


def test_the_scheme_is_read_in_small_and_capital_letters() -> None:
    assert decide(gate(), authorization=f"bearer {TOKEN}") == "in"


def test_guesses_use_up_their_own_allowance_and_not_that_of_who_has_the_token() -> None:
    narrow = gate()
    answers = [decide(narrow, authorization="Bearer guess") for _ in range(50)]
    assert answers == ["unauthorized"] * 40 + ["too-many-requests"] * 10
    assert decide(narrow) == "in"
    assert decide(narrow, authorization="Bearer guess", at=0.6) == "unauthorized"
    assert decide(narrow, authorization="Bearer guess", at=0.6) == "too-many-requests"


def test_a_process_of_the_owner_may_ask_anything_and_not_endlessly_and_takes_nothing_from_another() -> None:
    bounds = Bounds(rate=2, burst=3)
    gate = OwnersGate(keys=Keys(lambda: None), names=Names(), bounds=bounds, open_paths=())

    def asked(client: str, *, at: float, path: str = "/api/v1/sessions") -> str:
        found = gate.objection(
            method="GET", path=path, headers=Headers(), admitted=True, client=client, now_seconds=at
        )
        return "in" if found is None else found.name

    assert [asked("pid 7", at=0) for _ in range(4)] == ["in", "in", "in", "too-many-requests"]
    assert asked("pid 7", at=0, path="/healthz") == "in"
    assert asked("pid 8", at=0) == "in"
    assert asked("pid 7", at=0.6) == "in"


def test_a_refusal_for_too_many_waits_and_so_does_health_for_who_asks_endlessly() -> None:
    """Answers at once would be an invitation to the next request, and the watchdog would do nothing else."""
    bounds = Bounds(rate=1, burst=2, doubtful_burst=1, refusal_seconds=1.5, health_seconds=0.5)
    gate = Gate(keys=Keys(lambda: TOKEN), names=Names(), bounds=bounds, open_paths=OPEN_PATHS)

    def pause(name: str | None, path: str, *, client: str = "127.0.0.1", at: float = 0.0) -> float:
        status = {"too-many-requests": 429, "unauthorized": 401}.get(name or "", 0)
        problem = None if name is None else Problem(name=name, status=status, detail="")
        return gate.pause_seconds(problem, path=path, client=client, now_seconds=at)

    assert [pause(None, "/api/v1/sessions") for _ in range(5)] == [0.0] * 5
    assert pause("unauthorized", "/api/v1/sessions") == 0.0
    assert pause("too-many-requests", "/api/v1/sessions") == 1.5
    assert [pause(None, path) for path in ("/healthz", "/readyz", "/healthz")] == [0.0, 0.0, 0.5]
    assert pause(None, "/healthz", client="10.0.0.1") == 0.0
    assert pause(None, "/healthz", at=1.0) == 0.0


def test_a_bucket_gives_so_many_at_once_and_so_many_a_second() -> None:
    bucket = Bucket(rate=2.0, burst=3.0, clients=2)
    assert [bucket.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take("b", 0.0) == 0.0
    assert bucket.take("a", 0.49) > 0
    assert bucket.take("a", 0.51) == 0.0
    assert bucket.take("a", 0.51) > 0
    assert [bucket.take("a", 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_a_bucket_forgets_the_address_that_was_silent_longest() -> None:
    bucket = Bucket(rate=0.001, burst=1.0, clients=2)
    assert [bucket.take(client, 0.0) for client in "ab"] == [0.0, 0.0]
    assert bucket.take("a", 1.0) > 0
    assert bucket.take("c", 1.0) == 0.0
    assert bucket.take("a", 1.0) > 0
    assert bucket.take("b", 1.0) == 0.0


def test_a_gate_does_not_show_its_token() -> None:
    assert TOKEN not in repr(gate())


# -- over HTTP


async def routes(served: Api) -> AsyncIterator[tuple[str, str]]:
    """Every route of the OpenAPI document, with ids in its path."""
    document = await served.ask("GET", "/api/v1/openapi.json")
    ids = {"session_id": "ses_busy", "message_id": "msg_1", "number": "1", "operation_id": "op_0123456789abcdef"}
    for template, methods in document["paths"].items():
        for method in methods:
            yield method.upper(), template.format(**ids)


async def test_each_way_in_needs_the_token_the_right_name_and_no_foreign_page(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    tried = 0
    async with api(rows, fake, bounds=Bounds(doubtful_burst=1000)) as served:
        found = [each async for each in routes(served)]
        assert len(found) == 20
        async with httpx.AsyncClient(base_url=served.url, timeout=60, trust_env=False) as stranger:
            for method, where in found:
                right = {"Authorization": f"Bearer {TOKEN}"}
                bad: list[tuple[dict[str, str], int]] = [
                    ({**right, "Host": "evil.example"}, 403),
                    ({**right, "Origin": "http://evil.example"}, 403),
                ]
                if where not in OPEN_PATHS:
                    bad += [({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Cookie": f"token={TOKEN}"}, 401)]
                    in_query = await stranger.request(method, where, params={"token": TOKEN, "access_token": TOKEN})
                    assert in_query.status_code == 401
                for headers, status in bad:
                    answer = await stranger.request(method, where, headers=headers)
                    assert answer.status_code == status, (method, where, headers, answer.text)
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert "access-control-allow-origin" not in answer.headers
                    assert status != 401 or answer.headers["www-authenticate"] == "Bearer"
                    tried += 1
        assert (await served.ask("GET", "/api/v1/interventions"))["interventions"] == []
        assert (await served.ask("GET", "/api/v1/sessions"))["on_hold"] == []
    assert fake.aborted == []
    assert tried > 60


async def test_too_many_requests_are_told_when_to_come_again(rows: OpencodeFile) -> None:
    async with api(rows, FakeServer(), bounds=Bounds(rate=1.0, burst=30.0)) as served:
        taken = 0
        while (answer := await served.client.get("/api/v1/sessions")).status_code == 200:
            taken += 1
            assert taken < 400  # on a slow machine the allowance grows meanwhile
    assert answer.status_code == 429
    assert answer.json()["type"].endswith(":too-many-requests")
    assert 1 <= int(answer.headers["retry-after"]) <= 2


async def test_a_listed_page_gets_cors_headers_and_no_other(rows: OpencodeFile) -> None:
    page = "https://ui.example"
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with api(rows, FakeServer(), control_origins=[page]) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=60, trust_env=False) as browser:
            asked = await browser.options("/api/v1/pause", headers={"Origin": page, **preflight})
            other = await browser.options("/api/v1/pause", headers={"Origin": "https://evil.example", **preflight})
        answer = await served.client.get("/api/v1/sessions", headers={"Origin": page})
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, page)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page)
    assert other.status_code == 403


async def test_what_is_no_http_is_answered_and_the_api_goes_on(
    rows: OpencodeFile, capfd: pytest.CaptureFixture[str]
) -> None:
    async with api(rows, FakeServer()) as served:
        where = httpx.URL(served.url)
        two_hosts = b"GET / HTTP/1.1\r\nHost: a\r\nHost: 127.0.0.1\r\n\r\n"
        for rubbish in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9\r\n\r\n", b"X" * 70_000, two_hosts):
            with socket.create_connection((where.host, where.port or 0), timeout=60) as raw:
                raw.sendall(rubbish)
        assert (await served.client.get("/healthz")).status_code == 200
    assert "Traceback" not in "".join(capfd.readouterr())


async def test_the_token_is_in_no_answer_and_no_log_line(
    rows: OpencodeFile, capsys: pytest.CaptureFixture[str]
) -> None:
    async with api(rows, FakeServer()) as served:
        for where in ("/api/v1/sessions", "/api/v1/nowhere", f"/api/v1/sessions?token={TOKEN}"):
            answer: Any = await served.client.get(where)
            assert TOKEN not in answer.text
    assert TOKEN not in "".join(capsys.readouterr())


async def test_a_client_that_does_not_say_what_it_wants_is_hung_up_on(
    rows: OpencodeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 2.0)
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with api(rows, FakeServer()) as served:
        where = httpx.URL(served.url)

        async def hung_up_on(said: bytes, then: bytes) -> None:
            reader, writer = await asyncio.open_connection(where.host, where.port)
            writer.write(said)
            if then:
                assert (await asyncio.wait_for(reader.readuntil(b"}"), 60)).startswith(b"HTTP/1.1 200 OK")
                writer.write(then)
            assert await asyncio.wait_for(reader.read(), 60) == b""
            writer.close()

        await asyncio.gather(hung_up_on(b"", b""), hung_up_on(whole[:20], b""), hung_up_on(whole, whole[:20]))
        reader, writer = await asyncio.open_connection(where.host, where.port)
        for _ in range(5):  # one that asks again and again is not
            writer.write(whole)
            assert (await asyncio.wait_for(reader.readuntil(b"}"), 60)).startswith(b"HTTP/1.1 200 OK")
            await asyncio.sleep(0.5)
        writer.close()


async def test_who_opens_connections_and_says_nothing_keeps_nobody_out_and_takes_no_more_than_its_share(
    rows: OpencodeFile,
) -> None:
    """Another address of loopback stands for another machine."""
    async with api(rows, FakeServer(), bounds=UNHURRIED) as served:
        where = httpx.URL(served.url)
        opened = [await asyncio.open_connection(where.host, where.port) for _ in range(200)]
        transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(base_url=served.url, timeout=60, transport=transport) as other:
            for _ in range(3):
                assert (await other.get("/healthz")).status_code == 200
        ends = [asyncio.ensure_future(reader.read()) for reader, _ in opened]
        await wait_until(lambda: sum(not end.done() for end in ends) < 64, "the others to be hung up on")
        for _, writer in opened:
            writer.close()
        await asyncio.gather(*ends, return_exceptions=True)
