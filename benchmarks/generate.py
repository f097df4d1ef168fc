"""Databases of opencode's shape and of realistic size, the same ones for the same seed.

A database is made once for each size and seed, and kept in a cache outside the repository. Nothing in it is open: a
measurement opens what it needs in sessions of its own (`benchmarks.work`) and takes them away again.
"""

import fcntl
import itertools
import json
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.database import NOW, SCHEMA

VERSION = 1
"""Goes up whenever another database would come out."""
PARTS_PER_MESSAGE = 8
MESSAGES_PER_SESSION = 24
CHILD_EVERY = 4
"""Every so many sessions one is a subagent's, a child of the session before it."""
DIRECTORIES = tuple(f"/home/dev/project-{number}" for number in range(12))

_ROWS_AT_ONCE = 20_000
_MOST_OUTPUT = 51_200  # opencode cuts a tool's output there
_MEDIAN_OUTPUT = 1_200
_SPREAD = 1.35  # of the logarithm of an output's length
_TOOLS = ("read", "bash", "edit", "grep", "glob", "write", "todowrite", "webfetch", "task")
_WORDS = ("def", "return", "session", "the", "of", "import", "self", "test", "error", "None", "value", "for", "path")
_DAY_MS = 86_400_000

Row = tuple[object, ...]
Tell = Callable[[int], None]
"""Called with the number of parts so far."""


