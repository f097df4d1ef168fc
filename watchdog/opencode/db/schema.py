"""Whether a database has the tables that the watchdog reads, in a mode in which they can be watched."""

from collections.abc import Collection, Mapping
from pathlib import Path

from watchdog.errors import DatabaseUnsupported
from watchdog.opencode.db import queries
from watchdog.opencode.db.snapshot import Fetch, Statements


async def check_schema(fetch: Fetch, path: Path) -> Statements:
    """Look at the tables and the journal mode.

    Returns:
        The queries for this database.

    Raises:
        DatabaseUnsupported: a table or a column is missing, or it is of another generation or in another mode.
    """
    tables = await _tables(fetch)
    if "session_v2" in tables and not _is_shared(tables):
        raise DatabaseUnsupported(
            f"The database {path} is one of opencode 2.x (it has a table `session_v2`, and not the tables of one "
            "that 1.x uses, too), whose sessions this version can't watch. Look for a newer opencode-watchdog."
        )
    for table, columns in queries.COLUMNS.items():
        missing = set(columns) - tables.get(table, set())
        if missing:
            what = f"columns {', '.join(sorted(missing))} in its table" if table in tables else "table"
            raise DatabaseUnsupported(
                f"The database {path} is no database of opencode's: it has no {what} `{table}`. "
                "Name opencode's with --database PATH."
            )
    mode = (await fetch("PRAGMA journal_mode", {}))[0]["journal_mode"]
    if mode != "wal":
        raise DatabaseUnsupported(
            f"The database {path} is in journal mode `{mode}`. opencode uses `wal`, and in another mode "
            "nobody can tell who has it open. Is it really opencode's own file?"
        )
    return queries.statements(tables)


def _is_shared(tables: Mapping[str, Collection[str]]) -> bool:
    """Whether 1.x works on it, too, and it shows what 2.x is at work on."""
    return queries.COLUMNS.keys() <= tables.keys() and bool(queries.claims(tables))


async def _tables(fetch: Fetch) -> dict[str, set[str]]:
    """The columns of each table that the watchdog knows of."""
    tables: dict[str, set[str]] = {}
    for record in await fetch(queries.COLUMNS_FOUND, {}):
        tables.setdefault(str(record["table"]), set()).add(str(record["column"]))
    return tables


async def second_generation(fetch: Fetch) -> int:
    """How many sessions of opencode 2.x there are, at work or not."""
    return await _rows(fetch, "session_v2") if "session_v2" in await _tables(fetch) else 0


async def experimental_sessions(fetch: Fetch) -> int:
    """How many rows of opencode's experimental session store there are."""
    tables = await _tables(fetch)
    if "session_message" not in tables or "session_v2" in tables:
        return 0  # in a database that opencode 2.x has opened that table is its own
    return await _rows(fetch, "session_message")


async def _rows(fetch: Fetch, table: str) -> int:
    (record,) = await fetch(f"SELECT count(*) AS rows FROM {table}", {})  # noqa: S608 - a name of this module's own
    return int(str(record["rows"]))
