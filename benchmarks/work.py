"""Open work in a generated database, in sessions that a measurement takes away again."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.database import OpencodeFile

PREFIX = "ses_bench"
_END = "ses_benci"  # what sorts right after everything that begins with the prefix
DIRECTORY = "/home/dev/project-open"


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A session at work: one open turn with one running call and one text that streams."""

    session: str
    turn: str
    call: str
    text: str


def now_ms() -> int:
    """The wall clock, in milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def clear(connection: sqlite3.Connection) -> None:
    """Take away whatever measurements opened, also one that was killed."""
    connection.execute("BEGIN IMMEDIATE")
    for table, column in (("part", "session_id"), ("message", "session_id"), ("session", "id")):
        condition = f"{column} >= ? AND {column} < ?"
        connection.execute(f"DELETE FROM {table} WHERE {condition}", (PREFIX, _END))  # noqa: S608 - constants
    connection.execute("COMMIT")


@contextmanager
def opened(path: Path, count: int, *, folders: int = 1) -> Iterator[tuple[OpencodeFile, list[Opened]]]:
    """A connection to a database, with so many sessions at work in it until the block ends.

    Args:
        path: the database.
        count: how many sessions.
        folders: in how many folders they work, in turns.
    """
    with closing(OpencodeFile(path)) as file:
        clear(file.connection)
        try:
            with file.connection:  # one commit
                file.connection.execute("BEGIN IMMEDIATE")
                work = [begin(file, number, directory=folder(number, folders)) for number in range(count)]
            yield file, work
        finally:
            clear(file.connection)


def folder(number: int, folders: int) -> str:
    """Where the session of a number works."""
    return DIRECTORY if folders == 1 else f"{DIRECTORY}/{number % folders}"


def begin(file: OpencodeFile, number: int, *, directory: str = DIRECTORY, at: int | None = None) -> Opened:
    """Write one session at work.

    Args:
        file: the database.
        number: tells it from the others.
        directory: where it works.
        at: when it began, in milliseconds since the epoch; now by default.
    """
    at = now_ms() if at is None else at
    session = file.session(f"{PREFIX}{number:06d}", directory=directory, at=at)
    file.prompt(session, f"msg_bench{number:06d}a", at=at)
    turn = file.turn(session, f"msg_bench{number:06d}b", at=at, cwd=directory)
    text = file.text(turn, f"prt_bench{number:06d}a", at=at)
    call = file.call(turn, f"prt_bench{number:06d}b", at=at)
    return Opened(session=session, turn=turn, call=call, text=text)


class Changes:
    """Changes of one part each, as opencode commits them: output grows, a text ends, another part begins."""

    def __init__(self, file: OpencodeFile, work: list[Opened]) -> None:
        self._file = file
        self._work = work
        self._number = 0

    def commit(self) -> None:
        """Commit the next change."""
        number, self._number = self._number, self._number + 1
        one, at = self._work[number % len(self._work)], now_ms()
        match number % 3:
            case 0:
                part = json.loads(self._file.get("part", one.call))
                part["state"]["metadata"] = {"output": "a line\n" * (number % 1_000)}
                self._file.set("part", one.call, data=json.dumps(part), time_updated=at)
            case 1:
                self._file.set("part", one.text, data='{"type":"text","text":"Well, then."}', time_updated=at)
            case _:
                self._file.text(one.turn, f"prt_benchmore{number:09d}", at=at)
