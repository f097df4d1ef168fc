"""The journal's SQLite file: one connection that stays open, and transactions that always come to their end.

A transaction is made of functions that run as a whole in a worker thread, one at a time: whatever happens to the task
that asked for it, it ends, and leaves no lock. A connection is given up after any error, and when the file is no
longer the one that was opened: the next call finds the repaired or replaced file.

All writers in line share one transaction, and wait for the disk once. An intervention writes three times, and eight
run at once: side by side a write took 1.5 ms, and alone 7.9 ms (400 writes each, on an overlay file
system), so a thousand interventions wait five seconds for the disk instead of twenty-four.
"""

import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread

from watchdog.errors import JournalUnusable

APPLICATION_ID = 0x6F637764
"""`ocwd`: distinguishes a journal from any other SQLite file."""
VERSION = 1
_BUSY_SECONDS = 5.0

_SCHEMA = (
    """
    CREATE TABLE intervention (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        session_id TEXT NOT NULL,
        began_ms INTEGER NOT NULL,
        ended_ms INTEGER,
        undone_ms INTEGER,
        actor TEXT NOT NULL,
        reason TEXT,
        verdict TEXT NOT NULL,
        outcome TEXT
    )
    """,
    "CREATE INDEX intervention_session ON intervention (session_id, id)",
    "CREATE INDEX intervention_began ON intervention (began_ms)",
    """
    CREATE TABLE kept_row (
        intervention_id INTEGER NOT NULL,
        "table" TEXT NOT NULL,
        id TEXT NOT NULL,
        message_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        updated_ms INTEGER NOT NULL,
        "before" TEXT NOT NULL,
        "after" TEXT NOT NULL
    )
    """,
    "CREATE INDEX kept_row_intervention ON kept_row (intervention_id)",
    """
    CREATE TABLE hold (
        session_id TEXT NOT NULL PRIMARY KEY,
        since_ms INTEGER NOT NULL,
        until_ms INTEGER,
        why TEXT NOT NULL
    )
    """,
    'CREATE TABLE state ("key" TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)',
)

_Answer = TypeVar("_Answer")
_Work = Callable[[sqlite3.Connection], Any]
_Stamp = tuple[int, int, int, int]


class _Wish:
    """What one caller wants to write, and the result."""

    def __init__(self, work: _Work, number: int) -> None:
        self.work = work
        self.number = number
        self.ended = False
        self.answer: Any = None
        self.error: Exception | None = None


