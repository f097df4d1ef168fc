"""A PostgreSQL of the benchmark's own, filled with the rows of the generated databases.

The rows are copied from the SQLite file of that size, so that nothing is generated twice; where there are to be more
parts than the file has, PostgreSQL copies them again under other ids. Nothing is kept between runs: as root, it
runs as somebody who can't enter the user's cache.
"""

import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import asyncpg

from benchmarks.bench import Step
from benchmarks.work import Opened, begin, folder, opened
from tests.support.database import OpencodeFile
from tests.support.debian import PACKAGES, find
from tests.support.postgres import ADMIN, Cluster, schema
from watchdog.postgres import indexes

FLAGS: Final = {
    "listen_addresses": "127.0.0.1",
    "autovacuum": "off",  # its transactions would count as changes, and its reads as somebody's
    "shared_buffers": "128MB",
}
"""What differs from PostgreSQL's own settings, or must not follow from how it was built."""
_ROWS_AT_ONCE: Final = 20_000
_IDS: Final = {"id", "session_id", "message_id", "parent_id"}


def missing() -> str | None:
    """Why there is no PostgreSQL to measure on; None where there is one."""
    return None if find("postgres") else f"no postgres: apt-get install {PACKAGES['postgres']} brings it"


class Measured(Cluster):
    """A cluster with PostgreSQL's own settings, which a test's is not: commits reach the disk."""

    flags = FLAGS


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """A connection of asyncpg's to a database, by its address as SQLAlchemy takes it."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close()


async def fill(
    cluster: Cluster,
    name: str,
    path: Path,
    sessions: int,
    *,
    copies: int = 1,
    at: int | None = None,
    folders: int = 1,
    step: Step = lambda _: None,
) -> tuple[str, list[Opened]]:
    """Make a database with the rows of a SQLite file and so many sessions at work, analyzed and vacuumed.

    Args:
        cluster: where.
        name: of the new database.
        path: the generated SQLite file.
        sessions: how many are at work.
        copies: how often the file's rows are there.
        at: when they began, in milliseconds since the epoch; now by default.
        folders: in how many folders they work, in turns.
        step: hears of the progress.

    Returns:
        Its address as SQLAlchemy takes it, and the sessions.
    """
    url = cluster.fresh_database(name)
    statements = schema().split(";")
    async with connected(url) as owner, connected(cluster.url(name, ADMIN)) as admin:
        for statement in statements:
            if "CREATE TABLE" in statement:
                await owner.execute(statement)
        await admin.execute("SET session_replication_role = replica")  # no check of each row's foreign keys
        with opened(path, 0) as (file, _):
            await _copy(admin, file.connection, step)
        for copy in range(1, copies):
            step(f"copy {copy + 1} of {copies}")
            for table in ("session", "message", "part"):
                await admin.execute(await _again(admin, table, copy))
        work = await begun(admin, range(sessions), at=at, folders=folders)
        step("indexes")
        for statement in statements:
            if "CREATE INDEX" in statement:
                await owner.execute(statement)
        await settle(admin)
    return url, work


async def begun(
    admin: Any,  # noqa: ANN401 - as below
    numbers: Iterable[int],
    *,
    at: int | None = None,
    folders: int = 1,
) -> list[Opened]:
    """Write sessions at work.

    Args:
        admin: a connection of the superuser's.
        numbers: tell them from all others.
        at: when they began, in milliseconds since the epoch; now by default.
        folders: in how many folders they work, in turns.
    """
    with closing(OpencodeFile(Path(":memory:"))) as file:
        work = [begin(file, number, at=at, directory=folder(number, folders)) for number in numbers]
        await _copy(admin, file.connection, lambda _: None)
    return work


async def settle(admin: Any) -> None:  # noqa: ANN401 - asyncpg brings no types
    """Do what autovacuum would have done, and write everything to the disk, so that no measurement pays for it."""
    await admin.execute("VACUUM (ANALYZE)")
    await admin.execute("CHECKPOINT")


async def make_indexes(owner: Any) -> None:  # noqa: ANN401 - as above
    """Make the two indexes over what is open."""
    for index in indexes.partial("jsonb"):
        await owner.execute(index.statement)


async def drop_indexes(owner: Any) -> None:  # noqa: ANN401 - as above
    """Take them away again."""
    for index in indexes.partial("jsonb"):
        await owner.execute(f"DROP INDEX {index.table}_open_idx")


async def _copy(admin: Any, source: sqlite3.Connection, step: Step) -> None:  # noqa: ANN401 - as above
    for table in ("session", "message", "part"):
        rows = source.execute(f"SELECT * FROM {table} ORDER BY rowid")  # noqa: S608 - constants
        await admin.copy_records_to_table(table, records=_told(rows, table, step))


async def _again(admin: Any, table: str, copy: int) -> str:  # noqa: ANN401 - as above
    """What copies the rows of a table that are no copies."""
    found = await admin.fetch("SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0", table)
    names = [str(row["attname"]) for row in found]
    values = [f"{name} || '~{copy}'" if name in _IDS else name for name in names]
    columns = ", ".join(names)
    return f"INSERT INTO {table} ({columns}) SELECT {', '.join(values)} FROM {table} WHERE id !~ '~'"  # noqa: S608 - names of our own


def _told(rows: Iterator[Any], table: str, step: Step) -> Iterator[Any]:
    for number, row in enumerate(rows, start=1):
        if number % _ROWS_AT_ONCE == 0:
            step(f"copied {number:,} rows of {table}")
        yield row
