"""What the HTTP API answers: with a real loop, a real database and real HTTP."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from structlog.testing import capture_logs

from tests.fakes.server import AbortBehaviour, FakeServer
from tests.support.control import TOKEN, Api, Sent, api, read_events
from tests.support.database import NOW, OpencodeFile
from tests.support.program import path, rows
from tests.support.waiting import wait_until
from tests.unit.cli.test_commands import at_work
from watchdog.control import shapes
from watchdog.control.access.gate import Bounds
from watchdog.model.session import SessionId
from watchdog.operating.explained import Telling
from watchdog.operating.release import Releasing

__all__ = ["path", "rows"]

BUSY = "/api/v1/sessions/ses_busy"


def lost(rows: OpencodeFile, session: str = "ses_lost") -> str:
    """A session that a crash left behind: its server does not know it, and nobody else has the database open."""
    return rows.call(rows.turn(rows.session(session)))


# -- telling


async def test_the_overview_is_what_scan_prints_and_more(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    rows.set("session", "ses_busy", title="<b>Mend</b>")
    async with api(rows, fake) as served:
        document = await served.ask("GET", "/api/v1/sessions")
    shapes.Sessions.model_validate(document)
    assert document["mandate"] == "acting"
    assert document["counts"] == {"unfinished_sessions": 1, "open_tool_calls": 1, "damaged_rows": 0}
    (line,) = document["sessions"]
    assert (line["session_id"], line["title"], line["directory"]) == ("ses_busy", "<b>Mend</b>", "/project")
    assert (line["state"], line["unfinished"], line["on_hold"]) == ("within_limit", True, False)
    (clock,) = line["clocks"]
    assert clock["setting"] == "tool_timeout"
    assert clock["limit_seconds"] == 1800
    assert 0 <= clock["fraction"] < 0.1
    assert clock["part_id"] == line["calls"][0]["part_id"]


async def test_the_explanation_is_that_of_a_watchdog_that_remembers(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    async with api(rows, fake) as served:
        document = await served.ask("GET", BUSY)
        assert await served.problem("GET", "/api/v1/sessions/ses_nowhere", 404) == "no-such-session"
    shapes.Explanation.model_validate(document)
    assert "within_limit" in document["judgement"]
    assert not any("running watchdog" in note for note in document["notes"])


async def test_a_session_with_nothing_open_is_explained_too(rows: OpencodeFile) -> None:
    rows.session("ses_quiet")
    async with api(rows, FakeServer()) as served:
        document = await served.ask("GET", "/api/v1/sessions/ses_quiet")
        assert (await served.ask("GET", "/api/v1/sessions"))["sessions"] == []
    assert document["judgement"].startswith("It is finished")


# -- ending


async def test_a_release_ends_what_is_open_and_is_kept_with_its_reason(rows: OpencodeFile) -> None:
    fake = FakeServer()
    call = at_work(rows, fake)
    async with api(rows, fake) as served:
        await served.ask("POST", f"{BUSY}/hold")
        document = await served.ask("POST", f"{BUSY}/release", json={"reason": "it hangs"})
        history = await served.ask("GET", "/api/v1/interventions")
        again = await served.ask("POST", f"{BUSY}/release")
    shapes.Outcomes.model_validate(document)
    shapes.History.model_validate(history)
    assert [outcome["result"] for outcome in document["outcomes"]] == ["recovered"]
    assert json.loads(rows.get("part", call))["state"]["status"] != "running"
    (kept,) = history["interventions"]
    assert (kept["actor"], kept["reason"], kept["outcome"]) == ("person", "it hangs", document["outcomes"][0])
    assert history["on_hold"] == []
    assert [outcome["result"] for outcome in again["outcomes"]] == ["unchanged"]


async def test_two_releases_at_once_are_one_and_get_the_same_answer(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    end, gate = fake.on_abort, anyio.Event()
    assert end is not None

    async def slowly(id_: SessionId) -> None:
        await gate.wait()
        await end(id_)

    fake.on_abort = slowly
    async with api(rows, fake) as served:
        both = [asyncio.create_task(served.ask("POST", f"{BUSY}/release")) for _ in range(2)]
        await wait_until(lambda: fake.aborted, "the abort")
        await served.ask("GET", "/api/v1/sessions")
        gate.set()
        first, second = await asyncio.gather(*both)
        assert len((await served.ask("GET", "/api/v1/interventions"))["interventions"]) == 1
    assert first == second
    assert first["outcomes"][0]["result"] == "recovered"
    assert len(fake.aborted) == 1


async def test_a_release_joins_what_the_loop_does_already(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    end, gate = fake.on_abort, anyio.Event()
    assert end is not None

    async def slowly(id_: SessionId) -> None:
        await gate.wait()
        await end(id_)

    fake.on_abort = slowly
    async with api(rows, fake, tool_timeout=0.2) as served:
        await wait_until(lambda: fake.aborted, "the loop's abort")
        assert (await served.ask("GET", "/api/v1/sessions"))["sessions"][0]["acting"]
        asked = asyncio.create_task(served.ask("POST", f"{BUSY}/release"))
        await wait_until(lambda: served.watch.acting.begun, "the act")
        await served.ask("GET", BUSY)
        gate.set()
        document = await asked
        (kept,) = (await served.ask("GET", "/api/v1/interventions"))["interventions"]
    assert len(fake.aborted) == 1
    assert kept["actor"] == "watchdog"
    assert document["outcomes"] == [kept["outcome"]]


async def test_what_takes_long_is_answered_with_a_link_and_goes_on(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    end, gate = fake.on_abort, anyio.Event()
    assert end is not None

    async def slowly(id_: SessionId) -> None:
        await gate.wait()
        await end(id_)

    fake.on_abort = slowly
    async with api(rows, fake, bounds=Bounds(patience_seconds=0.05)) as served:
        answer = await served.client.post(f"{BUSY}/release")
        assert answer.status_code == 202
        shapes.OperationShape.model_validate(answer.json())
        link = answer.headers["location"]
        assert (await served.ask("GET", link))["state"] == "running"
        assert (await served.client.post(f"{BUSY}/release")).headers["location"] == link
        gate.set()

        async def ended() -> dict[str, Any] | None:
            found = await served.ask("GET", link)
            return found if found["state"] != "running" else None

        operation = await wait_until(ended, "the end of the operation")
        assert await served.problem("GET", "/api/v1/operations/op_0000000000000000", 404) == "no-such-operation"
    shapes.OperationShape.model_validate(operation)
    assert operation["state"] == "done"
    assert operation["document"]["outcomes"][0]["result"] == "recovered"
    assert len(fake.aborted) == 1


async def test_a_client_that_goes_away_does_not_stop_its_release(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    end, gate = fake.on_abort, anyio.Event()
    assert end is not None

    async def slowly(id_: SessionId) -> None:
        await gate.wait()
        await end(id_)

    fake.on_abort = slowly
    async with api(rows, fake) as served:
        async with httpx.AsyncClient(headers=served.client.headers, timeout=60, trust_env=False) as hasty:
            asked = asyncio.create_task(hasty.post(f"{served.url}{BUSY}/release"))
            await wait_until(lambda: fake.aborted, "the abort")
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        gate.set()

        async def outcome() -> Any:  # noqa: ANN401
            found = (await served.ask("GET", "/api/v1/interventions"))["interventions"]
            return found and found[0]["outcome"]

        found = await wait_until(outcome, "the outcome")
    assert found["result"] == "recovered"


async def test_a_message_of_a_busy_session_is_deleted_after_a_release(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    message = next(turn for _, turn in fake.turns)
    async with api(rows, fake) as served:
        target = f"{BUSY}/messages/{message}"
        assert await served.problem("DELETE", f"{BUSY}/messages/msg_gone", 404) == "no-such-message"
        fake.on_delete = lambda _, id_: rows.delete("message", id_)
        document = await served.ask("DELETE", target)
        assert await served.problem("DELETE", target, 404) == "no-such-message"
    shapes.Deletion.model_validate(document)
    assert document["deleted"]
    assert fake.deleted == [("ses_busy", message)]
    assert [outcome["result"] for outcome in document["outcomes"]] == ["recovered"]


async def test_an_abort_that_fails_is_an_outcome_and_no_error(rows: OpencodeFile) -> None:
    fake = FakeServer(abort_behaviour=AbortBehaviour.LIES)
    at_work(rows, fake)
    async with api(rows, fake, abort_grace=0.2) as served:
        document = await served.ask("POST", f"{BUSY}/release")
        deletion = await served.ask("DELETE", f"{BUSY}/messages/{next(turn for _, turn in fake.turns)}")
    assert [outcome["result"] for outcome in document["outcomes"]] == ["ineffective"], document
    assert not deletion["deleted"]
    assert fake.deleted == []


async def test_what_a_crash_left_is_settled_and_taken_back_once(rows: OpencodeFile) -> None:
    fake = FakeServer()
    call = lost(rows)
    before = rows.get("part", call)
    async with api(rows, fake, recover_on_start=False) as served:
        released = await served.ask("POST", "/api/v1/sessions/ses_lost/release")
        one = await served.ask("GET", "/api/v1/interventions/1")
        undone = await served.ask("POST", "/api/v1/interventions/1/undo")
        again = await served.ask("POST", "/api/v1/interventions/1/undo")
        overview = await served.ask("GET", "/api/v1/sessions")
        assert await served.problem("POST", "/api/v1/interventions/2/undo", 404) == "no-such-intervention"
        assert await served.problem("GET", "/api/v1/interventions/2", 404) == "no-such-intervention"
    shapes.OneIntervention.model_validate(one)
    shapes.Undone.model_validate(undone)
    assert released["outcomes"][0]["result"] == "recovered"
    assert {row["table"] for row in one["rows"]} == {"message", "part"}
    assert (undone["result"], again["result"]) == ("undone", "already_undone")
    assert rows.get("part", call) == before
    assert [hold["session_id"] for hold in overview["on_hold"]] == ["ses_lost"]


async def test_a_row_with_half_a_surrogate_pair_is_shown_as_it_is(rows: OpencodeFile) -> None:
    call = rows.call(rows.turn(rows.session("ses_lost")), tool="half \ud83d", input={"command": "echo \ud83d"})
    assert "\\ud83d" in rows.get("part", call)
    async with api(rows, FakeServer(), recover_on_start=False) as served:
        await served.ask("POST", "/api/v1/sessions/ses_lost/release")
        one = await served.ask("GET", "/api/v1/interventions/1")
    (part,) = [row for row in one["rows"] if row["table"] == "part"]
    assert part["before"]["state"]["input"] == {"command": "echo \ud83d"}


async def test_a_message_of_an_idle_session_is_deleted_and_its_hold_stays(rows: OpencodeFile) -> None:
    fake = FakeServer()
    session = rows.session("ses_idle")
    message = rows.turn(session, completed_at=NOW)
    fake.turns.add((session, message))
    async with api(rows, fake) as served:
        await served.ask("POST", "/api/v1/sessions/ses_idle/hold")
        fake.on_delete = lambda _, id_: rows.delete("message", id_)
        document = await served.ask("DELETE", f"/api/v1/sessions/ses_idle/messages/{message}")
        overview = await served.ask("GET", "/api/v1/sessions")
    assert document["deleted"]
    assert [hold["session_id"] for hold in overview["on_hold"]] == ["ses_idle"]


# -- leaving alone


async def test_a_hold_spares_a_session_until_it_ends(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    async with api(rows, fake) as served:
        held = await served.ask("POST", f"{BUSY}/hold", json={"for": "2h"})
        shapes.Holds.model_validate(held)
        assert not held["was_on_hold"]
        assert held["on_hold"][0]["until"] is not None

        async def line(state: bool) -> bool:
            (found,) = (await served.ask("GET", "/api/v1/sessions"))["sessions"]
            return found["on_hold"] is state

        await wait_until(lambda: line(True), "the hold")
        assert (await served.ask("POST", f"{BUSY}/unhold"))["was_on_hold"]
        await wait_until(lambda: line(False), "its end")
        paused = await served.ask("POST", "/api/v1/pause")
        assert [hold["everything"] for hold in paused["on_hold"]] == [True]
        await wait_until(lambda: line(True), "the pause")
        assert (await served.ask("POST", "/api/v1/resume"))["on_hold"] == []
        assert await served.problem("POST", "/api/v1/sessions/ses_nowhere/hold", 404) == "no-such-session"


async def test_what_is_no_length_of_a_hold_is_told(rows: OpencodeFile) -> None:
    wrong: list[object] = [
        {"for": "soon"},
        {"for": -1},
        {"for": "9999999d"},
        {"for": True},
        {"until": "2h"},
        [],
        "2h",
    ]
    async with api(rows, FakeServer()) as served:
        for body in wrong:
            assert await served.problem("POST", "/api/v1/pause", 422, json=body) == "invalid-request", body
        assert (await served.ask("GET", "/api/v1/sessions"))["on_hold"] == []


async def test_interventions_come_page_by_page(rows: OpencodeFile) -> None:
    for number in range(5):
        lost(rows, f"ses_{number}")
    async with api(rows, FakeServer()) as served:

        async def all_settled() -> bool:
            return len((await served.ask("GET", "/api/v1/interventions"))["interventions"]) == 5

        await wait_until(all_settled, "five interventions")
        found: list[int] = []
        link: str | None = "/api/v1/interventions?limit=2"
        sizes = []
        while link is not None:
            page = await served.ask("GET", link)
            sizes.append(len(page["interventions"]))
            found += [each["id"] for each in page["interventions"]]
            link = page["next"]
        one = await served.ask("GET", "/api/v1/interventions?session_id=ses_3")
    assert (found, sizes) == ([5, 4, 3, 2, 1], [2, 2, 1])
    assert [each["verdict"]["session_id"] for each in one["interventions"]] == ["ses_3"]


# -- who may not


async def test_only_the_watchdog_that_has_the_right_acts(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    code = (
        "import sys\nfrom pathlib import Path\nfrom watchdog.opencode.processes.lock import DatabaseLock\n"
        f"lock = DatabaseLock(Path({str(rows.path)!r}))\nassert lock.acquire()\nprint(flush=True)\nsys.stdin.read()\n"
    )
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdin is not None
    await other.stdout.readline()
    async with api(rows, fake, begins=False) as served:
        overview = await served.ask("GET", "/api/v1/sessions")
        refused = await served.ask("POST", f"{BUSY}/release", status=409)
        assert await served.problem("DELETE", f"{BUSY}/messages/msg_x", 409) == "not-acting"
        assert (await served.ask("POST", f"{BUSY}/hold"))["session_id"] == "ses_busy"
        other.stdin.close()
        await other.wait()

        async def acting() -> bool:
            return bool((await served.ask("GET", "/api/v1/sessions"))["mandate"] == "acting")

        await wait_until(acting, "taking over")
        assert (await served.ask("POST", f"{BUSY}/release"))["outcomes"][0]["result"] == "recovered"
    assert (overview["mandate"], overview["holder_pid"]) == ("observing", other.pid)
    assert refused["type"].endswith(":not-acting")
    assert refused["holder_pid"] == other.pid
    assert f"pid {other.pid}" in refused["detail"]


async def test_a_dry_run_says_what_it_would_do_and_changes_nothing(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    async with api(rows, fake, dry_run=True) as served:
        await served.ask("POST", f"{BUSY}/hold")
        assert (await served.ask("GET", "/api/v1/sessions"))["mandate"] == "dry_run"
        document = await served.ask("POST", f"{BUSY}/release")
        assert await served.problem("DELETE", f"{BUSY}/messages/msg_x", 409) == "dry-run"
        assert await served.problem("POST", "/api/v1/interventions/1/undo", 409) == "dry-run"
        assert (await served.ask("POST", f"{BUSY}/unhold"))["was_on_hold"]
    assert [outcome["result"] for outcome in document["outcomes"]] == ["dry_run"]
    assert fake.aborted == []


async def test_without_a_journal_a_release_works_and_the_rest_says_why_not(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    async with api(rows, fake, journal="off") as served:
        for method, where in (("GET", "interventions"), ("GET", "interventions/1"), ("POST", "interventions/1/undo"),
                              ("POST", "sessions/ses_busy/hold"), ("POST", "pause")):  # fmt: skip
            assert await served.problem(method, f"/api/v1/{where}", 409) == "no-journal"
        assert (await served.ask("POST", f"{BUSY}/release"))["outcomes"][0]["result"] == "recovered"


# -- when things fail


async def test_a_database_that_is_gone_is_told_and_the_last_look_is_still_shown(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    away = rows.path.with_suffix(".away")
    async with api(rows, fake) as served:
        rows.path.rename(away)

        async def unusable() -> bool:
            return (await served.ask("GET", "/api/v1/sessions"))["unavailable"] is not None

        await wait_until(unusable, "the outage")
        ready = (await served.client.get("/readyz")).json()
        assert "The database or the journal can't be used." in ready["reasons"]
        overview = await served.ask("GET", "/api/v1/sessions")
        assert str(rows.path) in overview["unavailable"]
        assert [line["title"] for line in overview["sessions"]] == [None]
        assert await served.problem("GET", BUSY, 503) == "database-unusable"
        assert await served.problem("POST", f"{BUSY}/release", 503) == "database-unusable"
        assert (await served.client.get("/healthz")).status_code == 200
        away.rename(rows.path)

        async def back() -> bool:
            return (await served.ask("GET", "/api/v1/sessions"))["unavailable"] is None

        await wait_until(back, "the database")


NOT_THERE_OR_NOT_VALID = [
    ("GET", "/api/v1/nowhere", 404, "not-found"),
    ("GET", "/api/v1/sessions/", 404, "not-found"),
    ("PUT", "/api/v1/sessions", 405, "method-not-allowed"),
    ("GET", "/api/v1/sessions/ses_1/release", 405, "method-not-allowed"),
    ("GET", "/api/v1/sessions/msg_1", 422, "invalid-request"),
    ("GET", "/api/v1/sessions/ses_" + "x" * 61, 422, "invalid-request"),
    ("GET", "/api/v1/sessions/ses_%0a", 422, "invalid-request"),
    ("GET", "/api/v1/sessions/ses_..%2f..%2fx", 404, "not-found"),
    ("GET", "/api/v1/interventions/0", 422, "invalid-request"),
    ("GET", "/api/v1/interventions/99999999999999999999", 422, "invalid-request"),
    ("GET", "/api/v1/interventions?limit=0", 422, "invalid-request"),
    ("GET", "/api/v1/interventions?limit=201", 422, "invalid-request"),
    ("GET", "/api/v1/interventions?before=x", 422, "invalid-request"),
    ("GET", "/api/v1/operations/op_1", 422, "invalid-request"),
    ("GET", "/page/../token.py", 404, "not-found"),
    ("GET", "/page/%2e%2e%2ftoken.py", 404, "not-found"),
    ("GET", "/page/nothing.js", 404, "not-found"),
]


async def test_what_is_not_there_or_not_valid_is_a_problem_document(rows: OpencodeFile) -> None:
    async with api(rows, FakeServer()) as served:
        for method, where, status, name in NOT_THERE_OR_NOT_VALID:
            answer = await served.client.request(method, where)
            assert answer.status_code == status, (where, answer.text)
            assert answer.json()["type"] == f"urn:opencode-watchdog:problem:{name}"


NOT_VALID_BODIES = [
    (b'{"reason": "x"', 422),
    (b'{"reason": 7}', 422),
    (b'{"other": 1}', 422),
    (b'{"reason": "' + b"x" * 501 + b'"}', 422),
    (b'{"reason": "\\ud800"}', 422),
    (b"\xff", 400),
    (b"[" * 15_000, 400),
    (b"x" * 17_000, 413),
]


async def test_a_body_that_is_not_valid_releases_nothing(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    async with api(rows, fake) as served:
        headers = {"Content-Type": "application/json"}
        for body, status in NOT_VALID_BODIES:
            await served.ask("POST", f"{BUSY}/release", status=status, content=body, headers=headers)
    assert fake.aborted == []


async def test_a_body_without_a_length_is_bounded_too(rows: OpencodeFile) -> None:
    async def endless() -> Any:  # noqa: ANN401
        for _ in range(100):
            yield b"x" * 1000

    async with api(rows, FakeServer()) as served:
        headers = {"Content-Type": "application/json"}
        found = await served.problem("POST", "/api/v1/pause", 413, content=endless(), headers=headers)
    assert found == "too-large"


async def test_an_error_of_our_own_is_told_without_its_words_and_the_loop_goes_on(
    rows: OpencodeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api(rows, FakeServer()) as served:

        async def broken(*_: object, **__: object) -> object:
            raise RuntimeError("a secret")

        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(Telling, "explanation", broken)
            patch.setattr(Releasing, "release", broken)
            answers = [
                await served.client.get("/api/v1/sessions/ses_1"),
                await served.client.post("/api/v1/sessions/ses_1/release"),
            ]
        assert (await served.client.get("/healthz")).status_code == 200
    for answer in answers:
        assert answer.status_code == 500
        assert answer.json()["type"].endswith(":internal")
        assert "secret" not in answer.text
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "control.request_failed",
        "operation.failed",
        "control.request_failed",
    ]


# -- health and machines


async def test_health_needs_no_token_and_tells_nothing_private(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    async with (
        api(rows, fake) as served,
        httpx.AsyncClient(base_url=served.url, timeout=60, trust_env=False) as stranger,
    ):
        alive, ready = await stranger.get("/healthz"), await stranger.get("/readyz")
    assert alive.json() == {"ok": True, "reasons": []}
    # The servers' feeds are not listened to here, so it is not known whether they can be used.
    assert ready.status_code == 503
    assert ready.json() == {"ok": False, "reasons": ["1 of 1 configured servers can't be used."]}


async def test_metrics_need_the_token(rows: OpencodeFile) -> None:
    async with api(rows, FakeServer()) as served:
        answer = await served.client.get("/metrics")
        refused = await served.client.get("/metrics", headers={"Authorization": "Bearer wrong"})
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "opencode_watchdog_build_info{" in answer.text
    assert refused.status_code == 401


async def test_the_page_and_its_files_are_served_with_a_strict_policy(rows: OpencodeFile) -> None:
    async with (
        api(rows, FakeServer()) as served,
        httpx.AsyncClient(base_url=served.url, timeout=60, trust_env=False) as stranger,
    ):
        page, script = await stranger.get("/"), await stranger.get("/page/app.js")
        again = await stranger.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert (page.headers["x-content-type-options"], page.headers["x-frame-options"]) == ("nosniff", "DENY")
    assert "server" not in page.headers
    assert again.status_code == 304
    assert TOKEN not in page.text + script.text


# -- events


@asynccontextmanager
async def listening(served: Api, last_id: str | None = None) -> AsyncIterator[AsyncGenerator[Sent, None]]:
    """The events of the API as a client hears them."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    async with served.client.stream("GET", "/api/v1/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async with aclosing(read_events(answer)) as events:
            yield events


