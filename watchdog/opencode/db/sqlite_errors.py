"""The meaning of a SQLite error for a person."""

import sqlite3

_SENTENCES = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database any more",
    sqlite3.SQLITE_BUSY: "is locked by another process, for longer than the watchdog waits",
    sqlite3.SQLITE_LOCKED: "is locked by another connection of this process",
    sqlite3.SQLITE_CORRUPT: "is damaged: SQLite can't read it",
    sqlite3.SQLITE_IOERR: "can't be read or written: the disk reports an error",
    sqlite3.SQLITE_FULL: "can't be written: the disk is full",
    sqlite3.SQLITE_READONLY: "may not be written by this user",
    sqlite3.SQLITE_CANTOPEN: "can't be opened: this user needs to read it, and to write in its folder",
    sqlite3.SQLITE_PERM: "may not be used by this user",
    sqlite3.SQLITE_AUTH: "may not be used by this user",
    sqlite3.SQLITE_INTERRUPT: "was being read when the read was interrupted",
}

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT})
HOW_TO_MEND = (
    "Nothing is written to it. Stop opencode, keep a copy of the file with the `-wal` beside it, and let SQLite "
    "rebuild it (`sqlite3 FILE .recover`), or put a backup in its place; `check --deep` looks again."
)


def is_damage(error: BaseException) -> bool:
    """Whether it says that the file itself is damaged."""
    return primary_code(error) in _DAMAGE


def sentence(error: BaseException) -> str:
    """The end of a sentence that begins with the database, without any of the statement or its content."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    what = _SENTENCES.get(primary_code(error), "can't be used just now")
    return f"{what} ({name})."


def primary_code(error: BaseException | None) -> int:
    """SQLite's primary result code, or 0 when there is none."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else 0
