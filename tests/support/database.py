"""Databases of opencode's shape for tests: `OpencodeFile` is a real one, in WAL mode, with short ways to fill it.

`OpencodeRows` holds the ways to fill; the rows of the in-memory store in `tests.fakes` have the same ones.
"""

import itertools
import json
import sqlite3
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from watchdog.model.session import CallId, SessionId, TurnId

NOW = 1_790_000_000_000
"""The time of whatever is given none, in milliseconds."""

SCHEMA = """
CREATE TABLE project (id text PRIMARY KEY, worktree text NOT NULL);
CREATE TABLE session (
    id text PRIMARY KEY, project_id text NOT NULL, parent_id text, slug text NOT NULL, directory text NOT NULL,
    title text NOT NULL, version text NOT NULL, time_created integer NOT NULL, time_updated integer NOT NULL,
    time_compacting integer, time_archived integer
);
CREATE TABLE message (
    id text PRIMARY KEY, session_id text NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL
);
CREATE TABLE part (
    id text PRIMARY KEY, message_id text NOT NULL REFERENCES message(id) ON DELETE CASCADE, session_id text NOT NULL,
    time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL
);
CREATE TABLE session_message (
    id text PRIMARY KEY, session_id text NOT NULL, type text NOT NULL,
    time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL
);
CREATE INDEX message_session_time_created_id_idx ON message (session_id, time_created, id);
CREATE INDEX part_message_id_id_idx ON part (message_id, id);
CREATE INDEX part_session_idx ON part (session_id);
CREATE INDEX session_parent_idx ON session (parent_id);
CREATE INDEX session_project_idx ON session (project_id);
"""

SHARED = Path(__file__).with_name("shared_with_second_generation.sql").read_text(encoding="utf-8")
"""The tables of a database that opencode 1.18 and 2.x have both opened."""

Json = dict[str, Any]