async def test_events_tell_what_happens_and_resume_behind_the_last_one(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    seen: list[Sent] = []
    async with api(rows, fake) as served:
        async with listening(served) as events:
            seen.append(await anext(events))
            await served.ask("POST", f"{BUSY}/release")
            while not {"outcome", "sessions"} <= {event.name for event in seen}:
                seen.append(await anext(events))
        verdict = next(event for event in seen if event.name == "verdict")
        async with listening(served, verdict.id) as events:
            hello, following = await anext(events), await anext(events)
        async with listening(served, "other-1") as events:
            assert not (await anext(events)).data["resumed"]
    assert (seen[0].name, seen[0].id, seen[0].data["resumed"]) == ("hello", None, False)
    names = [event.name for event in seen]
    assert names.index("verdict") < names.index("outcome")
    outcome = next(event for event in seen if event.name == "outcome")
    assert (outcome.data["result"], outcome.data["given_up"]) == ("recovered", False)
    assert hello.data["resumed"]
    behind = seen[seen.index(verdict) + 1]
    assert (following.name, following.id) == (behind.name, behind.id)


async def test_holds_and_outages_are_events_too(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    away = rows.path.with_suffix(".away")
    async with api(rows, fake) as served, listening(served) as events:

        async def heard(name: str) -> Sent:
            async with asyncio.timeout(60):
                while (event := await anext(events)).name != name:
                    pass
            return event

        await served.ask("POST", f"{BUSY}/hold")
        assert (await heard("on_hold")).data["session_id"] == "ses_busy"
        await served.ask("POST", f"{BUSY}/unhold")
        assert (await heard("hold_ended")).data["session_id"] == "ses_busy"
        rows.path.rename(away)
        assert str(rows.path) in (await heard("unavailable")).data["why"]
        away.rename(rows.path)
        await heard("available")


async def test_too_many_readers_are_turned_away_until_one_goes(rows: OpencodeFile) -> None:
    async with api(rows, FakeServer()) as served, AsyncExitStack() as crowd:
        one = await crowd.enter_async_context(AsyncExitStack())
        await one.enter_async_context(listening(served))
        for _ in range(15):
            await crowd.enter_async_context(listening(served))
        assert await served.problem("GET", "/api/v1/events", 503) == "busy"
        await one.aclose()

        async def room() -> bool:
            async with served.client.stream("GET", "/api/v1/events") as answer:
                return answer.status_code == 200

        await wait_until(room, "room for a reader")


# -- start and stop


async def test_the_signals_stay_those_of_the_program(rows: OpencodeFile) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with api(rows, FakeServer()) as served:
        await served.ask("GET", "/api/v1/sessions")
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_the_end_of_the_loop_ends_streams_and_answers_what_is_under_way(rows: OpencodeFile) -> None:
    fake = FakeServer()
    at_work(rows, fake)
    end, gate = fake.on_abort, anyio.Event()
    assert end is not None

    async def slowly(id_: SessionId) -> None:
        await gate.wait()
        await end(id_)

    fake.on_abort = slowly
    async with AsyncExitStack() as hearing, api(rows, fake) as served:
        events = await hearing.enter_async_context(listening(served))
        asked = asyncio.create_task(served.ask("POST", f"{BUSY}/release"))
        await wait_until(lambda: fake.aborted, "the abort")
        served.stop.set()
        await wait_until(lambda: served.watch.acting.stopping, "the stop")
        for method, where in (("POST", f"{BUSY}/release"), ("DELETE", f"{BUSY}/messages/msg_1")):
            refused = await served.ask(method, where, status=409)
            assert refused["detail"] == "This watchdog is stopping, and begins nothing more."
        assert (await served.client.get("/healthz")).status_code == 200  # it goes on, and answers as long
        gate.set()
        assert (await asked)["outcomes"][0]["result"] == "recovered"
        async with asyncio.timeout(60):
            names = [event.name async for event in events]
    assert names[0] == "hello"
    assert "verdict" in names


def test_nothing_of_it_is_imported_unless_it_is_on() -> None:
    code = (
        "import sys, watchdog.cli.run, watchdog.cli.main\n"
        "print([name for name in sys.modules if name.split('.')[0] in "
        "{'fastapi', 'starlette', 'uvicorn', 'prometheus_client', 'apprise'}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.strip() == "[]"


async def test_it_says_what_a_restart_would_lose_and_ends_nothing(rows: OpencodeFile) -> None:
    fake = FakeServer()
    part = at_work(rows, fake)
    async with api(rows, fake) as served:
        told = await served.ask("GET", "/api/v1/drain")
    assert [each["calls"] for each in told["would_lose"]] == [[{"part_id": part, "tool": "bash"}]]
    assert not told["ready"]
    assert fake.aborted == []
