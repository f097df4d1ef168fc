"""The units, checked by systemd's own tool; and the program, speaking to a socket as systemd gives one."""

import asyncio
import json
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.files import FOLDER, run
from tests.support.database import OpencodeFile
from tests.support.debian import require
from tests.support.program import NOWHERE, Program, python
from tests.support.waiting import wait_until

UNITS = ("opencode-watchdog.service", "opencode-watchdog@.service")
HANGS = """
import asyncio
from watchdog.timing import pace
from watchdog.opencode.db.store import OpencodeDatabase
pace._SILENT_SECONDS = 0.5
changed, looks = OpencodeDatabase.changed, []
async def hang(self):
    looks.append(1)
    if len(looks) > 5:
        await asyncio.sleep(600)
    return await changed(self)
OpencodeDatabase.changed = hang
"""
TELLS_MODULES = """
import json, os, pathlib, sys
def tell(code, leave=os._exit):
    pathlib.Path("modules.json").write_text(json.dumps(sorted(sys.modules)))
    leave(code)
os._exit = tell
"""


class Systemd:
    """The socket that a program is given, and what it says there."""

    def __init__(self, listening: socket.socket) -> None:
        self.address = listening.getsockname()
        self.lines: list[str] = []
        self._listening = listening

    async def hears(self, line: str, *, more: Callable[[], str]) -> None:
        """Wait until the program says a line."""
        await wait_until(lambda: self.said(line), line, explain=lambda: f"{self.lines}\n{more()}")

    def said(self, line: str) -> int:
        """How often it said a line so far."""
        while True:
            try:
                self.lines += self._listening.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.lines.count(line)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield Systemd(listening)


@pytest.fixture
def watched(program: Program, rows: OpencodeFile, systemd: Systemd) -> Program:
    """A program that systemd gave a socket, and that must be heard of every 400 ms."""
    program.settings(database=str(rows.path), servers=[NOWHERE], discover=False, poll_interval=0.1)
    program.more |= {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "400000"}
    return program


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_has_nothing_to_say_against_the_units(unit: str, tmp_path: Path) -> None:
    analyze = require("systemd-analyze")
    program = Path(sys.executable).with_name("opencode-watchdog")
    text, found = re.subn(r"(?m)^ExecStart=\S+", f"ExecStart={program}", (FOLDER / unit).read_text(encoding="utf-8"))
    assert found == 1
    (tmp_path / unit).write_text(text, encoding="utf-8")
    instance = unit.replace("@", "@root")
    if instance != unit:
        shutil.copy(tmp_path / unit, tmp_path / instance)
    assert run(analyze, "verify", "--man=no", tmp_path / instance) == (0, "")


def test_a_mistake_in_a_unit_would_be_seen(tmp_path: Path) -> None:
    analyze = require("systemd-analyze")
    text = (FOLDER / UNITS[0]).read_text(encoding="utf-8").replace("WatchdogSec=", "WatchdogSecs=")
    (tmp_path / UNITS[0]).write_text(
        text.replace("%h/.local/bin/opencode-watchdog", sys.executable), encoding="utf-8"
    )
    assert "WatchdogSecs" in run(analyze, "verify", "--man=no", tmp_path / UNITS[0])[1]


def test_the_unit_of_the_machine_is_exposed_to_little() -> None:
    analyze = require("systemd-analyze")
    code, said = run(analyze, "security", "--offline=true", "--threshold=35", FOLDER / UNITS[1])
    assert code == 0, said


@pytest.mark.parametrize("unit", UNITS)
def test_the_units_agree_with_what_the_program_does(unit: str) -> None:
    text = (FOLDER / unit).read_text(encoding="utf-8")
    service = dict(re.findall(r"(?m)^(\w+)=(.*)$", text.partition("[Service]")[2]))
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert service["RestartPreventExitStatus"] == "2"
    assert service["ExecStart"].endswith("/opencode-watchdog run")
    for hides in ("PrivateUsers", "PrivatePIDs", "ProtectProc", "ProcSubset"):
        assert hides not in service


async def test_the_program_says_that_it_is_ready_alive_and_stopping(watched: Program, systemd: Systemd) -> None:
    async with watched.started("run") as running:
        await systemd.hears("READY=1", more=running.stderr)
        await wait_until(lambda: systemd.said("WATCHDOG=1") >= 3, "signs of life", explain=running.stderr)
        assert systemd.said("STOPPING=1") == 0
        running.signal(signal.SIGTERM)
        await systemd.hears("STOPPING=1", more=running.stderr)
        assert (await running.finished()).code == 0
    assert systemd.said("READY=1") == 1
    assert "STATUS=watching: 0 unfinished sessions, 0 stuck" in systemd.lines


async def test_a_loop_that_hangs_is_not_alive_although_the_process_is(watched: Program, systemd: Systemd) -> None:
    watched.line = python(HANGS)
    async with watched.started("run") as running:
        await systemd.hears("WATCHDOG=1", more=running.stderr)

        async def silent() -> bool:
            before = systemd.said("WATCHDOG=1")
            await asyncio.sleep(1.2)
            return systemd.said("WATCHDOG=1") == before

        await wait_until(silent, "silence", explain=running.stderr)
        running.signal(signal.SIGTERM)
        await systemd.hears("STOPPING=1", more=running.stderr)


async def test_a_database_that_is_locked_is_a_status_and_no_reason_to_restart(
    watched: Program, rows: OpencodeFile, systemd: Systemd
) -> None:
    async with watched.started("run") as running:
        await systemd.hears("READY=1", more=running.stderr)
        rows.path.rename(rows.path.with_name("gone.db"))
        await systemd.hears("STATUS=the database can't be used; trying again", more=running.stderr)
        began, before = time.monotonic(), systemd.said("WATCHDOG=1")
        await wait_until(lambda: systemd.said("WATCHDOG=1") >= before + 3, "signs of life", explain=running.stderr)
        assert time.monotonic() - began >= 0.3, "every half of the time that it may be silent"
        rows.path.with_name("gone.db").rename(rows.path)
        running.signal(signal.SIGTERM)
        assert (await running.finished()).code == 0


async def test_a_run_without_the_api_and_receivers_imports_nothing_of_theirs(
    program: Program, rows: OpencodeFile
) -> None:
    program.settings(database=str(rows.path), servers=[NOWHERE], discover=False, log_level="debug")
    program.line = python(TELLS_MODULES)
    async with program.started("run") as running:
        await running.said("watch.looked")
        running.signal(signal.SIGTERM)
        await running.finished()
    modules = set(json.loads((program.home / "modules.json").read_text(encoding="utf-8")))
    assert "watchdog.cli.run" in modules
    assert not modules & {"apprise", "fastapi", "prometheus_client", "requests", "starlette", "uvicorn"}
