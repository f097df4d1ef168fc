"""A small agent server that watches its own sessions: FastAPI under uvicorn, an asyncio task for each session.

    uvicorn server:app --app-dir docs/examples
    SERVER_DATABASE=postgresql+asyncpg://user:password@host/name uvicorn server:app --app-dir docs/examples

On a SQLite file it is the only one. Several may run on one PostgreSQL database: a session runs in the one that began
it, any of them reads it, and one of their watchdogs acts for all.

It has no model: a prompt says which tool to call. Some hang, some wait for a human, `task` waits for sessions of its
own. It writes to the database what opencode would write, and that is all that the watchdog needs of it.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import watchdog
from watchdog import Activity, Ask, AskKind, SessionId, Status, TurnId

DATABASE = os.environ.get("SERVER_DATABASE", "server.db")
ON_POSTGRES = DATABASE.startswith("postgresql+asyncpg://")
LIMITS: dict[str, Any] = json.loads(os.environ.get("SERVER_LIMITS", '{"tool_timeout": "5m", "idle_timeout": "2m"}'))
PROJECT = "/project"
MOMENT, DATA = ("bigint", "jsonb") if ON_POSTGRES else ("integer", "text")

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS session (
    id text PRIMARY KEY, parent_id text, directory text NOT NULL, title text NOT NULL,
    time_created {MOMENT} NOT NULL, time_updated {MOMENT} NOT NULL, time_archived {MOMENT}
);
CREATE TABLE IF NOT EXISTS message (
    id text PRIMARY KEY, session_id text NOT NULL, time_created {MOMENT} NOT NULL, time_updated {MOMENT} NOT NULL,
    data {DATA} NOT NULL
);
CREATE TABLE IF NOT EXISTS part (
    id text PRIMARY KEY, message_id text NOT NULL, session_id text NOT NULL, time_created {MOMENT} NOT NULL,
    time_updated {MOMENT} NOT NULL, data {DATA} NOT NULL
);
CREATE INDEX IF NOT EXISTS message_session ON message (session_id, time_created, id);
CREATE INDEX IF NOT EXISTS part_message ON part (message_id, id);
CREATE INDEX IF NOT EXISTS part_session ON part (session_id);
CREATE INDEX IF NOT EXISTS session_parent ON session (parent_id)
"""

Json = dict[str, Any]


class TaskAbortedError(Exception):
    """The session that a task call waited for was aborted."""


class Work(BaseModel):
    """What the model does in a turn: it streams text for a while, or calls one tool; `task` starts its children."""

    tool: Literal["stream", "silent", "sleep", "hang", "question", "task"]
    seconds: float = 0.0
    children: list["Work"] = []


@dataclass(kw_only=True)
class Session:
    """A session that is at work."""

    id: SessionId
    turn_id: TurnId
    turn: Json
    task: "asyncio.Task[None] | None" = None
    answered: asyncio.Event | None = None
    aborted: bool = False


