"""What opencode's database says, read by SQLite alone on connections that close at once.

Mind: while such a read lasts, this process holds the database open like any other. A watchdog that is to
prove an orphan meanwhile sees a holder that is older than the rows. So where an orphan is awaited, wait for
the watchdog's log or for the server's answer, and read the rows afterwards.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class OpenCall:
    """A tool part that is pending or running."""

    part_id: str
    message_id: str
    session_id: str
    tool: str
    status: str
    created_ms: int


@dataclass(frozen=True, kw_only=True)
class OpenTurn:
    """An assistant message without `time.completed`."""

    message_id: str
    session_id: str
    created_ms: int


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Everything stored of messages and parts at one moment; equal when nothing was written."""

    messages: dict[str, tuple[str, int, int, str]]
    parts: dict[str, tuple[str, str, int, int, str]]

    @property
    def open_turns(self) -> list[OpenTurn]:
        """The turns that have not ended, oldest first."""
        found = [
            OpenTurn(message_id=message_id, session_id=session_id, created_ms=created)
            for message_id, (session_id, created, _, data) in self.messages.items()
            if _is_open_turn(json.loads(data))
        ]
        return sorted(found, key=lambda turn: turn.created_ms)

    @property
    def open_calls(self) -> list[OpenCall]:
        """The tool calls that have not ended, oldest first."""
        return sorted(self._open_calls(), key=lambda call: call.created_ms)

    def _open_calls(self) -> Iterator[OpenCall]:
        for part_id, (session_id, message_id, created, _, data) in self.parts.items():
            part = json.loads(data)
            if part.get("type") == "tool" and part["state"]["status"] in {"pending", "running"}:
                yield OpenCall(
                    part_id=part_id,
                    message_id=message_id,
                    session_id=session_id,
                    tool=part["tool"],
                    status=part["state"]["status"],
                    created_ms=created,
                )

    @property
    def open_ids(self) -> set[str]:
        """The ids of all open turns and calls."""
        return {turn.message_id for turn in self.open_turns} | {call.part_id for call in self.open_calls}

    @property
    def newest_open_ms(self) -> int:
        """When the youngest open turn or call began, in epoch milliseconds; 0 without any."""
        moments = [turn.created_ms for turn in self.open_turns] + [call.created_ms for call in self.open_calls]
        return max(moments, default=0)

    def of_session(self, session_id: str) -> "Rows":
        """The rows of that session alone."""
        return Rows(
            messages={key: row for key, row in self.messages.items() if row[0] == session_id},
            parts={key: row for key, row in self.parts.items() if row[0] == session_id},
        )


def read_rows(database: Path) -> Rows:
    """Read all messages and parts."""
    with _reading(database) as connection:
        messages = connection.execute("SELECT id, session_id, time_created, time_updated, data FROM message")
        parts = "SELECT id, session_id, message_id, time_created, time_updated, data FROM part"
        return Rows(
            messages={row[0]: row[1:] for row in messages},
            parts={row[0]: row[1:] for row in connection.execute(parts)},
        )


def child_sessions(database: Path, parent: str) -> list[str]:
    """The ids of the sessions that a session's task calls started, oldest first."""
    query = "SELECT id FROM session WHERE parent_id = ? ORDER BY time_created, rowid"
    with _reading(database) as connection:
        return [row[0] for row in connection.execute(query, (parent,))]


def session_ids(database: Path) -> list[str]:
    """All sessions, oldest first."""
    return list(session_folders(database))


def session_folders(database: Path) -> dict[str, Path]:
    """All sessions, oldest first, with the folder that each works in."""
    with _reading(database) as connection:
        rows = connection.execute("SELECT id, directory FROM session ORDER BY time_created, rowid")
        return {id_: Path(folder) for id_, folder in rows}


@contextmanager
def _reading(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5.0)) as connection:
        connection.execute("BEGIN")
        yield connection


def _is_open_turn(message: Json) -> bool:
    return message.get("role") == "assistant" and "completed" not in message["time"]
