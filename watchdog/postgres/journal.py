"""The journal in PostgreSQL: the same content as SQLite's, in the watchdog's own schema, for every replica.

Every write is durable before the call returns, whatever the database's default is. Every wait has a limit.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Final, Self

import anyio
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from watchdog.errors import DatabaseUnavailable, JournalUnusable
from watchdog.journal.codec import dump, dump_begun, dump_state, read_begun, read_hold, read_intervention, read_kept
from watchdog.model.interventions import LAST_NUMBER, Actor, Hold, Intervention, InterventionId, Kept
from watchdog.model.outcome import GuardedWrite, Outcome, Step
from watchdog.model.session import SessionId
from watchdog.model.verdict import Verdict
from watchdog.postgres.connection import STATEMENT_SECONDS, Fence, place_of, transaction, translated
from watchdog.postgres.own import prepare
from watchdog.postgres.steps import SCHEMA
from watchdog.strides import gradually

# ruff: noqa: S608 - the pieces are constants; every value is a parameter

_CONNECTIONS: Final = 4
"""How many connections one journal uses at once."""
_OPTIONS: Final = {"isolation_level": "READ COMMITTED"}
_TERMS: Final = """
    SELECT pg_catalog.set_config('lock_timeout', '5s', true),
        pg_catalog.set_config('statement_timeout', '8s', true),
        pg_catalog.set_config('idle_in_transaction_session_timeout', '10s', true),
        pg_catalog.set_config('synchronous_commit', 'on', true)
"""
"""For each transaction.

A statement's limits are shorter than the client's, so the server says which one was reached; and a process that is
stopped in the middle loses its locks.
"""

_INTERVENTIONS: Final = f"""
    SELECT id, began_ms, ended_ms, undone_ms, actor, reason, verdict, outcome FROM {SCHEMA}.intervention
"""
_BEGIN: Final = f"""
    INSERT INTO {SCHEMA}.intervention (session_id, began_ms, actor, reason, verdict)
    VALUES (:session_id, :began_ms, :actor, :reason, :verdict) RETURNING id
"""
_KEEP: Final = f"""
    INSERT INTO {SCHEMA}.kept_row
    (intervention_id, "table", id, message_id, session_id, created_ms, updated_ms, "before", "after")
    VALUES (:intervention_id, :table, :id, :message_id, :session_id, :created_ms, :updated_ms, :before, :after)
"""
_KEPT: Final = f"""
    SELECT "table", id, message_id, session_id, created_ms, updated_ms, "before", "after" FROM {SCHEMA}.kept_row
    WHERE intervention_id = :id ORDER BY number
"""
_PRUNE: Final = f"""
    WITH old AS (
        DELETE FROM {SCHEMA}.intervention WHERE ended_ms IS NOT NULL AND began_ms < :before_ms RETURNING id
    ), rows AS (
        DELETE FROM {SCHEMA}.kept_row WHERE intervention_id IN (SELECT id FROM old)
    )
    SELECT count(*) FROM old
"""
_PUT_HOLD: Final = f"""
    INSERT INTO {SCHEMA}.hold (session_id, since_ms, until_ms, why) VALUES (:session_id, :since_ms, :until_ms, :why)
    ON CONFLICT (session_id)
    DO UPDATE SET since_ms = excluded.since_ms, until_ms = excluded.until_ms, why = excluded.why
"""
_HOLDS: Final = f"""
    SELECT session_id, since_ms, until_ms, why FROM {SCHEMA}.hold
    WHERE until_ms IS NULL OR until_ms > :now_ms ORDER BY session_id
"""
_PUT_STATE: Final = f"""
    INSERT INTO {SCHEMA}.state ("key", value) VALUES (:key, :value)
    ON CONFLICT ("key") DO UPDATE SET value = excluded.value
