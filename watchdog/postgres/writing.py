"""A guarded write of rows that a server writes, too: the server always goes first.

PostgreSQL ends a deadlock by failing a transaction that has waited for `deadlock_timeout` and then finds one. A
server that fails loses a step of its work, so it must never be the one. Rows are locked all at once, without any
wait. Everything that may wait from then on, for a lock that a trigger takes, say, has ended well within that time
after the first lock. So nobody who waits for these rows ever finds a deadlock. A write that gives way has changed
nothing, and tries again after a pause.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from watchdog.model.outcome import GuardedWrite
from watchdog.model.session import TurnId
from watchdog.opencode.db.rows import newest_turn
from watchdog.opencode.db.snapshot import as_ids
from watchdog.ports import Clock
from watchdog.postgres.queries import Dialect
from watchdog.postgres.triggers import Standing, standing_against

Way = Literal["locked", "slow"]
"""Why it gave way."""

_BUSY: Final[Mapping[str, Way]] = {"55P03": "locked", "40P01": "locked", "57014": "slow"}
"""By SQLSTATE: no lock in time, a deadlock, no end in time."""


def _milliseconds(interval: str) -> str:
    return f"CAST(ceil(extract(epoch FROM {interval}) * 1000) AS text)"


_LOCK_WAIT: Final = _milliseconds("least(deadlock / 8, own_lock)")
_STATEMENT: Final = _milliseconds("least(greatest(deadlock / 4, shortest), own_statement)")
_BOUNDS: Final = f"""
    SELECT set_config('lock_timeout', {_LOCK_WAIT}, TRUE), set_config('statement_timeout', {_STATEMENT}, TRUE),
        CAST(extract(epoch FROM greatest(deadlock / 2, shortest)) AS float8) AS seconds
    FROM (
        SELECT least(CAST(current_setting('deadlock_timeout') AS interval), interval '1 second') AS deadlock,
            nullif(CAST(current_setting('lock_timeout') AS interval), interval '0') AS own_lock,
            nullif(CAST(current_setting('statement_timeout') AS interval), interval '0') AS own_statement,
            interval '25 milliseconds' AS shortest
    ) AS known
"""  # noqa: S608 - constants of this module
"""How long a wait, a statement, and the time until the last statement begins may be.

A lower limit of the role stays. Below `shortest` nothing could be done: then only waits are short.
"""
_LOCK: Final = """
    WITH sessions AS MATERIALIZED (SELECT FROM session WHERE id = :session FOR UPDATE NOWAIT),
        parts AS MATERIALIZED (SELECT FROM part WHERE id = ANY(CAST(:part AS text[])) FOR NO KEY UPDATE NOWAIT),
        messages AS MATERIALIZED (
            SELECT FROM message WHERE id = ANY(CAST(:message AS text[])) FOR NO KEY UPDATE NOWAIT
        )
    SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM parts), (SELECT count(*) FROM messages)
"""
"""While the session's row is locked no new message comes in, since its foreign key wants that row, too."""
_CHECK: Final = "SET CONSTRAINTS ALL IMMEDIATE"
"""Deferred triggers run before the end: at the end nobody could react to them."""


class GivesWay(Exception):
    """Give up this try. Nothing of it is committed."""

    def __init__(self, way: Way) -> None:
        super().__init__(way)
        self.way = way


class Writing:
    """One try, in a transaction of its own, which the caller commits.

    Args:
        connection: in a transaction that has none of the server's rows locked.
        dialect: of the tables.
        clock: says how long others may have been waiting.
    """

    def __init__(self, connection: AsyncConnection, dialect: Dialect, clock: Clock) -> None:
        self._connection = connection
        self._dialect = dialect
        self._clock = clock
        self._deadline = 0.0

    async def write(self, writes: Sequence[GuardedWrite], while_newest: TurnId | None) -> int:
        """Make all changes, or find that one must not be made. Returns how many were made.

        Raises:
            GivesWay: others want the rows.
            Standing: a trigger or a constraint prevents it.
        """
        try:
            return await self._write(writes, while_newest)
        except DBAPIError as error:
            way = _BUSY.get(str(getattr(error.orig, "sqlstate", None)))
            if way is None:
                raise
            raise GivesWay(way) from error

    async def _write(self, writes: Sequence[GuardedWrite], while_newest: TurnId | None) -> int:
        tables = {table: [write for write in writes if write.row.table == table] for table in ("part", "message")}
        await self._lock(tables, writes[0].row.session_id if while_newest is not None else None)
        if while_newest is not None:
            found = await self._fetch(self._dialect.look.newest, {"ids": as_ids([writes[0].row.session_id])})
            if newest_turn(found) != while_newest:
                return 0
        written = 0
        for table, changes in tables.items():
            written += await self._change(table, changes)
        if written == len(writes):
            for table, changes in tables.items():
                await self._make_sure(table, changes)
        return written

    async def _lock(self, tables: Mapping[str, Sequence[GuardedWrite]], session_id: str | None) -> None:
        (bounds,) = await self._fetch(_BOUNDS, {})
        self._deadline = self._clock.read().running_seconds + bounds["seconds"]
        ids = {table: [write.row.id for write in changes] for table, changes in tables.items()}
        await self._fetch(_LOCK, {**ids, "session": session_id})

    async def _change(self, table: str, changes: Sequence[GuardedWrite]) -> int:
        if not changes:
            return 0
        values = {**_observed(changes), "after": [write.after for write in changes]}
        with standing_against(table):
            self._in_time()
            done = await self._connection.execute(text(self._dialect.update[table]), values)
        if done.rowcount < len(changes):
            ignored = await self._fetch(self._dialect.reads[table], _observed(changes))
            if ignored:
                raise Standing(table, "ignores it")
        return done.rowcount

    async def _make_sure(self, table: str, changes: Sequence[GuardedWrite]) -> None:
        if not changes:
            return
        with standing_against(table):
            self._in_time()
            await self._connection.execute(text(_CHECK))
        after = {"ids": [write.row.id for write in changes], "observed": [write.after for write in changes]}
        if len(await self._fetch(self._dialect.reads[table], after)) < len(changes):
            raise Standing(table, "changes what is written")

    def _in_time(self) -> None:
        """Waits have to begin soon: others may wait for what is locked here."""
        if self._clock.read().running_seconds > self._deadline:
            raise GivesWay("slow")

    async def _fetch(self, query: str, values: Mapping[str, object]) -> list[dict[str, Any]]:
        found = await self._connection.execute(text(query), dict(values))
        return [dict(record) for record in found.mappings()]


def _observed(changes: Sequence[GuardedWrite]) -> dict[str, list[str]]:
    return {"ids": [write.row.id for write in changes], "observed": [write.row.data for write in changes]}