def cache_folder(environ: dict[str, str], home: Path) -> Path:
    """Where generated databases are kept: `BENCH_FOLDER`, else a folder in the user's cache."""
    if chosen := environ.get("BENCH_FOLDER"):
        return Path(chosen).absolute()
    return Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "opencode-watchdog-bench"


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep the databases in a folder for this process: another benchmark would take its work away.

    Raises:
        BlockingIOError: another process has them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def cached(folder: Path, parts: int, seed: int, tell: Tell = lambda _: None) -> Path:
    """The database of that size and seed in a folder that exists, made if there is none yet."""
    path = folder / f"opencode-{parts}-seed{seed}-v{VERSION}.db"
    if not path.exists():
        unfinished = folder / f"{path.name}.{os.getpid()}.unfinished"
        try:
            generate(unfinished, parts, seed, tell)
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def generate(path: Path, parts: int, seed: int, tell: Tell = lambda _: None) -> None:
    """Make a database with so many parts.

    Args:
        path: a file that does not exist yet.
        parts: how many.
        seed: the same seed gives the same rows.
        tell: hears of the progress.
    """
    tables = [statement for statement in SCHEMA.split(";") if "CREATE TABLE" in statement]
    indexes = [statement for statement in SCHEMA.split(";") if "CREATE INDEX" in statement]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")  # nobody needs half a database after a crash
        connection.execute("PRAGMA synchronous = OFF")
        for statement in tables:
            connection.execute(statement)
        connection.execute("BEGIN")
        _fill(connection, parts, _Writer(random.Random(seed)), tell)  # noqa: S311 - the same rows for the same seed
        for statement in indexes:
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def _fill(connection: sqlite3.Connection, parts: int, writer: "_Writer", tell: Tell) -> None:
    messages = -(-parts // PARTS_PER_MESSAGE)
    connection.execute("INSERT INTO project VALUES ('global', '/')")
    sessions = (writer.session(number) for number in range(-(-messages // MESSAGES_PER_SESSION)))
    connection.executemany("INSERT INTO session VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)", sessions)
    connection.executemany(
        "INSERT INTO message VALUES (?, ?, ?, ?, ?)", (writer.message(number) for number in range(messages))
    )
    rows = (writer.part(number) for number in range(parts))
    done = 0
    while chunk := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        connection.executemany("INSERT INTO part VALUES (?, ?, ?, ?, ?, ?)", chunk)
        done += len(chunk)
        tell(done)


def session_id(number: int) -> str:
    """The id of a generated session."""
    return f"ses_{number:012x}quietmoonriver"


def message_id(number: int) -> str:
    """The id of a generated message."""
    return f"msg_{number:012x}quietmoonriver"


@dataclass(frozen=True)
class _Kind:
    """How a message reads, by its place in its session: a person asks, and the model takes some turns."""

    user: bool

    @classmethod
    def of(cls, number: int) -> "_Kind":
        return cls(user=number % MESSAGES_PER_SESSION % PARTS_PER_MESSAGE == 0)


class _Writer:
    """Writes rows as opencode stores them; every call takes its next chances from one source."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        # Cut from one long text: a million texts of their own would take minutes. Nothing in it needs an escape.
        self._text = " ".join(chance.choices(_WORDS, k=40_000))

    def _words(self, length: int) -> str:
        begin = self._chance.randrange(len(self._text) - _MOST_OUTPUT)
        return self._text[begin : begin + length]

    def session(self, number: int) -> Row:
        """A session row; one in `CHILD_EVERY` has a parent."""
        parent = session_id(number - 1) if number % CHILD_EVERY == CHILD_EVERY - 1 else None
        directory = DIRECTORIES[number // CHILD_EVERY % len(DIRECTORIES)]
        born = _born(number * MESSAGES_PER_SESSION)
        last = _born((number + 1) * MESSAGES_PER_SESSION - 1)
        title = self._words(40)
        return session_id(number), "global", parent, f"slug-{number}", directory, title, "1.18.33", born, last

    def message(self, number: int) -> Row:
        """A message row: a prompt, or a turn that was completed."""
        session = number // MESSAGES_PER_SESSION
        born = _born(number)
        ended = born + 5_000
        if _Kind.of(number).user:
            ended = born
            data: dict[str, object] = {
                "role": "user", "time": {"created": born}, "agent": "build",
                "model": {"providerID": "anthropic", "modelID": "claude-sonnet"},
                "summary": {"title": self._words(40), "diffs": []},
            }  # fmt: skip
        else:
            cwd = DIRECTORIES[session // CHILD_EVERY % len(DIRECTORIES)]
            data = {
                "role": "assistant", "time": {"created": born, "completed": ended},
                "parentID": message_id(number - number % PARTS_PER_MESSAGE), "modelID": "claude-sonnet",
                "providerID": "anthropic", "mode": "build", "agent": "build", "path": {"cwd": cwd, "root": cwd},
                "cost": 0, "tokens": {
                    "input": self._chance.randrange(9_000), "output": self._chance.randrange(900), "reasoning": 0,
                    "cache": {"read": self._chance.randrange(90_000), "write": 0},
                },
                "finish": "tool-calls",
            }  # fmt: skip
        return message_id(number), session_id(session), born, ended, json.dumps(data, separators=(",", ":"))

    def part(self, number: int) -> Row:
        """A part row: where a step begins and ends, reasoning, text, and tool calls that were completed."""
        message, place = divmod(number, PARTS_PER_MESSAGE)
        born = _born(message) + place * 500
        return (
            f"prt_{number:012x}quietmoonriver",
            message_id(message),
            session_id(message // MESSAGES_PER_SESSION),
            born,
            born + 400,
            self._part_data(message, place, born),
        )

    def _part_data(self, message: int, place: int, born: int) -> str:
        if _Kind.of(message).user:
            return f'{{"type":"text","text":"{self._words(self._length(300))}","synthetic":{json.dumps(place > 0)}}}'
        match place:
            case 0:
                return f'{{"type":"step-start","snapshot":"{self._chance.getrandbits(160):040x}"}}'
            case 1:
                text, time = self._words(self._length(700)), f'{{"start":{born},"end":{born + 400}}}'
                return f'{{"type":"reasoning","text":"{text}","time":{time}}}'
            case 2:
                text, time = self._words(self._length(500)), f'{{"start":{born},"end":{born + 400}}}'
                return f'{{"type":"text","text":"{text}","time":{time}}}'
            case 7:
                return (
                    f'{{"type":"step-finish","reason":"tool-calls","snapshot":"{self._chance.getrandbits(160):040x}",'
                    f'"cost":0,"tokens":{{"input":{self._chance.randrange(9_000)},"output":120,"reasoning":0,'
                    '"cache":{"read":0,"write":0}}}'
                )
            case _:
                return self._call(born)

    def _call(self, born: int) -> str:
        tool = self._chance.choice(_TOOLS)
        output = self._words(self._length(_MEDIAN_OUTPUT))
        return (
            f'{{"type":"tool","callID":"call_{self._chance.getrandbits(96):024x}","tool":"{tool}","state":'
            f'{{"status":"completed","input":{{"description":"{self._words(40)}","command":"{self._words(120)}"}},'
            f'"output":"{output}","title":"{self._words(30)}","metadata":{{"exit":0,"truncated":false}},'
            f'"time":{{"start":{born},"end":{born + 400}}}}}}}'
        )

    def _length(self, median: int) -> int:
        """A length with a long tail."""
        return min(_MOST_OUTPUT, int(median * self._chance.lognormvariate(0, _SPREAD)))


def _born(message: int) -> int:
    """When a message was created: one every ten seconds, all of them before the last day."""
    return NOW - 400 * _DAY_MS + message * 10_000
