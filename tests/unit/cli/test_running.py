"""What commands say while a `run` is up: they ask it, over its socket."""

import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.fakes.server import AbortBehaviour, FakeServer, loopback, over_http
from tests.support.database import OpencodeFile
from tests.support.opencode import free_port
from tests.support.program import NOWHERE, Program, Started, path, program, python, rows
from tests.support.waiting import wait_until
from watchdog.composing.own_socket import Running
from watchdog.composing.running import RunningWatchdog
from watchdog.errors import UsageError
from watchdog.model.session import SessionId
from watchdog.timing.clock import now_ms

__all__ = ["path", "program", "rows"]

SETTINGS = "opencode-watchdog.toml"
MINUTE_MS = 60_000


@pytest.fixture
def person(program: Program) -> Program:
    """The same user in another folder."""
    home = program.home.parent / "elsewhere"
    home.mkdir()
    return Program(home=home, more={"HOME": str(program.home)})


@asynccontextmanager
async def run(program: Program, rows: OpencodeFile, *arguments: str, **more: object) -> AsyncIterator[Started]:
    """A `run` that has looked."""
    settings: dict[str, object] = {
        "poll_interval": 0.2,
        "log_format": "json",
        "log_level": "debug",
        "discover": False,
        "servers": [NOWHERE],
    }
    program.settings(database=str(rows.path), **settings | more)  # type: ignore[arg-type]
    for folder in (program.home, program.home.parent / "elsewhere"):
        if folder.exists():
            (folder / SETTINGS).write_bytes((program.home / SETTINGS).read_bytes())
            (folder / SETTINGS).chmod(0o600)
    async with program.started("run", *arguments) as running:
        await running.said('"event": "watch.looked"')
        yield running


def orphan(rows: OpencodeFile, name: str = "ses_left", *, minutes: int = 1) -> str:
    began = now_ms() - minutes * MINUTE_MS
    rows.call(rows.turn(rows.session(name, at=began), at=began), at=began)
    return name


async def test_scan_and_explain_show_what_the_running_watchdog_sees_and_say_so(
    program: Program, person: Program, rows: OpencodeFile
) -> None:
    session = orphan(rows)
    async with run(program, rows, orphan_grace="1h") as running:
        words = f"as the running watchdog, pid {running.process.pid}, sees it; --direct takes a look of its own\n"
        seen = await person.run("scan")
        assert words in seen.stderr
        assert f"\t{session}\t" in seen.stdout
        told, own = await person.run("scan", "--json"), await person.run("scan", "--json", "--direct")
        assert json.loads(told.stdout).keys() == json.loads(own.stdout).keys()
        assert "running watchdog" not in own.stderr
        explained, alone = await person.run("explain", session), await person.run("explain", session, "--direct")
        assert words in explained.stderr
        kinds = {line.split("\t")[0] for line in explained.stdout.splitlines()}
        assert kinds >= {"judgement", "session", "finding", "turn", "call", "clock", "witness"}
        assert kinds >= {line.split("\t")[0] for line in alone.stdout.splitlines()} - {"note"}
        missing = await person.run("explain", "ses_nowhere")
        assert (missing.code, missing.stdout) == (2, "")
        assert "ses_nowhere" in missing.stderr.splitlines()[-1]


@pytest.mark.parametrize("control", [False, True])
async def test_status_says_what_it_does_and_its_exit_code_whether_that_is_well(
    program: Program, person: Program, rows: OpencodeFile, control: bool
) -> None:
    session, fake = orphan(rows), FakeServer()
    fake.busy(SessionId(session), "/project")
    more = {"control": f"127.0.0.1:{free_port()}", "control_token": "t" * 43} if control else {}
    async with loopback(over_http(fake)) as url, run(program, rows, servers=[url], **more) as running:
        shown, told = await person.run("status"), await person.run("status", "--json")
        document = json.loads(told.stdout)
        assert document["running"]
        assert (document["pid"], document["mandate"]) == (running.process.pid, "acting")
        assert document["database"] == str(rows.path)
        assert [each["name"] for each in document["servers"]] == [url]
        assert (shown.code, told.code) == ((0, 0) if document["well"] else (1, 1))
        cells = [line.split("\t") for line in shown.stdout.splitlines()]
        assert ["watchdog", "pid", str(running.process.pid)] in cells
        assert ["watchdog", "mandate", "acts"] in cells
        assert {"server", "summary"} <= {line[0] for line in cells}
    assert document["well"] == (not document["degraded"])


