"""Guarded writes: rows change only if they read as observed, and read back as they were written: all or none.

The same transaction looks at the effect of the table's own triggers and constraints: a write that they refuse, ignore
or change is taken back, and named.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import anyio.to_thread
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from watchdog.errors import WriteRefused
from watchdog.model.outcome import GuardedWrite
from watchdog.model.session import TurnId
from watchdog.opencode.db import queries
from watchdog.opencode.db.rows import newest_turn
from watchdog.opencode.db.snapshot import as_ids
from watchdog.opencode.db.sqlite_errors import primary_code
from watchdog.opencode.file.one_file import OneFile

_ITS_OWN: Final = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH})
"""The error of a correct statement that something in the table itself prevents."""


async def write_all(
    connection: AsyncConnection, file: OneFile, writes: Sequence[GuardedWrite], *, while_newest: TurnId | None
) -> int:
    """Write in the transaction that has begun, and commit it; or leave it to be rolled back.

    Args:
        connection: in a transaction that may write.
        file: the file to write to, proven to be one.
        writes: the changes.
        while_newest: see `Store.write`.

    Returns:
        How many rows changed: all, or 0.

    Raises:
        WriteRefused: a trigger or a constraint prevents it.
        DatabaseUnavailable: the file is another one, or open under another name.
    """
    await anyio.to_thread.run_sync(file.check)
    if while_newest is not None:
        ids = {"ids": as_ids([writes[0].row.session_id])}
        found = (await connection.execute(text(queries.NEWEST), ids)).mappings()
        if newest_turn([dict(record) for record in found]) != while_newest:
            return 0
    for write in writes:
        if not await _write(connection, write):
            return 0
    for write in writes:
        await _read_back(connection, write)
    await connection.commit()
    return len(writes)


async def _write(connection: AsyncConnection, write: GuardedWrite) -> bool:
    """Write one row. Returns false when it no longer reads as it was observed."""
    values = {"id": write.row.id, "observed": write.row.data, "after": write.after}
    try:
        result = await connection.execute(text(queries.GUARDED_UPDATE[write.row.table]), values)
    except DBAPIError as error:
        if primary_code(error.orig) not in _ITS_OWN:
            raise
        raise await _refused(connection, write, "refuses it", said=str(error.orig)) from error.orig
    if result.rowcount == 1:
        return True
    if await _reads(connection, write, write.row.data):
        raise await _refused(connection, write, "ignores it")
    return False


async def _read_back(connection: AsyncConnection, write: GuardedWrite) -> None:
    """Check that the row reads as it was written, and is still the same row."""
    if not await _reads(connection, write, write.after, whole=True):
        raise await _refused(connection, write, "changes what is written")


async def _reads(connection: AsyncConnection, write: GuardedWrite, data: str, *, whole: bool = False) -> bool:
    row = write.row
    asked = queries.STANDS[row.table] if whole else queries.READS[row.table]
    values: dict[str, Any] = {"id": row.id, "data": data}
    if whole:
        values |= {"session": row.session_id, "message": row.message_id}
    return (await connection.execute(text(asked), values)).first() is not None


async def _refused(connection: AsyncConnection, write: GuardedWrite, what: str, *, said: str = "") -> WriteRefused:
    """The error for a write that the table prevents: it names the trigger, if there is one."""
    table = write.row.table
    return WriteRefused.by(table, what, await _triggers(connection, table, said))


async def _triggers(connection: AsyncConnection, table: str, said: str) -> list[str]:
    """The triggers that may have done it: those that contain the words of the error, else those on the table."""
    found = [(str(name), str(on), str(sql)) for name, on, sql in await connection.execute(text(queries.TRIGGERS))]
    words = said.replace("'", "''")
    by_words = [name for name, _, sql in found if words and f"'{words}'" in sql]
    return by_words or [name for name, on, _ in found if on.lower() == table]
