"""The lock file beside opencode's database: one watchdog acts on it, and it marks sidecars."""

import os
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from watchdog.errors import AlreadyWatched, DatabaseUnavailable, DatabaseUnsupported

if sys.platform != "win32":
    import fcntl

SUFFIX: Final = ".watchdog.lock"
_ATTEMPTS: Final = 5

# Closing any descriptor of a file drops every POSIX lock that the process has on it, so a second one is never
# opened: what this process has open is known here, before the file is touched.
_BEAT_AT: Final = 32
"""Where in the file the time of the last look is, behind the pid."""
_opened: dict[int, tuple[int, int]] = {}
_registry = threading.Lock()


class DatabaseLock:
    """The file `<database>.watchdog.lock`, open once in a process and for the lock's whole life.

    Two locks live on it. The exclusive `flock` is the right to act; the kernel frees it when the process dies. The
    shared POSIX lock on byte 0 says that this process is a sidecar, which runs no sessions.

    Args:
        database: opencode's database file; it is not opened.

    Raises:
        AlreadyWatched: this very process has the file open already.
        DatabaseUnavailable: the file can't be created or opened.
        DatabaseUnsupported: the platform has no such locks.
    """

    def __init__(self, database: Path) -> None:
        self.path: Final = lock_path(database)
        self._held = False
        self._terms = 0
        self._announced = False
        self._descriptor: int | None = _open(self.path)

    def acquire(self) -> bool:
        """Take the right to act, without waiting. True while it is held; False when another watchdog has it."""
        if sys.platform == "win32":
            raise DatabaseUnsupported("A watchdog can't act on Windows yet.")
        if self.held():
            return True
        for _ in range(_ATTEMPTS):
            try:
                fcntl.flock(self._open_descriptor(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError as error:
                raise DatabaseUnavailable(f"{self.path} can't be locked: {_reason(error)}.") from error
            if self._is_current():
                self._held = True
                self._terms += 1
                with suppress(OSError):  # the pid is only informative; the lock is held all the same
                    self._note_pid()
                return True
            self._reopen()  # somebody removed the file: a lock on a file without a name keeps nobody out
        raise DatabaseUnavailable(f"{self.path} keeps being replaced; the right to act can't be taken.")

    def held(self) -> bool:
        """Whether this lock still has the right to act: it was acquired, and the file was not replaced since."""
        return self._held and self._is_current()

    @property
    def term(self) -> int | None:
        """How often this lock was taken; None while it is not held."""
        return self._terms if self._held else None

    def holder(self) -> int | None:
        """The pid that the leader wrote down. Only for people: it may be of another pid namespace."""
        try:
            text = os.pread(self._open_descriptor(), _BEAT_AT, 0).decode("ascii").strip("\0\n ")
            return int(text) if text else None
        except (OSError, ValueError):
            return None

    def beat(self, at_ms: int) -> None:
        """Write down, for health checks, when the loop last looked."""
        os.pwrite(self._open_descriptor(), f"{at_ms:020}\n".encode("ascii"), _BEAT_AT)

    def last_beat_ms(self) -> int | None:
        """When a running watchdog last looked, by the wall clock; None if that is not known."""
        try:
            return int(os.pread(self._open_descriptor(), 20, _BEAT_AT).decode("ascii"))
        except (OSError, ValueError):
            return None

    def announce(self) -> None:
        """Say that this process is a sidecar. A process that hosts sessions must never call this.

        It does this only on Linux: elsewhere nobody could read the sign (see `holders`).
        """
        if sys.platform != "linux":
            return
        self._announce(self._open_descriptor())
        self._announced = True

    def release(self) -> None:
        """Give the right to act back; the file stays open, and the announcement stays."""
        if sys.platform != "win32" and self._held:
            self._held = False
            os.ftruncate(self._open_descriptor(), 0)
            fcntl.flock(self._open_descriptor(), fcntl.LOCK_UN)

    def close(self) -> None:
        """Give everything back. The file itself stays: removing it would let two watchdogs act."""
        if self._descriptor is None:
            return
        self.release()
        _close(self._descriptor)
        self._descriptor = None
        self._announced = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_descriptor(self) -> int:
        if self._descriptor is None or self._descriptor not in _opened:
            raise DatabaseUnavailable(f"{self.path} was closed; or this process is a fork of the one that opened it.")
        return self._descriptor

    def _note_pid(self) -> None:
        descriptor = self._open_descriptor()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def _is_current(self) -> bool:
        try:
            there = self.path.stat()
        except OSError:
            return False
        return self._descriptor is not None and _opened.get(self._descriptor) == (there.st_dev, there.st_ino)

    def _reopen(self) -> None:
        """Open the file that is there now. The old one stays open until that worked: a failure is tried again."""
        self._held = False
        before, fresh = self._open_descriptor(), _open(self.path)
        try:
            if self._announced:
                self._announce(fresh)
        except DatabaseUnavailable:
            _close(fresh)
            raise
        self._descriptor = fresh
        _close(before)

    def _announce(self, descriptor: int) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 0)
        except OSError as error:
            raise DatabaseUnavailable(f"{self.path} can't be locked: {_reason(error)}.") from error


def lock_path(database: Path) -> Path:
    """Where the lock file of a database is: beside the file that a symbolic link leads to, as SQLite's own."""
    real = Path(os.path.realpath(database))
    return real.with_name(real.name + SUFFIX)


def _open(path: Path) -> int:
    if sys.platform == "win32":
        raise DatabaseUnsupported("A watchdog can't act on Windows yet.")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with _registry:
        try:
            _refuse_second(path)
            descriptor = os.open(path, flags, 0o600)
            there = os.fstat(descriptor)
        except OSError as error:
            raise DatabaseUnavailable(
                f"The lock file {path} can't be opened: {_reason(error)}. The watchdog needs to write in the folder "
                "of the database, as opencode itself does."
            ) from error
        _opened[descriptor] = (there.st_dev, there.st_ino)
        return descriptor


def _refuse_second(path: Path) -> None:
    """Look at the file before it is opened: a second descriptor could not be closed without harm."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return
    if (there.st_dev, there.st_ino) in _opened.values():
        raise AlreadyWatched(f"This process ({os.getpid()}) has {path} open already: it watches this database once.")
    if not stat.S_ISREG(there.st_mode):
        raise DatabaseUnavailable(f"{path} is not a plain file; remove it.")


def _close(descriptor: int) -> None:
    with _registry:
        if _opened.pop(descriptor, None) is not None:
            os.close(descriptor)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _forget_in_fork() -> None:
    """A forked child would keep the parent's `flock` alive after the parent's death."""
    for descriptor in list(_opened):
        os.close(descriptor)
    _opened.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_in_fork)
