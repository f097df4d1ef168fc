"""Left-over commands as real processes: which are found, what is said of them, and that a signal meets no other."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.database import OpencodeFile
from tests.support.left_over import Opencode, opencode, session, until
from tests.support.waiting import wait_until
from tests.unit.judging.test_leftovers import command
from watchdog.model.leftovers import Commands, LeftOver, Member
from watchdog.model.report import Holder, Holders
from watchdog.opencode.db.store import OpencodeDatabase
from watchdog.opencode.processes import commands as module
from watchdog.opencode.processes import leftovers
from watchdog.opencode.processes.commands import lives, send
from watchdog.opencode.processes.holders import FOREIGN_PROC
from watchdog.opencode.processes.leftovers import ProcessCommands
from watchdog.opencode.processes.stat import read_stat
from watchdog.timing.clock import SystemClock, now_ms

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="left-over commands are told on Linux only")


@pytest.fixture
def dead() -> Iterator[Opencode]:
    """An opencode; whoever uses it lets it die."""
    with opencode() as found:
        yield found


async def look(path: Path, holders: Holders | None = None, *, since_ms: int | None = None) -> Commands:
    async def known() -> Holders:
        return holders or Holders()

    async with await OpencodeDatabase.open(path) as store:
        seen = ProcessCommands(database=path, calls=store.command_calls, holders=known, clock=SystemClock())
        return await seen.look(since_ms=since_ms)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "opencode.db"
    with OpencodeFile(path):
        pass
    return path


def of(seen: Commands, *pids: int) -> list[LeftOver]:
    """Those among them that a test started: others' may be there, too."""
    return [each for each in seen.left if each.command.first.pid in pids]


async def one(path: Path, pid: int, holders: Holders | None = None) -> LeftOver:
    (found,) = of(await look(path, holders), pid)
    return found


def a_call(path: Path, folder: Path, command: str, *, ended: bool = False, workdir: str | None = None) -> str:
    with OpencodeFile(path) as rows:
        turn = rows.turn(rows.session(directory=str(folder), at=now_ms()), at=now_ms(), cwd=None)
        state = {
            "status": "completed" if ended else "running",
            "input": {"command": command, **({"workdir": workdir} if workdir else {})},
            "time": {"start": now_ms(), **({"end": now_ms() + 1000} if ended else {})},
        }
        return rows.part(turn, {"type": "tool", "tool": "bash", "callID": "c", "state": state}, at=now_ms())


async def test_a_command_is_left_over_once_its_opencode_is_gone(path: Path, dead: Opencode, tmp_path: Path) -> None:
    part = a_call(path, tmp_path, "sleep 77.25 | cat")
    pid = dead.start("sleep 77.25 | cat", tmp_path)
    await wait_until(lambda: len(session(pid)) == 3, "the command")
    assert of(await look(path), pid) == [], "its opencode lives"
    dead.die()

    found = await one(path, pid)

    assert found.command.line == "bash -c sleep 77.25 | cat"
    assert sorted(each.pid for each in found.command.members) == sorted(session(pid))
    assert found.command.memory_bytes > 0
    assert abs(found.command.born_ms - now_ms()) < 20_000
    assert found.call is not None
    assert found.call.id == part
    assert found.stays is None
    assert of(await look(path, since_ms=now_ms() + 60_000), pid) == []