class Rows:
    """Writes what opencode would write."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def create(self) -> None:
        async with self.engine.connect() as connection:
            # On PostgreSQL another one may be starting, too: one at a time makes the tables.
            first = "SELECT pg_advisory_xact_lock(4096)" if ON_POSTGRES else "PRAGMA journal_mode = wal"
            for statement in [first, *SCHEMA.split(";")]:
                await connection.execute(text(statement))
            await connection.commit()

    async def put(self, table: str, **columns: object) -> None:
        names = ", ".join(columns)
        marks = ", ".join(f"CAST(:data AS {DATA})" if name == "data" else f":{name}" for name in columns)
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name != "id")
        statement = f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {changes}"
        async with self.engine.begin() as connection:
            await connection.execute(text(statement), columns)

    async def message(self, id_: str, session_id: str, data: Json) -> None:
        created = data["time"]["created"]
        columns = {"id": id_, "session_id": session_id, "time_created": created, "time_updated": now_ms()}
        await self.put("message", **columns, data=json.dumps(data))

    async def part(self, id_: str, session: Session, created_ms: int, data: Json) -> None:
        columns = {"id": id_, "message_id": session.turn_id, "session_id": session.id}
        times = {"time_created": created_ms, "time_updated": now_ms()}
        await self.put("part", **columns, **times, data=json.dumps(data))

    async def read(self, session_id: str) -> Json:
        values = {"id": session_id}
        async with self.engine.connect() as connection:
            turns, parts = [
                [json.loads(data) for data in (await connection.execute(text(query), values)).scalars()]
                for query in (
                    "SELECT CAST(data AS text) FROM message WHERE session_id = :id",
                    "SELECT CAST(data AS text) FROM part WHERE session_id = :id ORDER BY time_created, id",
                )
            ]
        if not turns:
            raise HTTPException(404)
        (turn,) = [data for data in turns if data["role"] == "assistant"]
        return {"turn": turn, "calls": parts}


class Sessions:
    """Runs the sessions, and answers for them: this is the `host` that the watchdog asks."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._running: dict[SessionId, Session] = {}
        self.touch: Callable[[str], None] = lambda _: None

    # -- what the watchdog asks --------------------------------------------------------------------------------

    async def statuses(self) -> dict[SessionId, Status]:
        return {id_: Status(activity=Activity.BUSY) for id_ in self._running}

    async def pending_asks(self) -> list[Ask]:
        return [
            Ask(id=f"que_{each.id}", kind=AskKind.QUESTION, session_id=each.id, turn_id=each.turn_id)
            for each in self._running.values()
            if each.answered is not None
        ]

    async def abort(self, session_id: SessionId) -> None:
        session = self._running.get(session_id)
        if session is not None and session.task is not None:
            session.task.cancel()
            await asyncio.wait([session.task])

    # -- sessions ----------------------------------------------------------------------------------------------

    async def begin(self, work: Work, parent: Session | None = None) -> Session:
        """Write a prompt and an open turn, and let the model go to work."""
        name, now = uuid4().hex, now_ms()
        turn: Json = {"role": "assistant", "time": {"created": now}, "path": {"cwd": PROJECT, "root": "/"}}
        session = Session(id=SessionId(f"ses_{name}"), turn_id=TurnId(f"msg_{name}"), turn=turn)
        times = {"time_created": now, "time_updated": now}
        parent_id = parent.id if parent is not None else None
        await self._rows.put(
            "session", id=session.id, parent_id=parent_id, directory=PROJECT, title="A session", **times
        )
        await self._rows.message(f"msg_{name}_prompt", session.id, {"role": "user", "time": {"created": now}})
        await self._rows.message(session.turn_id, session.id, turn)
        self._running[session.id] = session
        session.task = asyncio.create_task(self._run(session, work), name=session.id)
        return session

    def answer(self, session_id: SessionId) -> None:
        """A human answers the question of a session."""
        session = self._running.get(session_id)
        if session is None or session.answered is None:
            raise HTTPException(409, "it is not at work in this server, or it asks nothing")
        session.answered.set()

    async def end(self) -> None:
        """End all of them: the server stops."""
        tasks = [each.task for each in self._running.values() if each.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, session: Session, work: Work) -> None:
        """One turn, from the prompt to its end. It closes its rows whatever happens."""
        try:
            if work.tool in {"stream", "silent"}:
                await self._stream(session, work)
            elif work.tool == "task":
                await asyncio.gather(*(self._call(session, work, child) for child in work.children))
            else:
                await self._call(session, work)
            session.turn["finish"] = "stop"
        except asyncio.CancelledError:
            session.aborted = True
            session.turn["error"] = {"name": "MessageAbortedError", "data": {"message": "The session was aborted."}}
        await asyncio.shield(self._close(session))  # an abort that comes now is too late, and must not keep it open

    async def _close(self, session: Session) -> None:
        session.turn["time"]["completed"] = now_ms()
        await self._rows.message(session.turn_id, session.id, session.turn)
        del self._running[session.id]

    async def _stream(self, session: Session, work: Work) -> None:
        """Stream text, and write none of it: each piece is a sign of life."""
        until = time.monotonic() + work.seconds
        while time.monotonic() < until:
            self.touch(session.id)
            await asyncio.sleep(0.05)
        if work.tool == "silent":
            self.touch(session.id)
            await asyncio.Event().wait()

    async def _call(self, session: Session, work: Work, child_work: Work | None = None) -> None:
        """One call of a tool: its row is open while it runs."""
        part_id, began = f"prt_{uuid4().hex}", now_ms()
        state: Json = {"status": "running", "input": {}, "time": {"start": began}}
        data: Json = {"type": "tool", "tool": work.tool, "callID": f"call_{part_id}", "state": state}
        child = await self.begin(child_work, session) if child_work is not None else None
        if child is not None:
            state["metadata"] = {"sessionId": child.id}  # who waits on whom: without it a parent looks stuck, too
        await self._rows.part(part_id, session, began, data)
        try:
            await (self._wait_for(child) if child is not None else self._tool(session, work))
            state.update(status="completed", output="ok", title="", metadata=state.get("metadata", {}))
        except TaskAbortedError:
            state.update(status="error", error="Task cancelled")  # and the parent goes on
        except asyncio.CancelledError:
            state.update(status="error", error="Tool execution aborted")
            raise
        finally:
            state["time"]["end"] = now_ms()
            await self._rows.part(part_id, session, began, data)

    async def _tool(self, session: Session, work: Work) -> None:
        if work.tool == "sleep":
            await asyncio.sleep(work.seconds)
        elif work.tool == "question":
            session.answered = asyncio.Event()
            await session.answered.wait()
            session.answered = None
        else:
            await asyncio.Event().wait()  # it hangs

    async def _wait_for(self, child: Session) -> None:
        """The end of the parent ends its children; the end of a child does not end its parent."""
        if child.task is None:
            return
        try:
            await asyncio.wait([child.task])
        except asyncio.CancelledError:
            await self.abort(child.id)
            raise
        if child.aborted:
            raise TaskAbortedError


