"""The moments at which a watchdog can be killed, and a child process that dies at one of them.

The fault points are here and not in the product: in the child, one method is wrapped so that the process kills itself
right before or right after the method did its work, as a power cut would.
"""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.forked import patched
from tests.support.program import Program

KILLED: Final = -9

OWNER_OF: Final = {
    "journal.begin": ("watchdog.journal.sqlite", "SqliteJournal"),
    "journal.keep": ("watchdog.journal.sqlite", "SqliteJournal"),
    "journal.end": ("watchdog.journal.sqlite", "SqliteJournal"),
    "journal.save": ("watchdog.journal.sqlite", "SqliteJournal"),
    "store.write": ("watchdog.opencode.db.store", "OpencodeDatabase"),
    "server.abort": ("watchdog.opencode.http.client", "OpencodeServer"),
    "server.reject": ("watchdog.opencode.http.client", "OpencodeServer"),
    "server.publish": ("watchdog.opencode.http.client", "OpencodeServer"),
    "server.readable": ("watchdog.opencode.http.client", "OpencodeServer"),
}

_WRAP: Final = """
import importlib, os, signal
owner = getattr(importlib.import_module({module!r}), {owner!r})
inner, calls = getattr(owner, {method!r}), 0
async def wrapped(*args, **more):
    global calls
    calls += 1
    if calls == {nth} and {before}:
        os.kill(os.getpid(), signal.SIGKILL)
    answer = await inner(*args, **more)
    if calls == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
setattr(owner, {method!r}, wrapped)
"""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A moment: right before or right after a method does its work for the nth time."""

    method: str
    before: bool
    nth: int = 1

    def __str__(self) -> str:
        return f"{'before' if self.before else 'after'}-{self.method}{'' if self.nth == 1 else f'-{self.nth}'}"

    def line(self) -> list[str]:
        """What starts the program so that it dies then."""
        module, owner = OWNER_OF[self.method]
        method = self.method.partition(".")[2]
        code = _WRAP.format(module=module, owner=owner, method=method, nth=self.nth, before=self.before)
        return patched(code)


def points(*methods: str) -> list[Point]:
    """Before and after each of them."""
    return [Point(method=method, before=before) for method in methods for before in (True, False)]


def dying(program: Program, point: Point) -> Program:
    """The same program, which dies at a point."""
    return Program(home=program.home, more=program.more, line=point.line())


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An intervention as the journal's file tells it."""

    id: int
    result: str | None
    ended: bool
    kept: dict[str, str]
    """The rows as they were, by id."""


def entries(journal: Path) -> list[Entry]:
    """All that the journal tells, read by SQLite alone; it must be whole."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = connection.execute("SELECT id, outcome, ended_ms FROM intervention ORDER BY id").fetchall()
        kept: list[tuple[int, str, str]] = connection.execute(
            "SELECT intervention_id, id, before FROM kept_row"
        ).fetchall()
    return [
        Entry(
            id=number,
            result=json.loads(outcome)["result"] if outcome else None,
            ended=ended is not None,
            kept={row: before for intervention, row, before in kept if intervention == number},
        )
        for number, outcome, ended in found
    ]


def memory(journal: Path) -> dict[str, Any]:
    """What the watchdog remembers, as its file tells it."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        row = connection.execute("SELECT value FROM state WHERE key = 'memory'").fetchone()
    value: dict[str, Any] = json.loads(row[0]) if row else {}
    return value


def whole(database: Path) -> bool:
    """Whether SQLite finds nothing wrong with a file."""
    with closing(sqlite3.connect(database)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)])
