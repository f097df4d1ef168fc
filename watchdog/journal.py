"""The watchdog's own database: what it did, the rows as they were before, and what it must not forget.

Every write is durable before the call returns (`synchronous=FULL`): what goes in before an act survives a crash.
The file is readable by its owner only, since it holds the inputs of tool calls.
"""

import hashlib
import json
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiosqlite
import anyio
from sqlalchemy import (
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from watchdog.errors import JournalUnusable
from watchdog.interventions import Actor, Hold, Intervention, InterventionId, Kept
from watchdog.journal_shapes import dump, read_intervention, read_kept
from watchdog.model import (
    GuardedWrite,
    Outcome,
    SessionId,
    Verdict,
)

APPLICATION_ID = 0x6F637764
"""`ocwd`: tells a journal from any other SQLite file."""
VERSION = 1
_BUSY_SECONDS = 5.0
_TABLES = MetaData()

_INTERVENTIONS = Table(
    "intervention",
    _TABLES,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("session_id", Text, nullable=False),
    Column("began_ms", Integer, nullable=False),
    Column("ended_ms", Integer),
    Column("undone_ms", Integer),
    Column("actor", Text, nullable=False),
    Column("reason", Text),
    Column("verdict", Text, nullable=False),
    Column("outcome", Text),
    Index("intervention_session", "session_id", "id"),
    Index("intervention_began", "began_ms"),
    sqlite_autoincrement=True,
)
_KEPT = Table(
    "kept_row",
    _TABLES,
    Column("intervention_id", Integer, nullable=False),
    Column("table", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("created_ms", Integer, nullable=False),
    Column("updated_ms", Integer, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Index("kept_row_intervention", "intervention_id"),
)
_HOLDS = Table(
    "hold",
    _TABLES,
    Column("session_id", Text, primary_key=True),
    Column("since_ms", Integer, nullable=False),
    Column("until_ms", Integer),
    Column("why", Text, nullable=False),
)
_STATE = Table("state", _TABLES, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))


def journal_path(database: Path, environ: Mapping[str, str], home: Path) -> Path:
    """Where the journal of a database is by default: in the user's state folder, one for each database."""
    state = environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if Path(state).is_absolute() else home / ".local" / "state"
    real = os.path.realpath(database)
    mark = hashlib.sha256(os.fsencode(real)).hexdigest()[:12]
    return folder / "opencode-watchdog" / f"{Path(real).stem}-{mark}.journal.db"


class SqliteJournal:
    """A journal in a SQLite file. Made by `open`; an async context manager that closes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine: AsyncEngine = _engine(path)

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open a journal, or make one.

        Raises:
            JournalUnusable: it can't be made, read or written, is no journal, or is of a newer version.
        """
        _prepare(path)
        journal = cls(path)
        with _translated(path):
            async with journal._writing() as connection:
                await _migrate(connection, path)
        return journal

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    # -- interventions ---------------------------------------------------------------------------------------

    async def begin(
        self, verdict: Verdict, *, at_ms: int, actor: Actor = Actor.WATCHDOG, reason: str | None = None
    ) -> InterventionId:
        """Note, durably, that an intervention begins."""
        values = {
            "session_id": verdict.session_id,
            "began_ms": at_ms,
            "actor": actor.value,
            "reason": reason,
            "verdict": dump(verdict),
        }
        async with self._writing() as connection:
            statement = insert(_INTERVENTIONS).values(values).returning(_INTERVENTIONS.c.id)
            return InterventionId((await connection.execute(statement)).scalar_one())

    async def keep(self, intervention: InterventionId, writes: Sequence[GuardedWrite]) -> None:
        """Keep, durably, the rows as they are before they are written."""
        rows = [
            {
                "intervention_id": intervention,
                "table": write.row.table,
                "id": write.row.id,
                "message_id": write.row.message_id,
                "session_id": write.row.session_id,
                "created_ms": write.row.created_ms,
                "updated_ms": write.row.updated_ms,
                "before": write.row.data,
                "after": write.after,
            }
            for write in writes
        ]
        async with self._writing() as connection:
            if rows:
                await connection.execute(insert(_KEPT), rows)

    async def end(self, intervention: InterventionId, outcome: Outcome, *, at_ms: int) -> None:
        """Note how an intervention ended."""
        change = update(_INTERVENTIONS).where(_INTERVENTIONS.c.id == intervention)
        async with self._writing() as connection:
            await connection.execute(change.values(ended_ms=at_ms, outcome=dump(outcome)))

    async def mark_undone(self, intervention: InterventionId, hold: Hold, *, at_ms: int) -> None:
        """Note that the rows of an intervention were put back, and that the session is left alone from now on."""
        async with self._writing() as connection:
            await connection.execute(
                update(_INTERVENTIONS).where(_INTERVENTIONS.c.id == intervention).values(undone_ms=at_ms)
            )
            await _put_hold(connection, hold)

    async def interventions(
        self, *, session_id: SessionId | None = None, since_ms: int | None = None, limit: int | None = None
    ) -> tuple[Intervention, ...]:
        """The interventions that fit, the newest first."""
        query = select(_INTERVENTIONS).order_by(_INTERVENTIONS.c.id.desc())
        if session_id is not None:
            query = query.where(_INTERVENTIONS.c.session_id == session_id)
        if since_ms is not None:
            query = query.where(_INTERVENTIONS.c.began_ms >= since_ms)
        if limit is not None:
            query = query.limit(limit)
        async with self._reading() as connection:
            return tuple(read_intervention(dict(row)) for row in (await connection.execute(query)).mappings())

    async def intervention(self, intervention: InterventionId) -> Intervention | None:
        """One intervention, or None if there is none of that number."""
        query = select(_INTERVENTIONS).where(_INTERVENTIONS.c.id == intervention)
        async with self._reading() as connection:
            row = (await connection.execute(query)).mappings().first()
            return None if row is None else read_intervention(dict(row))

    async def count(self) -> int:
        """How many interventions there are."""
        async with self._reading() as connection:
            return int((await connection.execute(select(func.count()).select_from(_INTERVENTIONS))).scalar_one())

    async def begun(self) -> tuple[Intervention, ...]:
        """The interventions that have no outcome: somebody is at work on them, or a crash left them."""
        query = select(_INTERVENTIONS).where(_INTERVENTIONS.c.ended_ms.is_(None)).order_by(_INTERVENTIONS.c.id)
        async with self._reading() as connection:
            return tuple(read_intervention(dict(row)) for row in (await connection.execute(query)).mappings())

    async def kept(self, intervention: InterventionId) -> tuple[Kept, ...]:
        """The rows that an intervention wrote, or was about to write."""
        query = select(_KEPT).where(_KEPT.c.intervention_id == intervention)
        async with self._reading() as connection:
            return tuple(read_kept(dict(row)) for row in (await connection.execute(query)).mappings())

    async def prune(self, before_ms: int) -> int:
        """Forget the interventions that ended before a moment. Returns how many."""
        old = (_INTERVENTIONS.c.ended_ms.is_not(None)) & (_INTERVENTIONS.c.began_ms < before_ms)
        async with self._writing() as connection:
            ids = select(_INTERVENTIONS.c.id).where(old)
            await connection.execute(delete(_KEPT).where(_KEPT.c.intervention_id.in_(ids)))
            return (await connection.execute(delete(_INTERVENTIONS).where(old))).rowcount

    # -- holds -----------------------------------------------------------------------------------------------

    async def hold(self, hold: Hold) -> None:
        """Leave a session alone, or everything (`EVERYTHING`); a later hold replaces an earlier one."""
        async with self._writing() as connection:
            await _put_hold(connection, hold)

    async def unhold(self, session_id: SessionId) -> bool:
        """End a hold. Returns whether there was one."""
        async with self._writing() as connection:
            return (await connection.execute(delete(_HOLDS).where(_HOLDS.c.session_id == session_id))).rowcount > 0

    async def holds(self, now_ms: int) -> dict[SessionId, Hold]:
        """The holds that stand at a moment."""
        query = select(_HOLDS).where((_HOLDS.c.until_ms.is_(None)) | (_HOLDS.c.until_ms > now_ms))
        async with self._reading() as connection:
            rows = (await connection.execute(query)).mappings()
            return {SessionId(row["session_id"]): Hold(**{**row, "session_id": row["session_id"]}) for row in rows}

    # -- what must not be forgotten --------------------------------------------------------------------------

    async def save(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON value under a key."""
        statement = upsert(_STATE).values(key=key, value=json.dumps(value, separators=(",", ":")))
        async with self._writing() as connection:
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["key"], set_={"value": statement.excluded.value})
            )

    async def load(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key; None when nothing was, or it can't be read."""
        async with self._reading() as connection:
            found = (await connection.execute(select(_STATE.c.value).where(_STATE.c.key == key))).scalar()
        try:
            value = json.loads(found) if found is not None else None
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    # -- transactions ----------------------------------------------------------------------------------------
    #
    # They are short, and come to their end although their task is cancelled: a connection that is walked away from
    # keeps its thread, and the process could never end.

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        with _translated(self.path), anyio.CancelScope(shield=True):
            async with self._engine.connect() as connection:
                await connection.execute(text("BEGIN IMMEDIATE"))
                yield connection
                await connection.commit()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        with _translated(self.path), anyio.CancelScope(shield=True):
            async with self._engine.connect() as connection:
                try:
                    yield connection
                except (ValueError, KeyError, TypeError) as error:
                    raise JournalUnusable(
                        f"The journal {self.path} holds something that this version can't read. Name another with "
                        'the setting `journal`, or choose `journal = "off"`.'
                    ) from error


async def _put_hold(connection: AsyncConnection, hold: Hold) -> None:
    statement = upsert(_HOLDS).values(asdict(hold))
    await connection.execute(statement.on_conflict_do_update(index_elements=["session_id"], set_=asdict(hold)))


async def _migrate(connection: AsyncConnection, path: Path) -> None:
    """Bring the file to this version. Versions go forward in small steps; a newer one is refused."""
    mark = (await connection.execute(text("PRAGMA application_id"))).scalar_one()
    version = (await connection.execute(text("PRAGMA user_version"))).scalar_one()
    tables = (await connection.execute(text("SELECT count(*) FROM sqlite_master"))).scalar_one()
    if mark != APPLICATION_ID and tables:
        raise JournalUnusable(f"{path} is a SQLite database, but no journal of opencode-watchdog; name another file.")
    if version > VERSION:
        raise JournalUnusable(
            f"The journal {path} is of a newer opencode-watchdog (version {version}; this one knows {VERSION}). "
            "Upgrade, or name another file with the setting `journal`."
        )
    if version < 1:
        await connection.run_sync(_TABLES.create_all)
    await connection.execute(text(f"PRAGMA application_id = {APPLICATION_ID}"))
    await connection.execute(text(f"PRAGMA user_version = {VERSION}"))


def _prepare(path: Path) -> None:
    """Make the folder and the file, readable by their owner only, or say why that can't be done."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_dir():
            raise JournalUnusable(f"The journal {path} is a folder; name a file with the setting `journal`.")
        # SQLite gives the files beside it (-wal, -shm) the mode of the file itself. A file that is there is not
        # opened: closing it would drop the locks that this process may hold on it.
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise JournalUnusable(
            f"The journal {path} can't be made or read: {error.strerror}. Name another file with the setting "
            '`journal`, or choose `journal = "off"` to act without one.'
        ) from error


def _engine(path: Path) -> AsyncEngine:
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"

    async def connect() -> aiosqlite.Connection:
        connection = await aiosqlite.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            # Its thread would keep the process from ever ending.
            await connection.close()
            raise
        return connection

    return create_async_engine("sqlite+aiosqlite://", async_creator=connect, poolclass=NullPool, hide_parameters=True)


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


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what the driver raises into a sentence."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        cause = getattr(error, "orig", None) or error
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        what = _SENTENCES.get(code, f"can't be used ({type(cause).__name__})")
        raise JournalUnusable(
            f"The journal {path} {what}. Mend it, name another with the setting `journal`, or choose "
            '`journal = "off"`.'
        ) from error
