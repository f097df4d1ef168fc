"""The demo's database: opencode's tables in a file of its own, read and written as opencode would."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from watchdog.model.session import SessionId

Json = dict[str, Any]

SCHEMA = """
CREATE TABLE session (
    id text PRIMARY KEY, parent_id text, directory text NOT NULL, title text NOT NULL,
    time_created integer NOT NULL, time_updated integer NOT NULL, time_archived integer
);
CREATE TABLE message (
    id text PRIMARY KEY, session_id text NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL
);
CREATE TABLE part (
    id text PRIMARY KEY, message_id text NOT NULL REFERENCES message(id) ON DELETE CASCADE, session_id text NOT NULL,
    time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL
);
CREATE INDEX message_session_time_created_id_idx ON message (session_id, time_created, id);
CREATE INDEX part_message_id_id_idx ON part (message_id, id);
CREATE INDEX part_session_idx ON part (session_id);
CREATE INDEX session_parent_idx ON session (parent_id)
"""
DIRECTORY = "/demo/project"

_SESSION = (
    "INSERT INTO session (id, parent_id, directory, title, time_created, time_updated)"
    " VALUES (:id, :parent, :directory, :title, :at, :at)"
)
_WRITE = {
    "message": "INSERT INTO message (id, session_id, time_created, time_updated, data)"
    " VALUES (:id, :session, :created, :updated, :data)"
    " ON CONFLICT (id) DO UPDATE SET time_updated = excluded.time_updated, data = excluded.data",
    "part": "INSERT INTO part (id, message_id, session_id, time_created, time_updated, data)"
    " VALUES (:id, :message, :session, :created, :updated, :data)"
    " ON CONFLICT (id) DO UPDATE SET time_updated = excluded.time_updated, data = excluded.data",
}
_MESSAGES = "SELECT id, session_id, data FROM message ORDER BY time_created, rowid"
_PARTS = "SELECT id, session_id, data FROM part ORDER BY time_created, rowid"


@dataclass(kw_only=True, slots=True)
class Entry:
    """A message or a part as the session's runner has it in memory, to be written as a whole."""

    table: str
    id: str
    session_id: SessionId
    message_id: str
    created_ms: int
    data: Json


@dataclass(kw_only=True, slots=True)
class Scene:
    """What the database says about one session.

    Attributes:
        turn: the JSON of its newest turn.
        calls: the JSON of each of its tool calls, oldest first.
        texts: how many parts of text it has.
        rows: every row of it, as id and text.
    """

    turn: Json = field(default_factory=dict)
    calls: list[Json] = field(default_factory=list)
    texts: int = 0
    rows: dict[str, str] = field(default_factory=dict)


class Book:
    """Reads and writes the database through the engine of the demo's host."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def add_session(self, session_id: SessionId, *, title: str, parent_id: str | None, created_ms: int) -> None:
        """Insert a session."""
        values = {"id": session_id, "parent": parent_id, "directory": DIRECTORY, "title": title, "at": created_ms}
        async with self._connection() as connection:
            await connection.execute(text(_SESSION), values)

    async def write(self, *entries: Entry, at_ms: int) -> None:
        """Write messages and parts as they are now, all in one transaction."""
        async with self._connection() as connection:
            for entry in entries:
                values = {
                    "id": entry.id,
                    "session": entry.session_id,
                    "message": entry.message_id,
                    "created": entry.created_ms,
                    "updated": at_ms,
                    "data": json.dumps(entry.data),
                }
                wanted = {name: value for name, value in values.items() if f":{name}" in _WRITE[entry.table]}
                await connection.execute(text(_WRITE[entry.table]), wanted)

    async def read(self) -> Mapping[SessionId, Scene]:
        """Read what the database says now, of every session."""
        async with self._connection() as connection:
            messages = (await connection.execute(text(_MESSAGES))).all()
            parts = (await connection.execute(text(_PARTS))).all()
        scenes: dict[SessionId, Scene] = {}
        for id_, session_id, data in [*messages, *parts]:
            scene = scenes.setdefault(SessionId(session_id), Scene())
            scene.rows[id_] = data
            _add(scene, json.loads(data))
        return scenes

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that ends even if its task is cancelled: SQLite works on in a thread."""
        with anyio.CancelScope(shield=True):
            async with self.engine.begin() as connection:
                yield connection


def _add(scene: Scene, data: Json) -> None:
    if data.get("role") == "assistant":
        scene.turn = data
    elif data.get("type") == "tool":
        scene.calls.append(data)
    elif data.get("type") == "text":
        scene.texts += 1


@asynccontextmanager
async def open_book(folder: Path) -> AsyncIterator[Book]:
    """Create the database in a folder, and close it at the end."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'opencode.db'}")
    try:
        async with engine.connect() as connection:
            await connection.execute(text("PRAGMA journal_mode = wal"))
            for statement in SCHEMA.split(";"):
                await connection.execute(text(statement))
            await connection.commit()
        yield Book(engine)
    finally:
        with anyio.CancelScope(shield=True):
            await engine.dispose()
