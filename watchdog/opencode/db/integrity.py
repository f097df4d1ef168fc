"""Whether a database is whole: SQLite's own integrity check, one table with its indexes after the other.

It finds damage that no query meets: a page of an index that is damaged, say, or that lacks rows. Each table takes a
read transaction of its own, on a connection that can't write: opencode goes on in the meantime, and its log is
written back between two of them.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiosqlite
import anyio.to_thread

from watchdog.errors import DatabaseDamaged
from watchdog.opencode.db.reader import finished, translated
from watchdog.opencode.db.sqlite_errors import sentence
from watchdog.opencode.file.identity import uri_of
from watchdog.opencode.file.one_file import shown

_MOST_FINDINGS: Final = 5
_LONGEST_FINDING: Final = 200
_TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name"
_SCHEMA: Final = "sqlite_master"
_WAIT_SECONDS: Final = 5.0


class Checking:
    """A check of a database that is under way. Made by `checking`.

    Attributes:
        tables: the tables to check.
    """

    def __init__(self, path: Path, connection: aiosqlite.Connection, tables: Sequence[str]) -> None:
        self._path = path
        self._connection = connection
        self.tables = tables

    async def check(self, table: str) -> list[str]:
        """Check a table with its indexes. When cancelled, it stops in the middle.

        Returns:
            The damage: a clause for each finding, the first few. Empty if the table is whole.

        Raises:
            DatabaseUnavailable: it can't be read now.
        """
        name = table.replace('"', '""')
        work = _read(self._connection, f'PRAGMA integrity_check("{name}")')
        try:
            with translated(self._path):
                rows = await finished(work, interrupt=self._connection.interrupt)
        except DatabaseDamaged as error:
            return [f"table `{table}` {sentence(error.__cause__ or error)}"]
        said = [line.strip() for row in rows for line in row.splitlines() if line.strip() not in {"", "ok"}]
        more = [f"table `{table}`: and {len(said) - _MOST_FINDINGS} more"] if len(said) > _MOST_FINDINGS else []
        return [*(f"table `{table}`: {line[:_LONGEST_FINDING]}" for line in said[:_MOST_FINDINGS]), *more]


@asynccontextmanager
async def checking(path: Path) -> AsyncIterator[Checking]:
    """Begin to check a database, on a connection of its own that can't write.

    Raises:
        DatabaseUnavailable: it can't be read now, or even its list of tables is damaged.
        DatabaseUnsupported: it is mounted by itself.
    """
    await anyio.to_thread.run_sync(shown, path)
    uri = uri_of(path, "ro")
    async with aiosqlite.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None) as connection:
        with translated(path):
            tables = await _read(connection, _TABLES)
        yield Checking(path, connection, [_SCHEMA, *tables])


async def _read(connection: aiosqlite.Connection, statement: str) -> list[str]:
    return [str(row[0]) for row in await connection.execute_fetchall(statement)]