async def test_without_one_status_is_exit_code_3_and_a_sentence_and_the_others_look_by_themselves(
    program: Program, person: Program, rows: OpencodeFile
) -> None:
    session = orphan(rows)
    async with run(program, rows, orphan_grace="1h") as running:
        running.process.kill()
        await running.finished()
        shown, told = await person.run("status"), await person.run("status", "--json")
        assert (shown.code, shown.stdout, told.code, told.stderr) == (3, "", 3, "")
        assert shown.stderr.startswith("error: No watchdog of this user answers for ")
        assert json.loads(told.stdout) == {"version": 1, "running": False}
        seen = await person.run("scan")
    assert f"\t{session}\t" in seen.stdout
    assert "running watchdog" not in seen.stderr


async def test_one_that_stands_still_is_named_and_the_command_looks_by_itself(
    program: Program, person: Program, rows: OpencodeFile
) -> None:
    session = orphan(rows)
    async with run(program, rows, orphan_grace="1h") as running:
        running.signal(signal.SIGSTOP)
        seen = await person.run("scan")
        running.signal(signal.SIGCONT)
    silent = f"The running watchdog, pid {running.process.pid}, has given no answer for 5 s."
    assert f"{silent} This command looks by itself.\n" in seen.stderr
    assert f"\t{session}\t" in seen.stdout


async def test_a_release_is_done_by_the_running_watchdog_and_an_undo_too(
    program: Program, person: Program, rows: OpencodeFile
) -> None:
    session = orphan(rows)
    rows.close()
    async with run(program, rows, orphan_grace="1h", recover_on_start=False) as running:
        done = await person.run("release", session, "--yes", "--reason", "it is mine")
        assert done.code == 0, done
        assert f"outcome\trecovered\t{session}\torphan\t" in done.stdout
        await running.said(f'"session_id": "{session}"')
        listed = json.loads((await person.run("history", "--json")).stdout)
        (found,) = listed["interventions"]
        assert (found["actor"], found["reason"]) == ("person", "it is mine")
        words = f"as the running watchdog, pid {running.process.pid}, sees it; --direct takes a look of its own\n"
        number, some = str(found["id"]), ["--session", session, "--since", "1h", "--json"]
        for arguments in ([], some, [number], [number, "--json"]):
            asked, read = [await person.run("history", *arguments, *more) for more in ([], ["--direct"])]
            assert (asked.code, asked.stdout) == (read.code, read.stdout)
            assert (asked.stderr, read.stderr) == (words, "")
        undone = await person.run("undo", str(found["id"]))
        assert undone.code == 0, undone
        missing = await person.run("undo", "77")
        assert missing.code == 2
    with sqlite3.connect(rows.path) as connection:
        ((data,),) = connection.execute("SELECT data FROM part").fetchall()
    assert json.loads(data)["state"]["status"] == "running"


async def test_a_socket_that_fails_never_ends_the_run(program: Program, person: Program, rows: OpencodeFile) -> None:
    session = orphan(rows)
    program.line = python("import sys; sys.modules['watchdog.control.wiring'] = None")
    async with run(program, rows, orphan_grace="1h") as running:
        seen = await person.run("scan")
        await running.said('"event": "socket.failed"')
        looks = running.stderr().count("watch.looked")
        await wait_until(lambda: running.stderr().count("watch.looked") > looks + 1, "looks", explain=running.stderr)
        again = await person.run("scan")
        running.signal(signal.SIGTERM)
        assert running.process.wait() == 0
    assert f"\t{session}\t" in seen.stdout
    assert f"\t{session}\t" in again.stdout
    assert again.stderr == ""


def test_an_undo_is_asked_of_the_journal_that_it_was_looked_up_in() -> None:
    at = Running(pid=7, path=Path("/nowhere"))
    running = RunningWatchdog(at=at, status={"journal": "/a"})
    running.check_journal("/a")
    with pytest.raises(UsageError, match="pid 7, keeps /a, and this command reads /b"):
        running.check_journal("/b")