class OpencodeRows(ABC):
    """Ways to write rows as opencode writes them. Times are epoch milliseconds."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    @abstractmethod
    def put(self, table: str, **columns: Any) -> None:  # noqa: ANN401 - tests write columns of any type
        """Insert a row, whatever it holds."""

    @abstractmethod
    def set(self, table: str, id_: str, **columns: Any) -> None:  # noqa: ANN401
        """Change columns of a row."""

    @abstractmethod
    def delete(self, table: str, id_: str) -> None:
        """Delete a row."""

    @abstractmethod
    def get(self, table: str, id_: str, column: str = "data") -> Any:  # noqa: ANN401
        """Read one column of a row."""

    def session(
        self,
        id_: str | None = None,
        *,
        parent: str | None = None,
        directory: str = "/project",
        at: int = NOW,
        updated_at: int | None = None,
        archived_at: int | None = None,
    ) -> SessionId:
        id_ = id_ or self._new("ses")
        self.put(
            "session",
            id=id_,
            project_id="global",
            parent_id=parent,
            slug="quiet-moon",
            directory=directory,
            title="A session",
            version="1.18.33",
            time_created=at,
            time_updated=at if updated_at is None else updated_at,
            time_archived=archived_at,
        )
        return SessionId(id_)

    def second_generation_session(self, *, claimed_ms: int | None, claim: str = "time_suspended") -> str:
        """A session of opencode 2.x, in the tables of `SHARED`; with a claim one that is at work."""
        id_ = f"ses_{next(self._numbers)}"
        told = {"id": id_, "project_id": "p", "slug": "s", "directory": "/", "version": "2.0.0"}
        self.put("session_v2", **told, time_created=NOW, time_updated=NOW, **{claim: claimed_ms})
        return id_

    def prompt(self, session: str, id_: str | None = None, *, at: int = NOW) -> str:
        """A user message."""
        data = {"role": "user", "time": {"created": at}, "agent": "build", "model": {"modelID": "fake"}}
        return self.message(session, data, id_, at=at)

    def turn(
        self,
        session: str,
        id_: str | None = None,
        *,
        at: int = NOW,
        completed_at: int | None = None,
        cwd: str | None = "/project",
        more: Json | None = None,
    ) -> TurnId:
        """An assistant message, open unless it is completed."""
        time = {"created": at} if completed_at is None else {"created": at, "completed": completed_at}
        data: Json = {"role": "assistant", "time": time, "parentID": "msg_0", "modelID": "fake", "mode": "build"}
        if cwd is not None:
            data["path"] = {"cwd": cwd, "root": "/"}
        return TurnId(self.message(session, {**data, **(more or {})}, id_, at=at, updated_at=completed_at))

    def message(
        self, session: str, data: Json | str, id_: str | None = None, *, at: int = NOW, updated_at: int | None = None
    ) -> str:
        """A message with any JSON, or with any text in its place."""
        id_ = id_ or self._new("msg")
        self.put(
            "message",
            id=id_,
            session_id=session,
            time_created=at,
            time_updated=at if updated_at is None else updated_at,
            data=data if isinstance(data, str) else json.dumps(data),
        )
        return id_

    def part(
        self,
        turn: str,
        data: Json | str,
        id_: str | None = None,
        *,
        at: int = NOW,
        updated_at: int | None = None,
        session: str | None = None,
    ) -> CallId:
        """A part with any JSON, or with any text in its place."""
        id_ = id_ or self._new("prt")
        self.put(
            "part",
            id=id_,
            message_id=turn,
            session_id=session if session is not None else self.get("message", turn, "session_id"),
            time_created=at,
            time_updated=at if updated_at is None else updated_at,
            data=data if isinstance(data, str) else json.dumps(data),
        )
        return CallId(id_)

    def text(self, turn: str, id_: str | None = None, *, at: int = NOW, updated_at: int | None = None) -> str:
        """A part of text."""
        return self.part(turn, {"type": "text", "text": "Well."}, id_, at=at, updated_at=updated_at)

    def call(
        self,
        turn: str,
        id_: str | None = None,
        *,
        tool: str = "bash",
        status: str = "running",
        at: int = NOW,
        updated_at: int | None = None,
        input: Json | None = None,  # noqa: A002 - opencode's word
        metadata: Json | None = None,
        session: str | None = None,
    ) -> CallId:
        """A tool call in any of its states."""
        input = {"command": "sleep 600"} if input is None else input  # noqa: A001
        states: dict[str, Json] = {
            "pending": {"input": {}, "raw": ""},
            "running": {"input": input, "time": {"start": at}, "title": "sleep"},
            "completed": {
                "input": input,
                "output": "",
                "title": "",
                "metadata": {},
                "time": {"start": at, "end": at},
            },
            "error": {"input": input, "error": "it failed", "time": {"start": at, "end": at}},
        }
        state = {"status": status, **states[status]}
        if metadata is not None:
            state["metadata"] = metadata
        number = self._new("call")
        data = {"type": "tool", "tool": tool, "callID": number, "state": state}
        return self.part(turn, data, id_, at=at, updated_at=updated_at, session=session)

    def task(self, turn: str, *, child: str | None, at: int = NOW, status: str = "running") -> CallId:
        """A running task call that says which child it started, if one is given."""
        metadata = None if child is None else {"sessionId": child, "model": {"modelID": "fake"}}
        return self.call(turn, tool="task", status=status, at=at, input={"prompt": "Do it."}, metadata=metadata)

    def finish_call(self, call: str, *, at: int = NOW) -> None:
        """Complete a call as opencode does."""
        part = json.loads(self.get("part", call))
        state = part["state"]
        start = state.get("time", {}).get("start", at)
        done = {"output": "done", "title": "", "metadata": {}, "time": {"start": start, "end": at}}
        part["state"] = {"status": "completed", "input": state["input"], **done}
        self.set("part", call, data=json.dumps(part), time_updated=at)

    def finish_turn(self, turn: str, *, at: int = NOW) -> None:
        """Complete a turn as opencode does."""
        message = json.loads(self.get("message", turn))
        message["time"]["completed"] = at
        self.set("message", turn, data=json.dumps(message), time_updated=at)

    def _new(self, prefix: str) -> str:
        return f"{prefix}_{next(self._numbers):06d}"


class OpencodeFile(OpencodeRows):
    """A database file as opencode makes it, held open by a connection as opencode holds it, until `close`."""

    def __init__(self, path: Path, *, schema: str = SCHEMA, journal_mode: str = "wal") -> None:
        super().__init__()
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
        self.connection.execute(f"PRAGMA journal_mode = {journal_mode}")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        if not self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self.connection.executescript(schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def put(self, table: str, **columns: Any) -> None:  # noqa: ANN401
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        self.connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(columns.values()))  # noqa: S608

    def set(self, table: str, id_: str, **columns: Any) -> None:  # noqa: ANN401
        changes = ", ".join(f"{name} = ?" for name in columns)
        self.connection.execute(f"UPDATE {table} SET {changes} WHERE id = ?", [*columns.values(), id_])  # noqa: S608

    def delete(self, table: str, id_: str) -> None:
        self.connection.execute(f"DELETE FROM {table} WHERE id = ?", [id_])  # noqa: S608

    def get(self, table: str, id_: str, column: str = "data") -> Any:  # noqa: ANN401
        row = self.connection.execute(f"SELECT {column} FROM {table} WHERE id = ?", [id_]).fetchone()  # noqa: S608
        return None if row is None else row[0]
