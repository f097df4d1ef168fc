"""One watchdog acts on a database, and sidecars can be told from hosts. With real processes."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from watchdog.errors import AlreadyWatched, DatabaseUnavailable
from watchdog.opencode.processes.lock import DatabaseLock, lock_path

PROGRAM = """
import sys, time
from pathlib import Path
from watchdog.opencode.processes.lock import DatabaseLock
lock = DatabaseLock(Path(sys.argv[1]))
if "announce" in sys.argv:
    lock.announce()
print(lock.acquire(), lock.holder(), flush=True)
{then}
"""
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/locks")


@contextmanager
def another_watchdog(
    database: Path, *words: str, then: str = "sys.stdin.read()"
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    command = [sys.executable, "-c", PROGRAM.format(then=then), str(database), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()
        finally:
            process.kill()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "opencode.db"


def test_the_right_to_act_is_had_once_and_kept(database: Path) -> None:
    with DatabaseLock(database) as lock:
        assert not lock.held()
        assert lock.acquire()
        assert lock.acquire()
        assert lock.held()
        assert lock.holder() == os.getpid()
        assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600
        lock.release()
        assert not lock.held()
        assert lock.holder() is None
    assert lock.path.exists()
    assert not database.exists()


def test_a_second_process_does_not_get_it_and_learns_who_has_it(database: Path) -> None:
    with DatabaseLock(database) as lock:
        assert lock.acquire()
        with another_watchdog(database) as (_, said):
            assert said == ["False", str(os.getpid())]


def test_sigkill_frees_it(database: Path) -> None:
    with DatabaseLock(database) as lock, another_watchdog(database) as (process, said):
        assert said == ["True", str(process.pid)]
        assert not lock.acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert lock.acquire()
        assert lock.holder() == os.getpid()


def test_a_child_of_a_killed_watchdog_does_not_keep_it(database: Path) -> None:
    spawn = "import subprocess; subprocess.Popen(['sleep', '60'], close_fds=False); print('spawned', flush=True)"
    with (
        DatabaseLock(database) as lock,
        another_watchdog(database, then=f"{spawn}; sys.stdin.read()") as (process, said),
    ):
        assert process.stdout is not None
        assert (said[0], process.stdout.readline()) == ("True", "spawned\n")
        child = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
        try:
            process.kill()
            process.wait()
            assert lock.acquire()
        finally:
            if child.strip():
                os.kill(int(child), signal.SIGKILL)


def test_a_fork_of_a_killed_watchdog_does_not_keep_it(database: Path) -> None:
    fork = "import os; child = os.fork(); child and print(child, flush=True); time.sleep(60)"
    with DatabaseLock(database) as lock, another_watchdog(database, then=fork) as (process, said):
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            assert said[0] == "True"
            process.kill()
            process.wait()
            os.kill(child, 0)
            # The child gives its copy back as soon as it runs, which may be a moment after its parent told of it.
            deadline = time.monotonic() + 60
            while not lock.acquire():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def test_one_process_opens_the_file_once(database: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias.db"
    database.touch()
    alias.symlink_to(database)
    assert lock_path(alias) == lock_path(database)
    with DatabaseLock(database) as lock:
        for other in (database, alias):
            with pytest.raises(AlreadyWatched, match=str(os.getpid())):
                DatabaseLock(other)
        assert lock.acquire()
    with DatabaseLock(alias) as again:
        assert again.acquire()


@needs_linux
def test_an_announcement_shows_in_the_kernels_list_and_survives_a_release(database: Path) -> None:
    with DatabaseLock(database) as lock:
        inode = lock.path.stat().st_ino
        mine = f"{os.getpid()} "
        assert not announced(mine, inode)
        lock.announce()
        assert announced(mine, inode)
        assert lock.acquire()
        lock.release()
        assert announced(mine, inode)
        with another_watchdog(database, "announce") as (process, said):
            assert said[0] == "True"
            assert announced(f"{process.pid} ", inode)
    assert not announced(mine, inode)


def announced(pid: str, inode: int) -> bool:
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return any("POSIX" in line and f" {pid}" in line and f":{inode} 0 0" in line for line in lines)


def test_the_last_look_is_written_down_for_another_process_and_ends_with_the_right_to_act(database: Path) -> None:
    with another_watchdog(database, then="lock.beat(1_790_000_000_123); print(flush=True); sys.stdin.read()") as (
        process,
        (held, pid),
    ):
        assert process.stdout is not None
        process.stdout.readline()
        with DatabaseLock(database) as reader:
            assert held == "True"
            assert (reader.last_beat_ms(), reader.holder()) == (1_790_000_000_123, int(pid))
            process.kill()
            process.wait()
            assert reader.acquire()
            assert reader.last_beat_ms() is None


def test_a_removed_file_is_made_again_and_what_was_held_is_not_any_more(database: Path) -> None:
    with DatabaseLock(database) as lock:
        lock.announce()
        assert lock.acquire()
        lock.path.unlink()
        assert not lock.held()
        with another_watchdog(database) as (_, said):
            assert said[0] == "True"
            assert not lock.acquire()
            assert not lock.held()
        assert lock.acquire()
        assert lock.held()


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EACCES, errno.EMFILE, errno.EROFS])
def test_a_file_that_can_not_be_made_again_for_a_while_is_made_and_locked_afterwards(
    database: Path, reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DatabaseLock(database) as lock:
        lock.announce()
        assert lock.acquire()
        lock.path.unlink()
        with monkeypatch.context() as meddled:
            meddled.setattr(os, "open", failing(reason))
            for _ in range(3):
                with pytest.raises(DatabaseUnavailable, match=os.strerror(reason).lower()):
                    lock.acquire()
                assert not lock.held()
        assert lock.acquire()
        assert lock.held()
        assert lock.holder() == os.getpid()
        with another_watchdog(database) as (_, said):
            assert said == ["False", str(os.getpid())]


@needs_linux
def test_an_announcement_that_fails_is_made_up_for(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl  # noqa: PLC0415 - there is none on Windows

    with DatabaseLock(database) as lock:
        lock.announce()
        lock.path.unlink()
        with monkeypatch.context() as meddled:
            meddled.setattr(fcntl, "lockf", failing(errno.ENOLCK))
            with pytest.raises(DatabaseUnavailable):
                lock.acquire()
        assert lock.acquire()
        with another_watchdog(database, then="print(lock.path.stat().st_ino)") as (process, _):
            assert process.stdout is not None
            inode = process.stdout.readline().strip()
        assert f":{inode} 0 0" in Path("/proc/locks").read_text()


def failing(reason: int) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise OSError(reason, os.strerror(reason))

    return fail


def test_a_closed_lock_says_so(database: Path) -> None:
    lock = DatabaseLock(database)
    lock.close()
    lock.close()
    with pytest.raises(DatabaseUnavailable, match="was closed"):
        lock.acquire()


def test_what_is_written_in_the_file_is_only_for_people(database: Path) -> None:
    lock_path(database).write_text("not a pid", encoding="ascii")
    with DatabaseLock(database) as lock:
        assert lock.holder() is None
        assert lock.acquire()


def test_a_folder_in_the_place_of_the_file(database: Path) -> None:
    lock_path(database).mkdir()
    with pytest.raises(DatabaseUnavailable, match="not a plain file"):
        DatabaseLock(database)


def test_a_missing_folder_gives_a_clear_sentence(database: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="can't be opened: no such file or directory"):
        DatabaseLock(database.parent / "missing" / "opencode.db")


def test_a_folder_that_may_only_be_read_gives_a_clear_sentence(database: Path) -> None:
    if os.geteuid() != 0:
        database.parent.chmod(0o500)
        with pytest.raises(DatabaseUnavailable, match="needs to write in the folder"):
            DatabaseLock(database)
        return
    nobody = 65534  # root may write anywhere, so somebody else has to try
    script = "import os; from watchdog.opencode.processes.lock import DatabaseLock; from pathlib import Path; "
    script += f"os.setuid({nobody}); "
    done = subprocess.run(
        [sys.executable, "-c", script + "DatabaseLock(Path('/opencode.db'))"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "needs to write in the folder" in done.stderr
