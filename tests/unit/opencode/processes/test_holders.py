"""Who has the database open: real processes with real SQLite connections."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from tests.fakes.clock import FakeClock
from watchdog.model.report import Holder, Holders
from watchdog.opencode.file import locks as locks_module
from watchdog.opencode.file import strangers
from watchdog.opencode.file.identity import FileIdentity
from watchdog.opencode.file.locks import Answer, Bytes, QuestionFailed, devices_of, parse_locks
from watchdog.opencode.processes import holders as module
from watchdog.opencode.processes.holders import ProcessOwners, command_of
from watchdog.opencode.processes.lock import DatabaseLock
from watchdog.ports import Reading
from watchdog.timing.clock import SystemClock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's list of locks is Linux's")
HOST = (
    None
    if sys.platform != "linux" or str(Path("/proc/self/ns/pid").readlink()) == module.INITIAL_NAMESPACE
    else "these tests run in a container's pid namespace, where a holder may hide another"
)
on_the_host = pytest.mark.skipif(HOST is not None, reason=HOST or "")

HOLD = """
import sqlite3, subprocess, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("pragma journal_mode = wal")
connection.execute("create table if not exists part (id)")
connection.commit()
connection.execute("select * from part").fetchall()
child = subprocess.Popen(["sleep", "60"], start_new_session=True).pid if "with-child" in sys.argv else 0
if "as-sidecar" in sys.argv:
    from pathlib import Path
    from watchdog.opencode.processes.lock import DatabaseLock
    lock = DatabaseLock(Path(sys.argv[1]))
    lock.announce()