async def test_folder_of_the_call_decides_and_symbolic_links_are_followed(
    path: Path, dead: Opencode, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    part = a_call(path, tmp_path, "sleep 77.5", workdir="link")
    pids = [dead.start("sleep 77.5", folder) for folder in (tmp_path / "real", tmp_path)]
    for pid in pids:
        until(pid, "sleep 77.5")
    dead.die()

    there, elsewhere = [await one(path, pid) for pid in pids]

    assert (there.call and there.call.id, elsewhere.call) == (part, None)


async def test_a_call_that_ended_leaves_its_command_over_although_its_opencode_lives(
    path: Path, dead: Opencode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = a_call(path, tmp_path, "sleep 77.75", ended=True)
    pid = dead.start("sleep 77.75", tmp_path)
    until(pid, "sleep 77.75")
    holders = Holders(known=(Holder(pid=dead.pid, born_ms=0, command="opencode"),))

    assert of(await look(path, holders), pid) == [], "it ended a moment ago"
    monkeypatch.setattr(leftovers, "_ENDING_MS", -5000)
    found = await one(path, pid, holders)
    assert of(await look(path), pid) == [], "its opencode has another database open"

    assert found.call is not None
    assert found.call.id == part
    assert found.why == f"its call has ended, and its opencode (process {dead.pid}) goes on"


async def test_processes_that_dropped_the_variable_belong_to_their_command(
    path: Path, dead: Opencode, tmp_path: Path
) -> None:
    pid = dead.start("env -u OPENCODE_PID sleep 78.25; true", tmp_path)
    await wait_until(lambda: len(session(pid)) == 2, "the command")
    dead.die()

    assert len((await one(path, pid)).command.members) == 2


async def test_it_says_what_listens_and_what_writes(path: Path, dead: Opencode, tmp_path: Path) -> None:
    listen = "import socket,time; s=socket.create_server(('127.0.0.1',0));"
    serve = f"{listen} f=open('log','w'); open('up','w'); time.sleep(80)"
    pid = dead.start(f'exec {sys.executable} -c "{serve}"', tmp_path)
    await wait_until((tmp_path / "up").exists, "the port")
    dead.die()

    found = await one(path, pid)

    assert len(found.command.listens) == 1
    assert found.command.writes
    assert found.stays == f"it listens on port {found.command.listens[0]}"


async def test_a_part_that_ignores_the_hangup_may_have_been_started_to_stay(
    path: Path, dead: Opencode, tmp_path: Path
) -> None:
    pid = dead.start("(trap '' HUP; exec sleep 79.25) & wait", tmp_path)
    await wait_until(lambda: any(each.ignores_hangup for each in _members(pid)), "the trap")
    dead.die()

    assert (await one(path, pid)).stays is not None


def _members(pid: int) -> list[Member]:
    return [found for each in session(pid) if (found := module._member(read_stat(each))) is not None]


async def test_an_opencode_that_runs_in_it_is_never_ended(path: Path, dead: Opencode, tmp_path: Path) -> None:
    pid = dead.start("sleep 79.5; true", tmp_path)
    await wait_until(lambda: len(session(pid)) == 2, "the command")
    dead.die()
    (inner,) = [each for each in session(pid) if each != pid]

    holder = Holder(pid=inner, born_ms=0, command="opencode")
    assert (await one(path, pid)).command.keep is None
    assert str(inner) in str((await one(path, pid, Holders(known=(holder,)))).command.keep)

    failed = Holders(complete=False, why_incomplete="They can't be looked up.", failed=True)
    seen = await look(path, failed)
    (found,) = of(seen, pid)
    assert "an opencode may run in it" in str(found.command.keep)
    assert seen.refusal == "They can't be looked up."
    assert "They can't be looked up." in seen.problems


def test_where_an_opencode_lives_calls_that_seem_to_begin_later_are_read_too() -> None:
    gone, at_work = command(), command(lives=True)
    day = 24 * 60 * 60 * 1000
    assert leftovers._spans([gone]) == [(gone.born_ms - day, gone.born_ms + 2000)]
    assert leftovers._spans([command(lives=True, holds=False)]) == leftovers._spans([gone])
    later = replace(gone, born_ms=gone.born_ms + 1)
    for seen in ([at_work], [later, at_work], [at_work, gone]):
        ((begin, end),) = leftovers._spans(seen)
        assert begin == gone.born_ms - day
        assert end > gone.born_ms + 10_000 * day


async def test_a_terminal_of_its_own_is_never_ended(path: Path, dead: Opencode, tmp_path: Path) -> None:
    (script := tmp_path / "at_a_terminal.py").write_text(
        "import fcntl,os,pty,termios,time\nm,s=pty.openpty()\nif os.fork()==0:\n    os.setsid()\n"
        "    fcntl.ioctl(s,termios.TIOCSCTTY,0)\n    open('pid','w').write(str(os.getpid()))\ntime.sleep(80)\n"
    )
    opener = dead.start(f"exec {sys.executable} {script.name}", tmp_path)
    await wait_until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()), "the terminal")
    pid = int((tmp_path / "pid").read_text())
    try:
        dead.die()
        assert "terminal" in str((await one(path, pid)).command.keep)
        assert "terminal" in str((await one(path, opener)).command.keep), "as tmux is to its panes"
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_pid_that_is_anothers_now_is_no_opencode_that_lives() -> None:
    own = read_stat(os.getpid())
    assert lives(own.pid, own.birth) is True
    assert lives(own.pid, own.birth - 1) is False, "it is younger than what it would have started"
    gone = subprocess.Popen(["true"])
    gone_pid = gone.pid
    assert gone.wait() == 0
    assert lives(gone_pid, own.birth) is False


async def test_a_signal_goes_to_the_process_that_was_looked_at_and_to_no_other(
    path: Path, dead: Opencode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = dead.start("sleep 79.75", tmp_path)
    until(pid, "sleep 79.75")
    dead.die()
    left = await one(path, pid)
    first = left.command.first

    assert not send(left, replace(first, birth=first.birth + 1), signal.SIGKILL)
    with monkeypatch.context() as without_handles:
        without_handles.delattr(os, "pidfd_open")
        assert not send(left, replace(first, birth=first.birth + 1), signal.SIGKILL)
        assert session(pid) == [pid]
        assert send(left, first, signal.SIGCONT)
    assert send(left, first, signal.SIGKILL)
    dead.commands[0].wait()
    assert not send(left, first, signal.SIGKILL)


async def test_processes_that_cant_be_looked_at_fail_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> module.Table:
        raise PermissionError

    monkeypatch.setattr(leftovers, "read_table", gone)
    seen = await look(path)
    assert (seen.left, seen.complete) == ((), False)
    assert seen.problems == ("The processes can't be looked at (PermissionError).",)


async def test_pids_of_another_namespace_are_not_looked_at_and_get_no_signal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Member(pid=os.getpid(), birth=read_stat(os.getpid()).birth, words=("pytest",))
    left = LeftOver(command=command(own), why="its opencode is gone")
    assert send(left, own, signal.SIGCONT)

    for each in (module, leftovers):
        monkeypatch.setattr(each, "own_namespace", lambda: None)

    assert await look(path) == Commands(problems=(FOREIGN_PROC,))
    assert not send(left, own, signal.SIGCONT)


async def test_a_container_may_hide_a_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INITIAL_NAMESPACE", "pid:[1]")
    seen = await look(path)
    assert not seen.complete
    assert any("another pid namespace" in each for each in seen.problems)


async def test_what_cant_be_read_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_242_424)
    seen = await look(path)
    assert seen.left == ()
    assert not seen.complete
    assert any("of other users were not looked at" in each for each in seen.problems)
    assert any("belongs to another user" in each for each in seen.problems)
