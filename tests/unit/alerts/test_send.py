"""Alerts over real HTTP: to one that takes them, one that refuses, one that hangs; and secrets show nowhere."""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.fakes.server import FakeServer, loopback, over_http
from tests.support.database import OpencodeFile
from tests.support.program import NOWHERE, Program, now_ms, path, program, python, rows
from tests.support.waiting import SECONDS, wait_until
from watchdog.alerts.alert import Alert, Severity
from watchdog.alerts.send import MOST_WAITING, TALKATIVE, Notifier
from watchdog.errors import SettingsError
from watchdog.model.session import Activity, Ask, AskKind, SessionId, Status

__all__ = ["path", "program", "rows"]

ALERT = Alert(title="opencode-watchdog on box: gave up on ses_1", body="it stayed open", severity=Severity.FAILURE)
HANGS_SECONDS = 240
"""How long Apprise waits for a receiver that does not answer: longer than anything here takes."""
SECRET = "hush-1234567890"  # noqa: S105 - it is what must show nowhere

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise asks for it


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in TALKATIVE}
    yield
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


class Inbox(ThreadingHTTPServer):
    """An HTTP server that keeps what it is sent, and answers with a status."""

    daemon_threads = True

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), Take)
        self.status = status
        self.taken: list[dict[str, Any]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    @property
    def address(self) -> str:
        """An Apprise URL that leads here, with a secret in it."""
        return f"json://me:{SECRET}@127.0.0.1:{self.server_port}/alerts"


class Take(BaseHTTPRequestHandler):
    """Takes a message, once it may."""

    server: Inbox

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.go_on.wait()
        self.server.taken.append(body)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not into the tests' output."""


@contextmanager
def inbox(status: int = 200) -> Iterator[Inbox]:
    server = Inbox(status)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


async def test_an_alert_arrives_as_it_was_told() -> None:
    with inbox() as there:
        notifier = Notifier([there.address], source="test")
        notifier.tell(ALERT)
        await notifier.finish(SECONDS)
        (taken,) = there.taken
    assert (taken["title"], taken["message"], taken["type"]) == (ALERT.title, ALERT.body, "failure")
    assert notifier.counts.read() == {"sent": 1, "failed": 0, "dropped": 0}


async def test_one_that_refuses_is_counted_and_logged_once_until_it_takes_one() -> None:
    with inbox(500) as there, capture_logs() as lines:
        notifier = Notifier([there.address], source="test")
        notifier.tell(ALERT)
        notifier.tell(ALERT)
        await wait_until(lambda: notifier.counts.read()["failed"] == 2, "two failures")
        there.status = 200
        notifier.tell(ALERT)
        await wait_until(lambda: notifier.counts.read()["sent"] == 1, "one that was taken")
        there.status = 500
        notifier.tell(ALERT)
        await notifier.finish(SECONDS)
    assert notifier.counts.read() == {"sent": 1, "failed": 3, "dropped": 0}
    assert [(line["event"], line["receiver"]) for line in lines] == [("alert.failed", "notify[0] (JSON)")] * 2


async def test_one_that_hangs_slows_neither_the_loop_nor_the_others_and_costs_at_most_what_is_queued() -> None:
    with inbox() as hanging, inbox() as there, capture_logs() as lines:
        hanging.go_on.clear()
        notifier = Notifier([f"{hanging.address}?rto={HANGS_SECONDS}", there.address], source="test")
        notifier.tell(ALERT)
        await wait_until(lambda: len(there.taken) == 1, "the other one")
        for _ in range(MOST_WAITING + 5):
            notifier.receivers[0].offer(ALERT)
        await wait_until(lambda: notifier.counts.read()["dropped"] > 0, "dropped ones")
        assert notifier.counts.read()["dropped"] in {4, 5}, "one is under way, or about to be"
        assert [line["event"] for line in lines] == ["alert.dropped"], "once"
        await notifier.finish(0.2)
        assert (hanging.taken, notifier.counts.read()["failed"]) == ([], 0), "nobody waited for it"
        hanging.go_on.set()
        for receiver in notifier.receivers:
            receiver._thread.join(SECONDS)
    assert len(hanging.taken) >= MOST_WAITING


async def test_the_end_gives_what_is_queued_a_moment() -> None:
    with inbox() as there:
        there.go_on.clear()
        notifier = Notifier([there.address], source="test")
        for _ in range(3):
            notifier.tell(ALERT)
        finishing = asyncio.ensure_future(notifier.finish(SECONDS))
        await asyncio.sleep(0)
        there.go_on.set()
        await finishing
        assert len(there.taken) == 3


async def test_nobody_there_is_a_failure_that_shows_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as closed, capture_logs() as lines, caplog.at_level(logging.DEBUG):
        closed.bind(("127.0.0.1", 0))
        notifier = Notifier([f"json://me:{SECRET}@127.0.0.1:{closed.getsockname()[1]}/{SECRET}"], source="test")
        notifier.tell(ALERT)
        await notifier.finish(SECONDS)
    assert notifier.counts.read()["failed"] == 1
    assert SECRET not in repr(lines) + caplog.text


@pytest.mark.parametrize("address", [f"nosuch://{SECRET}", f"slack://{SECRET}", f"json://{SECRET}:port"])
def test_a_wrong_address_is_named_by_its_place_and_not_shown(
    address: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(SettingsError) as caught:
        Notifier(["json://127.0.0.1:1", address], source="file x, key notify")
    assert str(caught.value).startswith("file x, key notify: notify[1] can't be used: ")
    assert SECRET not in str(caught.value) + caplog.text + "".join(capfd.readouterr())


# --- the program


async def test_check_notify_says_who_took_the_test_message(program: Program) -> None:
    with inbox() as there, inbox(403) as refusing:
        program.settings(notify=[there.address, refusing.address])
        done = await program.run("check", "--notify", "--json")
    assert done.document == {
        "version": 1,
        "receivers": [{"name": "notify[0] (JSON)", "taken": True}, {"name": "notify[1] (JSON)", "taken": False}],
    }
    assert (done.code, SECRET in done.stdout + done.stderr) == (3, False)
    assert there.taken[0]["message"] == "Alerts arrive here."


async def test_check_notify_without_a_receiver_says_what_to_do(program: Program) -> None:
    done = await program.run("check", "--notify")
    assert done.code == 2
    assert "no receiver is set" in done.stderr
    done = await program.run("check", "--notify", "--alive")
    assert done.code == 2
    assert "--alive and --notify don't go together" in done.stderr
    program.settings(notify=[f"nosuch://{SECRET}"])
    done = await program.run("check", "--notify")
    assert done.code == 2
    assert "opencode-watchdog.toml, key notify: notify[0] can't be used" in done.stderr
    assert SECRET not in done.stderr


async def test_without_the_extra_it_says_how_to_get_it(program: Program, rows: OpencodeFile) -> None:
    program.settings(notify=[f"json://{SECRET}"], database=str(rows.path))
    program.line = python("import sys; sys.modules['apprise'] = None")
    for command in (["check", "--notify"], ["run"]):
        done = await program.run(*command)
        assert done.code == 2
        assert "notify needs Apprise, which is not installed: pip install 'opencode-watchdog[notify]'" in done.stderr
        assert SECRET not in done.stderr


async def test_a_run_tells_its_receivers_although_one_of_them_hangs(program: Program, rows: OpencodeFile) -> None:
    session = rows.session(at=now_ms() - 3_600_000)
    turn = rows.turn(session, at=now_ms() - 3_600_000)
    rows.call(turn, at=now_ms() - 3_600_000)
    with inbox() as there, inbox() as hanging:
        hanging.go_on.clear()
        program.settings(
            database=str(rows.path),
            servers=[NOWHERE],
            discover=False,
            poll_interval=0.1,
            notify=[there.address, f"{hanging.address}?rto={HANGS_SECONDS}"],
            notify_degraded_after="300ms",
            log_level="debug",
        )
        async with program.started("run") as running:
            await wait_until(lambda: there.taken, "the alert", explain=running.stderr)
            looks = running.stderr().count("watch.looked")
            await wait_until(lambda: running.stderr().count("watch.looked") > looks + 3, "more looks")
            running.process.terminate()
            done = await running.finished(HANGS_SECONDS / 2)
    assert done.code == 0
    assert "degraded for" in there.taken[0]["title"]
    assert str(rows.path) in there.taken[0]["message"]
    assert SECRET not in done.stderr


async def test_an_outcome_that_was_asked_for_is_told_without_a_word_of_what_was_said(
    program: Program, path: Path
) -> None:
    with OpencodeFile(path) as rows:
        session = rows.session(at=now_ms() - 3_600_000)
        rows.set("session", session, title=SECRET)
        rows.prompt(session, at=now_ms() - 3_600_000)
        turn = rows.turn(session, at=now_ms() - 3_600_000, more={"error": {"data": SECRET}})
        rows.call(turn, at=now_ms() - 3_600_000, input={"command": SECRET})
    with inbox() as there:
        program.settings(
            database=str(path),
            servers=[NOWHERE],
            discover=False,
            sole_owner=True,
            notify=[there.address],
            notify_on=["outcome"],
        )
        async with program.started("run") as running:
            await wait_until(lambda: there.taken, "the alert", explain=running.stderr)
            running.process.terminate()
            await running.finished()
    (taken,) = there.taken
    assert taken["title"].endswith(f": {session}: orphan, recovered")
    assert SECRET not in json.dumps(there.taken)


async def test_who_waits_for_a_person_is_told_with_the_title_and_many_outcomes_become_one_message(
    program: Program, path: Path
) -> None:
    fake = FakeServer()
    with OpencodeFile(path) as rows, inbox() as there:
        asking = rows.session(at=now_ms() - 3_600_000)
        rows.set("session", asking, title="Which colour?")
        rows.call(rows.turn(asking, at=now_ms() - 3_600_000), tool="question", at=now_ms() - 3_600_000)
        for _ in range(5):
            lost = rows.session(at=now_ms() - 3_600_000, directory="/elsewhere")
            rows.call(rows.turn(lost, at=now_ms() - 3_600_000), at=now_ms() - 3_600_000)
        folder = rows.get("session", asking, "directory")
        fake.statuses_by[folder] = {SessionId(asking): Status(activity=Activity.BUSY)}
        fake.asks_by[folder] = [Ask(id="que_1", kind=AskKind.QUESTION, session_id=SessionId(asking))]
        async with loopback(over_http(fake)) as url:
            program.settings(
                database=str(path),
                servers=[url],
                discover=False,
                poll_interval=0.2,
                notify=[there.address],
                notify_on=["waiting", "stuck"],
                notify_waiting_after="400ms",
                orphan_grace="500ms",
            )
            async with program.started("run") as running:
                await wait_until(lambda: len(there.taken) >= 2, "both alerts", explain=running.stderr)
                running.process.terminate()
                await running.finished()
    told = {each["title"].partition(": ")[2]: each["message"].split("\n") for each in there.taken}
    (waits,) = [body for title, body in told.items() if title.startswith(f"{asking} has waited for a person for")]
    assert waits[0] == "“Which colour?”"
    assert waits[1].startswith(f"a question in {folder} waits for an answer at {url}")
    many = told["5 messages about what is stuck"]
    assert len([line for line in many if " is stuck: orphan: " in line]) == 5


async def test_what_is_queued_when_the_program_is_told_to_stop_is_still_sent(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        for _ in range(3):
            rows.call(rows.turn(rows.session(at=now_ms() - 3_600_000), at=now_ms() - 3_600_000))
    with inbox() as there:
        there.go_on.clear()
        address = f"{there.address}?rto={HANGS_SECONDS}"
        program.settings(
            database=str(path), servers=[NOWHERE], discover=False, notify=[address], notify_on=["outcome"]
        )
        async with program.started("run") as running:
            await wait_until(lambda: running.stderr().count('"outcome"') == 3, "outcomes", explain=running.stderr)
            assert there.taken == []
            running.process.terminate()
            await running.said("watch.stopping")
            there.go_on.set()
            done = await running.finished()
    assert (done.code, len(there.taken)) == (0, 3)


async def test_secrets_of_receivers_show_in_no_command(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        program.settings(database=str(rows.path), servers=[NOWHERE], notify=[f"json://{SECRET}"])
        done = await program.run("check", "--json")
    assert done.document["settings"]["notify"]["value"] == "set"
    assert SECRET not in done.stdout + done.stderr


async def test_check_says_that_a_receiver_is_wrong(program: Program, rows: OpencodeFile) -> None:
    program.settings(database=str(rows.path), servers=[NOWHERE], notify=[f"nosuch://{SECRET}"])
    done = await program.run("check", "--json")
    assert any("notify[0] can't be used" in problem for problem in done.document["problems"])
    assert SECRET not in done.stdout + done.stderr
