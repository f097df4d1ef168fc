"""The state of each unfinished session in a few words, for programs that may only read."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from playwright.async_api import expect

from tests.fakes.server import FakeServer
from tests.support.browser import chromium
from tests.support.control import Api, Sent, api, read_events
from tests.support.database import OpencodeFile
from tests.support.opencode import free_port
from tests.support.program import NOWHERE, Program, now_ms, path, program, rows
from tests.unit.cli.test_commands import at_work
from watchdog.control import shapes
from watchdog.model.session import Activity, Ask, AskKind, SessionId, Status
from watchdog.shown import shown

__all__ = ["path", "program", "rows"]

READER = "only-to-read-0123456789"
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "stuck-since.html"
READING = {"Authorization": f"Bearer {READER}"}


def hung(rows: OpencodeFile, fake: FakeServer, *, hours: float = 2.0) -> str:
    """A session whose call is past any limit, and whose server takes no abort."""
    began = now_ms() - round(hours * 3_600_000)
    turn = rows.turn(rows.session("ses_hung", at=began), at=began)
    fake.busy(SessionId("ses_hung"), "/project")
    fake.turns.add((SessionId("ses_hung"), turn))
    return rows.call(turn, at=began)


async def test_each_unfinished_session_has_a_state_a_reason_times_and_what_may_be_done(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    asking = rows.session("ses_asks", at=now_ms())
    rows.call(rows.turn(asking, at=now_ms()), tool="question", at=now_ms())
    fake.statuses_by["/project"][SessionId(asking)] = Status(activity=Activity.BUSY)
    fake.asks_by["/project"] = [Ask(id="que_1", kind=AskKind.QUESTION, session_id=SessionId(asking))]
    rows.finish_turn(rows.turn(rows.session("ses_done")))
    async with api(rows, fake) as served:
        document = await served.ask("GET", "/api/v1/state")
        await served.ask("POST", "/api/v1/sessions/ses_busy/hold")
        held = await served.ask("GET", "/api/v1/state")
    shapes.State.model_validate(document)
    found = {each["session_id"]: each for each in document["sessions"]}
    assert found.keys() == {"ses_busy", "ses_asks"}
    busy, asks = found["ses_busy"], found["ses_asks"]
    assert (busy["state"], busy["may"]) == ("within_limit", ["release", "hold"])
    assert (asks["state"], asks["until"]) == ("waiting_on_human", None)
    assert busy["since"] < document["now"] < busy["until"]
    (now_held,) = [each for each in held["sessions"] if each["session_id"] == "ses_busy"]
    assert now_held["may"] == ["release", "unhold"]


async def test_what_is_stuck_is_stuck_since_it_passed_its_limit(rows: OpencodeFile) -> None:
    fake = FakeServer()
    hung(rows, fake)
    async with api(rows, fake, dry_run=True) as served:
        document = await served.ask("GET", "/api/v1/state")
    (state,) = document["sessions"]
    assert (state["state"], state["may"], document["mandate"]) == ("stuck", ["hold"], "dry_run")
    assert state["since"] < document["now"]


async def test_the_stream_tells_the_whole_state_and_again_when_it_changes(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    async with api(rows, fake, control_read_token=READER) as served, reading(served) as events:
        first = await anext(events)
        await served.ask("POST", "/api/v1/sessions/ses_busy/release")
        seen = [await anext(events)]
        while seen[-1].data["sessions"]:
            seen.append(await anext(events))
    assert (first.name, [each["state"] for each in first.data["sessions"]]) == ("state", ["within_limit"])
    assert {event.name for event in seen} == {"state"}


@asynccontextmanager
async def reading(served: Api) -> AsyncIterator[AsyncIterator[Sent]]:
    async with served.client.stream("GET", "/api/v1/state/events", headers=READING) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async with aclosing(read_events(answer)) as events:
            yield events


@pytest.mark.parametrize(
    ("method", "place", "status"),
    [
        *(
            ("GET", place, 200)
            for place in (
                "state",
                "status",
                "sessions",
                "sessions/ses_busy",
                "drain",
                "openapi.json",
                "../../metrics",
            )
        ),
        ("HEAD", "state", 200),
        ("GET", "interventions", 403),
        ("GET", "interventions/1", 403),
        ("GET", "operations/op_3f2a9c1e5b7d4860", 403),
        ("POST", "sessions/ses_busy/release", 403),
        ("POST", "sessions/ses_busy/hold", 403),
        ("DELETE", "sessions/ses_busy/messages/msg_1", 403),
        ("POST", "pause", 403),
        ("POST", "state", 403),
    ],
)
async def test_the_second_token_can_only_read_and_sees_nothing_of_the_journal(
    rows: OpencodeFile, method: str, place: str, status: int
) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    async with api(rows, fake, control_read_token=READER) as served:
        url = httpx.URL(served.url).join(f"/api/v1/{place}")
        answer = await served.client.request(method, url, headers=READING)
        assert answer.status_code == status, answer.text
        if status == 403:
            assert answer.json()["type"].endswith(":read-only")
            assert READER not in answer.text
        wrong = await served.client.request(method, url, headers={"Authorization": f"Bearer {READER}x"})
        assert wrong.status_code == 401
        assert (await served.ask("GET", "/api/v1/state"))["sessions"][0]["state"] == "within_limit"


async def test_without_a_second_token_nobody_reads_with_one(rows: OpencodeFile) -> None:
    async with api(rows, FakeServer()) as served:
        for given in ("", "Bearer", "Basic x", f"Bearer {READER}"):
            answer = await served.client.get("/api/v1/state", headers={"Authorization": given})
            assert answer.status_code == 401


async def test_both_tokens_the_same_is_an_error_at_the_start(program: Program, rows: OpencodeFile) -> None:
    program.settings(
        database=str(rows.path),
        servers=[NOWHERE],
        discover=False,
        control=f"127.0.0.1:{free_port()}",
        control_token=READER,
        control_read_token=READER,
    )
    (program.home / "opencode-watchdog.toml").chmod(0o600)
    done = await program.run("run")
    assert done.code == 2
    assert "control_read_token is the token that may change things" in done.stderr
    assert READER not in done.stdout + done.stderr
    checked = await program.run("check", "--settings")
    assert "control_read_token\tset" in checked.stdout
    assert READER not in checked.stdout + checked.stderr


@pytest.mark.skipif(os.name != "posix", reason="a browser of Debian's")
async def test_the_example_draws_since_when_a_session_is_stuck_in_a_page_of_another_origin(
    rows: OpencodeFile, tmp_path: Path
) -> None:
    fake = FakeServer()
    hung(rows, fake)
    handler = partial(Quiet, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as pages:
        Thread(target=pages.serve_forever, args=(0.05,), daemon=True).start()
        origin = f"http://127.0.0.1:{pages.server_port}"
        async with api(rows, fake, dry_run=True, control_read_token=READER, control_origins=[origin]) as served:
            text = EXAMPLE.read_text(encoding="utf-8")
            text = text.replace("http://127.0.0.1:4097", served.url).replace("the control_read_token", READER)
            (tmp_path / "page.html").write_text(text, encoding="utf-8")
            async with chromium() as browser, browser.tab() as tab:
                await tab.page.goto(f"{origin}/page.html")
                item = tab.page.locator("li")
                await expect(item).to_have_text(re.compile(r"^ses_hung: (stuck|cooling_down) since [0-9]+ min$"))
                assert shown(await item.get_attribute("title") or "")
                assert [each for each in await tab.complaints() if "favicon" not in each and "404" not in each] == []
        pages.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""