"""


class PostgresJournal:
    """A journal in PostgreSQL. Made by `open`. Several replicas use one at the same time.

    Attributes:
        place: the database, for people.
    """

    def __init__(self, engine: AsyncEngine, *, fence: Fence | None = None) -> None:
        self.place = place_of(engine.url)
        self._engine = engine
        self._fence = fence
        self._turns = anyio.Semaphore(_CONNECTIONS)

    @classmethod
    async def open(cls, engine: AsyncEngine, *, fence: Fence | None = None, make: bool = True) -> Self:
        """Make the watchdog's own tables, unless they exist.

        Args:
            engine: its maker disposes of it.
            fence: checked in each transaction that notes or keeps something: a replaced replica changes nothing.
                Every replica notes what people say (`hold`, `unhold`, `mark_undone`).
            make: false for a watchdog that only looks.

        Raises:
            JournalUnusable: the tables can't be made or used, or are of a newer version.
        """
        await prepare(engine, make=make)
        return cls(engine, fence=fence)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Nothing to do: between two calls it uses no connection."""

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
        values = {
            "session_id": verdict.session_id,
            "began_ms": at_ms,
            "actor": actor.value,
            "reason": reason,
            "verdict": dump_begun(verdict, about_to),
        }
        async with self._fenced() as connection:
            return InterventionId((await connection.execute(text(_BEGIN), _stored(values))).scalar_one())

    async def keep(self, intervention: InterventionId, writes: Sequence[GuardedWrite]) -> None:
        """Keep, durably, the rows as they are before they are written."""
        rows: list[dict[str, object]] = [
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
        async with self._fenced() as connection:
            if rows:
                await connection.execute(text(_KEEP), [_stored(row) for row in rows])

    async def end(self, intervention: InterventionId, outcome: Outcome, *, at_ms: int) -> None:
        """Note how an intervention ended."""
        statement = f"UPDATE {SCHEMA}.intervention SET ended_ms = :at_ms, outcome = :outcome WHERE id = :id"
        values = {"id": intervention, "at_ms": at_ms, "outcome": dump(outcome)}
        async with self._fenced() as connection:
            await connection.execute(text(statement), _stored(values))

    async def mark_undone(self, intervention: InterventionId, hold: Hold, *, at_ms: int) -> None:
        """Note that the rows of an intervention were put back, and that the session is left alone from now on."""
        statement = f"UPDATE {SCHEMA}.intervention SET undone_ms = :at_ms WHERE id = :id"
        async with self._transaction() as connection:
            await connection.execute(text(statement), {"id": intervention, "at_ms": at_ms})
            await connection.execute(text(_PUT_HOLD), _stored(asdict(hold)))

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
        values = {"session_id": session_id, "since_ms": since_ms, "before": before, "limit": limit}
        return await self._interventions(
            f"WHERE {conditions} ORDER BY id DESC LIMIT :limit",
            {name: value for name, value in values.items() if value is not None or name == "limit"},
        )

    async def intervention(self, intervention: InterventionId) -> Intervention | None:
        """One intervention, or None if there is none with that number."""
        if intervention > LAST_NUMBER:
            return None
        found = await self._interventions("WHERE id = :id", {"id": intervention})
        return found[0] if found else None

    async def begun(self) -> tuple[Intervention, ...]:
        """The interventions that have no outcome: somebody is at work on them, or a crash left them.

        An unreadable one is named in the log, and left out.
        """
        return read_begun(await self._read(f"{_INTERVENTIONS} WHERE ended_ms IS NULL ORDER BY id", {}))

    async def _interventions(self, conditions: str, values: Mapping[str, object]) -> tuple[Intervention, ...]:
        return tuple(read_intervention(row) for row in await self._read(f"{_INTERVENTIONS} {conditions}", values))

    async def count(self) -> int:
        """How many interventions there are."""
        (row,) = await self._read(f"SELECT count(*) AS number FROM {SCHEMA}.intervention", {})
        return int(row["number"])

    async def kept(self, intervention: InterventionId) -> tuple[Kept, ...]:
        """The rows that an intervention wrote, or was about to write, in the order in which they were kept."""
        return tuple(read_kept(row) for row in await self._read(_KEPT, {"id": intervention}))

    async def prune(self, before_ms: int) -> int:
        """Delete the interventions that ended before a moment. Returns how many."""
        async with self._fenced() as connection:
            return int((await connection.execute(text(_PRUNE), {"before_ms": before_ms})).scalar_one())

    # -- holds -----------------------------------------------------------------------------------------------

    async def hold(self, hold: Hold) -> None:
        """Leave a session alone, or everything (`EVERYTHING`); a later hold replaces an earlier one."""
        async with self._transaction() as connection:
            await connection.execute(text(_PUT_HOLD), _stored(asdict(hold)))

    async def unhold(self, session_id: SessionId) -> bool:
        """End a hold. Returns whether there was one."""
        statement = f"DELETE FROM {SCHEMA}.hold WHERE session_id = :session_id"
        async with self._transaction() as connection:
            return (await connection.execute(text(statement), _stored({"session_id": session_id}))).rowcount > 0

    async def holds(self, now_ms: int) -> dict[SessionId, Hold]:
        """The holds that stand at a moment."""
        found = [read_hold(row) for row in await self._read(_HOLDS, {"now_ms": now_ms})]
        return {hold.session_id: hold for hold in found}

    # -- what must not be forgotten --------------------------------------------------------------------------

    async def save(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON value under a key."""
        values = {"key": key, "value": await gradually(dump_state(value))}
        async with self._fenced() as connection:
            await connection.execute(text(_PUT_STATE), _stored(values))

    async def load(self, key: str) -> dict[str, Any] | None:
        """The value that was kept under a key; None if there is none, or it can't be read."""
        statement = f'SELECT value FROM {SCHEMA}.state WHERE "key" = :key'
        found = await self._read(statement, {"key": key})
        try:
            value = json.loads(found[0]["value"]) if found else None
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    # -- transactions ----------------------------------------------------------------------------------------

    async def _read(self, statement: str, values: Mapping[str, object]) -> list[Mapping[str, Any]]:
        """Rows with access by the names of their columns."""
        async with self._transaction() as connection:
            found = await connection.execute(text(statement), _stored(values))
            return [_told(row) for row in found.mappings()]

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed at the end of the block."""
        with translated(self.place, JournalUnusable):
            with anyio.fail_after(STATEMENT_SECONDS):
                await self._turns.acquire()
            try:
                async with transaction(self._engine, seconds=STATEMENT_SECONDS, **_OPTIONS) as connection:
                    await connection.execute(text(_TERMS))
                    yield connection
            finally:
                self._turns.release()

    @asynccontextmanager
    async def _fenced(self) -> AsyncIterator[AsyncConnection]:
        """A transaction of the replica that may act, and of nobody else."""
        async with self._transaction() as connection:
            if self._fence is not None:
                try:
                    await self._fence.hold(connection)
                except DatabaseUnavailable as error:
                    raise JournalUnusable(str(error)) from error
            yield connection


# PostgreSQL's text has no NUL and no half of a surrogate pair, and kept values may have both. A text with one is
# stored behind a mark, with Python's escapes, and so is a text that begins with the mark: each comes out as it went
# in.
_MARK: Final = "\x01"
_ESCAPED: Final = re.compile(f"\\A{_MARK}|[\0\ud800-\udfff]")


def _stored(values: Mapping[str, object]) -> dict[str, object]:
    """Values in the form that the database takes."""
    return {
        name: _MARK + value.encode("unicode_escape").decode()
        if isinstance(value, str) and _ESCAPED.search(value)
        else value
        for name, value in values.items()
    }


def _told(row: RowMapping) -> dict[str, Any]:
    """A row as it went in."""
    return {
        name: value[1:].encode().decode("unicode_escape")
        if isinstance(value, str) and value.startswith(_MARK)
        else value
        for name, value in row.items()
    }