print(child, flush=True)
sys.stdin.read()
"""


class Process:
    """A process that has the database open; `child` is a child of its own."""

    def __init__(self, database: Path, *words: str, before: tuple[str, ...] = ()) -> None:
        command = [*before, sys.executable, "-c", HOLD, str(database), *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.strip().isdigit(), "the process did not start"
        self.child = int(said)
        self.pid = self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.kill()
        if self.child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "opencode.db"


@pytest.fixture
def opened(database: Path) -> Iterator[Callable[..., Process]]:
    with ExitStack() as stack:

        def start(*words: str, before: tuple[str, ...] = ()) -> Process:
            process = Process(database, *words, before=before)
            stack.callback(process.close)
            return process

        yield start


def sidecar(database: Path) -> ProcessOwners:
    return ProcessOwners(database, clock=SystemClock(), embedded=False)


def pids(holders: Holders) -> list[int]:
    return [holder.pid for holder in holders.known]


@contextmanager
def our_connection(database: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(database)
    try:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table if not exists part (id)")
        connection.commit()
        yield connection
    finally:
        connection.close()


# --- nobody, somebody --------------------------------------------------------------------------------------------


async def test_no_database_and_a_closed_one_are_held_by_nobody(database: Path) -> None:
    assert await sidecar(database).look() == Holders()
    with our_connection(database):
        pass
    assert await sidecar(database).look() == Holders()


async def test_a_leftover_shm_file_is_held_by_nobody(database: Path, opened: Callable[..., Process]) -> None:
    opened().kill()
    assert database.with_name("opencode.db-shm").exists()
    assert await sidecar(database).look() == Holders()


@on_the_host
async def test_processes_that_hold_it_are_named(database: Path, opened: Callable[..., Process]) -> None:
    first, second = opened(), opened()
    holders = await sidecar(database).look()
    assert pids(holders) == sorted([first.pid, second.pid])
    assert holders.complete
    assert holders.why_incomplete is None
    assert all(holder.command.startswith("python") and holder.command.endswith("…") for holder in holders.known)
    assert not any(holder.embeds_us for holder in holders.known)


@on_the_host
async def test_through_a_symbolic_link_they_are_the_same(database: Path, opened: Callable[..., Process]) -> None:
    process = opened()
    link = database.with_name("link.db")
    link.symlink_to(database)
    assert pids(await sidecar(link).look()) == [process.pid]


@on_the_host
async def test_after_kill_9_its_surviving_child_holds_nothing(database: Path, opened: Callable[..., Process]) -> None:
    process = opened("with-child")
    assert pids(await sidecar(database).look()) == [process.pid]
    process.kill()
    os.kill(process.child, 0)
    assert await sidecar(database).look() == Holders()


async def test_looking_does_not_drop_our_own_locks(database: Path) -> None:
    with our_connection(database):
        for _ in range(3):
            await sidecar(database).look()
        answer = locks_module.ask_kernel(database.with_name("opencode.db-shm"), locks_module.LOCKED_BYTE)
        assert answer.pid == os.getpid()


# --- ourselves, and sidecars -------------------------------------------------------------------------------------


@on_the_host
async def test_a_sidecar_leaves_itself_out_and_an_embedded_one_does_not(database: Path) -> None:
    with our_connection(database):
        assert await sidecar(database).look() == Holders()
        holders = await ProcessOwners(database, clock=SystemClock(), embedded=True).look()
        assert [(holder.pid, holder.embeds_us) for holder in holders.known] == [(os.getpid(), True)]


@on_the_host
async def test_other_sidecars_are_left_out_and_other_embedding_ones_are_not(
    database: Path, opened: Callable[..., Process]
) -> None:
    opened("as-sidecar")
    host = opened()
    assert pids(await sidecar(database).look()) == [host.pid]
    host.kill()
    assert await sidecar(database).look() == Holders()


async def test_our_own_connection_is_closed_before_the_question(database: Path) -> None:
    with our_connection(database) as connection:

        async def disconnect() -> None:
            connection.close()

        owners = ProcessOwners(database, clock=SystemClock(), embedded=False, disconnect=disconnect)
        assert await owners.look() == Holders()


async def test_an_embedded_one_never_closes_a_connection(database: Path) -> None:
    async def disconnect() -> None:
        raise AssertionError

    owners = ProcessOwners(database, clock=SystemClock(), embedded=True, disconnect=disconnect)
    assert await owners.look() == Holders()


async def test_whatever_goes_wrong_is_said_and_proves_nothing(database: Path) -> None:
    async def disconnect() -> None:
        raise RuntimeError("secret")

    holders = await ProcessOwners(database, clock=SystemClock(), embedded=False, disconnect=disconnect).look()
    assert not holders.complete
    assert holders.why_incomplete == "The holders of the database can't be looked up (RuntimeError)."
    assert holders.failed


# --- births ------------------------------------------------------------------------------------------------------


@on_the_host
async def test_a_birth_is_in_the_frame_of_the_wall_clock_as_it_is_now(
    database: Path, opened: Callable[..., Process]
) -> None:
    before = time.time() * 1000
    opened()
    after = time.time() * 1000
    assert before - 20 <= (await born(database, SystemClock())) <= after + 20
    clock = SteppedClock()
    assert before - 20 + 3_600_000 <= (await born(database, clock)) <= after + 20 + 3_600_000


class SteppedClock(SystemClock):
    """The wall clock was set one hour ahead."""

    def read(self) -> Reading:
        now = super().read()
        return replace(now, wall_ms=now.wall_ms + 3_600_000)


async def born(database: Path, clock: SystemClock) -> int:
    holders = await ProcessOwners(database, clock=clock, embedded=False).look()
    return holders.known[0].born_ms


@on_the_host
async def test_a_reused_pid_is_another_process_because_its_birth_differs(
    database: Path, opened: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened()
    before = (await sidecar(database).look()).known[0]
    first.kill()
    second = opened()
    after = (await sidecar(database).look()).known[0]
    assert after.born_ms > before.born_ms
    # The kernel hands the first pid out again: the list of locks shows it, and the birth is the new process's.
    stat_of = {first.pid: second.pid}
    real = psutil.Process
    monkeypatch.setattr(psutil, "Process", lambda pid: real(stat_of.get(pid, pid)))
    reused = module._holder(first.pid, SystemClock().read())
    assert reused is not None
    assert reused.pid == before.pid
    assert abs(reused.born_ms - after.born_ms) <= 20
    assert reused.born_ms != before.born_ms


# --- what can't be seen ------------------------------------------------------------------------------------------


def unshared() -> tuple[str, ...]:
    return ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def why_not_unshared() -> str | None:
    try:
        done = subprocess.run([*unshared(), "true"], capture_output=True, timeout=60, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unshare can't be run: {error}"
    return None if done.returncode == 0 else f"a pid namespace may not be made here: {done.stderr.strip()}"


@asynccontextmanager
async def namespaces() -> AsyncIterator[None]:
    reason = why_not_unshared()
    if reason is not None:
        pytest.skip(reason)
    yield


@on_the_host
async def test_the_host_sees_a_holder_in_another_pid_namespace(
    database: Path, opened: Callable[..., Process]
) -> None:
    async with namespaces():
        process = opened(before=unshared())
        holders = await sidecar(database).look()
        assert holders.complete
        assert pids(holders) == [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


LOOK = """
import anyio, sys
from pathlib import Path
from watchdog.timing.clock import SystemClock
from watchdog.opencode.processes.holders import ProcessOwners
owners = ProcessOwners(Path(sys.argv[1]), clock=SystemClock(), embedded=False)
holders = anyio.run(owners.look)
print(holders.complete, [holder.pid for holder in holders.known], holders.why_incomplete)
print(owners.supported())
"""


def look_from_elsewhere(database: Path) -> tuple[str, str]:
    done = subprocess.run(
        [*unshared(), sys.executable, "-c", LOOK, str(database)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found, supported = done.stdout.splitlines()
    return found, supported


async def test_from_a_container_a_holder_outside_is_noticed(database: Path, opened: Callable[..., Process]) -> None:
    async with namespaces():
        found, supported = look_from_elsewhere(database)
        assert found == "True [] None"
        assert "not the host's own pid namespace" in supported
        process = opened()
        found, _ = look_from_elsewhere(database)
        assert found.startswith("False [] A process that can't be seen from here")
        assert "sole_owner" in found
        process.kill()
        assert look_from_elsewhere(database)[0] == "True [] None"


async def test_in_a_container_a_holder_that_is_seen_proves_nothing_about_others(
    database: Path, opened: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = opened()
    monkeypatch.setattr(module, "own_namespace", lambda: "pid:[4026532000]")
    holders = await sidecar(database).look()
    assert pids(holders) == [process.pid]
    assert not holders.complete
    assert "may hide" in str(holders.why_incomplete)
    process.kill()
    assert await sidecar(database).look() == Holders()


async def test_a_foreign_proc_proves_nothing(
    database: Path, opened: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened()
    monkeypatch.setattr(module, "own_namespace", lambda: None)
    assert "another pid namespace" in str((await sidecar(database).look()).why_incomplete)


async def test_a_question_without_an_answer_proves_nothing(
    database: Path, opened: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = opened()

    def fail(*_: tuple[Path, Bytes]) -> list[Answer]:
        raise QuestionFailed("it took too long")

    monkeypatch.setattr(strangers, "ask_about", fail)
    holders = await sidecar(database).look()
    assert (pids(holders), holders.complete) == ([process.pid], False)
    assert holders.why_incomplete == "Locks can't be asked about: it took too long."


async def test_a_holder_that_is_not_listed_is_a_hidden_one(
    database: Path, opened: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened()
    monkeypatch.setattr(strangers, "held_locks", frozenset)
    holders = await sidecar(database).look()
    assert (holders.known, holders.complete) == ((), False)


async def test_a_connection_of_our_own_that_the_list_no_longer_names_is_no_hidden_one(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "held_locks", frozenset)
    with our_connection(database):
        holders = await sidecar(database).look()
    assert (holders.complete, pids(holders)) == (True, []), holders.why_incomplete


async def test_a_holder_whose_details_are_hidden_proves_nothing(
    database: Path, opened: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = opened()
    monkeypatch.setattr(module, "_holder", lambda *_: None)
    holders = await sidecar(database).look()
    assert not holders.complete
    assert str(process.pid) in str(holders.why_incomplete)


def test_the_question_fails_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locks_module.ask_kernel(tmp_path / "missing", 128) == Answer()
    monkeypatch.setattr(locks_module, "QUESTION_SECONDS", 0.000001)
    with pytest.raises(QuestionFailed, match="too long"):
        locks_module.ask_kernel(tmp_path, 128)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    with pytest.raises(QuestionFailed, match="can't be started"):
        locks_module.ask_kernel(tmp_path, 128)
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(QuestionFailed, match="child process of its own"):
        locks_module.ask_kernel(tmp_path, 128)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(QuestionFailed, match="no answer"):
        locks_module.ask_kernel(tmp_path, 128)


# --- other platforms ---------------------------------------------------------------------------------------------


async def test_on_windows_there_is_no_proof(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLATFORM", "win32")
    owners = sidecar(database)
    holders = await owners.look()
    assert not holders.complete
    assert "nobody can tell" in str(holders.why_incomplete)
    assert "never settled" in owners.supported()


async def test_on_macos_open_files_tell(
    database: Path, opened: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = opened()
    monkeypatch.setattr(module, "PLATFORM", "darwin")
    owners = sidecar(database)
    assert pids(await owners.look()) == [process.pid]
    assert "macOS" in owners.supported()


async def test_on_macos_a_process_of_this_user_that_can_not_be_looked_into_leaves_no_proof(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: psutil.Process) -> NoReturn:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(module, "PLATFORM", "darwin")
    monkeypatch.setattr(psutil.Process, "open_files", refuse)
    holders = await sidecar(database).look()
    assert not holders.complete
    assert "can't be read" in str(holders.why_incomplete)


# --- small things ------------------------------------------------------------------------------------------------


async def test_the_endpoints_of_a_holder_are_of_any_address(database: Path) -> None:
    with (
        our_connection(database),
        socket.create_server(("127.0.0.1", 0)) as loops,
        socket.create_server(("127.0.0.2", 0)) as second,
        socket.create_server(("", 0)) as all_,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both,
    ):
        found = (await ProcessOwners(database, clock=SystemClock(), embedded=True).look()).known[0].endpoints
        listening = {each.getsockname()[:2] for each in (loops, second, all_, six, both)}
        assert {("127.0.0.1", loops.getsockname()[1]), ("::", both.getsockname()[1])} <= listening
        assert listening <= {(each.address, each.port) for each in found}


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/usr/bin/opencode", "serve", "--port", "4096"], "opencode serve"),
        (["opencode", "run", "my secret prompt"], "opencode run"),
        (["opencode", "my secret folder"], "opencode …"),
        (["opencode"], "opencode"),
        (["/usr/bin/python3", "-c", "password = 'x'"], "python3 …"),
        (["server: secret=1 worker"], "server:"),
        ([], "fallback"),
        (["", "x"], "fallback …"),
        (["\x1b[31mred"], "[31mred"),
        (["x" * 99], "x" * 40),
    ],
)
def test_a_command_is_short_and_tells_no_secret(arguments: list[str], command: str) -> None:
    assert command_of(arguments, "fallback") == command


LOCKS = """\
1: POSIX  ADVISORY  READ 42 00:1f:77 128 128
2: POSIX  ADVISORY  READ 43 00:1f:77 1073741826 1073742335
3: FLOCK  ADVISORY  WRITE 44 00:1f:77 0 EOF
4: -> POSIX  ADVISORY  WRITE 45 00:1f:77 128 128
5: OFDLCK ADVISORY  READ -1 00:1f:77 0 EOF
6: POSIX  ADVISORY  WRITE 46 fe:00:77 120 128
7: LEASE  ACTIVE    READ 47 00:1f:77 0 EOF
8: POSIX  MANDATORY READ 48 00:1f:78 128 128
garbage
"""


def test_the_kernels_list_is_read_for_one_byte_of_one_file() -> None:
    locks = parse_locks(LOCKS)
    here = {(0, 0x1F)}
    assert sorted(lock.pid for lock in locks if lock.covers(77, 128, here)) == [-1, 42]
    assert [lock.pid for lock in locks if lock.covers(77, 128, {(0xFE, 0)})] == [46]


def test_on_btrfs_the_lock_whose_holder_is_known_tells_the_device() -> None:
    locks = parse_locks(LOCKS)
    file = FileIdentity(device=os.makedev(0, 0x2B), inode=77)
    assert devices_of(locks, Answer(file=file, pid=42)) == {(0, 0x2B), (0, 0x1F)}
    assert devices_of(locks, Answer(file=file, pid=None)) == {(0, 0x2B)}
    assert devices_of(locks, Answer(file=file, pid=99)) == {(0, 0x2B)}
    same = FileIdentity(device=os.makedev(0xFE, 0), inode=77)
    assert devices_of(locks, Answer(file=same, pid=46)) == {(0xFE, 0)}


def test_a_process_that_is_gone_is_nobody() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert module._holder(gone.pid, FakeClock().read()) is None
    assert not module._exists(gone.pid)
    ours = module._holder(os.getpid(), SystemClock().read())
    assert isinstance(ours, Holder)


async def test_the_lock_file_of_a_watchdog_that_only_acts_does_not_make_it_a_sidecar(database: Path) -> None:
    with our_connection(database), DatabaseLock(database) as lock:
        assert lock.acquire()
        holders = await ProcessOwners(database, clock=SystemClock(), embedded=True).look()
        assert pids(holders) == [os.getpid()]


# --- strangers, as the list and the kernel's word show them ------------------------------------------------------

MAIN = FileIdentity(device=os.makedev(0, 0x2B), inode=7)
SHM = FileIdentity(device=os.makedev(0, 0x2B), inode=8)


def sight(*held: tuple[int, int, int], main: int | None, shm: int | None) -> strangers.Sight:
    """What is held, each by pid, minor device number and inode, and what the kernel answered."""
    lines = [
        f"{number}: POSIX  ADVISORY  READ {pid} 00:{minor:02x}:{inode} "
        + ("1073741826 1073742335" if inode == MAIN.inode else "128 128")
        for number, (pid, minor, inode) in enumerate(held)
    ]
    return strangers.Sight(
        main=Answer(file=MAIN, pid=main),
        shm=Answer(file=SHM, pid=shm),
        locks=frozenset(parse_locks("\n".join(lines))),
    )


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        pytest.param(sight(main=None, shm=None), set(), id="nobody"),
        pytest.param(sight((4, 0x2B, 7), (4, 0x2B, 8), main=4, shm=4), set(), id="one holder"),
        pytest.param(sight((4, 0x2B, 7), main=4, shm=None), {4}, id="under another name"),
        pytest.param(sight((4, 0x2B, 7), (5, 0x2B, 7), (5, 0x2B, 8), main=5, shm=5), {4}, id="beside a holder"),
        pytest.param(sight((4, 0x1F, 7), (4, 0x1F, 8), main=4, shm=4), set(), id="btrfs"),
        pytest.param(sight((4, 0x1F, 7), main=4, shm=None), {4}, id="btrfs, under another name"),
        pytest.param(sight((4, 0x1F, 7), (4, 0x1F, 8), main=None, shm=None), set(), id="btrfs, another's number"),
        pytest.param(sight(main=4, shm=4), set(), id="an overlay that is not listed"),
        pytest.param(sight(main=4, shm=5), set(), id="two on an overlay that is not listed"),
        pytest.param(sight(main=4, shm=None), {4}, id="an overlay, under another name"),
        pytest.param(sight(main=0, shm=0), set(), id="one that can't be seen"),
        pytest.param(sight(main=0, shm=None), {0}, id="one that can't be seen, under another name"),
        pytest.param(sight((4, 0x2B, 7), (4, 0x2B, 8), main=0, shm=4), set(), id="one that can't be seen, perhaps"),
    ],
)
def test_strangers_hold_the_main_file_and_not_the_shared_memory_beside_it(
    seen: strangers.Sight, found: set[int]
) -> None:
    assert seen.strangers == found