async def test_holds_are_placed_and_ended_by_the_running_watchdog_which_looks_again_at_once(
    program: Program, person: Program, rows: OpencodeFile
) -> None:
    session = orphan(rows)
    async with run(program, rows, orphan_grace="1h", poll_interval=3600) as running:
        deed = f"done by the running watchdog, pid {running.process.pid}; --direct does it without that one\n"
        held = await person.run("hold", session, "--for", "2h")
        assert (held.code, held.stderr) == (0, deed)
        assert f"session {session} is on hold until " in held.stdout
        looks = '"event": "watch.looked"'
        await wait_until(lambda: running.stderr().count(looks) > 1, "a look", explain=running.stderr)  # an hour early
        told = json.loads((await person.run("pause", "--json")).stdout)
        own = json.loads((await person.run("pause", "--json", "--direct")).stdout)
        assert told.keys() == own.keys()
        assert [each["everything"] for each in told["on_hold"]] == [True, False]
        freed = await person.run("unhold", session)
        assert "is no longer on hold; everything still is: `resume` ends that" in freed.stdout
        assert (await person.run("resume")).stdout == "summary\teverything is no longer on hold\n"
        unknown = await person.run("hold", "no such id")
        assert (unknown.code, unknown.stdout) == (2, "")
        assert "no such id" in unknown.stderr


async def test_a_message_is_deleted_by_the_running_watchdog(
    program: Program, person: Program, rows: OpencodeFile
) -> None:
    session = rows.session("ses_1", at=now_ms())
    turn = rows.turn(session, at=now_ms(), completed_at=now_ms())
    fake = FakeServer()
    fake.turns.add((session, turn))
    fake.on_delete = lambda _, message: rows.delete("message", message)
    async with loopback(over_http(fake)) as url, run(program, rows, servers=[url]) as running:
        done = await person.run("delete-message", session, turn, "--yes")
        assert f"done by the running watchdog, pid {running.process.pid}" in done.stderr, done
        again = await person.run("delete-message", session, "msg_nowhere", "--yes")
    assert (again.code, again.stdout) == (2, "")
    assert "has no message msg_nowhere" in again.stderr


async def test_who_waits_for_an_outcome_gets_it_although_the_watchdog_is_told_to_stop_meanwhile(
    program: Program, person: Program, rows: OpencodeFile
) -> None:
    session = orphan(rows)
    fake = FakeServer(abort_behaviour=AbortBehaviour.LIES)
    fake.busy(SessionId(session), "/project")
    more = {"tool_timeout": "1h", "abort_grace": "3s", "orphan_grace": "1h"}
    async with loopback(over_http(fake)) as url, run(program, rows, servers=[url], **more) as running:
        async with anyio.create_task_group() as group:

            async def stop_at_the_abort() -> None:
                await wait_until(lambda: fake.aborted, "the abort")
                running.signal(signal.SIGTERM)

            group.start_soon(stop_at_the_abort)
            done = await person.run("release", session, "--yes")
        assert running.process.wait(20) == 0
    assert done.code == 1
    assert f"outcome\tineffective\t{session}\tstuck_tool\tmsg_000001, prt_000003 stayed open" in done.stdout, done
    assert "passed on to the watchdog that acts" in done.stderr


async def test_the_socket_of_one_that_is_stopped_is_gone(program: Program, rows: OpencodeFile) -> None:
    async with run(program, rows) as running:
        folder = program.home / ".local/state/opencode-watchdog/run"
        assert len([*folder.iterdir()]) == 1
        running.signal(signal.SIGTERM)
        done = await running.finished()
    assert done.code == 0
    assert [*folder.iterdir()] == []
    assert "socket.off" not in done.stderr


async def test_it_works_without_a_socket_and_says_why_there_is_none(program: Program, rows: OpencodeFile) -> None:
    folder = program.home / ".local/state/opencode-watchdog/run"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    async with run(program, rows) as running:
        pass
    assert '"event": "socket.off"' in running.stderr()
    assert "is not this user's alone" in running.stderr()
