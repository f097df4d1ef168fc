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
    tables: dict[str, set[str]] = {}
    for record in await fetch(queries.COLUMNS_FOUND, {}):
        tables.setdefault(str(record["table"]), set()).add(str(record["column"]))
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


async def second_generation(fetch: Fetch) -> int:
    """How many sessions of opencode 2.x there are, at work or not."""
    tables = {record["table"] for record in await fetch(queries.COLUMNS_FOUND, {})}
    if "session_v2" not in tables:
        return 0
    (record,) = await fetch("SELECT count(*) AS sessions FROM session_v2", {})
    return int(str(record["sessions"]))


async def experimental_sessions(fetch: Fetch) -> int:
    """How many rows of opencode's experimental session store there are."""
    tables = {record["table"] for record in await fetch(queries.COLUMNS_FOUND, {})}
    if "session_message" not in tables or "session_v2" in tables:
        return 0  # in a database that opencode 2.x has opened that table is its own
    (record,) = await fetch("SELECT count(*) AS rows FROM session_message", {})
    return int(str(record["rows"]))