class JournalFile:
    """The file, and the one connection to it.

    Every method raises `JournalUnusable` if the file can't be used.

    Attributes:
        revision: grows with every write of this object, and whenever it opens the file. Together with SQLite's
            `data_version`, which shows everybody else's writes, it says whether an earlier read is out of date.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.revision = 0
        self._lock = threading.RLock()
        self._turn, self._worker = anyio.CapacityLimiter(1), anyio.CapacityLimiter(1)
        self._wishes: list[_Wish] = []
        self._connection: sqlite3.Connection | None = None
        self._stamp: _Stamp | None = None
        self._asked = 0
        self._in_vain = 0
        """How many writes were asked for, and how many there were when one last waited for a lock in vain."""

    async def prepare(self) -> None:
        """Make the file, or bring it to this version."""
        _prepare(self.path)
        await self.write(lambda connection: _migrate(connection, self.path))

    async def read(self, work: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        """Read. Each statement stands for itself; `work` fetches everything that it asks for."""
        return await self._in_turn(lambda: self._read(work))

    async def write(self, work: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        """Write, together with everybody who waits in line; it is durable when this returns.

        A mistake of one of them is taken back, and fails that one alone; a problem with the file fails all.
        """
        self._asked += 1
        wish = _Wish(work, self._asked)
        self._wishes.append(wish)
        with _shielded():
            async with self._turn:
                if not wish.ended:
                    await anyio.to_thread.run_sync(self._write_all, limiter=self._worker)
        if wish.error is not None:
            raise wish.error
        answer: _Answer = wish.answer
        return answer

    async def settle(self) -> None:
        """Bring everything from the file beside it (`-wal`) into the file itself, unless somebody is in the way.

        From then on the file alone holds everything: it can be copied, moved or replaced.
        """
        await self._in_turn(self._settle)

    async def close(self) -> None:
        """Close the connection. Further use opens it again."""
        await self._in_turn(self._close)

    async def _in_turn(self, work: Callable[[], _Answer]) -> _Answer:
        with _shielded():
            return await anyio.to_thread.run_sync(work, limiter=self._turn)

    # -- in a worker thread ----------------------------------------------------------------------------------

    def _read(self, work: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        with self._connected() as connection:
            try:
                return work(connection)
            except (ValueError, KeyError, TypeError) as error:
                raise JournalUnusable(
                    f"The journal {self.path} holds something that this version can't read. Name another with "
                    'the setting `journal`, or choose `journal = "off"`.'
                ) from error

    def _write_all(self) -> None:
        """Write for everybody in line. If another thread is writing it, only wait for that."""
        with self._lock:
            wishes = self._wishes[:]
            del self._wishes[: len(wishes)]
            if not wishes:
                return
            try:
                with self._connected() as connection:
                    self._transact(connection, wishes)
            except Exception as error:  # noqa: BLE001 - raised by each who waits for it
                for wish in wishes:
                    wish.error = error
            for wish in wishes:
                wish.ended = True

    def _transact(self, connection: sqlite3.Connection, wishes: Sequence[_Wish]) -> None:
        # A writer that stood in line while others waited in vain has waited, too: it tries once.
        waited = all(wish.number <= self._in_vain for wish in wishes)
        with _impatient(connection) if waited else nullcontext():
            self._begin(connection)
        if len(wishes) == 1:
            wishes[0].answer = wishes[0].work(connection)
        else:
            for wish in wishes:
                self._fulfil(connection, wish)
        connection.execute("COMMIT")
        self.revision += 1
        self._stamp = _stamp(self.path)
        if any(wish.error for wish in wishes):
            self._drop()

    def _fulfil(self, connection: sqlite3.Connection, wish: _Wish) -> None:
        """Do what one of several wants; if the fault is its own, leave nothing of it."""
        connection.execute("SAVEPOINT wish")
        try:
            wish.answer = wish.work(connection)
        except Exception as error:
            if not (_is_its_own(error) and connection.in_transaction):
                raise
            connection.execute("ROLLBACK TO wish")
            wish.error = _sentence(self.path, error) if isinstance(error, sqlite3.Error) else error
        connection.execute("RELEASE wish")

    def _begin(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            self._in_vain = self._asked
            raise

    def _settle(self) -> None:
        with self._connected() as connection:
            with _impatient(connection):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._stamp = _stamp(self.path)

    def _close(self) -> None:
        with self._lock, _translated(self.path):
            self._drop()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        # The task that asked may be gone while its thread still works: the turn alone does not keep others out.
        with self._lock, _translated(self.path):
            try:
                yield self._connect()
            except BaseException:
                self._drop()
                raise

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and _stamp(self.path) != self._stamp:
            self._drop()
        if self._connection is None:
            self._stamp = _stamp(self.path)  # before it is opened: what is replaced in between is seen next time
            self._connection = _open(self.path)
            self.revision += 1
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


@contextmanager
def _shielded() -> Iterator[None]:
    with anyio.CancelScope(shield=True):
        yield


def _open(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _impatient(connection: sqlite3.Connection) -> Iterator[None]:
    """Wait for no lock. A connection whose block fails is given up, and needs no patience any more."""
    connection.execute("PRAGMA busy_timeout = 0")
    yield
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000:.0f}")


def _stamp(path: Path) -> _Stamp:
    """Distinguishes one file from another, and a file from itself after a change that was no transaction."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to this version. Versions go forward in small steps; a newer one is refused."""
    ((mark,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    if mark != APPLICATION_ID and tables:
        raise JournalUnusable(f"{path} is a SQLite database, but no journal of opencode-watchdog; name another file.")
    if version > VERSION:
        raise JournalUnusable(
            f"The journal {path} is of a newer opencode-watchdog (version {version}; this one knows {VERSION}). "
            "Upgrade, or name another file with the setting `journal`."
        )
    if version < 1:
        for statement in _SCHEMA:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _prepare(path: Path) -> None:
    """Make the folder and the file, readable by their owner only, or say why that can't be done."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_dir():
            raise JournalUnusable(f"The journal {path} is a folder; name a file with the setting `journal`.")
        # SQLite gives the files beside it (-wal, -shm) the mode of the file itself. An existing file is not opened:
        # closing it would drop the locks that this process may hold on it.
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise JournalUnusable(
            f"The journal {path} can't be made or read: {error.strerror}. Name another file with the setting "
            '`journal`, or choose `journal = "off"` to act without one.'
        ) from error


_SENTENCES = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database",
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_FULL: "can't be written: the disk is full",
    sqlite3.SQLITE_READONLY: "may not be written by this user, or is on a read-only disk",
    sqlite3.SQLITE_CANTOPEN: "can't be opened",
    sqlite3.SQLITE_IOERR: "can't be read or written: the disk reports an error",
    sqlite3.SQLITE_PERM: "may not be used by this user",
}


_FAULTS = frozenset(
    {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG}
    | {sqlite3.SQLITE_RANGE, sqlite3.SQLITE_MISUSE}
)
"""Errors of a statement or a value, and not of the file."""


def _is_its_own(error: Exception) -> bool:
    """Whether it is one write's own fault.

    An error from outside SQLite is, too: a value of a type that SQLite lacks.
    """
    if isinstance(error, OSError):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in _FAULTS


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn exceptions of SQLite and the file system into a sentence."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _sentence(path, error) from error


def _sentence(path: Path, error: sqlite3.Error | OSError) -> JournalUnusable:
    code = sqlite3.SQLITE_CANTOPEN if isinstance(error, OSError) else getattr(error, "sqlite_errorcode", 0)
    what = _SENTENCES.get(code & 0xFF, f"can't be used ({type(error).__name__})")
    return JournalUnusable(
        f'The journal {path} {what}. Repair it, name another with the setting `journal`, or choose `journal = "off"`.'
    )