def now_ms() -> int:
    return time.time_ns() // 1_000_000


engine = create_async_engine(DATABASE if ON_POSTGRES else f"sqlite+aiosqlite:///{Path(DATABASE).absolute()}")
rows = Rows(engine)
sessions = Sessions(rows)
journal = None if ON_POSTGRES else Path(DATABASE).absolute().with_suffix(".journal")  # None: in the database
settings = watchdog.Settings(journal=journal, **LIMITS)
watched = watchdog.lifespan(settings, host=sessions, engine=engine)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await rows.create()
    async with watched(app):
        sessions.touch = app.state.watchdog.touch
        yield
        await sessions.end()
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/sessions")
async def begin(work: Work) -> Json:
    return {"id": (await sessions.begin(work)).id}


@app.get("/sessions/{session_id}")
async def read(session_id: str) -> Json:
    return await rows.read(session_id)


@app.get("/sessions/{session_id}/children")
async def children(session_id: str) -> list[str]:
    async with engine.connect() as connection:
        query = text("SELECT id FROM session WHERE parent_id = :id ORDER BY time_created, id")
        return list((await connection.execute(query, {"id": session_id})).scalars())


@app.post("/sessions/{session_id}/answer", status_code=204)
async def answer(session_id: str) -> None:
    sessions.answer(SessionId(session_id))


@app.post("/sessions/{session_id}/release")
async def release(session_id: str) -> Json:
    try:
        outcomes = await app.state.watchdog.release(session_id, reason="asked for over HTTP")
    except watchdog.WatchdogError as error:
        raise HTTPException(409, str(error)) from error
    return {"results": [outcome.result.value for outcome in outcomes]}
