"""The program as a process: signals, pipes, help, exit codes, and what it never shows."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.fakes.server import AbortBehaviour, FakeServer, loopback, over_http, read_request, reply
from tests.support.database import OpencodeFile
from tests.support.program import NOWHERE, Program, now_ms, path, program, python, rows, with_variables
from tests.support.waiting import wait_until
from watchdog.model.session import SessionId

__all__ = ["path", "program", "rows"]

COMMANDS = ["run", "scan", "explain", "recover", "release", "delete-message", "check"]
SECRET = "correct-horse-battery-staple"  # noqa: S105


# run


def watching(program: Program, rows: OpencodeFile, *servers: str, **more: str | float | bool) -> None:
    """Settings for a quick `run`."""
    settings = {"poll_interval": 0.1, "shutdown_grace": 3, "log_format": "json", "log_level": "debug", **more}
    program.settings(database=str(rows.path), servers=list(servers) or [NOWHERE], **settings)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_run_ends_well_at_the_first_signal(
    program: Program, rows: OpencodeFile, number: signal.Signals
) -> None:
    watching(program, rows)
    async with program.started("run") as running:
        await running.said('"event": "watch.looked"')
        running.signal(number)
        done = await running.finished()
    assert (done.code, done.stdout) == (0, "")
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events[0] == "watch.started"
    assert events[-2:] == ["watch.stopping", "watch.stopped"]


async def test_run_ends_well_when_it_is_told_so_before_it_has_begun(program: Program, rows: OpencodeFile) -> None:
    watching(program, rows)
    async with program.started("run") as running:
        await running.said('"event": "watch.started"')
        running.signal(signal.SIGTERM)
        done = await running.finished()
    assert done.code == 0


async def test_run_ends_within_its_grace_although_a_server_is_silent(program: Program, rows: OpencodeFile) -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        if (await read_request(reader)).path == ("session", "status"):
            asked.set()
        await reader.read()

    rows.turn(rows.session(at=now_ms()), at=now_ms())
    async with loopback(silent) as url:
        watching(program, rows, url, shutdown_grace=1)
        async with program.started("run") as running:
            await wait_until(asked.is_set, "the look that asks", explain=running.stderr)
            running.signal(signal.SIGTERM)
            done = await running.finished()
    assert done.code == 0
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events[-2:] == ["watch.stopping", "watch.stopped"], "the look that waits for its answer is cut"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_kills(program: Program, rows: OpencodeFile, number: signal.Signals) -> None:
    fake = FakeServer(abort_behaviour=AbortBehaviour.HANGS)
    rows.call(rows.turn(rows.session("ses_busy", at=now_ms()), at=now_ms()), at=now_ms())
    fake.busy(SessionId("ses_busy"), "/project")
    async with loopback(over_http(fake)) as url:
        watching(program, rows, url, tool_timeout="1ms", abort_timeout=60, shutdown_grace=60, discover=False)
        async with program.started("run") as running:
            await wait_until(lambda: fake.aborted, "the abort", explain=running.stderr)
            running.signal(number)
            await running.said('"event": "watch.stopping"')
            await asyncio.sleep(0.3)
            assert running.process.poll() is None
            running.signal(number)
            assert (await running.finished()).code == -number


async def test_an_intervention_that_outlives_the_grace_is_cut_and_the_exit_code_says_so(
    program: Program, rows: OpencodeFile
) -> None:
    fake = FakeServer(abort_behaviour=AbortBehaviour.HANGS)
    rows.call(rows.turn(rows.session("ses_busy", at=now_ms()), at=now_ms()), at=now_ms())
    fake.busy(SessionId("ses_busy"), "/project")
    async with loopback(over_http(fake)) as url:
        watching(program, rows, url, tool_timeout="1ms", abort_timeout=60, shutdown_grace=0.5, discover=False)
        async with program.started("run") as running:
            await wait_until(lambda: fake.aborted, "the abort", explain=running.stderr)
            running.signal(signal.SIGTERM)
            done = await running.finished()
    assert done.code == 70
    assert "still under way after 0.5 s: ses_busy" in done.stderr


async def test_a_dry_run_of_run_says_what_it_would_do_and_writes_nothing(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        call = rows.call(rows.turn(rows.session()))
        watching(program, rows)
    async with program.started("run", "--dry-run") as running:
        await running.said('"result": "dry_run"')
        running.signal(signal.SIGTERM)
        assert (await running.finished()).code == 0
    with OpencodeFile(path) as rows:
        assert '"running"' in rows.get("part", call)


# Ctrl-C, closed pipes.


async def test_ctrl_c_ends_a_scan_without_a_traceback(program: Program, rows: OpencodeFile) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    rows.turn(rows.session(at=now_ms()), at=now_ms())
    async with loopback(silent) as url, program.started("scan", "--database", rows.path, "--server", url) as process:
        await process.said("looking at the database and its servers")
        process.signal(signal.SIGINT)
        done = await process.finished()
    assert (done.code, done.stdout) == (130, "")
    assert done.stderr == "looking at the database and its servers, which takes a while\n"


@pytest.mark.parametrize("arguments", [["scan"], ["scan", "--json"], ["check"], ["recover"], ["recover", "--json"]])
def test_a_reader_that_leaves_early_is_no_error(program: Program, path: Path, arguments: list[str]) -> None:
    with OpencodeFile(path) as rows:
        for _ in range(3 if arguments[0] == "recover" else 300):
            rows.call(rows.turn(rows.session()))
    line = [*program.line, *arguments, "--database", str(path), "--server", NOWHERE]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            line, cwd=program.home, env=program.environ, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert set(done.stderr.splitlines()) <= {"settling 3 sessions"}, (
        "a wait of some seconds is said, and nothing else"
    )
    assert done.returncode == {"scan": 1, "check": 3, "recover": 0}[arguments[0]]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["scan", "scan --json", "recover --dry-run"])
def test_a_stream_that_was_closed_before_the_start_is_no_error(
    program: Program, path: Path, closed: str, arguments: str
) -> None:
    with OpencodeFile(path) as rows:
        rows.call(rows.turn(rows.session()))
    line = f"{shlex.join(program.line)} {arguments} --database {path} --server {NOWHERE} {closed}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=program.home, env=program.environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")


# Help, and the two ways to start it.


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_command_has_its_help(program: Program, command: str) -> None:
    done = await program.run(command, "--help")
    assert (done.code, done.stderr) == (0, "")
    assert f"Usage: opencode-watchdog {command}" in done.stdout
    for option in ("--config", "--database", "--server", "--json", "--help"):
        assert option in done.stdout
    assert ("--dry-run" in done.stdout) == (command in {"run", "recover"})


@pytest.mark.parametrize(
    "command",
    ["status", "history", "undo", "hold", "unhold", "pause", "resume", "leftovers", "drain", "page", "tune"],
)
async def test_every_command_that_looks_or_acts_takes_the_same_four_options(program: Program, command: str) -> None:
    done = await program.run(command, "--help")
    for option in ("--config", "--database", "--server", "--json"):
        assert option in done.stdout


async def test_the_help_tells_the_commands_and_the_exit_codes(program: Program) -> None:
    done = await program.run("--help")
    assert done.code == 0
    assert all(f"{command} " in done.stdout for command in COMMANDS)
    text = " ".join(done.stdout.split())
    for words in (
        "0 fine", "1 something stuck or not recovered", "2 usage or settings", "3 database or server unusable",
        "70 internal error", "130 interrupted",
    ):  # fmt: skip
        assert words in text


async def test_it_tells_its_version(program: Program) -> None:
    done = await program.run("--version")
    assert (done.code, done.stdout) == (0, f"opencode-watchdog {version('opencode-watchdog')}\n")


async def test_without_a_command_it_shows_its_help(program: Program) -> None:
    done = await program.run()
    assert done.code == 2
    assert "Usage: opencode-watchdog" in done.stdout + done.stderr


async def test_the_console_script_is_the_same_program(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        rows.call(rows.turn(rows.session()))
    script = Path(sys.executable).with_name("opencode-watchdog")
    installed = Program(home=program.home, line=[str(script)])
    arguments = ("recover", "--dry-run", "--database", path, "--server", NOWHERE)
    for line in (["--help"], ["scan", "--help"], ["scam"], arguments):
        one, other = await program.run(*line), await installed.run(*line)
        assert (one.code, one.stdout, one.stderr) == (other.code, other.stdout, other.stderr)


async def test_help_is_quick(program: Program) -> None:
    """What takes long to import is imported by the command that needs it."""
    program.line = [sys.executable, "-X", "importtime", "-m", "watchdog"]
    done = await program.run("scan", "--help")
    for slow in ("sqlalchemy", "httpx", "psutil", "pydantic_settings", "structlog"):
        assert f" {slow}\n" not in done.stderr


# What goes wrong inside, and beside.


async def test_a_warning_of_the_settings_goes_to_standard_error(program: Program, rows: OpencodeFile) -> None:
    program.more = {"OPENCODE_CONFIG": "nowhere.json"}
    done = await program.run("scan", "--json", "--database", rows.path, "--server", NOWHERE)
    assert done.code == 0
    assert done.stderr.startswith("warning: ")
    assert "nowhere.json" in done.stderr
    assert done.document["verdicts"] == []


async def test_an_error_of_its_own_is_exit_code_70_and_asks_for_a_report(
    program: Program, rows: OpencodeFile
) -> None:
    program.line = python(
        "import watchdog.cli.commands as c\nasync def scan(*_, **__): raise KeyError(3)\nc.scan = scan"
    )
    async with program.started("scan", "--database", rows.path) as process:
        process.process.wait(60)
        assert process.process.returncode == 70
        assert "error: internal error: KeyError" in process.stderr()
        assert "Traceback" in process.stderr()


# Secrets.


async def test_a_password_shows_nowhere(program: Program, path: Path) -> None:
    with OpencodeFile(path) as rows:
        rows.call(rows.turn(rows.session("ses_lost")))

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(reply({}, status=401))
        await writer.drain()

    program = with_variables(program, {"OPENCODE_SERVER_PASSWORD": SECRET})
    async with loopback(refuse) as url:
        where = ["--database", path, "--server", url]
        shown = ""
        for arguments in (
            ["scan"], ["scan", "--json"], ["check"], ["check", "--json"], ["recover", "--dry-run", "--json"],
            ["release", "ses_lost", "--json"],
        ):  # fmt: skip
            done = await program.run(*arguments, *where)
            shown += done.stdout + done.stderr
        watched = with_variables(program, {"OPENCODE_WATCHDOG_LOG_LEVEL": "debug"})
        async with watched.started("run", *where) as running:
            await running.said("watch.looked")
            running.signal(signal.SIGTERM)
            shown += (await running.finished(12)).stderr
    assert "environment variable OPENCODE_SERVER_PASSWORD" in shown
    assert SECRET not in shown


async def test_a_password_in_a_url_is_refused_and_not_repeated(program: Program, rows: OpencodeFile) -> None:
    url = f"http://opencode:{SECRET}@127.0.0.1:4096"
    done = await program.run("scan", "--database", rows.path, "--server", url)
    assert done.code == 2
    assert "set server_username and server_password" in done.stderr
    assert SECRET not in done.stderr
