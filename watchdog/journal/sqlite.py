"""The watchdog's own database: what it did, the rows as they were before, and its memory.

Every write is durable before the call returns (`synchronous=FULL`): a note from before an act survives a crash. Only
its owner can read the file, since it holds the inputs of tool calls.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from watchdog.journal.codec import dump, dump_begun, dump_state, read_begun, read_hold, read_intervention, read_kept
from watchdog.journal.connection import JournalFile
from watchdog.model.interventions import LAST_NUMBER, Actor, Hold, Intervention, InterventionId, Kept
from watchdog.model.outcome import GuardedWrite, Outcome, Step
from watchdog.model.session import SessionId
from watchdog.model.verdict import Verdict
from watchdog.settings.places import user_folder
from watchdog.strides import gradually

_PUT_HOLD = """
    INSERT INTO hold (session_id, since_ms, until_ms, why) VALUES (:session_id, :since_ms, :until_ms, :why)
    ON CONFLICT (session_id) DO UPDATE SET since_ms = :since_ms, until_ms = :until_ms, why = :why
"""
_PUT_STATE = """
    INSERT INTO state ("key", value) VALUES (?, ?) ON CONFLICT ("key") DO UPDATE SET value = excluded.value
"""


def journal_path(database: Path, environ: Mapping[str, str], home: Path | None) -> Path:
    """The default place of a database's journal: in the user's state folder, one for each database."""
    folder = user_folder(environ, "XDG_STATE_HOME", home, ".local/state")
    real = os.path.realpath(database)
    mark = hashlib.sha256(os.fsencode(real)).hexdigest()[:12]
    return folder / "opencode-watchdog" / f"{Path(real).stem}-{mark}.journal.db"


class SqliteJournal:
    """A journal in a SQLite file. Made by `open`; an async context manager that closes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = JournalFile(path)
        self._on_hold: tuple[Hold, ...] = ()
        self._seen: tuple[int, int] | None = None
        self._settled = True

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open a journal, or make one.

        Raises:
            JournalUnusable: it can't be made, read or written, is no journal, or is of a newer version.
        """
        journal = cls(path)
        try:
            await journal._file.prepare()
        except BaseException:
            await journal.close()
            raise
        return journal

    @property
    def place(self) -> str:
        """See `History.place`."""
        return str(self.path)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Further use opens it again."""
        await self._file.close()

    # -- interventions ---------------------------------------------------------------------------------------

    async def begin(
        self,
        verdict: Verdict,
        *,
        at_ms: int,
        actor: Actor = Actor.WATCHDOG,
        reason: str | None = None,
        about_to: Step | None = None,
    ) -> InterventionId:
        """Note, durably, that an intervention begins."""
        statement = (
            "INSERT INTO intervention (session_id, began_ms, actor, reason, verdict) VALUES (?, ?, ?, ?, ?)"
            " RETURNING id"
        )
        values = (verdict.session_id, at_ms, actor.value, reason, dump_begun(verdict, about_to))
        ((number,),) = await self._file.write(lambda file: file.execute(statement, values).fetchall())
        return InterventionId(number)

    async def keep(self, intervention: InterventionId, writes: Sequence[GuardedWrite]) -> None:
        """Keep, durably, the rows as they are before they are written."""
        statement = """
            INSERT INTO kept_row
            (intervention_id, "table", id, message_id, session_id, created_ms, updated_ms, "before", "after")
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
        """
        values = [
            (
                intervention,
                write.row.table,
                write.row.id,
                write.row.message_id,
                write.row.session_id,
                write.row.created_ms,
                write.row.updated_ms,
                write.row.data,
                write.after,
            )
            for write in writes
        ]
        await self._write(statement, values)

    async def end(self, intervention: InterventionId, outcome: Outcome, *, at_ms: int) -> None:
        """Note how an intervention ended."""
        statement = "UPDATE intervention SET ended_ms = ?, outcome = ? WHERE id = ?"
        values = (at_ms, dump(outcome), intervention)
        await self._write(statement, [values])

    async def mark_undone(self, intervention: InterventionId, hold: Hold, *, at_ms: int) -> None:
        """Note that the rows of an intervention were put back, and that the session is left alone from now on."""

        def mark(file: sqlite3.Connection) -> None:
            file.execute("UPDATE intervention SET undone_ms = ? WHERE id = ?", (at_ms, intervention))
            file.execute(_PUT_HOLD, asdict(hold))

        await self._file.write(mark)

    async def interventions(
        self,
        *,
        session_id: SessionId | None = None,
        since_ms: int | None = None,
        before: InterventionId | None = None,
        limit: int | None = None,
    ) -> tuple[Intervention, ...]:
        """The interventions that match, the newest first; `before` leaves out that one and all later ones."""
        asked = {"session_id = :session_id": session_id, "began_ms >= :since_ms": since_ms, "id < :before": before}
        conditions = " AND ".join(condition for condition, value in asked.items() if value is not None) or "TRUE"
        return await self._interventions(
            f"SELECT * FROM intervention WHERE {conditions} ORDER BY id DESC LIMIT :limit",  # noqa: S608
            {
                "session_id": session_id,
                "since_ms": since_ms,
                "before": before,
                "limit": -1 if limit is None else limit,
            },
        )

    async def intervention(self, intervention: InterventionId) -> Intervention | None:
        """One intervention, or None if there is none with that number."""
        if intervention > LAST_NUMBER:
            return None
        found = await self._interventions("SELECT * FROM intervention WHERE id = :id", {"id": intervention})
        return found[0] if found else None

    async def begun(self) -> tuple[Intervention, ...]:
        """The interventions that have no outcome: somebody is at work on them, or a crash left them.

        An unreadable one is named in the log, and left out.
        """
        statement = "SELECT * FROM intervention WHERE ended_ms IS NULL ORDER BY id"
        return await self._file.read(lambda file: read_begun(file.execute(statement).fetchall()))

    async def _interventions(self, statement: str, values: Mapping[str, object]) -> tuple[Intervention, ...]:
        return await self._file.read(
            lambda file: tuple(read_intervention(row) for row in file.execute(statement, values).fetchall())
        )

    async def count(self) -> int:
        """How many interventions there are."""
        ((number,),) = await self._file.read(
            lambda file: file.execute("SELECT count(*) FROM intervention").fetchall()
        )
        return int(number)

    async def kept(self, intervention: InterventionId) -> tuple[Kept, ...]:
        """The rows that an intervention wrote, or was about to write."""
        statement = "SELECT * FROM kept_row WHERE intervention_id = ?"
        return await self._file.read(
            lambda file: tuple(read_kept(row) for row in file.execute(statement, (intervention,)).fetchall())
        )

    async def prune(self, before_ms: int) -> int:
        """Delete the interventions that ended before a moment. Returns how many."""
        old = "ended_ms IS NOT NULL AND began_ms < ?"

        def forget(file: sqlite3.Connection) -> int:
            file.execute(
                f"DELETE FROM kept_row WHERE intervention_id IN (SELECT id FROM intervention WHERE {old})",  # noqa: S608
                (before_ms,),
            )
            return file.execute(f"DELETE FROM intervention WHERE {old}", (before_ms,)).rowcount  # noqa: S608

        return await self._file.write(forget)

    async def _write(self, statement: str, values: Sequence[Any]) -> None:
        def run(file: sqlite3.Connection) -> None:  # and return no cursor: an open one keeps the file open
            file.executemany(statement, values)

        await self._file.write(run)

    # -- holds -----------------------------------------------------------------------------------------------

    async def hold(self, hold: Hold) -> None:
        """Leave a session alone, or everything (`EVERYTHING`); a later hold replaces an earlier one."""
        await self._write(_PUT_HOLD, [asdict(hold)])

    async def unhold(self, session_id: SessionId) -> bool:
        """End a hold. Returns whether there was one."""
        statement = "DELETE FROM hold WHERE session_id = ?"
        return await self._file.write(lambda file: file.execute(statement, (session_id,)).rowcount > 0)

    async def holds(self, now_ms: int) -> dict[SessionId, Hold]:
        """The holds that stand at a moment. They are read only if somebody has written to the journal.

        If nobody did between two calls, the file is settled: it is complete by itself while nothing happens.
        """
        unchanged = await self._file.read(self._read_holds)
        if unchanged and not self._settled:
            await self._file.settle()
            self._settled = True
        return {hold.session_id: hold for hold in self._on_hold if hold.until_ms is None or hold.until_ms > now_ms}

    def _read_holds(self, file: sqlite3.Connection) -> bool:
        """Read the holds if anything changed. Returns whether nothing did."""
        ((version,),) = file.execute("PRAGMA data_version").fetchall()
        seen = (self._file.revision, version)
        if seen == self._seen:
            return True
        self._on_hold = tuple(read_hold(row) for row in file.execute("SELECT * FROM hold").fetchall())
        self._seen, self._settled = seen, False
        return False

    # -- what must not be forgotten --------------------------------------------------------------------------

    async def save(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON value under a key."""
        values = (key, await gradually(dump_state(value)))
        await self._write(_PUT_STATE, [values])

    async def load(self, key: str) -> dict[str, Any] | None:
        """The value that was kept under a key; None if there is none, or it can't be read."""
        statement = 'SELECT value FROM state WHERE "key" = ?'
        found = await self._file.read(lambda file: file.execute(statement, (key,)).fetchall())
        try:
            value = json.loads(found[0][0]) if found else None
        except ValueError:
            return None
        return value if isinstance(value, dict) else None
