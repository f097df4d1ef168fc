"""The indexes that looks rely on: how to make them, whether they exist, and what a look costs without them.

Nothing is made here: an index on the sessions' tables is the server's own decision. With the two partial ones a look
reads what is open; without them it reads both tables as a whole.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from watchdog.errors import DatabaseUnavailable
from watchdog.postgres import queries
from watchdog.postgres.connection import STATEMENT_SECONDS, place_of, transaction, translated
from watchdog.postgres.queries import Data

# ruff: noqa: S608 - the pieces are constants


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """An index for looks.

    Attributes:
        table: the table that it is on.
        of: what it holds, for people.
        statement: makes it, without a lock that keeps others from writing.
        question: the query that uses it.
    """

    table: str
    of: str
    statement: str
    question: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Whether an index exists.

    Attributes:
        name: the name of the one that PostgreSQL would use; None if there is none.
        invalid: an unfinished one: it serves nobody, and blocks its name.
        rows: how many rows each look reads without it, by the statistics; None if they don't say.
        megabytes: how large they are.
    """

    index: Index
    name: str | None
    invalid: str | None
    rows: int | None
    megabytes: float


def partial(data: Data) -> tuple[Index, ...]:
    """The two over open rows.

    Args:
        data: the type of `message.data` and `part.data`.
    """
    wanted = {
        "message": ("open turns", queries.open_message(data)),
        "part": ("open calls", queries.open_part(data)),
    }
    return tuple(
        Index(
            table=table,
            of=of,
            statement=(
                f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {table}_open_idx ON {table} (session_id) WHERE\n    "
                f"{condition.replace(f'{table}.', '').replace(' AND ', f'{_NEXT_LINE}AND ', 2)};"
            ),
            question=f"SELECT {table}.id FROM {table} WHERE {condition}",
        )
        for table, (of, condition) in wanted.items()
    )


def _plain(table: str, name: str, of: str, *columns: str) -> Index:
    statement = f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} ({', '.join(columns)});"
    return Index(table=table, of=of, statement=statement, question=f"SELECT id FROM {table} WHERE {columns[0]} = 'x'")


PLAIN: Final = (
    _plain(
        "message", "message_session_time_created_id_idx", "messages by session", "session_id", "time_created", "id"
    ),
    _plain("part", "part_message_id_id_idx", "parts by message", "message_id", "id"),
    _plain("session", "session_parent_idx", "sessions by parent", "parent_id"),
)
"""Those of opencode's own that looks use, with opencode's names."""

_NEXT_LINE: Final = "\n    "
_PREFACE: Final = """\
-- Two small indexes find what opencode-watchdog looks for: they hold only what is open.
-- CONCURRENTLY has to run outside a transaction; writers go on in the meantime.
"""
_OTHERS: Final = """\
-- Looks use these of opencode's own indexes, too. A database that was made another way may lack them.
"""
_WITHOUT_SCANS: Final = "SELECT set_config('enable_seqscan', 'off', TRUE)"
_SIZE: Final = """
    SELECT CAST(class.reltuples AS bigint) AS rows, pg_total_relation_size(class.oid) / 1e6 AS megabytes,
        (SELECT CAST(min(CAST(CAST(index.indexrelid AS regclass) AS text)) AS text) FROM pg_catalog.pg_index AS index
            WHERE index.indrelid = class.oid AND NOT index.indisvalid) AS invalid
    FROM pg_catalog.pg_class AS class WHERE class.oid = to_regclass(:table)
"""


def as_script(data: Data) -> str:
    """The statements, for people and for `psql`; those of opencode's own as comments."""
    needed = "\n".join(index.statement for index in partial(data))
    others = "\n".join(f"-- {index.statement}" for index in PLAIN)
    return f"{_PREFACE}{needed}\n{_OTHERS}{others}\n"


async def look_for(engine: AsyncEngine, data: Data) -> tuple[Finding, ...]:
    """Ask PostgreSQL how it would read without a sequential scan: that finds only an index that really serves.

    Raises:
        DatabaseUnavailable: it can't be asked.
    """
    place = place_of(engine.url)
    with translated(place, DatabaseUnavailable):
        async with transaction(engine, seconds=STATEMENT_SECONDS, postgresql_readonly=True) as connection:
            await connection.execute(text(_WITHOUT_SCANS))
            return tuple([await _finding(connection, index) for index in (*partial(data), *PLAIN)])


async def _finding(connection: AsyncConnection, index: Index) -> Finding:
    plan = (await connection.execute(text(f"EXPLAIN (FORMAT JSON) {index.question}"))).scalar_one()
    size = (await connection.execute(text(_SIZE), {"table": index.table})).mappings().one()
    name = _index_in((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
    return Finding(
        index=index,
        name=name,
        invalid=size["invalid"] if name is None else None,
        rows=None if size["rows"] < 0 else int(size["rows"]),
        megabytes=round(float(size["megabytes"]), 1),
    )


def _index_in(plan: dict[str, Any]) -> str | None:
    """The index that a plan reads by, if it does not read the whole of it to filter."""
    if "Index Name" in plan and ("Index Cond" in plan or "Filter" not in plan):
        return str(plan["Index Name"])
    return next((found for each in plan.get("Plans", ()) if (found := _index_in(each)) is not None), None)
